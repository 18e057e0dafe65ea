"""From what was judged to a verdict: what fails, what is only declared, what must not pass."""

from collections.abc import Mapping, Sequence

from portproof.graph import gaps
from portproof.graph.align import Alignment
from portproof.graph.calls import CHANNELS, Graph
from portproof.graph.compare import Judged
from portproof.graph.gaps import Gap
from portproof.graph.verdict import ALREADY, Difference, Place, Verdict

_IN_STEPS = {"batches", "loss", "metric", "steps", "update"}
"""Kinds of differences that training by the user's own loops shows."""
OTHERWISE = "two runs of the "
"""How the cause begins where a model gives other numbers each time."""
MOST_BEHIND = 100
"""How many times as far as on other batches the edge batch may be apart by what was accepted."""


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
        hidden = {(left.calls[i].owner, right.calls[alignment.pairs[i]].owner)
                  for i in judged.hidden}  # fmt: skip
        are_seen = all(g.within(gaps.END_TO_END) for g in judged.outputs.values())
        inside = [d for d in differences
                  if d.gap is not None and d.effect == "output" and not d.is_rule
                  and (are_seen or all(d is not other for other in judged.swapped))
                  and hidden.isdisjoint((p.left, p.right) for p in d.places)]  # fmt: skip
        where = {(p.left, p.right) for d in inside for p in d.places}
        # What such a call gives means something else: what is behind it is fed otherwise too.
        inside += [d for d in differences
                   if d.what == "gradients" and d.kind.startswith("behind")
                   and ({(p.left, p.right) for p in d.places} <= where
                        # Behind saturated gates rounding is more than elsewhere.
                        or (d.gap is not None and d.gap <= gaps.WHOLE_GRADIENT))]  # fmt: skip
        for d in inside:
            d.effect = "none"
            d.detail = "inside; no output and no gradient shows it"
    if not any(d.fails and d.effect == "output" for d in differences):
        differences += [
            _end("output", name, g) for name, g in ends.items() if not g.within(gaps.END_TO_END)
        ]
    _say_what_came_before(differences)
    failing = any(d.fails for d in differences)
    if whole is not None and not whole.within(gaps.WHOLE_GRADIENT) and not failing:
        differences.append(_end("gradients", "through the whole model", whole))
    differences += _counts(left, "left") + _counts(right, "right")
    if not any((d.cause or "").startswith(OTHERWISE) for d in differences):
        differences += _unseen(left, "reference") + _unseen(right, "suspect")
    differences += _awake(left, right) + _turned(left, right, inputs) + _keys(left, right)
    notes = [f"{n} of the differences accepted" for n in [_accept(differences, accept)] if n]
    if notes and not any(d.fails for d in differences):
        # What was accepted explains a gap behind it, and no other shape.
        usual = max((g.size for name, g in ends.items() if "edge batch" not in name), default=0.0)
        differences += [_end("output", name, g) for name, g in ends.items()
                        if g.text or g.size > MOST_BEHIND * usual]  # fmt: skip
        behind = max((g.size for g in ends.values() if not g.text), default=0.0)
        if behind > gaps.END_TO_END:
            notes.append(f"outputs, end to end, differ by {behind:.1e}, with what was accepted")
    if any(d.what in ("loss", "update") and d.detail.startswith("accepted") for d in differences):
        notes.append("training was compared up to the step accepted; those after it were not")
    notes += judged.notes
    if "steps" not in asked:
        notes += [
            f"acts in training, and steps were not asked for: {names} of the {side}"
            for graph, side in ((left, "reference"), (right, "suspect"))
            if (names := ", ".join(graph.about.get("regularised", [])))
        ]
    notes += _layouts(left, right)
    for graph, side in ((left, "reference"), (right, "suspect")):
        if precision := graph.about.get("precision"):
            notes.append(f"not compared: {precision} of the {side}; all is computed in float64")
        if named := graph.about.get("training", {}).get("not compared"):
            notes.append(f"not compared: {named} of the {side}")
    notes += _losses(left.about.get("training", {}))
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
        judged.first if any(d.fails and d.effect == "output" for d in differences) else None,
        judged.rounding,
        judged.gradient,
        judged.whole_gradient,
        _settled(judged),
        strict,
        notes,
    )


def _say_what_came_before(differences: list[Difference]) -> None:
    """Add to differences of training steps that outputs differ, gradients or statistics."""
    steps = [d for d in differences if d.what in _IN_STEPS]
    before = [d for d in differences if d.fails and d not in steps]
    for word, found in (
        ("outputs", [d for d in before if d.effect == "output"]),
        ("gradients", [d for d in before if d.effect == "training" and d.what != "statistics"]),
        ("statistics", [d for d in before if d.what == "statistics"]),
    ):
        if found:
            for d in steps:
                d.detail = f"{d.detail}; {word} {ALREADY}".removeprefix("; ")
            return


def _unseen(graph: Graph, side: str) -> list[Difference]:
    """Report a model that gives other outputs where nobody watches it than where it is recorded."""
    apart, about = graph.about.get("unseen", ""), graph.about
    if not apart or about.get("drops in evaluation") or about.get("precision"):
        return []  # these are said by themselves
    detail = (
        f"called by itself, the {side} gives other outputs ({apart}) than while it is recorded: "
        "it draws random numbers, keeps something from call to call, or takes a faster way that is "
        "not the same (as torch's encoders do with src_key_padding_mask)"
    )
    place = Place("the model", "the model")
    return [Difference("output", f"of the {side}", "", "", "output", [place], detail=detail)]


def _awake(left: Graph, right: Graph) -> list[Difference]:
    """Report what drops in evaluation mode too, where the other side's does not."""
    ours, theirs = (
        ", ".join(g.about.get("drops in evaluation", [])) or "none" for g in (left, right)
    )
    if ours == theirs:
        return []
    place = Place("the model", "the model")
    detail = "in evaluation mode too; 0 here"
    return [Difference("dropout", "evaluation", ours, theirs, "output", [place], detail=detail)]


def _losses(training: Mapping[str, str]) -> list[str]:
    """Return notes on penalties that were subtracted from losses before the comparison."""
    notes = []
    if shift := training.get("shift"):
        notes.append(
            f"the suspect's losses are {shift} more in each step, which moves nothing; a constant "
            "in float32 does that"
        )
    if penalty := training.get("penalties"):
        notes.append(
            "the reference's losses hold penalties of its regularisers and the suspect's do not "
            f"({penalty}); compared without"
        )
    return notes


def _layouts(left: Graph, right: Graph) -> list[str]:
    """Return notes on where the suspect has its channels elsewhere."""
    notes = []
    if left.about.get("inputs") != right.about.get("inputs"):
        notes.append(f"inputs of the suspect: {', '.join(right.about.get('inputs', []))}")
    if any(axes != sorted(axes) and axes[0] == 0 for axes in right.about.get("axes", [])):
        notes.append("outputs of the suspect, and targets of 4 axes or more: channels first")
    return notes


def _turned(left: Graph, right: Graph, inputs: Sequence[str]) -> list[Difference]:
    """Report outputs whose axes are in another order; channels first where inputs are, too.

    Maps may be channels first also where no input has axes between samples and features.
    """
    found = []
    is_turned = any(CHANNELS[where] for g in (left, right) for where in g.about.get("inputs", []))
    is_flat = not any("," in text for text in inputs)
    for k in range(min(len(left.outputs), len(right.outputs))):
        plain = list(range(len(left.outputs[k].shape)))
        ours, theirs = (list(g.about["axes"][k]) if "axes" in g.about else plain
                        for g in (left, right))  # fmt: skip
        is_usual = is_turned or (is_flat and len(plain) >= 4)
        if ours == theirs or (is_usual and ours[:1] == theirs[:1]):
            continue
        place = Place("the last call", f"output {k}")
        first, second = (", ".join(map(str, side)) for side in (ours, theirs))
        detail = "its axes, in the order in which they were compared"
        found.append(Difference("axes", "output", first, second, "output", [place], detail=detail))
    return found


def _keys(left: Graph, right: Graph) -> list[Difference]:
    """Report names of outputs that differ where both sides name them."""
    ours, theirs = (g.about.get("keys", []) for g in (left, right))
    if not ours or not theirs or ours == theirs:
        return []
    texts = (", ".join(ours), ", ".join(theirs))
    place = Place("the last call", "the last call")
    return [Difference("names", "outputs", texts[0], texts[1], "none", [place])]


def _settled(judged: Judged) -> tuple[Gap, Gap | None] | None:
    """Return the gaps with the frameworks' rules made equal; None where there are no such rules."""
    if not judged.settled and judged.whole_settled is None:
        return None
    ends = judged.settled or judged.outputs
    return max(ends.values(), key=lambda g: g.size), judged.whole_settled or judged.whole_gradient


def _end(what: str, kind: str, g: Gap) -> Difference:
    alone = "no call and no stretch differs by itself"
    if "edge batch" in kind:
        alone = "calls and stretches, compared on the usual batch, do not show it"
    detail = g.text or alone
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
                any(is_at(n, a) for a in accept) for n in places if n not in ("–", "the last call")
            )
        )
        if accept and known and d.effect != "none":
            d.effect, d.detail = "none", f"accepted; {d.detail}".rstrip("; ")
            count += 1
    return count


def is_at(owner: str, place: str) -> bool:
    """Return whether an owner of weights is a place that a user named, or stands within it."""
    return owner == place or owner.startswith((f"{place}/", f"{place}."))
