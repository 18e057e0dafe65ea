"""What a pair of models of any kind can be asked; see `ladder.subject` for names and layouts."""

from collections.abc import Sequence

from ladder.compare import Tolerance
from ladder.exchange import Array, Arrays, Question, Trace

ASKS = ("contract", "layers", "points", "forced", "cases", "gradients", "steps")
PAIR_FLOAT64 = Tolerance(
    "PAIR_FLOAT64",
    absolute=1e-13,
    relative=1e-12,
    reason="float64 sums in different orders, through some layers and some optimizer steps",
    measured="1e-14 at most in this project's second pair",
)
Batches = Sequence[tuple[Array, Array]]


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
