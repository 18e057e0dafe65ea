"""Following one training run by another: states at regular steps, gaps, synchronisation."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ladder.arrays import Array, Arrays, read_arrays, write_arrays
from ladder.compare import gap
from ladder.files import write_json
from ladder.reading import built, read_json

ROWS = "steps.json"
MAX_ROWS_BYTES = 64 * 1024 * 1024
MOST = sys.float_info.max


class EnoughSeenError(RuntimeError):
    """The run need not go on: it has parted from the one it follows, or nobody follows it."""


@dataclass
class Follower:
    """Looks at a run's training state every `every` steps.

    A state holds weights under their canonical names, slots such as `adam.m.conv1.kernel`, and
    counts. What is seen is kept in `folder` (`steps.json`, and states where asked for), so that a
    run that is resumed goes on with it.
    """

    folder: Path
    every: int
    """Steps from one look to the next."""
    keeps_every: int | None = None
    """Steps, a multiple of `every`, from one state that is kept in `folder` to the next."""
    reference: Path | None = None
    """Folder of a run that kept its states, to be compared with."""
    synchronises: bool = False
    """Go on from the reference's state after each look, so that each piece stands alone."""
    patience_seconds: float = 600.0
    """How long to wait for a state of a reference that is still under way."""
    stop_gap: float | None = None
    """Largest gap between weights at which the run still goes on."""
    ends_with: tuple[Path, ...] = ()
    """Files that the runs which follow this one leave at their ends; with all there, it ends."""
    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    """By step: the largest gap of each group (`weight`, `adam.m`, …); empty without reference."""

    def __post_init__(self) -> None:
        """Take up what an earlier part of the run has seen."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / ROWS).exists():
            self.rows = read_rows(self.folder / ROWS)

    def is_due(self, step: int) -> bool:
        """Say whether the state after `step` (from 1) is looked at."""
        return step % self.every == 0

    def look(self, step: int, state: Arrays) -> dict[str, Array] | None:
        """Note the state after `step`; return the state to go on from, where it is another.

        Raises:
            EnoughSeenError: the weights have parted by more than `stop_gap`, or all that
                `ends_with` names is there.
            ValueError: the reference has no such step in time, or other entries.
        """
        if self.keeps_every is not None and step % self.keeps_every == 0:
            write_arrays(state_path(self.folder, step), state)
        reference = None
        self.rows[str(step)] = {}
        if self.reference is not None:
            reference = self._reference_state(step)
            gaps = group_gaps(reference, state)
            # JSON holds no infinity: a gap that is none is the largest number.
            self.rows[str(step)] = {name: min(gap, MOST) for name, gap in gaps.items()}
        write_json(self.folder / ROWS, self.rows)
        weight_gap = self.rows[str(step)].get("weight", 0.0)
        if self.stop_gap is not None and weight_gap > self.stop_gap:
            raise EnoughSeenError(f"parted by {weight_gap:.3g} after step {step}")
        if self.ends_with and all(path.exists() for path in self.ends_with):
            raise EnoughSeenError(f"nobody follows after step {step}")
        return reference if self.synchronises else None

    def _reference_state(self, step: int) -> dict[str, Array]:
        """Return the reference's state after `step`, waiting where that run is still under way.

        Raises:
            ValueError: no state has come for `patience_seconds`, or it cannot be read.
        """
        assert self.reference is not None
        path = state_path(self.reference, step)
        began = time.monotonic()
        while not path.exists() and time.monotonic() - began < self.patience_seconds:
            time.sleep(0.5)
        return read_arrays(path)[0]


def state_path(folder: Path, step: int) -> Path:
    """Return where the state after `step` is kept."""
    return folder / f"state-{step:06d}.safetensors"


def read_rows(path: Path) -> dict[str, dict[str, float]]:
    """Read the rows that a follower has kept.

    Raises:
        OSError: there are none.
        ValueError: they are damaged.
    """
    rows = built(dict[str, dict[str, float]], read_json(path, MAX_ROWS_BYTES), str(path))
    if not all(step.isascii() and step.isdecimal() and len(step) < 20 for step in rows):
        raise ValueError(f"{path} does not hold a row of gaps for each step")
    return rows


def group_gaps(left: Arrays, right: Arrays) -> dict[str, float]:
    """Return the largest |left − right| of each group of a training state.

    Raises:
        ValueError: nothing to compare, or the two hold other entries.
    """
    if not left or set(left) != set(right):
        other = sorted(set(left) ^ set(right))
        raise ValueError(f"training states hold other entries: {', '.join(other) or 'none'}")
    gaps: dict[str, float] = {}
    for name in left:
        group = group_of(name)
        gaps[group] = max(gaps.get(group, 0.0), gap(left[name], right[name]))
    return gaps


def group_of(name: str) -> str:
    """Return the group of an entry: `weight`, or the slot's, such as `adam.m`."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "adam" else "weight"


def horizon(rows: Mapping[str, Mapping[str, Any]], threshold: float) -> int | None:
    """Return the first step after which the weights lie more than `threshold` apart."""
    steps = sorted(map(int, rows))
    return next((step for step in steps if rows[str(step)]["weight"] > threshold), None)
