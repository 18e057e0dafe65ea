"""One run, from the data to the record: what both trainers do around their framework."""

import dataclasses
import itertools
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from ladder.files import is_unfinished
from ladder.interpreters import STARTED_BY
from pipeline.datasets import Dataset, find_dataset_again, load_dataset
from pipeline.engines import ENGINES, SHARED_PACKAGES
from pipeline.environment import (
    describe_machine,
    package_versions,
)
from pipeline.errors import RunError, Terminated, UsageError
from pipeline.evaluation import evaluate_logits
from pipeline.execution import Execution, computed
from pipeline.implementation import Implementation, environment_of, no_keras_home, within_quota
from pipeline.journal import Journal, Startup
from pipeline.network import first_weights
from pipeline.preprocess import PreparedData, explained, fitted, prepare
from pipeline.processes import this_process
from pipeline.ranks import follow, joined
from pipeline.recipe import Recipe, recipe_from_dict, recipe_to_dict, write_recipe
from pipeline.record import (
    LOG,
    PLOTS,
    PREDICTIONS,
    RECIPE,
    RECORD,
    REPORT,
    Record,
    device_of,
    read_record,
    write_predictions,
    write_record,
)
from pipeline.terminal import noise_to, say
from pipeline.tracking import SAMPLES, require_loggers, start_trackers

Array = np.ndarray[Any, Any]
LOCK = ".lock"
EARLY_FILES = {LOCK, LOG, RECIPE}
"""What a run has written before its first record; a kill in these seconds leaves only these."""


def run_training(
    *,
    engine: str,
    load_implementation: Callable[[], Implementation],
    recipe: Recipe,
    execution: Execution,
    data_dir: Path | None,
    run_dir: Path | None,
    resume: bool,
) -> Record:
    """Train and test one engine on one recipe and write the run folder.

    Without a `run_dir` it is a new folder, `runs/ENGINE-VARIANT-TIME`. With `resume` the run goes
    on by its record, to more epochs too, with the data where it found them.

    Raises:
        UsageError: the call cannot be carried out as it is; nothing is left behind.
        RunError: the run failed; the record says why.

    Of several processes that train together, rank 0 does all that; the others train with it.
    """
    startup = Startup()
    startup.end("program")
    reason = ENGINES[engine].why_not()
    if reason is not None:
        raise UsageError(f"{engine} cannot run here: {reason}")
    require_loggers(execution.loggers)
    before = record_to_resume(run_dir) if run_dir and resume else None
    dataset = load_dataset(find_dataset_again(before.dataset if before else {}, data_dir))
    recipe = fitted(recipe, dataset)
    data = prepare(dataset, recipe)
    weights = first_weights(recipe)
    startup.end("data")
    if this_process().rank:
        if before and before.status == "complete" and before.recipe == recipe_to_dict(recipe):
            return before  # rank 0 says so
        return follow(
            engine, load_implementation, recipe, execution, data, run_dir if resume else None
        )
    named = run_dir or Path("runs") / time.strftime(f"{engine}-{recipe.variant}-%Y%m%d-%H%M%S")
    with _claimed(named, resume, is_named=run_dir is not None) as folder:
        record = _resumed(folder, engine, recipe, execution, dataset) if resume else None
        if record is not None and record.status == "complete":
            say(f"{folder} is complete: {_headline(record)}; --epochs with more goes on")
            return record
        record = record or _new_record(engine, recipe, execution, data, dataset.folder)
        # Keras's progress bar leaves its own line for each epoch; Lightning's leaves none.
        has_lines = execution.show_progress and engine != "lightning"
        write_recipe(folder / RECIPE, recipe)
        write_record(folder, record)  # from here on there is something to go on with
        journal = Journal(folder, record, len(data.train), _mute if has_lines else say, startup)
        say(f"{engine} {recipe.variant}: {folder}")
        for line in explained(dataset, recipe):
            say(line)
            with (folder / LOG).open("a") as log:
                print(line, file=log)
        os.environ.update(environment_of(engine, recipe, execution))
        with _tracking_ended(journal), _failures_recorded(journal, before):
            with noise_to(folder / LOG), no_keras_home():
                impl = load_implementation()
                startup.end("framework")
                logits = _train_and_predict(impl, recipe, data, execution, journal, weights)
            evaluation = evaluate_logits(logits, data.test.labels, data.class_names)
            write_predictions(folder, logits, data.test.labels)
            with noise_to(folder / LOG):  # matplotlib's, where it finds no home
                from pipeline.run_report import write_run_report

                write_run_report(folder, journal.record, evaluation, data.test, data.class_names)
            journal.complete({"loss": evaluation.loss, "accuracy": evaluation.accuracy})
        say(f"{engine} {recipe.variant}: {_headline(journal.record)}")
        return journal.record


def _train_and_predict(
    impl: Implementation,
    recipe: Recipe,
    data: PreparedData,
    execution: Execution,
    journal: Journal,
    weights: dict[str, Array] | None,
) -> Array:
    execution = within_quota(execution)
    resolved = impl.configure(recipe, execution)
    _settle_device(journal, resolved)
    device = str(resolved.get("device"))
    with joined(impl, recipe, execution, data, device, journal.run_dir, journal):
        _start_tracking(execution, journal, data)
        for result in (PREDICTIONS, REPORT):  # of fewer epochs, where a run goes on to more
            (journal.run_dir / result).unlink(missing_ok=True)
        model = impl.train(recipe, data, execution, journal, weights)
        journal.end_training()
        return impl.predict_logits(model, data.test, recipe, execution)


def _settle_device(journal: Journal, resolved: dict[str, Any]) -> None:
    """Write down what the framework resolved the call's settings to, the device above all.

    Raises:
        UsageError: the run began on another device, whose rounding is another.
    """
    record = journal.record
    began_on = device_of(record)
    record.environment.update(resolved)
    if began_on not in (None, device_of(record)):
        cure = "; add --device cpu" if began_on == "cpu" else ""
        raise UsageError(
            f"cannot resume {journal.run_dir}: it began on {began_on}, and would go on on "
            f"{device_of(record)}{cure}"
        )


def _start_tracking(execution: Execution, journal: Journal, data: PreparedData) -> None:
    """Open what `--logger` asks for besides CSV; the pictures that it takes come first."""
    if set(execution.loggers) == {"csv"}:
        return
    from pipeline.plots import plot_class_samples

    plots = journal.run_dir / PLOTS
    plots.mkdir(exist_ok=True)
    plot_class_samples(
        plots / f"{SAMPLES}.png", data.train.images, data.train.labels, data.class_names
    )
    journal.trackers = start_trackers(execution.loggers, journal.run_dir, journal.record, say)


@contextmanager
def _tracking_ended(journal: Journal) -> Iterator[None]:
    """Tell the trackers how the run ended, once the record says it."""
    try:
        yield
    finally:
        if journal.trackers:
            with noise_to(journal.run_dir / LOG):
                journal.trackers.end(journal.record)


def record_to_resume(run_dir: Path) -> Record:
    """Return the record by which a run goes on.

    Raises:
        UsageError: there is none.
        RunError: it is broken.
    """
    if not (run_dir / RECORD).is_file():
        raise UsageError(f"cannot resume: {run_dir} holds no {RECORD}; start without --resume")
    return read_record(run_dir)


def _made(run_dir: Path) -> Path:
    """Make a folder for a new run, with a number behind its name where another run has that."""
    for number in itertools.count(1):
        folder = run_dir if number == 1 else run_dir.with_name(f"{run_dir.name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            if not os.path.lexists(folder):  # what is in the way is a part of its path
                raise
    raise AssertionError("there is always another number")


@contextmanager
def _claimed(run_dir: Path, resume: bool, is_named: bool) -> Iterator[Path]:
    """Hold the run folder against a second run; leave it as it was if the call was wrong."""
    was_empty = False
    try:
        created = not is_named or not run_dir.exists()
        if not is_named:
            run_dir = _made(run_dir)
        if not resume and not (run_dir / LOCK).exists():  # not a run's: don't even lock it
            _require_empty(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run_dir / LOCK, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise UsageError(f"{run_dir} is in use by another run") from error
    except OSError as error:
        raise RunError(f"cannot write to {run_dir}: {error.strerror or error}") from error
    try:
        for left in filter(is_unfinished, run_dir.rglob(".*")):  # of a run that was killed
            left.unlink()
        if not resume:
            _require_empty(run_dir)
            was_empty = True
        yield run_dir
    except UsageError:
        if created:
            shutil.rmtree(run_dir, ignore_errors=True)
        elif was_empty:
            _empty(run_dir)
        raise
    except BrokenPipeError:  # nobody reads stdout any more
        raise
    except OSError as error:
        raise RunError(f"cannot write to {run_dir}: {error.strerror or error}") from error
    finally:
        lock.release()


def _empty(run_dir: Path) -> None:
    for path in run_dir.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK:
            path.unlink()


def is_early(paths: Iterable[Path]) -> bool:
    """Return whether `paths` are all that a run leaves which was ended before its first record."""
    names = {path.name for path in paths if not is_unfinished(path)}
    return LOCK in names and (names == {LOCK} or RECIPE in names) and names <= EARLY_FILES


def _require_empty(run_dir: Path) -> None:
    found = list(run_dir.iterdir()) if run_dir.is_dir() else []
    if found and not is_early(found):
        raise UsageError(
            f"{run_dir} is not empty; choose another --run-dir, or add --resume to go on in it"
        )


def _new_record(
    engine: str, recipe: Recipe, execution: Execution, data: PreparedData, data_folder: Path
) -> Record:
    return Record(
        status="running",
        engine=engine,
        variant=recipe.variant,
        command=_called(),
        recipe=recipe_to_dict(recipe),
        execution={**dataclasses.asdict(execution), "loggers": list(execution.loggers)},
        dataset={"folder": str(data_folder.absolute()), **data.described()},
        environment={**describe_machine(), "packages": package_versions()},
        parameters=0,
    )


def _resumed(
    run_dir: Path, engine: str, recipe: Recipe, execution: Execution, dataset: Dataset
) -> Record:
    record = record_to_resume(run_dir)
    wanted = recipe_to_dict(recipe)
    same_length = {**record.recipe, "num_epochs": recipe.num_epochs}
    for name, before, now in (
        ("engine", record.engine, engine),
        ("recipe", same_length, wanted),
        ("execution", computed(record.execution), computed(dataclasses.asdict(execution))),
        ("packages", *_used_packages(record)),
    ):
        if before != now:
            raise UsageError(f"cannot resume {run_dir}: {difference(name, before, now)}")
    if record.dataset["fingerprint"] != dataset.fingerprint:
        raise UsageError(
            f"cannot resume {run_dir}: it was trained on {record.dataset['name']}, received "
            f"{dataset.name} from {dataset.folder}; name the folder of its data by --data-dir"
        )
    if recipe.num_epochs < len(record.history):
        raise UsageError(
            f"cannot resume {run_dir}: it has trained {len(record.history)} epochs, received "
            f"num_epochs={recipe.num_epochs}; name at least as many, or start a new run"
        )
    is_longer = record.recipe != wanted
    if record.status == "complete" and not is_longer:
        return record
    return dataclasses.replace(
        record,
        status="running",
        failure=None,
        test={},
        recipe=wanted,
        command=_called() if is_longer else record.command,
        dataset={**record.dataset, "folder": str(dataset.folder.absolute())},
    )


def _called() -> list[str]:
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def _used_packages(record: Record) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the versions that a run's engine used, then and now."""
    names = (*ENGINES[record.engine].packages, *SHARED_PACKAGES)
    then, now = record.environment.get("packages", {}), package_versions()
    return {name: then.get(name) for name in names}, {name: now.get(name) for name in names}


def difference(name: str, before: Any, now: Any) -> str:
    """Say what differs between a run and a call to resume it."""
    if isinstance(before, dict) and isinstance(now, dict):
        key = next(key for key in {**before, **now} if before.get(key) != now.get(key))
        return difference(key, before.get(key), now.get(key))
    return f"its `{name}` was {before!r}, received {name}={now!r}"


@contextmanager
def _failures_recorded(journal: Journal, before: Record | None) -> Iterator[None]:
    """Write down in the record why training ended early; a wrong call leaves it as it was `before`.

    `before` is the record of the run that goes on.
    """
    try:
        yield
    except UsageError:
        if before is not None:
            write_recipe(journal.run_dir / RECIPE, recipe_from_dict(before.recipe))
            write_record(journal.run_dir, before)
        raise
    except KeyboardInterrupt as error:
        how = "terminated" if isinstance(error, Terminated) else "interrupted"
        journal.fail("interrupted", RunError(how))
        python = os.environ.get(STARTED_BY, sys.executable)  # which finds the project's packages
        again = shlex.join([python, *sys.argv])
        raise type(error)(f"to go on: {again}{_resume_flags(journal.run_dir)}") from None
    except Exception as error:
        journal.fail("failed", error)
        raise


def _resume_flags(run_dir: Path) -> str:
    flags = ""
    if "--run-dir" not in " ".join(sys.argv):
        flags += f" --run-dir {shlex.quote(str(run_dir))}"
    if "--resume" not in sys.argv:
        flags += " --resume"
    return flags


def _mute(line: str) -> None:
    pass


def _headline(record: Record) -> str:
    return (
        f"test accuracy {record.test['accuracy']:.4f}, test loss {record.test['loss']:.4f}, "
        f"{record.timing['train_seconds']:.1f} s for {len(record.history)} epochs"
    )
