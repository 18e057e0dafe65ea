"""How long a comparison still takes, from the epochs that were measured here."""

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.terminal import say

if TYPE_CHECKING:
    from pipeline.launch import Job


class Forecast:
    """The epochs that several trainings have left, and about how many seconds they take.

    An epoch is expected to take the median of what the same training has measured, else the same
    engine, else any. What a training takes besides (its start, test and report) is learned from
    whole ones, and until there is one from the start of the first.
    """

    def __init__(self, jobs: "Sequence[Job]", clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._num_epochs = {job.name: job.recipe.num_epochs for job in jobs}
        self._engines = {job.name: job.engine for job in jobs}
        self._seconds: dict[str, list[float]] = {job.name: [] for job in jobs}
        self._other_seconds: list[float] = []
        self._start_seconds = 0.0

    def keep(self, job: "Job", history: Sequence[dict[str, Any]]) -> None:
        """Note the epochs of `job` that an earlier call has trained."""
        self._seconds[job.name] = [row["seconds"] for row in history]

    def begin(self, job: "Job") -> None:
        """Start the clock of a training."""
        self._began, self._num_earlier = self._clock(), len(self._seconds[job.name])

    def note(self, job: "Job", history: Sequence[dict[str, Any]]) -> bool:
        """Take over the epochs of a training that runs; return whether any are new."""
        known = len(self._seconds[job.name])
        if len(history) <= known:
            return False
        self._seconds[job.name] = [row["seconds"] for row in history]
        if known == self._num_earlier:
            self._start_seconds = self._beside_epochs(job)
        return True

    def end(self, job: "Job") -> None:
        """Note that a training has ended; where it failed, nothing of it is left either."""
        if self._left(job.name) == 0:
            self._other_seconds.append(self._beside_epochs(job))
        self._num_epochs[job.name] = len(self._seconds[job.name])

    @property
    def num_epochs_left(self) -> int:
        """Epochs of all trainings that are not trained yet."""
        return sum(map(self._left, self._num_epochs))

    @property
    def seconds_left(self) -> float | None:
        """What all trainings are expected to take still; None where no epoch is measured yet."""
        other = statistics.median(self._other_seconds or [self._start_seconds])
        total = 0.0
        for name in self._num_epochs:
            if not self._left(name):
                continue
            if not (measured := self._measured(name)):
                return None
            total += self._left(name) * statistics.median(measured)
            total += 0.0 if self._seconds[name] else other
        return total

    def __str__(self) -> str:
        """Say what is left, as in "7 of 20 epochs to go, about 4 min"."""
        seconds = self.seconds_left
        about = "" if seconds is None else f", about {duration(seconds)}"
        return f"{self.num_epochs_left} of {sum(self._num_epochs.values())} epochs to go{about}"

    def _left(self, name: str) -> int:
        return self._num_epochs[name] - len(self._seconds[name])

    def _beside_epochs(self, job: "Job") -> float:
        trained = sum(self._seconds[job.name][self._num_earlier :])
        return self._clock() - self._began - trained

    def _measured(self, name: str) -> list[float]:
        of_engine = [
            seconds
            for other, found in self._seconds.items()
            if self._engines[other] == self._engines[name]
            for seconds in found
        ]
        of_any = [seconds for found in self._seconds.values() for seconds in found]
        return self._seconds[name] or of_engine or of_any


def duration(seconds: float) -> str:
    """Return a time as roughly as an estimate knows it: "40 s", "7 min", "2.5 h"."""
    if seconds < 95:
        return f"{max(5, 5 * round(seconds / 5))} s"
    if seconds < 95 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


@contextmanager
def last_line(text: Callable[[], str]) -> Iterator[Callable[[str], None]]:
    """Yield what prints a line; on a terminal `text()` and the time stay below all lines."""
    if not sys.stdout.isatty():
        yield say
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task(text())

        def say_above(line: str) -> None:
            progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
            progress.update(task, description=text())

        yield say_above
