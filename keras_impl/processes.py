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
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from pipeline.errors import RunError, UsageError
from pipeline.processes import Ranks, this_process
from pipeline.ranks import require_same
from pipeline.terminal import last_words

TIME_LIMIT_SECONDS = 120.0
"""How long a rank waits for the others to come, and for each batch but the first."""
FIRST_SECONDS = 600.0
"""And for the first, whose step is compiled."""


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
    except (RuntimeError, ValueError) as error:
        if not any(name in str(error).lower() for name in ("gloo", "nccl")):
            raise
        raise RunError(f"another rank ended: {_words(error)}") from error
    finally:
        has_ended.set()


def heard() -> list[keras.callbacks.Callback]:
    """Return what notes each batch that all ranks have done; nothing for a process by itself."""
    return [Heard()] if this_process().size > 1 else []


class Heard(keras.callbacks.Callback):
    """Note each batch that all ranks have done."""

    async_safe = True
    at = 0.0

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Note a batch of training."""
        Heard.at = time.monotonic()

    def on_test_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Note a batch of validation."""
        Heard.at = time.monotonic()

    def on_predict_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Note a batch of prediction."""
        Heard.at = time.monotonic()


def _end_in_silence(has_ended: threading.Event) -> None:
    """End this process when nothing is heard: it waits where no error reaches it."""
    Heard.at = time.monotonic() + FIRST_SECONDS - TIME_LIMIT_SECONDS
    while not has_ended.wait(0.5):
        if time.monotonic() - Heard.at > TIME_LIMIT_SECONDS:
            ranks = this_process()
            try:
                last_words(
                    f"{os.path.basename(sys.argv[0])}: rank {ranks.rank} of {ranks.size} waited "
                    f"{TIME_LIMIT_SECONDS:g} s for a batch: a rank hangs, and the others end"
                )
            finally:  # also where nobody listens any more
                os._exit(1)


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _exchanged(statement: Mapping[str, Any]) -> list[dict[str, Any]]:
    from jax.experimental.multihost_utils import process_allgather

    said = json.dumps(statement).encode()
    sizes = process_allgather(np.array(len(said)))
    padded = np.frombuffer(said.ljust(int(sizes.max())), np.uint8)
    return [json.loads(bytes(row)) for row in process_allgather(padded)]
