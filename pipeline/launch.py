"""Trainers as processes of their own, one after the other, and the folders they write to.

A trainer must not outlive the process that started it. Ctrl-C reaches it as it reaches its
parent. Where the parent is killed, Linux kills the trainer too (`PR_SET_PDEATHSIG`, prctl(2));
other systems have no such request, and there a trainer whose parent was killed runs to its end.
"""

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladder.engines import leashed
from pipeline.command import INTERRUPTED
from pipeline.engines import ENGINES, trainer_arguments
from pipeline.environment import cpu_name
from pipeline.errors import RunError, Terminated, UsageError
from pipeline.execution import Execution, computed
from pipeline.forecast import Forecast
from pipeline.recipe import Recipe, recipe_to_dict
from pipeline.record import RECORD, Record, device_of
from pipeline.recorded import read_predictions, read_record
from pipeline.run_folder import LOCK, is_early, unlocked
from pipeline.terminal import say

# How long a trainer that was interrupted gets: to end by itself, for the terminal sends Ctrl-C to
# it too, and then, told once more, to write its record.
SELF_SECONDS, TOLD_SECONDS = 3.0, 10.0


@dataclass(frozen=True)
class Job:
    """One training run that is wanted."""

    engine: str
    recipe: Recipe
    execution: Execution
    flags: tuple[str, ...]
    """What the trainer is called with, besides `--variant` and `--run-dir`."""
    run_dir: Path
    gpu: str | None = None
    """Name of the GPU that it trains on, None on the CPU."""

    @property
    def name(self) -> str:
        """Return the run's name for people."""
        return f"{self.engine}, {self.recipe.variant}"


@dataclass(frozen=True)
class Outcome:
    """What came of a job: a complete record with predictions, or the reason why there is none."""

    engine: str
    variant: str
    record: Record | None = None
    logits: Any = None
    labels: Any = None
    reason: str | None = None


def trainer_command(job: Job, scripts_dir: Path) -> list[str]:
    """Return the command of `job`'s trainer, a script in `scripts_dir`."""
    script, *first = trainer_arguments(job.engine)
    own = ["--variant", job.recipe.variant, *job.flags, "--run-dir", str(job.run_dir)]
    return ENGINES[job.engine].command(str(scripts_dir / script), *first, *own)


def run_jobs(
    jobs: Sequence[Job],
    scripts_dir: Path,
    say: Callable[[str], None],
    forecast: Forecast,
    kept: Collection[str] = (),
    begun: Collection[str] = (),
) -> list[Outcome]:
    """Run `jobs` one after the other and return their outcomes; a failure stops no other.

    `kept` names the jobs whose earlier runs stand, `begun` those whose earlier runs go on. What
    the trainers print is said, with what is left of all of them after the line of an epoch.

    Raises:
        KeyboardInterrupt: interrupted; the trainer that was running has ended.
        FileNotFoundError: the folder that the runs' folders lie in has gone.
    """
    outcomes = []
    for number, job in enumerate(jobs, start=1):
        heading = f"[{number}/{len(jobs)}] {job.name}"
        if job.name in kept:
            say(f"{heading}: kept from an earlier call, {job.run_dir}")
            returncode = 0
        else:
            command = trainer_command(job, scripts_dir)
            if job.name in begun:
                say(f"{heading}: going on, {job.run_dir}")
                command.append("--resume")
            else:
                say(heading)
                remove_run(job.run_dir)
            forecast.begin(job)
            returncode = run_child(
                command, _relay(job, say, forecast), ENGINES[job.engine].environment()
            )
            forecast.end(job)
        job.run_dir.parent.stat()  # the next trainer would make it anew
        outcome = read_outcome(job, returncode)
        say(f"{heading}: {headline(outcome)}")
        outcomes.append(outcome)
    return outcomes


def _relay(job: Job, say: Callable[[str], None], forecast: Forecast) -> Callable[[str], None]:
    """Return a function that says a trainer's line; it prints one for each epoch it has kept."""

    def hear(line: str) -> None:
        with contextlib.suppress(RunError):  # there is no record yet
            if forecast.note(job, read_record(job.run_dir).history) and forecast.num_epochs_left:
                line = f"{line}  ({forecast})"
        say(line)

    return hear


def run_child(
    command: Sequence[str],
    hear: Callable[[str], None] = say,
    variables: Mapping[str, str] | None = None,
) -> int:
    """Run `command`, give `hear` each line of its stdout, and return its exit code.

    The exit code is below 0 for a signal. stderr stays this process's; `variables` are added to its
    environment.

    Raises:
        KeyboardInterrupt: this process or the child was interrupted, or this process was told to
            end; the child has ended. A child alone that is told to end has failed.
    """
    child = subprocess.Popen(
        leashed(command),
        env={**os.environ, **(variables or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        errors="replace",
    )
    assert child.stdout is not None
    with child.stdout:
        try:
            for line in child.stdout:
                hear(line.rstrip("\n"))
            returncode = child.wait()
        except BaseException as error:
            if isinstance(error, Terminated):  # a terminal tells the child of Ctrl-C, not of this
                child.terminate()
            end_child(child)
            raise
    if returncode in (INTERRUPTED, -signal.SIGINT):
        raise KeyboardInterrupt
    return returncode


def end_child(child: subprocess.Popen[Any]) -> None:
    """Wait until `child` ends after an interrupt: by itself, told by SIGINT, or killed."""
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(SELF_SECONDS)
        child.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(TOLD_SECONDS)
    finally:  # also when a second Ctrl-C comes
        child.kill()
        child.wait()


def read_outcome(job: Job, returncode: int) -> Outcome:
    """Read what `job`'s trainer left, given its exit code."""
    try:
        record = read_record(job.run_dir)
        if record.status == "complete" and returncode == 0:
            _check_is_of(job, record)
            logits, labels = read_predictions(job.run_dir)
            return Outcome(job.engine, job.recipe.variant, record, logits, labels)
        reason = (record.failure or {}).get("reason") or describe_exit(returncode)
    except RunError as error:
        reason = str(error) if returncode == 0 else describe_exit(returncode)
    return Outcome(job.engine, job.recipe.variant, reason=str(reason))


def describe_exit(returncode: int) -> str:
    """Say in words how a trainer ended."""
    if returncode < 0:
        return f"ended by signal {signal.Signals(-returncode).name}"
    if returncode == 2:
        return "the trainer refused the call (exit code 2); its message is above"
    return f"exit code {returncode}"


def reusable_record(job: Job, fingerprint: str) -> Record | None:
    """Return the record in `job`'s folder if running it again would compute and time the same.

    That is: a complete run of the same engine, recipe, execution, data set, versions, processor and
    device.
    """
    record = _earlier_record(job, fingerprint)
    try:
        read_predictions(job.run_dir)
    except RunError:
        return None
    return record if record is not None and record.status == "complete" else None


def can_go_on(job: Job, fingerprint: str) -> bool:
    """Return whether `job`'s folder holds the beginning of a run that would compute the same."""
    record = _earlier_record(job, fingerprint)
    return record is not None and record.status != "complete"


def _earlier_record(job: Job, fingerprint: str) -> Record | None:
    try:
        record = read_record(job.run_dir)
        _check_is_of(job, record)
    except RunError:
        return None
    versions = ENGINES[job.engine].find_python().versions(ENGINES[job.engine].packages)
    recorded = record.environment.get("packages", {})
    is_same = (
        record.dataset.get("fingerprint") == fingerprint
        and record.environment.get("cpu") == cpu_name()
        and device_of(record) in (None, job.gpu or "cpu")  # None: ended before it was settled
        and computed(record.execution) == computed(dataclasses.asdict(job.execution))
        and all(recorded.get(package) == version for package, version in versions.items())
    )
    return record if is_same else None


def check_replaceable(run_dir: Path) -> None:
    """Check that `run_dir` is free, or certainly a run's folder that nobody is writing to.

    Raises:
        UsageError: it holds anything else, which is never deleted.
    """
    if not run_dir.exists() and not run_dir.is_symlink():
        return
    if run_dir.is_symlink() or not run_dir.is_dir():
        raise UsageError(
            f"{run_dir} is in the way: it is not a folder; choose another --output-dir"
        )
    found = list(run_dir.iterdir())
    if not found:
        return
    if not is_early(found):
        try:
            read_record(run_dir)
        except RunError as error:
            raise UsageError(
                f"{run_dir} is in the way and is not certainly a run folder, so it is not deleted "
                f"({error}); move it away or choose another --output-dir"
            ) from error
    if run_dir / LOCK in found:
        with unlocked(run_dir, "run"):
            pass


def remove_run(run_dir: Path) -> None:
    """Delete the run's folder `run_dir`, if there is one.

    Raises:
        UsageError: it is not certainly a run's folder.
        RunError: it can't be deleted.
    """
    check_replaceable(run_dir)
    try:
        if run_dir.is_dir():
            shutil.rmtree(run_dir)
    except OSError as error:
        raise RunError(f"cannot replace {run_dir}: {error.strerror or error}") from error


def _check_is_of(job: Job, record: Record) -> None:
    is_of_job = record.engine == job.engine and record.recipe == recipe_to_dict(job.recipe)
    if not is_of_job:
        raise RunError(f"{job.run_dir / RECORD} is not of {job.name} with this call's recipe")


def headline(outcome: Outcome) -> str:
    """Say in a line what came of a run."""
    if outcome.record is None:
        return f"failed: {outcome.reason}"
    test, timing = outcome.record.test, outcome.record.timing
    return f"test accuracy {test['accuracy']:.4f}, {timing['train_seconds']:.1f} s of training"
