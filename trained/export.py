"""A run's model as files for other programs, each checked by running the file itself."""

import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ladder.files import write_bytes, write_json
from ladder.interpreters import this_interpreter
from ladder.subject import tagged
from pipeline.batches import batch_dtype
from pipeline.engines import ENGINES
from pipeline.errors import RunError, UsageError
from pipeline.preprocess import rescale
from pipeline.recipe import Recipe
from pipeline.recorded import read_predictions
from trained.conversion import LOGITS, logit_gap, test_images_of
from trained.run_folder import TrainedRun, ask_engine

Array = np.ndarray[Any, Any]

FILES = {
    "keras": "model.keras",
    "savedmodel": "saved_model",
    "pt2": "model.pt2",
    "onnx": "model.onnx",
}
FORMS = {"keras": ("keras", "savedmodel", "onnx"), "lightning": ("pt2", "onnx")}
"""Of each implementation."""
ABOUT = "export.json"
ONNX_PACKAGES = ("onnx", "onnxruntime")
"""What checks an ONNX file needs here; what writes one needs onnx and onnxscript."""


@dataclass(frozen=True)
class Exported:
    """A file that has been run, and how far its logits lie from the run's own."""

    form: str
    file: str
    input: dict[str, Any]
    output: dict[str, Any]
    images: int
    """Test images it was run on."""
    logit_gap: float
    allowed_gap: float


def forms_of(run: TrainedRun) -> tuple[str, ...]:
    """Return the forms in which a run's half is exported."""
    return FORMS["lightning" if run.record.engine == "lightning" else "keras"]


def export(run: TrainedRun, form: str, folder: Path, data_dir: Path | None) -> Exported:
    """Write the run's last weights as `form` into `folder`, once the file has given its logits.

    Raises:
        UsageError: it is there already, the data set is not, or what is needed is not installed.
        RunError: it could not be written or run, or gave other logits; no file is left.
    """
    path = folder / FILES[form]
    if path.exists():
        raise UsageError(f"{path} is there already; choose another --output-dir")
    recipe = _deployed(run.recipe)
    if form == "onnx":
        _require_onnx(recipe, _writer(run, form))
    wanted, _ = read_predictions(run.folder)
    images = rescale(test_images_of(run, data_dir).images, batch_dtype(recipe))
    part = folder / f".part-{path.name}"  # its own suffix stays, by which Keras goes
    try:
        folder.mkdir(parents=True, exist_ok=True)
        ask_engine(
            _writer(run, form), "export", recipe, tagged("weights", run.weights),
            form=form, path=str(part.resolve()),
        )  # fmt: skip
        if form == "onnx":
            _describe_onnx(part, run)
        found = _run_file(run, form, part, _batches(run, images))
        gap, allowed = logit_gap(wanted, found, LOGITS[run.recipe.precision])
        os.replace(part, path)
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        part.unlink(missing_ok=True)
    return Exported(form, path.name, _input(run), _output(run), len(found), gap, allowed)


def write_about(folder: Path, run: TrainedRun, exported: list[Exported]) -> Path:
    """Write beside the files what they take, what they give, and how they were checked."""
    path = folder / ABOUT
    about = {
        "engine": run.record.engine,
        "variant": run.recipe.variant,
        "data_set": run.record.dataset.get("name"),
        "class_names": list(run.class_names),
        "files": [asdict(file) for file in exported],
    }
    write_json(path, about)
    return path


def _deployed(recipe: Recipe) -> Recipe:
    """Return the recipe to build with: a bf16 run's weights are float32, and so is its file."""
    return replace(recipe, precision="32") if recipe.precision == "bf16" else recipe


def _writer(run: TrainedRun, form: str) -> str:
    """Return the engine that writes `form`; all of Keras share canonical weights."""
    if run.record.engine == "lightning":
        return "lightning"
    return {"savedmodel": "keras-tensorflow", "onnx": "keras-torch"}.get(form, run.record.engine)


def _require_onnx(recipe: Recipe, writer: str) -> None:
    if recipe.precision == "64":
        raise UsageError(
            "`--form onnx`: onnxruntime has no convolution in float64, so it could not be checked"
        )
    here = this_interpreter().why_not(ONNX_PACKAGES)
    there = ENGINES[writer].find_python().why_not(("onnx", "onnxscript"))
    if reason := here or there:
        raise UsageError(f"`--form onnx`: {reason}; pip install 'keras-lightning-parity[export]'")


def _batches(run: TrainedRun, images: Array) -> list[Array]:
    """Cut images (N, H, W, 1) into batches of several sizes, in the layout the files take."""
    if run.record.engine == "lightning":
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    size = run.recipe.batch_size
    return [batch for batch in np.split(images, range(1, len(images), size)) if len(batch)]


def _run_file(run: TrainedRun, form: str, path: Path, batches: list[Array]) -> Array:
    """Return the logits of a file: ONNX in onnxruntime, others in a fresh process."""
    if form != "onnx":
        arrays = {f"{number:06}": batch for number, batch in enumerate(batches)}
        recipe = _deployed(run.recipe)
        trace = ask_engine(
            _writer(run, form), "exported", recipe, arrays, form=form, path=str(path.resolve())
        )
        return np.asarray(trace.arrays["logits"])
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return np.concatenate([session.run(["logits"], {"image": batch})[0] for batch in batches])
    except Exception as error:  # onnxruntime raises many of its own
        reason = " ".join(str(error).split())
        raise RunError(f"onnxruntime cannot run {path.name}: {reason}") from error


def _describe_onnx(path: Path, run: TrainedRun) -> None:
    """Name the output `logits`, and write into the file what it takes and gives."""
    import onnx

    model = onnx.load(path)
    (output,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = ["logits" if name == output.name else name for name in node.output]
        node.input[:] = ["logits" if name == output.name else name for name in node.input]
    output.name = "logits"
    for value in (*model.graph.input, output):  # the exporters have names of their own for it
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]  # what it says of the batch axis is under those names
    words = {
        "input": str(_input(run)),
        "output": str(_output(run)),
        "class_names": ", ".join(run.class_names),
    }
    # The exporters write a newer one than their operators need, which older runtimes refuse.
    model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import)
    onnx.helper.set_model_props(model, words)
    onnx.checker.check_model(model, full_check=True)
    write_bytes(path, model.SerializeToString())


def _input(run: TrainedRun) -> dict[str, Any]:
    size, is_nchw = run.recipe.image_size, run.record.engine == "lightning"
    return {
        "name": "image",
        "layout": "NCHW" if is_nchw else "NHWC",
        "shape": ["batch", 1, size, size] if is_nchw else ["batch", size, size, 1],
        "dtype": batch_dtype(_deployed(run.recipe)),
        "values": "grey levels divided by 255: 0 is black ground, 1 the lightest of the object",
    }


def _output(run: TrainedRun) -> dict[str, Any]:
    return {
        "name": "logits",
        "shape": ["batch", run.recipe.num_classes],
        "values": "logits; their softmax is the classes' probabilities",
    }
