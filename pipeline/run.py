"""One run, from the data to the record: what both trainers do around their framework."""

import dataclasses
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from ladder.interpreters import STARTED_BY
from pipeline.datasets import find_dataset_again, load_dataset
from pipeline.engines import ENGINES
from pipeline.environment import describe_machine, package_versions
from pipeline.errors import RunError, Terminated, UsageError
from pipeline.evaluation import evaluate_logits
from pipeline.execution import Execution
from pipeline.implementation import Implementation, environment_of, no_keras_home, within_quota
from pipeline.journal import Journal, Startup
from pipeline.network import first_weights
from pipeline.preprocess import PreparedData, explained, fitted, prepare
from pipeline.processes import this_process
from pipeline.recipe import Recipe, recipe_from_dict, recipe_to_dict, write_recipe
from pipeline.record import (
    LOG,
    PLOTS,
    PREDICTIONS,
    RECIPE,
    REPORT,
    Record,
    device_of,
    write_predictions,
    write_record,
)
from pipeline.run_folder import claimed
from pipeline.terminal import noise_to, say

Array = np.ndarray[Any, Any]


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
    if set(execution.loggers) != {"csv"}:
        from pipeline.tracking import require_loggers

        require_loggers(execution.loggers)
    before = None
    if run_dir and resume:
        from pipeline.resume import record_to_resume, resumed

        before = record_to_resume(run_dir)
    dataset = load_dataset(find_dataset_again(before.dataset if before else {}, data_dir))
    recipe = fitted(recipe, dataset)
    data = prepare(dataset, recipe)
    weights = first_weights(recipe)
    startup.end("data")
    if this_process().rank:
        if before and before.status == "complete" and before.recipe == recipe_to_dict(recipe):
            return before  # rank 0 says so
        from pipeline.ranks import follow

        folder_of_run = run_dir if resume else None
        return follow(engine, load_implementation, recipe, execution, data, weights, folder_of_run)
    named = run_dir or Path("runs") / time.strftime(f"{engine}-{recipe.variant}-%Y%m%d-%H%M%S")
    with claimed(named, resume, is_named=run_dir is not None) as folder:
        record = resumed(folder, engine, recipe, execution, dataset) if resume else None
        if record is not None and record.status == "complete":
            say(f"{folder} is complete: {_headline(record)}; --epochs with more goes on")
            return record
        record = record or _new_record(engine, recipe, execution, data, dataset.folder)
        # Keras's progress bar leaves its own line for each epoch; Lightning's leaves none.
        has_lines = execution.show_progress and engine != "lightning"
        write_recipe(folder / RECIPE, recipe)
        write_record(folder, record)  # from here on there is something to go on with
        tell = (lambda line: None) if has_lines else say
        journal = Journal(folder, record, len(data.train), tell, startup)
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
    together: AbstractContextManager[Any] = nullcontext()
    if this_process().size > 1:
        from pipeline.ranks import joined

        device = str(resolved.get("device"))
        together = joined(impl, recipe, execution, data, device, journal.run_dir, journal)
    with together:
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
    from pipeline.tracking import SAMPLES, start_trackers

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


def _new_record(
    engine: str, recipe: Recipe, execution: Execution, data: PreparedData, data_folder: Path
) -> Record:
    return Record(
        status="running",
        engine=engine,
        variant=recipe.variant,
        command=called(),
        recipe=recipe_to_dict(recipe),
        execution={**dataclasses.asdict(execution), "loggers": list(execution.loggers)},
        dataset={"folder": str(data_folder.absolute()), **data.described()},
        environment={**describe_machine(), "packages": package_versions()},
        parameters=0,
    )


def called() -> list[str]:
    """Return the command of this process, without Python and the script's folder."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


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


def _headline(record: Record) -> str:
    return (
        f"test accuracy {record.test['accuracy']:.4f}, test loss {record.test['loss']:.4f}, "
        f"{record.timing['train_seconds']:.1f} s for {len(record.history)} epochs"
    )
