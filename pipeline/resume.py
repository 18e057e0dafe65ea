"""Going on with a run: by its record, and only as it began."""

import dataclasses
from pathlib import Path
from typing import Any

from pipeline.datasets import Dataset
from pipeline.engines import ENGINES, SHARED_PACKAGES, trainer_arguments
from pipeline.environment import package_versions
from pipeline.errors import UsageError
from pipeline.execution import Execution, computed
from pipeline.recipe import Recipe, overridden, recipe_from_dict, recipe_to_dict, shortest
from pipeline.recipe_file import read_recipe_fields
from pipeline.record import RECIPE, RECORD, Record
from pipeline.recorded import read_record
from pipeline.run import called


def record_to_resume(run_dir: Path | None) -> Record:
    """Return the record by which a run goes on.

    Raises:
        UsageError: there is none, or no folder is named.
        RunError: it is broken.
    """
    if not run_dir:
        raise UsageError("`--resume` needs the `--run-dir` to go on in")
    if not (run_dir / RECORD).is_file():
        raise UsageError(f"cannot resume: {run_dir} holds no {RECORD}; start without --resume")
    return read_record(run_dir)


def engine_of_run(impl: str, run_dir: Path | None) -> str:
    """Return the engine of the run to go on with.

    Raises:
        UsageError: there is no run to resume, or it is not one of `impl`.
    """
    engine = record_to_resume(run_dir).engine
    if engine.partition("-")[0] != impl:
        trainer = " ".join(trainer_arguments(engine))
        raise UsageError(
            f"cannot resume {run_dir} here: it is a run of {engine}; "
            f"go on with scripts/{trainer} --run-dir {run_dir} --resume"
        )
    return engine


def with_other_epochs(run_dir: Path, wanted: dict[str, Any]) -> Recipe:
    """Return a resumed run's recipe with what is wanted of it, which may be other epochs alone.

    An epoch is a function of the seed and its number, so that many epochs come out the same
    whether they were wanted at once or not.

    Raises:
        UsageError: anything else is wanted to be other.
    """
    saved = recipe_from_dict(read_recipe_fields(run_dir / RECIPE))
    before = recipe_to_dict(saved)
    if wanted.get("variant", saved.variant) != saved.variant:  # before its rates are found wrong
        raise UsageError(
            f"cannot resume with another recipe: `variant` was {saved.variant!r}, "
            f"received variant={wanted['variant']!r}; leave it out, or start a new run"
        )
    recipe = recipe_from_dict(overridden(before, wanted))
    after = recipe_to_dict(recipe)
    changed = [name for name in before if before[name] != after[name] and name != "num_epochs"]
    if changed:
        name = changed[0]
        raise UsageError(
            f"cannot resume with another recipe: `{name}` was {shortest(before[name])!r}, "
            f"received {name}={shortest(after[name])!r}; leave it out, or start a new run"
        )
    return recipe


def resumed(
    run_dir: Path, engine: str, recipe: Recipe, execution: Execution, dataset: Dataset
) -> Record:
    """Return the record of a run that goes on; it is complete where nothing is left to train.

    Raises:
        UsageError: the call would compute something else than the run has, or the run has trained
            more epochs already.
        RunError: the record is broken.
    """
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
            raise UsageError(f"cannot resume {run_dir}: {_difference(name, before, now)}")
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
        command=called() if is_longer else record.command,
        dataset={**record.dataset, "folder": str(dataset.folder.absolute())},
    )


def _used_packages(record: Record) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the versions that a run's engine used, then and now."""
    names = (*ENGINES[record.engine].packages, *SHARED_PACKAGES)
    then, now = record.environment.get("packages", {}), package_versions()
    return {name: then.get(name) for name in names}, {name: now.get(name) for name in names}


def _difference(name: str, before: Any, now: Any) -> str:
    """Say what differs between a run and a call to resume it."""
    if isinstance(before, dict) and isinstance(now, dict):
        key = next(key for key in {**before, **now} if before.get(key) != now.get(key))
        return _difference(key, before.get(key), now.get(key))
    return f"its `{name}` was {before!r}, received {name}={now!r}"
