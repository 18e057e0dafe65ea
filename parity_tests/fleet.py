"""Training runs as tasks, side by side on this machine.

A run whose process is lost is tried again and goes on from its last epoch.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path

import psutil

from ladder.engines import leashed
from parity_tests.seeds import Plan, Row, Task, row_of
from pipeline.devices import common_device
from pipeline.engines import ENGINES
from pipeline.environment import usable_cores
from pipeline.errors import RunError
from pipeline.execution import Execution
from pipeline.launch import Job, can_go_on, end_child, remove_run, trainer_command
from pipeline.recipe import write_recipe
from pipeline.workers import end_children, workers

ROOT = Path(__file__).resolve().parent.parent
TRIES = 3
"""Times that a run whose process was lost is begun or gone on with."""
RUN_BYTES = 2 * 1024**3
"""Memory set aside for each run."""
LAST_LINES = 3


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
    log = work.runs_dir / f"{task.name}.log"
    num_trials, returncode, reason = 0, 0, ""
    while True:
        try:
            row = row_of(work.plan, task, job.run_dir)
        except RunError as error:
            if num_trials == TRIES or returncode == 2:
                raise RunError(f"{task.name}: {reason}") from error
            num_trials += 1
            returncode = _train(work, job, log)
            reason = f"exit code {returncode}: {_last_lines(log)}"
        else:
            _forget(work, task)
            return row


def _train(work: Work, job: Job, log: Path) -> int:
    command = trainer_command(job, work.scripts)
    if can_go_on(job, work.fingerprint):
        command.append("--resume")
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


def _last_lines(log: Path) -> str:
    return " ".join(log.read_text(errors="replace").split("\n")[-LAST_LINES - 1 :]).strip()


def _forget(work: Work, task: Task) -> None:
    shutil.rmtree(work.runs_dir / task.name, ignore_errors=True)
    for suffix in (".yaml", ".log"):
        (work.runs_dir / f"{task.name}{suffix}").unlink(missing_ok=True)


def places(num_threads: int) -> int:
    """Return how many runs this machine holds at once, by its cores and free memory."""
    by_memory = psutil.virtual_memory().available // RUN_BYTES
    return max(1, min(usable_cores() // num_threads, int(by_memory)))


Result = tuple[Task, Row | RunError]


def run_here(work: Work, tasks: Sequence[Task], at_once: int) -> Iterator[Result]:
    """Yield each task's row as it ends, `at_once` runs side by side; a lost run stops no other.

    Raises:
        KeyboardInterrupt: interrupted; the runs under way have ended and can go on.
    """
    with workers(at_once, end_children) as pool:
        futures = {pool.submit(run_task, work, task): task for task in tasks}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except RunError as error:
                yield futures[future], error
