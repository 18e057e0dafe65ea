"""Find causes by experiment: one side is made to do it otherwise, and must give the other's number.

Experiments are made in torch, whose functions take settings one at a time: on the suspect, which
then has to give the reference's numbers, or on a reference in torch, which has to give the
suspect's. A cause is named only where it does so to rounding.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from portproof.graph.calls import Call, Graph
from portproof.graph.compare import Judged, Replays, short
from portproof.graph.gaps import CALL, FLOAT32_HIGH, LOCAL_GRADIENT, Gap, fitted, gap
from portproof.graph.relations import relation
from portproof.graph.verdict import Difference
from portproof.search import (
    MOST_TRIALS,
    SOFTMAX,
    in_turn,
    order,
    preds_of_one_shape,
    scale,
    together,
    variants_of,
)

Arrays = Mapping[str, np.ndarray]
BIASED = "a biased variance in the reference, n/(n − 1) of it in the suspect"
NOT_IN_PLACE = "not_in_place"
"""The variant of a function that leaves its input as it is, as the others do too."""
EXACT_GRADIENT = "exact_gradient"
"""The variant of a function that gives its numbers, and another gradient."""
BY = "normalised by"
"""The setting that says whose mean and variance a batch norm takes."""
MAX_PLACES = 40
"""Places of one difference that are tried one by one."""


@dataclass
class Bench:
    """The side on which experiments are made.

    Attributes:
        is_suspect: whether it is the suspect.
        graph: its calls.
        forced: runs it on the reference's numbers, with functions replaced.
        trained: the same in training mode.
        vary: runs single calls by other settings.
        exchanged: runs the suspect on the reference's numbers, with those of some calls handed on
            by others.
    """

    is_suspect: bool
    graph: Graph
    forced: Callable[[dict[str, str]], Arrays]
    trained: Callable[[dict[str, str]], Arrays]
    vary: Callable[[list[dict[str, Any]], dict[str, np.ndarray]], Arrays]
    exchanged: Callable[[Mapping[int, int]], Arrays]

    @property
    def variants(self) -> dict[str, dict[str, tuple[str, bool, str]]]:
        """By function and variant: what it is, whether it rounds a constant, and of what."""
        found: dict[str, dict[str, tuple[str, bool, str]]] = self.graph.about.get("variants", {})
        return found


def explain_forward(
    bench: Bench,
    left: Graph,
    right: Graph,
    pairs: Mapping[int, int],
    judged: Judged,
    seen: Replays,
    first: Arrays,
) -> dict[str, str]:
    """Write causes into the differences of the forward pass; arguments as of `explain_training`.

    Returns:
        By function, the variant that rounds a constant to float32, to be used from there on.
    """
    by_place: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for i, j in pairs.items():
        place = (left.calls[i].owner, right.calls[j].owner)
        by_place.setdefault(place, []).append((i, j))
    constants: dict[str, str] = {}
    for d in judged.differences:
        if d.gap is None or d.cause is not None or d.what == "between":
            continue
        here = [p for place in d.places for p in by_place.get((place.left, place.right), [])]
        d.cause = _settings(bench, left, right, here[:MAX_PLACES], seen)
        if d.cause is None and d.what == BY:
            d.cause = _normalised(left, right, here, seen, first)
    _stretches(bench, left, right, pairs, judged, seen, by_place, constants)
    judged.differences[:] = _joined(judged.differences)
    own = [d for d in judged.differences if not d.is_rule]
    judged.swapped = [d for d in own if any(_mentions(d, n, bench, by_place) for n in constants)]
    return constants


def _joined(differences: list[Difference]) -> list[Difference]:
    """Return differences with stretches of one cause in one, whatever else runs on them."""
    found: dict[tuple[object, ...], Difference] = {}
    for d in differences:
        is_alike = d.what == "between" and d.cause is not None
        key = (d.kind, d.effect, d.cause, d.is_rule, d.detail) if is_alike else (id(d),)
        if key in found:
            found[key].places += d.places
        else:
            found[key] = d
    return list(found.values())


def _settings(
    bench: Bench, left: Graph, right: Graph, places: list[tuple[int, int]], seen: Replays
) -> str | None:
    """Try the other side's settings in calls that differ; return what makes all of them equal."""
    if not places:
        return None
    i, j = places[0]
    a, b = left.calls[i], right.calls[j]
    keys = a.settings.keys() | b.settings.keys()
    names = sorted(k for k in keys if a.settings.get(k) != b.settings.get(k))
    choices = [[name] for name in names] + ([names] if len(names) > 1 else [])
    for chosen in choices:
        trials, given = [], {}
        for i, j in places:
            mine, other = (j, left.calls[i]) if bench.is_suspect else (i, right.calls[j])
            own = right.calls[j] if bench.is_suspect else left.calls[i]
            trials.append({"call": mine, "settings": {n: other.settings.get(n) for n in chosen}})
            given[f"in.{mine}"] = fitted(seen.left[f"in.{i}"], own.in_shape)
        found = bench.vary(trials, given)
        targets = [_alone_target(bench, seen, i, j) for i, j in places]
        if all(
            f"alone.{n}" in found and gap(t, fitted(found[f"alone.{n}"], t.shape)).within(CALL)
            for n, t in enumerate(targets)
        ):
            ours, theirs = left.calls[places[0][0]].settings, right.calls[places[0][1]].settings
            return ", ".join(f"{n} {short(ours.get(n))} | {short(theirs.get(n))}" for n in chosen)
    return None


def _alone_target(bench: Bench, seen: Replays, i: int, j: int) -> np.ndarray:
    return seen.left[f"out.{i}"] if bench.is_suspect else seen.forced[f"alone.{j}"]


def _normalised(
    left: Graph, right: Graph, places: list[tuple[int, int]], seen: Replays, first: Arrays
) -> str | None:
    """Return by what the two sides normalise, if that gives the numbers of both."""
    texts = set()
    for i, j in places:
        a, b = left.calls[i], right.calls[j]
        x = seen.left[f"in.{i}"]
        outs = seen.left[f"out.{i}"], seen.forced.get(f"alone.{j}", seen.forced[f"out.{j}"])
        for call, out in zip((a, b), outs, strict=True):
            names = {role: f"{a.key}|{role}" for role in a.roles}
            own = {role: first[name] for role, name in names.items() if name in first}
            axes = tuple(range(x.ndim - 1))
            mean, variance = own.get("moving_mean"), own.get("moving_variance")
            if call.settings.get(BY) == "the batch":
                mean, variance = x.mean(axes), x.var(axes)
            if mean is None or variance is None or "epsilon" not in call.settings:
                return None
            normal = (x - mean) / np.sqrt(variance + call.settings["epsilon"])
            made = normal * own.get("gamma", 1.0) + own.get("beta", 0.0)
            if not gap(out, fitted(made, out.shape)).within(CALL):
                return None
        texts.add(f"{BY} {a.settings.get(BY)} | {b.settings.get(BY)}")
    return texts.pop() if len(texts) == 1 else None


def _stretches(
    bench: Bench,
    left: Graph,
    right: Graph,
    pairs: Mapping[int, int],
    judged: Judged,
    seen: Replays,
    by_place: Mapping[tuple[str, str], list[tuple[int, int]]],
    constants: dict[str, str],
) -> None:
    """Try variants of the functions on stretches that differ, and simple relations."""
    open_ones = [d for d in judged.differences if d.what == "between" and d.cause is None]
    own = {op.text.partition("(")[0] for call in bench.graph.calls for op in call.between}
    own |= {op.text.partition("(")[0] for o in bench.graph.outputs for op in o.between}
    own |= {f for f in ("lstm", "gru", "rnn_tanh", "rnn_relu") if any(
        c.kind == f.partition("_")[0] for c in bench.graph.calls)}  # fmt: skip
    apart = [d for d in open_ones if any(p.gap is not None for p in d.places)]
    if not apart:
        return
    other = "the reference" if bench.is_suspect else "the suspect"
    side = left if bench.is_suspect else right
    names = in_turn(own & bench.variants.keys(), bench.graph, side)
    for name in names:
        variants = variants_of(name, bench.variants[name], bench.graph, side)
        # Constants are the usual reason, and the rest is a long list; neither writes in place.
        ordered = sorted(variants.items(), key=lambda v: (v[0] != NOT_IN_PLACE, not v[1][1]))
        for key, (text, is_constant, base) in ordered:
            remaining = [d for d in apart if d.cause is None]
            if not any(_mentions(d, name, bench, by_place) for d in remaining):
                continue
            found = bench.forced({name: key})
            for d in remaining:
                if not _mentions(d, name, bench, by_place):
                    continue
                if not _vanishes(d, found, bench, seen, by_place):
                    continue
                d.cause = f"{text[:1].upper()}{text[1:]} in {other}"
                # What is computed must be the same but for the constant: tanh's GELU is not erf's.
                if is_constant and Gap(d.gap or 0.0).within(FLOAT32_HIGH):
                    d.is_rule = not base or _vanishes(
                        d, bench.forced({name: base}), bench, seen, by_place, of_other=False
                    )
                if d.is_rule:
                    constants[name] = key
                elif is_constant and base:
                    d.cause = f"{variants[base][0]} in {other}, with a constant in float32"
    unknown = [d for d in apart if d.cause is None]
    tried: dict[tuple[tuple[str, str], ...], list[list[bool]]] = {}

    def vanish(number: int, swaps: dict[str, str], is_own: bool) -> bool:
        """Return whether an experiment gives one difference's numbers; each is made but once."""
        key = tuple(sorted(swaps.items()))
        if key not in tried and len(tried) < MOST_TRIALS:
            found = bench.forced(swaps)
            tried[key] = [[_vanishes(d, found, bench, seen, by_place, other) for d in unknown]
                          for other in (True, False)]  # fmt: skip
        return key in tried and tried[key][is_own][number]

    for number, d in enumerate(unknown):
        several = together(
            {n: variants_of(n, bench.variants[n], bench.graph, side)
             for n in names if _mentions(d, n, bench, by_place)},
            partial(vanish, number),
            Gap(d.gap or 0.0).within(FLOAT32_HIGH),
        )  # fmt: skip
        if several is None:
            d.cause = _searched(d, bench, left, pairs, seen, by_place)
            continue
        text, swaps, d.is_rule = several
        d.cause = f"{text[:1].upper()}{text[1:]} in {other}"
        constants |= swaps if d.is_rule else {}
    _relations([d for d in apart if d.cause is None], bench, seen, by_place)


def _searched(
    d: Difference,
    bench: Bench,
    left: Graph,
    pairs: Mapping[int, int],
    seen: Replays,
    by_place: Mapping[tuple[str, str], list[tuple[int, int]]],
) -> str | None:
    """Search for a scale before a softmax, and for another order of the calls before."""

    def apart(found: Arrays) -> float:
        return _apart(d, found, bench, seen, by_place)

    names = [name for name in SOFTMAX if _mentions(d, name, bench, by_place)]
    other = "the reference" if bench.is_suspect else "the suspect"
    cause = scale(names, lambda swaps: apart(bench.forced(swaps)), other)
    if cause is not None or not bench.is_suspect:
        return cause
    groups = preds_of_one_shape(d, bench.graph, by_place, set(pairs.values()))
    return order(groups, left, bench.graph, pairs, lambda them: apart(bench.exchanged(them)))


def _relations(
    unknown: list[Difference],
    bench: Bench,
    seen: Replays,
    by_place: Mapping[tuple[str, str], list[tuple[int, int]]],
) -> None:
    """Say what the two sides' numbers are of each other, or that they are other ones each time."""
    again = bench.forced({}) if unknown else {}
    for d in unknown:
        if _vanishes(d, again, bench, seen, by_place, of_other=False):
            d.cause = _related(d, seen, by_place)
        else:
            side = "suspect" if bench.is_suspect else "reference"
            d.cause = f"random numbers are drawn here: two runs of the {side} differ"


def _mentions(
    d: Difference,
    name: str,
    bench: Bench,
    by_place: Mapping[tuple[str, str], list[tuple[int, int]]],
) -> bool:
    """Return whether the stretches of a difference hold a function of this name."""
    for place in d.places:
        for i, j in by_place.get((place.left, place.right), []):
            call: Call = bench.graph.calls[j if bench.is_suspect else i]
            if name.partition("_")[0] == call.kind or any(
                op.text.partition("(")[0] == name for op in call.between
            ):
                return True
            # What is taken from a sequence of states is read along other axes too.
            kinds = {bench.graph.calls[p].kind for p in call.preds if isinstance(p, int)}
            if "exchanged" in bench.variants[name] and name.partition("_")[0] in kinds:
                return True
        if place.left == "the last call":
            return any(
                op.text.partition("(")[0] == name for o in bench.graph.outputs for op in o.between
            )
    return False


def _vanishes(
    d: Difference,
    found: Arrays,
    bench: Bench,
    seen: Replays,
    by_place: Mapping[tuple[str, str], list[tuple[int, int]]],
    of_other: bool = True,
) -> bool:
    """Return whether an experiment gives the other side's numbers at all places of a difference."""
    return _apart(d, found, bench, seen, by_place, of_other) <= CALL


def _apart(
    d: Difference,
    found: Arrays,
    bench: Bench,
    seen: Replays,
    by_place: Mapping[tuple[str, str], list[tuple[int, int]]],
    of_other: bool = True,
) -> float:
    """Return the largest gap that an experiment leaves at the places of a difference.

    Args:
        d: the difference.
        found: what the experiment gave.
        bench: where it was made.
        seen: the replays.
        by_place: pairs of calls by their owners.
        of_other: False: from the bench's own numbers, not the other side's.

    Returns:
        Infinity where it gave nothing to compare.
    """
    of_left = bench.is_suspect == of_other
    targets = seen.left if of_left else seen.forced
    sizes = []
    for place in d.places:
        if place.left == "the last call":
            k = place.right.removeprefix("output").strip() or "0"
            name = f"final.{k}"
            sizes.append(gap(targets[name], found[name]).size if name in found else math.inf)
            continue
        for i, j in by_place.get((place.left, place.right), []):
            mine = found.get(f"in.{j if bench.is_suspect else i}")
            target = targets[f"in.{i if of_left else j}"]
            sizes.append(math.inf if mine is None else gap(target, fitted(mine, target.shape)).size)
    return max(sizes, default=math.inf)


def _related(
    d: Difference, seen: Replays, by_place: Mapping[tuple[str, str], list[tuple[int, int]]]
) -> str | None:
    """Return the relation of the two sides' numbers, if it is the same at all places."""
    causes: set[str | None] = set()
    for place in d.places:
        if place.left == "the last call":
            k = place.right.removeprefix("output").strip() or "0"
            causes.add(relation(seen.left[f"final.{k}"], seen.forced[f"final.{k}"]))
        for i, j in by_place.get((place.left, place.right), []):
            a = seen.left[f"in.{i}"]
            causes.add(relation(a, fitted(seen.forced[f"in.{j}"], a.shape)))
    return causes.pop() if len(causes) == 1 else None


def explain_training(
    bench: Bench,
    left: Graph,
    right: Graph,
    pairs: Mapping[int, int],
    judged: Judged,
    seen: Replays,
    first: Arrays,
) -> dict[str, str]:
    """Write causes into differences of gradients and statistics.

    Args:
        bench: the side on which experiments are made.
        left: the reference's calls.
        right: the suspect's.
        pairs: which belong together.
        judged: the differences.
        seen: the replays.
        first: the reference's weights and statistics before training, by `key|role`.

    Returns:
        Variants that make the frameworks' own rules equal, by function; none where a difference
        of statistics has another cause.
    """
    of = {(left.calls[i].owner, right.calls[j].owner): (i, j) for i, j in pairs.items()}
    tables = [d for d in judged.differences if d.what == "gradients" and d.kind == "embedding"]
    if tables and bench.is_suspect:
        found = bench.trained({"embedding": "without_padding_row"})
        for d in tables:
            if _vanish(d, left, right, of, found, seen, "grad"):
                d.cause = "the padding row learns in the reference alone (padding_idx)"
    rules = _gradient_rules(bench, left, right, of, judged, seen)
    statistics = [d for d in judged.differences if d.what == "statistics" and d.cause is None]
    if not statistics or not bench.is_suspect:
        return rules
    found = bench.trained({"batch_norm": "biased_variance"})
    for d in statistics:
        d.is_rule = _vanish(d, left, right, of, found, seen, "moved")
        d.cause = BIASED if d.is_rule else _momentum(d, left, right, of, seen, first)
    return rules | ({"batch_norm": "biased_variance"} if all(d.is_rule for d in statistics) else {})


def _gradient_rules(
    bench: Bench,
    left: Graph,
    right: Graph,
    of: Mapping[tuple[str, str], tuple[int, int]],
    judged: Judged,
    seen: Replays,
) -> dict[str, str]:
    """Try functions whose gradient alone rounds a constant, on gradients behind calls."""
    rules: dict[str, str] = {}
    behind = [d for d in judged.differences if d.what == "gradients" and d.kind[:6] == "behind"]
    if not behind or not bench.is_suspect:
        return rules
    stretches = [c.between for c in right.calls] + [o.between for o in right.outputs]
    names = {op.text.partition("(")[0] for ops in stretches for op in ops}
    for name in sorted(names & bench.variants.keys()):
        variants = bench.variants[name]
        if EXACT_GRADIENT not in variants:
            continue
        found = bench.trained({name: EXACT_GRADIENT})
        for d in behind:
            pairs = [of[p.left, p.right] for p in d.places]
            gaps = [gap(seen.left_train[f"leaf.{i}"],
                        fitted(found[f"leaf.{j}"], seen.left_train[f"leaf.{i}"].shape))
                    for i, j in pairs if f"leaf.{j}" in found]  # fmt: skip
            if len(gaps) == len(pairs) and all(g.within(LOCAL_GRADIENT) for g in gaps):
                text = variants[EXACT_GRADIENT][0]
                d.cause, d.is_rule = f"{text} in the reference", True
                rules[name] = EXACT_GRADIENT
    return rules


def _vanish(
    d: Difference,
    left: Graph,
    right: Graph,
    of: Mapping[tuple[str, str], tuple[int, int]],
    found: Arrays,
    seen: Replays,
    what: str,
) -> bool:
    for place in d.places:
        i, j = of[place.left, place.right]
        target = seen.left_train[f"{what}|{left.calls[i].key}|{d.left}"]
        mine = found.get(f"{what}|{right.calls[j].key}|{d.right}")
        if mine is None or not gap(target, mine).within(LOCAL_GRADIENT):
            return False
    return True


def _momentum(
    d: Difference,
    left: Graph,
    right: Graph,
    of: Mapping[tuple[str, str], tuple[int, int]],
    seen: Replays,
    first: Arrays,
) -> str | None:
    """Return a cause if each side keeps its own share of statistics that take the same batch's.

    What the batch has added is worked out from the reference's, and must give the suspect's, as it
    is or, of a variance, times n/(n − 1).
    """
    causes: set[str | None] = set()
    for place in d.places:
        i, j = of[place.left, place.right]
        a, b = left.calls[i], right.calls[j]
        ours, theirs = (call.settings.get("momentum") for call in (a, b))
        if ours is None or theirs is None or ours in (theirs, 1):
            return None
        before, after = first[f"{a.key}|{d.left}"], seen.left_train[f"moved|{a.key}|{d.left}"]
        of_batch = (after - ours * before) / (1 - ours)
        target = fitted(seen.right_train[f"moved|{b.key}|{d.right}"], before.shape)
        count = np.prod(a.in_shape) / before.size
        made = {
            text: theirs * before + (1 - theirs) * factor * of_batch
            for text, factor in (("", 1.0), (f", {BIASED}", count / (count - 1)))
        }
        fits = [t for t, values in made.items() if gap(target, values).within(LOCAL_GRADIENT)]
        causes.add(f"momentum {short(ours)} | {short(theirs)}{fits[0]}" if fits else None)
    return causes.pop() if len(causes) == 1 else None
