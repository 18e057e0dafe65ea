"""Ranks at one training: that all train the same, and what those do that write nothing."""

import dataclasses
import hashlib
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ladder.files import is_unfinished
from pipeline.environment import package_versions
from pipeline.errors import UsageError
from pipeline.execution import Execution, computed
from pipeline.implementation import Implementation, environment_of, no_keras_home, within_quota
from pipeline.journal import Journal
from pipeline.preprocess import PreparedData
from pipeline.processes import Ranks, this_process
from pipeline.recipe import Recipe, recipe_to_dict
from pipeline.record import Record
from pipeline.terminal import noise_to

WORD_SECONDS = 10.0
"""How long a rank that lost the others waits to hear from those that are left."""


def with_ranks(execution: Execution, engine: str, recipe: Recipe, asked: int | None) -> Execution:
    """Return the execution with as many devices as a launcher has started processes.

    Raises:
        UsageError: another number was `asked` for, or is more than the engine or the batch allows.
    """
    ranks = this_process()
    if ranks.launcher:
        if engine == "keras-torch":
            raise UsageError(
                f"{engine} trains on one device, and {ranks.launcher} has started {ranks.size} "
                "processes; start it by itself"
            )
        if engine == "keras-tensorflow":
            raise UsageError(
                f"{engine} trains on several devices in one process, and {ranks.launcher} has "
                f"started {ranks.size}; start it by itself, with --devices N"
            )
        if asked not in (None, ranks.size):
            raise UsageError(
                f"`--devices {asked}`: {ranks.launcher} has started {ranks.size} processes; "
                "leave the flag out"
            )
        execution = dataclasses.replace(execution, devices=ranks.size)
    if execution.devices > 1 and engine == "keras-torch":
        raise UsageError(
            f"`--devices {execution.devices}`: Keras on torch trains on one device; "
            "--backend jax, --backend tensorflow and scripts/train_lightning.py take several"
        )
    if execution.devices > recipe.batch_size:
        raise UsageError(
            f"`batch_size` must be at least the number of devices, {execution.devices}; "
            f"received batch_size={recipe.batch_size}"
        )
    return execution


def follow(
    engine: str,
    load_implementation: Callable[[], Implementation],
    recipe: Recipe,
    execution: Execution,
    data: PreparedData,
    weights: dict[str, np.ndarray[Any, Any]] | None,
    run_dir: Path | None,
) -> Record:
    """Train and predict with rank 0, which writes; `run_dir` is that of a run that goes on."""
    os.environ.update(environment_of(engine, recipe, execution))
    execution = within_quota(execution)
    with noise_to(Path(os.devnull)), no_keras_home():
        impl = load_implementation()
        device = impl.configure(recipe, execution)["device"]
        with joined(impl, recipe, execution, data, device, run_dir) as first:
            journal = Journal(
                Path(first["run_dir"]),
                Record(**first["record"]),
                len(data.train),
                lambda line: None,
                writes=False,
            )
            model = impl.train(recipe, data, execution, journal, weights)
            impl.predict_logits(model, data.test, recipe, execution)
            return journal.record


@contextmanager
def joined(
    impl: Implementation,
    recipe: Recipe,
    execution: Execution,
    data: PreparedData,
    device: str,
    run_dir: Path | None,
    journal: Journal | None = None,
) -> Iterator[dict[str, Any]]:
    """Join the other ranks; yield the run folder and record that rank 0 has.

    Raises:
        UsageError: they are to train something else, or with other versions.
    """
    checkpoints = sorted((run_dir / "checkpoints").glob("*.*")) if run_dir else []
    same = {
        "recipe": recipe_to_dict(recipe),
        "execution": computed(dataclasses.asdict(execution)),
        "device": device,
        "data": data.fingerprint,
        "python": platform.python_version(),
        "packages": package_versions(),
        "checkpoints": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in checkpoints
            if not is_unfinished(path)
        },
    }
    own = {"run_dir": str(run_dir), "record": dataclasses.asdict(journal.record)} if journal else {}
    processes = import_module(f"{impl.__package__}.processes")
    with processes.together({"same": same, **own}, device) as first:
        yield first


def require_same(rank: int, first: Mapping[str, Any], stated: Mapping[str, Any]) -> None:
    """Hold what a rank states of its training to what rank 0 does, the `first`.

    Raises:
        UsageError: they differ.
    """
    for name, value in first.items():
        found = stated.get(name)
        if isinstance(value, dict) and isinstance(found, dict):
            require_same(rank, value, found)
        elif found != value:
            raise UsageError(
                f"all ranks must train the same: `{name}` is {value!r} at rank 0 and "
                f"{found!r} at rank {rank}"
            )


def why_lost(ranks: Ranks, say: Callable[[str], None], heard: Callable[[int], str | None]) -> str:
    """Return how the other ranks ended, with their own reason where they could give one.

    `say` tells the others why this one ends, empty for that it lost another; `heard` is what a rank
    has said. Both raise `RuntimeError` where what passes it on, which lies in rank 0, has ended.
    """
    silent = [rank for rank in range(ranks.size) if rank != ranks.rank]
    # Those who begin to wait a little later than rank 0 still hear by it.
    deadline = time.monotonic() + WORD_SECONDS + (2 if ranks.rank == 0 else 0)
    try:
        say("")
        while silent and time.monotonic() < deadline:
            words = {rank: heard(rank) for rank in silent}
            for rank, reason in words.items():
                if reason:
                    return f"rank {rank} of {ranks.size} failed: {reason}"
            silent = [rank for rank in silent if words[rank] is None]
            time.sleep(0.1)
    except RuntimeError:  # or in torchrun
        return f"rank 0 of {ranks.size}, or what started it, has ended"
    if not silent:
        return "the connection between the ranks was lost"
    names = " and ".join(map(str, silent))
    return f"rank {names} of {ranks.size} died or hung: the others end"
