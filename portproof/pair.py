"""Checking a pair of one's own: two models, named as `module:function`, on the ladder.

A Keras function returns a compiled model, a Lightning function a module or (module, Trainer
options); see `portproof.subject.Subject` for names and layouts.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from portproof.compare import Tolerance
from portproof.engines import Engine, answer
from portproof.exchange import Array, Arrays, Question, Trace, read_trace, write_question
from portproof.ladder import Terms, Verdict, climb

ASKS = ("contract", "layers", "points", "forced", "cases", "gradients", "steps")
PAIR_FLOAT64 = Tolerance(
    "PAIR_FLOAT64",
    absolute=1e-13,
    relative=1e-12,
    reason="float64 sums in different orders, through some layers and some optimizer steps",
    measured="1e-14 at most in this project's second pair",
)
LAYOUTS = {
    "data_format": "each framework's own layout inside; all that is compared is NHWC",
    "initialisers": "torch has no initialiser objects",
}
Batches = Sequence[tuple[Array, Array]]


def keras_engine(reference: str, backend: str = "tensorflow") -> Engine:
    """Return the engine of a Keras model that `module:function` makes."""
    program = ("-m", "portproof.sides.keras", reference)
    variables = {"KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": ""}
    return Engine(f"keras-{backend}", program, ("keras", backend), variables)


def lightning_engine(reference: str) -> Engine:
    """Return the engine of a LightningModule that `module:function` makes."""
    program = ("-m", "portproof.sides.lightning", reference)
    return Engine("lightning", program, ("lightning",), {"CUDA_VISIBLE_DEVICES": ""})


def check_pair(
    reference: Engine,
    suspect: Engine,
    weights: Arrays,
    batches: Batches,
    points: Sequence[str],
    *,
    steps_per_epoch: int | None = None,
    waivers: Mapping[str, str] = LAYOUTS,
    tolerance: Tolerance = PAIR_FLOAT64,
    timeout_seconds: float = 600.0,
) -> Verdict:
    """Climb the ladder with two models in float64, each in a process of its own.

    `weights` are canonical first weights; `batches` pairs of images (N, H, W, C) and classes (N,),
    one a step; `points` the names of the layers whose outputs are compared, in order.

    Raises:
        EngineError: an engine cannot run here, died, ran too long, or left no trace.
        ValueError: no batches, or what an engine left is no answer.
    """
    with tempfile.TemporaryDirectory(prefix="pair-") as folder:

        def ask(engine: Engine, question: Question) -> Trace:
            question_path, trace_path = Path(folder, "question"), Path(folder, "trace")
            write_question(question_path, question)
            answer(
                engine,
                question_path,
                trace_path,
                precision="64",
                timeout_seconds=timeout_seconds,
            )
            return read_trace(trace_path, question)

        seen = ask(reference, points_question(weights, batches, points))
        question = pair_question(weights, batches, points, seen, steps_per_epoch=steps_per_epoch)
        terms = Terms("float64", lambda rung, key: tolerance, waivers)
        return climb(question, ask(reference, question), ask(suspect, question), terms)


def points_question(
    weights: Arrays, batches: Batches, points: Sequence[str], **settings: str
) -> Question:
    """Ask for each point's output, from which the layers' inputs in `pair_question` are taken."""
    if not batches:
        raise ValueError("`batches` must hold at least one batch; received none")
    arrays = {f"weights.{name}": array for name, array in weights.items()}
    arrays["images"] = batches[0][0]
    return Question(("points",), {"precision": "64", "points": list(points), **settings}, arrays)


def pair_question(
    weights: Arrays,
    batches: Batches,
    points: Sequence[str],
    seen: Trace,
    *,
    steps_per_epoch: int | None = None,
    **settings: str,
) -> Question:
    """Ask for all that a model of any kind can be asked.

    Outputs, losses and gradients are those of the first batch, of a third of it and of a single
    image; `seen` is the reference's answer to `points_question`.
    """
    asked = points_question(weights, batches, points, **settings)
    images, classes = batches[0]
    arrays = dict(asked.arrays)
    if failed := seen.facts.get("failed"):
        raise ValueError("; ".join(f"{ask}: {words}" for ask, words in failed.items()))
    before = [images, *(seen.arrays[f"point.{name}"] for name in points[:-1])]
    arrays |= {f"input.{name}": array for name, array in zip(points, before, strict=True)}
    sizes = {"full": len(images), "partial": max(len(images) // 3, 1), "single": 1}
    for case, size in sizes.items():
        arrays[f"images.{case}"], arrays[f"labels.{case}"] = images[:size], classes[:size]
    for step, (batch, labels) in enumerate(batches):
        arrays[f"batch.{step}.images"], arrays[f"batch.{step}.labels"] = batch, labels
    counts = {"steps": len(batches)}
    if steps_per_epoch is not None:
        counts["steps_per_epoch"] = steps_per_epoch
    cases = {"cases": list(sizes), "gradient_cases": ["full", "partial"]}
    return Question(ASKS, {**asked.settings, **cases, **counts}, arrays)
