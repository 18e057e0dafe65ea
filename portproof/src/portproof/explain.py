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
from portproof.graph.conclude import OTHERWISE
from portproof.graph.gaps import CALL, FLOAT32_HIGH, LOCAL_GRADIENT, Gap, fitted, gap
from portproof.graph.relations import are_alone, relation
from portproof.graph.verdict import Difference, Place
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


Pairs = list[tuple[int, int]]


@dataclass
class Explanation:
    """Looks for the causes of one check's differences, and writes them into these.

    Attributes:
        bench: the side on which experiments are made.
        left: the reference's calls.
        right: the suspect's.
        pairs: which belong together.
        judged: the differences.
        seen: the replays.
        first: the reference's weights and statistics before training, by `key|role`.
    """

    bench: Bench
    left: Graph
    right: Graph
    pairs: Mapping[int, int]
    judged: Judged
    seen: Replays
    first: Arrays

    def __post_init__(self) -> None:
        self.other = "the reference" if self.bench.is_suspect else "the suspect"
        self.by_place: dict[tuple[str, str], Pairs] = {}
        for i, j in self.pairs.items():
            place = (self.left.calls[i].owner, self.right.calls[j].owner)
            self.by_place.setdefault(place, []).append((i, j))

    def _at(self, place: Place) -> Pairs:
        return self.by_place.get((place.left, place.right), [])

    def forward(self) -> dict[str, str]:
        """Write causes into the differences of the forward pass.

        Returns:
            By function, the variant that rounds a constant to float32, to be used from there on.
        """
        constants: dict[str, str] = {}
        for d in self.judged.differences:
            if d.gap is None or d.cause is not None or d.what == "between":
                continue
            here = [p for place in d.places for p in self._at(place)]
            d.cause = self._settings(here[:MAX_PLACES])
            if d.cause is None and d.what == BY:
                d.cause = self._normalised(here)
        self._stretches(constants)
        self.judged.differences[:] = _joined(self.judged.differences)
        own = [d for d in self.judged.differences if not d.is_rule]
        self.judged.swapped = [d for d in own if any(self._mentions(d, n) for n in constants)]
        # With these constants in both, calls take equal numbers there, and so do their statistics.
        settled, still_apart = (
            {(p.left, p.right) for d in self.judged.differences
             if d.what == "between" and d.is_rule == is_rule for p in d.places}
            for is_rule in (True, False)
        )  # fmt: skip
        self.judged.stretches_apart[:] = [
            i for i in self.judged.stretches_apart
            if (self.left.calls[i].owner, self.right.calls[self.pairs[i]].owner)
            not in settled - still_apart
        ]  # fmt: skip
        return constants

    def _settings(self, places: Pairs) -> str | None:
        """Return which of the other side's settings make calls that differ equal, all of them."""
        if not places:
            return None
        i, j = places[0]
        a, b = self.left.calls[i], self.right.calls[j]
        keys = a.settings.keys() | b.settings.keys()
        names = sorted(k for k in keys if a.settings.get(k) != b.settings.get(k))
        choices = [[name] for name in names] + ([names] if len(names) > 1 else [])
        for chosen in choices:
            trials, given = [], {}
            for i, j in places:
                mine, other = (
                    (j, self.left.calls[i]) if self.bench.is_suspect else (i, self.right.calls[j])
                )
                own = self.right.calls[j] if self.bench.is_suspect else self.left.calls[i]
                trials.append(
                    {"call": mine, "settings": {n: other.settings.get(n) for n in chosen}}
                )
                given[f"in.{mine}"] = fitted(self.seen.left[f"in.{i}"], own.in_shape)
            found = self.bench.vary(trials, given)
            targets = [self._alone_target(i, j) for i, j in places]
            if all(
                f"alone.{n}" in found and gap(t, fitted(found[f"alone.{n}"], t.shape)).within(CALL)
                for n, t in enumerate(targets)
            ):
                ours, theirs = (
                    self.left.calls[places[0][0]].settings,
                    self.right.calls[places[0][1]].settings,
                )
                return ", ".join(
                    f"{n} {short(ours.get(n))} | {short(theirs.get(n))}" for n in chosen
                )
        return None

    def _alone_target(self, i: int, j: int) -> np.ndarray:
        return (
            self.seen.left[f"out.{i}"] if self.bench.is_suspect else self.seen.forced[f"alone.{j}"]
        )

    def _normalised(self, places: Pairs) -> str | None:
        """Return by what the two sides normalise, if that gives the numbers of both."""
        texts = set()
        for i, j in places:
            a, b = self.left.calls[i], self.right.calls[j]
            x = self.seen.left[f"in.{i}"]
            outs = (
                self.seen.left[f"out.{i}"],
                self.seen.forced.get(f"alone.{j}", self.seen.forced[f"out.{j}"]),
            )
            for call, out in zip((a, b), outs, strict=True):
                names = {role: f"{a.key}|{role}" for role in a.roles}
                own = {role: self.first[name] for role, name in names.items() if name in self.first}
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

    def _stretches(self, constants: dict[str, str]) -> None:
        """Try variants of the functions on stretches that differ, and simple relations."""
        open_ones = [d for d in self.judged.differences if d.what == "between" and d.cause is None]
        own = {op.text.partition("(")[0] for call in self.bench.graph.calls for op in call.between}
        own |= {op.text.partition("(")[0] for o in self.bench.graph.outputs for op in o.between}
        own |= {f for f in ("lstm", "gru", "rnn_tanh", "rnn_relu") if any(
            c.kind == f.partition("_")[0] for c in self.bench.graph.calls)}  # fmt: skip
        apart = [d for d in open_ones if any(p.gap is not None for p in d.places)]
        if not apart:
            return
        side = self.left if self.bench.is_suspect else self.right
        names = in_turn(own & self.bench.variants.keys(), self.bench.graph, side)
        for name in names:
            variants = variants_of(name, self.bench.variants[name], self.bench.graph, side)
            # Constants are the usual reason, and the rest is a long list; neither writes in place.
            ordered = sorted(variants.items(), key=lambda v: (v[0] != NOT_IN_PLACE, not v[1][1]))
            for key, (text, is_constant, base) in ordered:
                remaining = [d for d in apart if d.cause is None]
                if not any(self._mentions(d, name) for d in remaining):
                    continue
                found = self.bench.forced({name: key})
                for d in remaining:
                    if not self._mentions(d, name):
                        continue
                    if not self._vanishes(d, found):
                        continue
                    d.cause = f"{text[:1].upper()}{text[1:]} in {self.other}"
                    # The same must be computed but for the constant: tanh's GELU is not erf's.
                    if is_constant and Gap(d.gap or 0.0).within(FLOAT32_HIGH):
                        d.is_rule = not base or self._vanishes(
                            d, self.bench.forced({name: base}), of_other=False
                        )
                    if d.is_rule:
                        constants[name] = key
                    elif is_constant and base:
                        d.cause = f"{variants[base][0]} in {self.other}, with a constant in float32"
        unknown = [d for d in apart if d.cause is None]
        tried: dict[tuple[tuple[str, str], ...], list[list[bool]]] = {}

        def vanish(number: int, swaps: dict[str, str], is_own: bool) -> bool:
            """Return whether an experiment, made but once, gives one difference's numbers."""
            key = tuple(sorted(swaps.items()))
            if key not in tried and len(tried) < MOST_TRIALS:
                found = self.bench.forced(swaps)
                tried[key] = [[self._vanishes(d, found, of_other) for d in unknown]
                              for of_other in (True, False)]  # fmt: skip
            return key in tried and tried[key][is_own][number]

        for number, d in enumerate(unknown):
            several = together(
                {n: variants_of(n, self.bench.variants[n], self.bench.graph, side)
                 for n in names if self._mentions(d, n)},
                partial(vanish, number),
                Gap(d.gap or 0.0).within(FLOAT32_HIGH),
            )  # fmt: skip
            if several is None:
                d.cause = self._searched(d)
                continue
            text, swaps, d.is_rule = several
            d.cause = f"{text[:1].upper()}{text[1:]} in {self.other}"
            constants |= swaps if d.is_rule else {}
        self._relations([d for d in apart if d.cause is None])

    def _searched(self, d: Difference) -> str | None:
        """Search for a scale before a softmax, and for another order of the calls before."""

        def apart(found: Arrays) -> float:
            return self._apart(d, found)

        names = [name for name in SOFTMAX if self._mentions(d, name)]
        cause = scale(names, lambda swaps: apart(self.bench.forced(swaps)), self.other)
        if cause is not None or not self.bench.is_suspect:
            return cause
        groups = preds_of_one_shape(d, self.bench.graph, self.by_place, set(self.pairs.values()))
        return order(
            groups,
            self.left,
            self.bench.graph,
            self.pairs,
            lambda them: apart(self.bench.exchanged(them)),
        )

    def _relations(self, unknown: list[Difference]) -> None:
        """Say what the two sides' numbers are of each other, or that each run has others."""
        again = self.bench.forced({}) if unknown else {}
        for d in unknown:
            if self._vanishes(d, again, of_other=False):
                d.cause = self._related(d)
            else:
                side = "suspect" if self.bench.is_suspect else "reference"
                d.cause = (f"{OTHERWISE}{side} differ here: it draws random numbers, or keeps "
                           "something from one to the next")  # fmt: skip

    def _mentions(self, d: Difference, name: str) -> bool:
        """Return whether the stretches of a difference hold a function of this name."""
        for place in d.places:
            for i, j in self._at(place):
                call: Call = self.bench.graph.calls[j if self.bench.is_suspect else i]
                if name.partition("_")[0] == call.kind or any(
                    op.text.partition("(")[0] == name for op in call.between
                ):
                    return True
                # What is taken from a sequence of states is read along other axes too.
                kinds = {self.bench.graph.calls[p].kind for p in call.preds if isinstance(p, int)}
                if "exchanged" in self.bench.variants[name] and name.partition("_")[0] in kinds:
                    return True
            if place.left == "the last call":
                return any(
                    op.text.partition("(")[0] == name
                    for o in self.bench.graph.outputs
                    for op in o.between
                )
        return False

    def _vanishes(self, d: Difference, found: Arrays, of_other: bool = True) -> bool:
        """Return whether an experiment gives the other side's numbers wherever they differ."""
        return self._apart(d, found, of_other) <= CALL

    def _apart(self, d: Difference, found: Arrays, of_other: bool = True) -> float:
        """Return the largest gap that an experiment leaves at the places of a difference.

        Args:
            d: the difference.
            found: what the experiment gave.
            of_other: False: from the bench's own numbers, not the other side's.

        Returns:
            Infinity where it gave nothing to compare.
        """
        of_left = self.bench.is_suspect == of_other
        targets = self.seen.left if of_left else self.seen.forced
        sizes = []
        for place in d.places:
            if place.left == "the last call":
                k = place.right.removeprefix("output").strip() or "0"
                name = f"final.{k}"
                sizes.append(gap(targets[name], found[name]).size if name in found else math.inf)
                continue
            for i, j in self._at(place):
                mine = found.get(f"in.{j if self.bench.is_suspect else i}")
                target = targets[f"in.{i if of_left else j}"]
                sizes.append(
                    math.inf if mine is None else gap(target, fitted(mine, target.shape)).size
                )
        return max(sizes, default=math.inf)

    def _related(self, d: Difference) -> str | None:
        """Return the relation of the two sides' numbers, if it is the same at all places."""
        causes: set[str | None] = set()
        for place in d.places:
            if place.left == "the last call":
                k = place.right.removeprefix("output").strip() or "0"
                ends = (self.left.outputs[int(k)].between, self.right.outputs[int(k)].between)
                arrays = (self.seen.left[f"final.{k}"], self.seen.forced[f"final.{k}"])
                causes.add(relation(*arrays, are_alone(*ends)))
            for i, j in self._at(place):
                a = self.seen.left[f"in.{i}"]
                ops = (self.left.calls[i].between, self.right.calls[j].between)
                b = fitted(self.seen.forced[f"in.{j}"], a.shape)
                causes.add(relation(a, b, are_alone(*ops)))
        return causes.pop() if len(causes) == 1 else None

    def training(self) -> dict[str, str]:
        """Write causes into differences of gradients and statistics.

        Returns:
            Variants that make the frameworks' own rules equal, by function; none where a difference
            of statistics has another cause.
        """
        tables = [
            d for d in self.judged.differences if d.what == "gradients" and d.kind == "embedding"
        ]
        if tables and self.bench.is_suspect:
            found = self.bench.trained({"embedding": "without_padding_row"})
            for d in tables:
                if self._vanish(d, found, "grad"):
                    d.cause = "the padding row learns in the reference alone (padding_idx)"
        rules = self._gradient_rules()
        statistics = [
            d for d in self.judged.differences if d.what == "statistics" and d.cause is None
        ]
        if not statistics or not self.bench.is_suspect:
            return rules
        found = self.bench.trained({"batch_norm": "biased_variance"})
        for d in statistics:
            d.is_rule = self._vanish(d, found, "moved")
            d.cause = BIASED if d.is_rule else self._momentum(d)
        return rules | (
            {"batch_norm": "biased_variance"} if all(d.is_rule for d in statistics) else {}
        )

    def _gradient_rules(self) -> dict[str, str]:
        """Try functions whose gradient alone rounds a constant, on gradients behind calls."""
        rules: dict[str, str] = {}
        behind = [
            d for d in self.judged.differences if d.what == "gradients" and d.kind[:6] == "behind"
        ]
        if not behind or not self.bench.is_suspect:
            return rules
        stretches = [c.between for c in self.right.calls] + [o.between for o in self.right.outputs]
        names = {op.text.partition("(")[0] for ops in stretches for op in ops}
        for name in sorted(names & self.bench.variants.keys()):
            variants = self.bench.variants[name]
            if EXACT_GRADIENT not in variants:
                continue
            found = self.bench.trained({name: EXACT_GRADIENT})
            for d in behind:
                pairs = [self._at(p)[-1] for p in d.places]
                gaps = [gap(self.seen.left_train[f"leaf.{i}"],
                            fitted(found[f"leaf.{j}"], self.seen.left_train[f"leaf.{i}"].shape))
                        for i, j in pairs if f"leaf.{j}" in found]  # fmt: skip
                if len(gaps) == len(pairs) and all(g.within(LOCAL_GRADIENT) for g in gaps):
                    text = variants[EXACT_GRADIENT][0]
                    d.cause, d.is_rule = f"{text} in the reference", True
                    rules[name] = EXACT_GRADIENT
        return rules

    def _vanish(self, d: Difference, found: Arrays, what: str) -> bool:
        for place in d.places:
            i, j = self._at(place)[-1]
            target = self.seen.left_train[f"{what}|{self.left.calls[i].key}|{d.left}"]
            mine = found.get(f"{what}|{self.right.calls[j].key}|{d.right}")
            if mine is None or not gap(target, mine).within(LOCAL_GRADIENT):
                return False
        return True

    def _momentum(self, d: Difference) -> str | None:
        """Return a cause if each side keeps its own share of statistics, of the same batch.

        What the batch has added is worked out from the reference's, and must give the suspect's,
        as it is or, of a variance, times n/(n − 1).
        """
        causes: set[str | None] = set()
        for place in d.places:
            i, j = self._at(place)[-1]
            a, b = self.left.calls[i], self.right.calls[j]
            ours, theirs = (call.settings.get("momentum") for call in (a, b))
            if ours is None or theirs is None or ours in (theirs, 1):
                return None
            before, after = (
                self.first[f"{a.key}|{d.left}"],
                self.seen.left_train[f"moved|{a.key}|{d.left}"],
            )
            of_batch = (after - ours * before) / (1 - ours)
            target = fitted(self.seen.right_train[f"moved|{b.key}|{d.right}"], before.shape)
            count = np.prod(a.in_shape) / before.size
            made = {
                text: theirs * before + (1 - theirs) * factor * of_batch
                for text, factor in (("", 1.0), (f", {BIASED}", count / (count - 1)))
            }
            fits = [t for t, values in made.items() if gap(target, values).within(LOCAL_GRADIENT)]
            causes.add(f"momentum {short(ours)} | {short(theirs)}{fits[0]}" if fits else None)
        return causes.pop() if len(causes) == 1 else None


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
