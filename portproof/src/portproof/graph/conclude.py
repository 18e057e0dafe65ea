"""From what was judged to a verdict: what fails, what is only declared, what must not pass."""

import math
from collections.abc import Sequence

from portproof.graph import gaps
from portproof.graph.align import Alignment
from portproof.graph.calls import Graph
from portproof.graph.compare import Judged
from portproof.graph.gaps import Gap
from portproof.graph.verdict import Difference, Place, Verdict


def conclude(
    references: tuple[str, str],
    frameworks: tuple[str, str],
    graphs: tuple[Graph, Graph],
    alignment: Alignment,
    carried: list[Difference],
    judged: Judged,
    asked: list[str],
    inputs: list[str],
    strict: bool,
    accept: Sequence[str],
) -> Verdict:
    """Return the verdict.

    A gap inside that neither an output nor a gradient shows, such as at steps of padding, is
    declared, not failed; a gap at an output that no call and no stretch explains fails by itself.
    """
    left, right = graphs
    differences = [*carried, *judged.differences]
    ends = judged.settled or judged.outputs
    agree = all(g.within(gaps.END_TO_END) for g in ends.values())
    whole = judged.whole_settled or judged.whole_gradient
    # Saturated outputs hide what is inside; gradients, relative to their own size, do not.
    if agree and whole is not None and whole.within(gaps.WHOLE_GRADIENT):
        inside = [d for d in differences
                  if d.gap is not None and d.effect == "output" and not d.is_rule]  # fmt: skip
        where = {(p.left, p.right) for d in inside for p in d.places}
        # What such a call gives means something else: what is behind it is fed otherwise too.
        inside += [d for d in differences
                   if d.what == "gradients" and d.kind.startswith("behind")
                   and {(p.left, p.right) for p in d.places} <= where]  # fmt: skip
        for d in inside:
            d.effect = "none"
            d.detail = "inside; no output and no gradient shows it"
    if not any(d.fails and d.effect == "output" for d in differences):
        differences += [
            _end("output", name, g) for name, g in ends.items() if not g.within(gaps.END_TO_END)
        ]
    failing = any(d.fails for d in differences)
    if whole is not None and not whole.within(gaps.WHOLE_GRADIENT) and not failing:
        differences.append(_end("gradients", "through the whole model", whole))
    differences += _counts(left, "left") + _counts(right, "right")
    notes = [f"{n} of the differences accepted" for n in [_accept(differences, accept)] if n]
    if left.about.get("inputs") != right.about.get("inputs"):
        shown = ", ".join(right.about.get("inputs", []))
        notes.append(f"inputs of the suspect: {shown}")
    for graph, side in ((left, "reference"), (right, "suspect")):
        named = graph.about.get("training", {}).get("not compared")
        if named and "steps" in asked:
            notes.append(f"not compared: {named} of the {side}, which steps alone do not show")
    return Verdict(
        *references,
        frameworks,
        asked,
        inputs,
        len(alignment.pairs),
        (len(left.calls), len(right.calls)),
        tuple(_count(g) for g in graphs),  # type: ignore[arg-type]
        differences,
        judged.outputs,
        judged.first,
        judged.rounding,
        judged.gradient,
        judged.whole_gradient,
        _settled(judged),
        strict,
        notes,
    )


def _settled(judged: Judged) -> tuple[Gap, Gap | None] | None:
    """Return what is left of the gaps once the frameworks' rules are equal; None without any."""
    if not judged.settled and judged.whole_settled is None:
        return None
    ends = judged.settled or judged.outputs
    return max(ends.values(), key=lambda g: g.size), judged.whole_settled or judged.whole_gradient


def _end(what: str, kind: str, g: Gap) -> Difference:
    detail = g.text or "no call and no stretch differs by itself"
    effect = "output" if what == "output" else "training"
    return Difference(
        what, kind, "", "", effect, [Place("inputs", "output", g.size)], detail=detail
    )


def _count(graph: Graph) -> dict[str, int]:
    named = {k: int(v) for k, v in graph.about.items() if k.endswith(")")}
    return {**named, "compared": graph.counted, "of these statistics": graph.statistics}


def _counts(graph: Graph, side: str) -> list[Difference]:
    """Report numbers in weights that a framework counts and no call was seen to use."""
    missing = graph.total - graph.counted
    if not missing or sum(size for _, size in graph.uncovered) == missing:
        return []  # those are reported by name
    place = Place(*(("the model", "–") if side == "left" else ("–", "the model")))
    values = (f"{graph.total:,}", f"{graph.counted:,} compared")
    return [Difference("count", "weights", *values, "output", [place])]


def _accept(differences: list[Difference], accept: Sequence[str]) -> int:
    """Take differences that a user knows and wants for declared ones; return how many."""
    count = 0
    for d in differences:
        places = {name for p in d.places for name in (p.left, p.right)}
        known = d.what in accept or (
            bool(places)
            and all(
                any(n == a or n.startswith(f"{a}/") or n.startswith(f"{a}.") for a in accept)
                for n in places
                if n not in ("–", "the last call")
            )
        )
        if accept and known and d.effect != "none":
            d.effect, d.detail = "none", f"accepted; {d.detail}".rstrip("; ")
            count += 1
    return count


def is_number(value: float | None) -> bool:
    """Return whether a gap is a finite number."""
    return value is not None and math.isfinite(value)
