"""Several processes that train together: which of them this one is.

Each is a *rank*, numbered from 0. torchrun and SLURM start them and say by the environment which is
which; so does `local_ranks`, which `--devices N` alone takes.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from pipeline.errors import UsageError


@dataclass(frozen=True)
class Ranks:
    """The place of a process among those that train together."""

    rank: int = 0
    size: int = 1
    """Ranks in all."""
    local_rank: int = 0
    local_size: int = 1
    """Ranks on this machine."""
    launcher: str = ""
    """What started them: `local`, `torchrun` or `slurm`; empty for a process by itself."""


def ranks_of(environ: Mapping[str, str]) -> Ranks:
    """Return the place that a launcher has given the process of this environment.

    Raises:
        UsageError: a variable that says it is missing or no number, or they contradict each other.
    """

    def number(name: str, default: int | None = None) -> int:
        value = environ.get(name, default)
        if not (str(value).isascii() and str(value).isdecimal()):
            raise UsageError(
                f"`{name}` must be a number, as a launcher sets it; received {value!r}"
            )
        return int(str(value))

    if {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= set(environ):
        size = number("WORLD_SIZE")
        ranks = Ranks(
            number("RANK"),
            size,
            number("LOCAL_RANK"),
            number("LOCAL_WORLD_SIZE", size),
            "torchrun" if "TORCHELASTIC_RUN_ID" in environ else "local",
        )
    # In a job's script itself, outside `srun`, there is no step.
    elif "SLURM_STEP_ID" in environ and number("SLURM_NTASKS", 1) > 1:
        size = number("SLURM_NTASKS")
        local_size = size // max(1, number("SLURM_NNODES", 1))
        ranks = Ranks(number("SLURM_PROCID"), size, number("SLURM_LOCALID"), local_size, "slurm")
    else:
        return Ranks()
    if not (ranks.local_rank < ranks.local_size <= ranks.size and ranks.rank < ranks.size):
        raise UsageError(
            f"a launcher's variables contradict each other: rank {ranks.rank} of {ranks.size}, "
            f"here {ranks.local_rank} of {ranks.local_size}"
        )
    return ranks


def sharers(ranks: Ranks, environ: Mapping[str, str], num_cores: int) -> int:
    """Return how many ranks share the `num_cores` that this one may run on.

    SLURM binds each to cores of its own where it is told to.
    """
    on_node = environ.get("SLURM_CPUS_ON_NODE", "")
    is_bound = ranks.launcher == "slurm" and on_node.isdecimal() and num_cores < int(on_node)
    return 1 if is_bound else ranks.local_size


@cache
def this_process() -> Ranks:
    """Return this process's place; once, as Lightning takes WORLD_SIZE away after a training."""
    return ranks_of(os.environ)
