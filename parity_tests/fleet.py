"""Training runs as tasks of a pool: threads of this machine, or a cluster (`ray_fleet`).

A run whose process is lost is tried again and goes on from its last epoch.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psutil

from ladder.engines import leashed
from parity_tests.seeds import COMPLETE, FAILED, Plan, Row, Task, row_of
from pipeline.devices import common_device
from pipeline.engines import ENGINES
from pipeline.environment import usable_cores
from pipeline.errors import RunError
from pipeline.execution import Execution
from pipeline.launch import (
    Job,
    Outcome,
    can_go_on,
    end_child,
    headline,
    read_outcome,
    remove_run,
    reusable_record,
    trainer_command,
)
from pipeline.recipe import write_recipe
from pipeline.record import RECORD
from pipeline.recorded import read_record
from pipeline.run_folder import LOCK

ROOT = Path(__file__).resolve().parent.parent
TRIES = 3
"""Times that a run whose process was lost is begun or gone on with."""
RUN_BYTES = 2 * 1024**3
"""Memory set aside for each run."""
LAST_LINES = 3

T = TypeVar("T")


class Pool(Protocol):
    """Where work is done; what it raises comes back as the future's exception."""

    def submit(self, work: Callable[..., T], /, *arguments: Any) -> Future[T]:
        """Begin `work` as soon as there is room for it."""
        ...


@dataclass(frozen=True)
class Work:
    """How the tasks of one certificate are carried out."""

    plan: Plan
    runs_dir: Path
    """Runs under way; a run's folder goes once its row is kept."""
    data_dir: Path | None
    fingerprint: str
    """Of the data set, so that a run of another one is not gone on with."""
    num_threads: int
    device: str
    """`cpu` or `gpu`."""
    scripts: Path = ROOT / "scripts"
    """Where the trainers are."""

    def job_of(self, task: Task) -> Job:
        """Return the trainer's call for `task`."""
        run_dir = self.runs_dir / task.name
        config = self.runs_dir / f"{task.name}.yaml"
        flags = ["--config", str(config), "--threads", str(self.num_threads)]
        flags += ["--device", self.device]
        flags += ["--data-dir", str(self.data_dir)] if self.data_dir else []
        execution = Execution(device=self.device, num_threads=self.num_threads)
        gpu = common_device([task.engine], self.device).gpus[task.engine]
        return Job(task.engine, task.recipe, execution, tuple(flags), run_dir, gpu)


def run_task(work: Work, task: Task) -> Row:
    """Carry out one run in processes of its own and return its row.

    Raises:
        RunError: the trainer refused the call, or died each time.
    """
    job = work.job_of(task)
    work.runs_dir.mkdir(parents=True, exist_ok=True)
    write_recipe(work.runs_dir / f"{task.name}.yaml", task.recipe)
    row = _trained(
        job, work.scripts, work.fingerprint, lambda: row_of(work.plan, task, job.run_dir)
    )
    shutil.rmtree(job.run_dir, ignore_errors=True)
    (work.runs_dir / f"{task.name}.yaml").unlink(missing_ok=True)
    return row


def run_job(job: Job, scripts: Path, fingerprint: str) -> dict[str, bytes]:
    """Carry out a comparison's run; return the files of its folder, which may be another machine's.

    Raises:
        RunError: the trainer refused the call, or died each time.
    """
    gpu = common_device([job.engine], job.execution.device).gpus[job.engine]
    job = replace(job, gpu=gpu)
    job.run_dir.parent.mkdir(parents=True, exist_ok=True)
    goes_on = can_go_on(job, fingerprint) and read_record(job.run_dir).status != FAILED
    if not goes_on and not reusable_record(job, fingerprint):
        remove_run(job.run_dir)  # what this machine has of another call, or of one that failed
    return _trained(job, scripts, fingerprint, lambda: _files_of(job.run_dir))


def _trained(job: Job, scripts: Path, fingerprint: str, read: Callable[[], T]) -> T:
    """Call the trainer until `read` returns what is wanted of its folder."""
    log = job.run_dir.parent / f"{job.run_dir.name}.log"
    num_trials, returncode, reason = 0, 0, ""
    while True:
        try:
            found = read()
        except RunError as error:
            if num_trials == TRIES or returncode == 2:
                raise RunError(f"{job.run_dir.name}: {reason}") from error
            num_trials += 1
            returncode = _train(job, scripts, fingerprint, log)
            reason = f"exit code {returncode}: {_last_lines(log)}"
        else:
            log.unlink(missing_ok=True)
            return found


def _train(job: Job, scripts: Path, fingerprint: str, log: Path) -> int:
    command = trainer_command(job, scripts)
    if can_go_on(job, fingerprint):
        command.append("--resume")
        if "--config" in job.flags:
            command = [word for word in command if word not in ("--config", job.flags[1])]
    else:
        remove_run(job.run_dir)
    with log.open("wb") as output:
        child = subprocess.Popen(
            leashed(command),
            env={**os.environ, **ENGINES[job.engine].environment()},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            return child.wait()
        except BaseException:
            end_child(child)
            raise


def _files_of(run_dir: Path) -> dict[str, bytes]:
    status = read_record(run_dir).status
    if status not in (COMPLETE, FAILED):
        raise RunError(f"{run_dir} has not ended: {status}")
    return {
        str(path.relative_to(run_dir)): path.read_bytes()
        for path in run_dir.rglob("*")
        if path.is_file() and path.name != LOCK
    }


def _last_lines(log: Path) -> str:
    return " ".join(log.read_text(errors="replace").split("\n")[-LAST_LINES - 1 :]).strip()


def places(num_threads: int) -> int:
    """Return how many runs this machine holds at once, by its cores and free memory."""
    by_memory = psutil.virtual_memory().available // RUN_BYTES
    return max(1, min(usable_cores() // num_threads, int(by_memory)))


Result = tuple[Task, Row | RunError]


def run_tasks(pool: Pool, work: Work, tasks: Sequence[Task]) -> Iterator[Result]:
    """Yield each task's row as it ends; a lost run stops no other.

    Raises:
        KeyboardInterrupt: interrupted; the runs under way have ended and can go on.
    """
    futures = {pool.submit(run_task, work, task): task for task in tasks}
    for future in as_completed(futures):
        try:
            yield futures[future], future.result()
        except RunError as error:
            yield futures[future], error


def run_jobs_in(
    pool: Pool,
    jobs: Sequence[Job],
    scripts: Path,
    fingerprint: str,
    say: Callable[[str], None],
    kept: Collection[str] = (),
) -> list[Outcome]:
    """Return the outcomes of a comparison's runs, whose folders are brought here.

    `kept` names the jobs whose earlier runs stand. A failure stops no other.
    """
    futures = {
        pool.submit(run_job, job, scripts, fingerprint): job for job in jobs if job.name not in kept
    }
    outcomes = {job.name: read_outcome(job, 0) for job in jobs if job.name in kept}
    for number, future in enumerate(as_completed(futures), start=1):
        job = futures[future]
        try:
            _write_files(job.run_dir, future.result())
            outcome = read_outcome(job, 0)
        except RunError as error:
            outcome = Outcome(job.engine, job.recipe.variant, reason=str(error))
        say(f"[{number}/{len(futures)}] {job.name}: {headline(outcome)}")
        outcomes[job.name] = outcome
    return [outcomes[job.name] for job in jobs]


def _write_files(run_dir: Path, files: Mapping[str, bytes]) -> None:
    remove_run(run_dir)
    for name in sorted(files, key=lambda name: name == RECORD):  # it says that the rest is there
        (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (run_dir / name).write_bytes(files[name])
