"""A run taken into the other framework: its training state as a run folder there, verified."""

import dataclasses
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from ladder.arrays import check_shapes, under
from ladder.compare import Tolerance
from ladder.files import write_bytes
from ladder.subject import tagged
from pipeline.datasets import find_dataset_again, load_dataset
from pipeline.engines import trainer_arguments
from pipeline.environment import describe_machine
from pipeline.errors import RunError, UsageError
from pipeline.network import check_weights, parameter_shapes, write_weights
from pipeline.origin import engine_versions
from pipeline.preprocess import LabeledImages, prepare
from pipeline.recipe import Recipe, recipe_to_dict, write_recipe
from pipeline.record import (
    BEST_WEIGHTS,
    LAST_WEIGHTS,
    RECIPE,
    Record,
    series,
    write_predictions,
    write_record,
)
from pipeline.run_folder import LOCK
from trained.run_folder import TrainedRun, ask_engine, read_run

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
LOGITS = {
    "64": Tolerance(
        "converted logits, float64", 1e-12, "sums of up to 2,048 products in another order",
        "7.8e-16 on 60 drawn images", relative=1e-12,
    ),
    "32": Tolerance(
        "converted logits, float32", 1e-5, "sums of up to 2,048 products in another order",
        "9.5e-6 of at most 25 on Fashion-MNIST's 10,000 test images, two epochs", relative=1e-5,
    ),
    "bf16": Tolerance(
        "converted logits, bf16", 0.02, "products of 8 significant bits, rounded layer by layer",
        "0.002 on 60 drawn images", relative=0.05,
    ),
}  # fmt: skip
"""How far the same weights' logits may lie apart in two engines, by precision."""


@dataclass(frozen=True)
class Conversion:
    """What a conversion wrote, and how it was verified."""

    run_dir: Path
    engine: str
    epochs: int
    num_images: int
    logit_gap: float
    """Largest distance of a test logit in the two engines."""
    allowed_gap: float
    tolerance: Tolerance

    def resume_command(self, execution: dict[str, Any]) -> list[str]:
        """Return what trains on from it; flags that may change rounding are those of the source."""
        script, *first = trainer_arguments(self.engine)
        flags = [f"--{name}" for name in ("deterministic", "tf32", "plain") if execution.get(name)]
        if execution.get("num_threads"):
            flags += ["--threads", str(execution["num_threads"])]
        if execution.get("device", "auto") != "auto":
            flags += ["--device", str(execution["device"])]
        here = ["--run-dir", str(self.run_dir), "--resume"]
        path = SCRIPTS / script
        if path.is_relative_to(Path.cwd()):
            path = path.relative_to(Path.cwd())
        return ["python", str(path), *first, *flags, *here]


def convert(
    source: Path, engine: str, target: Path, num_epochs: int | None, data_dir: Path | None
) -> Conversion:
    """Write the run folder `target`, in which `engine` goes on where the run `source` stands.

    `num_epochs` is how many the recipe then asks for; None leaves that.

    Raises:
        UsageError: the source is no run, the target is there, or the call does not fit them.
        RunError: an engine failed, or what was written is not what was read; nothing is left.
    """
    run = read_run(source)
    _require_free(run, target)
    recipe = run.recipe
    if num_epochs is not None:
        recipe = dataclasses.replace(recipe, num_epochs=num_epochs)
    test = test_images_of(run, data_dir)
    found = ask_engine(
        run.record.engine, "state", recipe, {"images": test.images}, run_dir=str(source.resolve())
    )
    epochs, state = int(found.facts["epochs"]), under("state", found.arrays)
    _check_state(state, recipe, epochs, run)
    record = _converted_record(run, recipe, engine, epochs)
    try:
        target.mkdir(parents=True, exist_ok=True)
        try:
            adopted = ask_engine(
                engine, "adopt", recipe, {"images": test.images, **tagged("state", state)},
                run_dir=str(target.resolve()), epochs=epochs,
                best_val_loss=min(series(record, "val_loss")),
            )  # fmt: skip
            _require_same_bits(state, under("state", adopted.arrays))
            logits = found.arrays["logits"], adopted.arrays["logits"]
            gap, allowed = logit_gap(*logits, LOGITS[recipe.precision])
            write_recipe(target / RECIPE, recipe)
            last = {name: state[name] for name in parameter_shapes(recipe)}
            write_weights(target / LAST_WEIGHTS, last)
            if (run.folder / BEST_WEIGHTS).is_file():
                best = (run.folder / BEST_WEIGHTS).read_bytes()
                write_bytes(target / BEST_WEIGHTS, best)
            write_predictions(target, logits[1], test.labels)
            write_record(target, record)  # which makes it a run folder
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
    except OSError as error:
        raise RunError(f"cannot write to {target}: {error.strerror or error}") from error
    return Conversion(target, engine, epochs, len(test), gap, allowed, LOGITS[recipe.precision])


def test_images_of(run: TrainedRun, data_dir: Path | None) -> LabeledImages:
    """Return the test images of the data set that a run was trained on.

    Raises:
        UsageError: they are not here, or `data_dir` holds another set.
    """
    folder = find_dataset_again(run.record.dataset, data_dir)
    data = prepare(load_dataset(folder), run.recipe)
    if data.fingerprint != run.record.dataset.get("fingerprint"):
        raise UsageError(
            f"{run.folder} was trained on {run.record.dataset.get('name')}, "
            f"received {data.name} from {folder}; name its folder by --data-dir"
        )
    return data.test


def logit_gap(wanted: Array, found: Array, tolerance: Tolerance) -> tuple[float, float]:
    """Return the largest distance of two sets of logits, and what is allowed.

    Raises:
        RunError: other shapes, a logit that is not finite, or a larger distance.
    """
    if wanted.shape != found.shape or not wanted.size:
        raise RunError(f"logits {found.shape} where {wanted.shape} are expected")
    gap = float(np.abs(wanted.astype(np.float64) - found.astype(np.float64)).max())
    allowed = tolerance.allowed(float(np.abs(wanted).max()))
    if not gap <= allowed:  # NaN is no pass
        raise RunError(
            f"the logits lie up to {gap:.3g} apart; {allowed:.3g} is allowed "
            f"({tolerance.name}: {tolerance.reason})"
        )
    return gap, allowed


def _require_free(run: TrainedRun, target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} is not empty; choose another --run-dir")
    try:
        with FileLock(run.folder / LOCK, timeout=0):
            pass
    except Timeout as error:
        raise UsageError(
            f"{run.folder} is in use by a run; convert it once that has ended"
        ) from error
    except OSError:
        pass  # nobody writes to what is read-only


def _check_state(state: Arrays, recipe: Recipe, epochs: int, run: TrainedRun) -> None:
    """Check what came out of a checkpoint before it goes into another.

    Raises:
        RunError: it is not a whole, finite training state after `epochs` of the record.
    """
    shapes = parameter_shapes(recipe)
    slots = {f"adam.{letter}.{name}": shape for name, shape in shapes.items() for letter in "mv"}
    what = f"the training state of {run.folder}"
    try:
        check_shapes(state, {**shapes, **slots, "adam.step": ()}, what)
        check_weights({name: state[name] for name in shapes}, recipe, what)
    except ValueError as error:
        raise RunError(str(error)) from error
    is_sound = all(np.isfinite(state[name]).all() for name in slots) and state["adam.step"] > 0
    if not is_sound:
        raise RunError(f"{what}: Adam's state holds values that are not finite, or no step")
    if not 1 <= epochs <= len(run.record.history):
        raise RunError(
            f"{run.folder}: the checkpoint has seen {epochs} epochs, "
            f"the record {len(run.record.history)}"
        )
    if epochs > recipe.num_epochs:
        raise UsageError(
            f"`--epochs` must be at least the {epochs} that {run.folder} has trained; "
            f"received {recipe.num_epochs}"
        )


def _require_same_bits(state: Arrays, written: Arrays) -> None:
    """Compare what the new checkpoint holds with what was to be written, to the last bit."""
    if set(state) != set(written):
        raise RunError(f"the checkpoint lacks {sorted(set(state) ^ set(written))}")
    for name, array in state.items():
        if not np.array_equal(array, written[name]):
            raise RunError(f"the checkpoint holds another {name} than was written to it")


def _converted_record(run: TrainedRun, recipe: Recipe, engine: str, epochs: int) -> Record:
    record = run.record
    source = {"engine": record.engine, "run_dir": str(run.folder.resolve()), "epochs": epochs}
    return dataclasses.replace(
        record,
        status="interrupted",
        engine=engine,
        command=[Path(sys.argv[0]).name, *sys.argv[1:]],
        recipe=recipe_to_dict(recipe),
        environment={
            **describe_machine(), "packages": engine_versions(engine), "converted_from": source
        },
        history=record.history[:epochs],
        test={},
        timing={},
        failure={
            "reason": f"converted from a run of {record.engine} after epoch {epochs} of "
            f"{recipe.num_epochs}; --resume goes on"
        },
    )  # fmt: skip
