"""Training on several processes with JAX, a device each: joining them, and losing them.

All run the same program on the same whole batches, and XLA partitions it over the devices of all,
as it does over several devices of one process (keras_impl/devices.py).
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import keras
import numpy as np

from pipeline.errors import RunError, UsageError
from pipeline.processes import Ranks, this_process
from pipeline.ranks import require_same, why_lost
from pipeline.terminal import last_words

TIME_LIMIT_SECONDS = 120.0
"""How long a rank waits for the others to come, and for each batch but the first."""
FIRST_SECONDS = 600.0
"""And for the first, whose step is compiled."""
HANG_SECONDS = 5.0
"""How long one that waited so long listens to where the others are."""


def join(ranks: Ranks) -> None:
    """Join the other ranks, before JAX computes anything; it then sees the devices of all.

    Raises:
        UsageError: not all come within `TIME_LIMIT_SECONDS`.
    """
    import jax

    # Else SIGTERM is noted down for who asks JAX about it, and ends nothing.
    jax.config.update("jax_enable_preemption_service", False)
    # Else JAX aborts this process when another ends, and waits for it when this one does.
    jax.config.update("jax_enable_recoverability", True)
    given: dict[str, Any] = {}
    where = "the address that SLURM gives"
    if ranks.launcher != "slurm":  # which JAX asks itself
        where = f"{os.environ.get('MASTER_ADDR', '127.0.0.1')}:{_port(ranks)}"
        given = {
            "coordinator_address": where,
            "num_processes": ranks.size,
            "process_id": ranks.rank,
            "local_device_ids": [ranks.local_rank],
        }
    try:
        jax.distributed.initialize(**given, initialization_timeout=int(TIME_LIMIT_SECONDS))
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"rank {ranks.rank} of {ranks.size} did not find the others at {where} within "
            f"{TIME_LIMIT_SECONDS:g} s: {_words(error)}"
        ) from error


def _port(ranks: Ranks) -> int:
    port = os.environ.get("MASTER_PORT", "29500")
    if not (port.isascii() and port.isdecimal()):
        raise UsageError(f"`MASTER_PORT` must be a number; received {port!r}")
    return int(port) + (ranks.launcher == "torchrun")  # which listens on the port itself


@contextmanager
def together(statement: Mapping[str, Any], device: str) -> Iterator[dict[str, Any]]:
    """Hold the ranks, which have joined, to the same statement under `same`; yield rank 0's.

    Where one hangs, all end `TIME_LIMIT_SECONDS` after the last batch, with exit code 1.

    Raises:
        UsageError: they differ.
        RunError: a rank was lost.
    """
    has_ended = threading.Event()
    threading.Thread(target=_end_in_silence, args=(has_ended,), daemon=True).start()
    try:
        statements = _exchanged(statement)
        for rank, other in enumerate(statements):
            require_same(rank, statements[0]["same"], other["same"])
        yield statements[0]
    except Exception as error:
        if not (
            isinstance(error, RuntimeError | ValueError)
            and any(name in str(error).lower() for name in ("gloo", "nccl"))
        ):
            with suppress(RuntimeError):
                _say(ENDS, _words(error) or repr(error))
            raise
        reason = why_lost(
            this_process(),
            say=lambda word: _say(ENDS, word),
            heard=lambda rank: _said(ENDS).get(rank),
        )
        raise RunError(reason) from error
    finally:
        has_ended.set()


class Heartbeat(keras.callbacks.Callback):
    """Note each batch that all ranks have done, and how many this one has begun."""

    async_safe = True
    at = 0.0
    num_begun = 0

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Note that this rank has a batch."""
        Heartbeat.num_begun += 1

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Note that all have done it."""
        Heartbeat.at = time.monotonic()

    on_test_batch_begin = on_predict_batch_begin = on_train_batch_begin
    on_test_batch_end = on_predict_batch_end = on_train_batch_end


def _end_in_silence(has_ended: threading.Event) -> None:
    """End this process when nothing is heard: it waits where no error reaches it."""
    Heartbeat.at = time.monotonic() + FIRST_SECONDS - TIME_LIMIT_SECONDS
    while not has_ended.wait(0.5):
        if time.monotonic() - Heartbeat.at > TIME_LIMIT_SECONDS:
            ranks = this_process()
            found = _who_hangs_in_time(ranks)
            words = f"waited {TIME_LIMIT_SECONDS:g} s for a batch: {found or 'rank 0 hangs'}"
            try:
                last_words(
                    f"{os.path.basename(sys.argv[0])}: rank {ranks.rank} of {ranks.size} {words}, "
                    "and the others end"
                )
                if found:
                    _say(ENDS, words)
            finally:  # also where nobody listens any more
                os._exit(1)


def _who_hangs_in_time(ranks: Ranks) -> str | None:
    """Return who hangs; None where rank 0, whose process must answer the question, does not."""
    found: list[str] = []
    asking = threading.Thread(target=lambda: found.append(_who_hangs(ranks)), daemon=True)
    asking.start()
    asking.join(2 * HANG_SECONDS)
    return found[0] if found else None


def _who_hangs(ranks: Ranks) -> str:
    """Return in words who is silent, or has begun fewer batches than others, which wait for it."""
    begun: dict[int, int] = {}
    deadline = time.monotonic() + HANG_SECONDS
    try:
        _say(BEGUN, str(Heartbeat.num_begun))
        while len(begun) < ranks.size and time.monotonic() < deadline:
            begun = {rank: int(said) for rank, said in _said(BEGUN).items()}
            time.sleep(0.1)
    except RuntimeError:
        return "rank 0 hangs"
    behind = [rank for rank in range(ranks.size) if rank not in begun] or [
        rank for rank, number in begun.items() if number < max(begun.values())
    ]
    if not behind:
        return "a rank hangs, or all are that slow"
    return " and ".join(f"rank {rank}" for rank in behind) + " hangs"


# What ranks tell each other beside the computation is in JAX's key-value store, which lies in rank
# 0. There is no public way to it.
ENDS, BEGUN = "parity/ends/", "parity/begun/"


def _say(key: str, word: str) -> None:
    from jax._src import distributed

    distributed.global_state.client.key_value_set(f"{key}{this_process().rank}", word)


def _said(key: str) -> dict[int, str]:
    """Return the word of each rank that has said one, by rank."""
    from jax._src import distributed

    found = distributed.global_state.client.key_value_dir_get(key)
    return {int(name.rpartition("/")[2]): word for name, word in found}


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _exchanged(statement: Mapping[str, Any]) -> list[dict[str, Any]]:
    from jax.experimental.multihost_utils import process_allgather

    said = json.dumps(statement).encode()
    sizes = process_allgather(np.array(len(said)))
    padded = np.frombuffer(said.ljust(int(sizes.max())), np.uint8)
    return [json.loads(bytes(row)) for row in process_allgather(padded)]
