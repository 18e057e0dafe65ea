"""Judge two replays: calls alone, stretches between calls, outputs, gradients, statistics."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from portproof.graph import gaps
from portproof.graph.align import Alignment
from portproof.graph.calls import Call, Graph, ops_text
from portproof.graph.gaps import Gap, fitted, gap
from portproof.graph.verdict import Difference, Place, joined_rates

Arrays = Mapping[str, np.ndarray]
TRAINING_ONLY = {"momentum", "padding_idx"}
"""Settings that act in training alone."""
SPLIT_BIAS = {"recurrent_bias": "bias"}


@dataclass
class Replays:
    """What the programs found, by pass."""

    left: Arrays
    """The reference, from the inputs on, in evaluation."""
    free: Arrays
    """The suspect, from the inputs on."""
    forced: Arrays
    """The suspect, with the reference's numbers handed on at each call."""
    left_train: Arrays = field(default_factory=dict)
    right_train: Arrays = field(default_factory=dict)
    """In training mode, both with the reference's numbers handed on."""
    left_whole: Arrays = field(default_factory=dict)
    right_whole: Arrays = field(default_factory=dict)
    """In training mode, from the inputs on."""
    smaller: list[tuple[str, Arrays, Arrays]] = field(default_factory=list)
    """Outputs on other batches: name, reference, suspect."""
    settled: list[tuple[str, Arrays, Arrays]] = field(default_factory=list)
    """The same on all batches, with constants rounded to float32 in both, where any were found."""


@dataclass
class Judged:
    """All that a comparison finds."""

    differences: list[Difference] = field(default_factory=list)
    outputs: dict[str, Gap] = field(default_factory=dict)
    settled: dict[str, Gap] = field(default_factory=dict)
    """The same with constants rounded to float32 in both."""
    first: tuple[str, str, Gap] | None = None
    rounding: float = 0.0
    gradient: float | None = None
    whole_gradient: Gap | None = None
    whole_settled: Gap | None = None
    """The same with the frameworks' rules made equal."""
    notes: list[str] = field(default_factory=list)
    calls_apart: list[int] = field(default_factory=list)
    """Calls of the reference that give something else alone, fed the same."""
    stretches_apart: list[int] = field(default_factory=list)
    """Calls of the reference whose input is another, fed the same before."""
    otherwise: set[int] = field(default_factory=set)
    """Calls of the reference that agree in evaluation and not in training mode."""
    end_apart: list[int] = field(default_factory=list)
    """Outputs that are others behind the same last calls."""
    swapped: list[Difference] = field(default_factory=list)
    """Differences at functions that `settled` computes otherwise, so that it does not show them."""
    hidden: set[int] = field(default_factory=set)
    """Calls of the reference that no gradient of the outputs reaches, which so shows nothing."""


class Judge:
    """Compares two replays of two aligned graphs."""

    def __init__(
        self, left: Graph, right: Graph, alignment: Alignment, replays: Replays, asked: list[str]
    ) -> None:
        self.left, self.right, self.pairs = left, right, alignment.compared
        self._all, self._uneven = alignment.pairs, alignment.uneven
        self.replays, self.asked = replays, asked
        self.found = Judged()
        self._groups: dict[tuple[str, ...], Difference] = {}

    @property
    def is_apart_between(self) -> bool:
        """Whether any stretch between calls, or before an output, differs."""
        return bool(self.found.stretches_apart or self.found.end_apart)

    @property
    def is_in_vain(self) -> bool:
        """Whether an output of the reference is the same for every sample."""
        outs = [self.replays.left[f"final.{k}"] for k in range(len(self.left.outputs))]
        return not all((out - out[:1]).any() for out in outs)

    @property
    def has_trained_otherwise(self) -> bool:
        """Whether gradients or statistics differ."""
        return any(d.what in ("statistics", "gradients") for d in self.found.differences)

    def forward(self) -> None:
        """Judge calls, stretches and outputs in evaluation, in the reference's order."""
        self._unmatched()
        for i, j in sorted(self.pairs.items()):
            self._call(i, j)
        self._outputs()
        self.found.first = self._first(self.replays.left, self.replays.free)
        self.found.differences[:] = joined_rates(self.found.differences)

    def add(
        self,
        what: str,
        kind: str,
        sides: tuple[str, str],
        effect: str,
        place: Place,
        detail: str = "",
    ) -> Difference:
        """Note a difference, with those that are the same elsewhere."""
        key = (what, kind, *sides, effect, detail)
        if key not in self._groups:
            self._groups[key] = Difference(what, kind, *sides, effect, detail=detail)
            self.found.differences.append(self._groups[key])
        self._groups[key].places.append(place)
        return self._groups[key]

    def add_all(self, differences: list[Difference], notes: list[str]) -> None:
        """Note what was judged elsewhere."""
        self.found.differences += differences
        self.found.notes += notes

    def _unmatched(self) -> None:
        self._used_otherwise()
        for side, graph, ours, known in (
            ("left", self.left, set(self._all), set(self._uneven)),
            ("right", self.right, set(self._all.values()), set(self._uneven.values())),
        ):
            for i, call in enumerate(graph.calls):
                if i not in ours and call.key not in known:
                    shapes = ", ".join(f"{r} {tuple(s)}" for r, s in call.roles.items())
                    names = (shapes, "–") if side == "left" else ("–", shapes)
                    place = Place(*((call.owner, "–") if side == "left" else ("–", call.owner)))
                    self.add("unmatched", call.kind, names, "output", place)
            for name, size in graph.uncovered:
                names = (f"{size:,} values", "–") if side == "left" else ("–", f"{size:,} values")
                place = Place(*((name, "–") if side == "left" else ("–", name)))
                self.add("unused weights", "no call", names, "output", place,
                         "no call was seen to use them, so they are not compared")  # fmt: skip
            for name in graph.unreadable:
                place = Place(*((name, "–") if side == "left" else ("–", name)))
                self.add("computed weights", "no call", ("", ""), "output", place,
                         "computed from parameters; they cannot be carried over")  # fmt: skip

    def _used_otherwise(self) -> None:
        """Note weights that one side uses more often: their calls are not compared alone."""
        first = {self.left.calls[i].key: (i, j) for i, j in sorted(self._all.items(), reverse=True)}
        for ours, theirs in self._uneven.items():
            a, b = self.left.calls[first[ours][0]], self.right.calls[first[ours][1]]
            sides = [sum(c.key == key for c in graph.calls)
                     for graph, key in ((self.left, ours), (self.right, theirs))]  # fmt: skip
            texts = (f"{sides[0]} ×", f"{sides[1]} ×")
            detail = "compared by what comes behind, not alone"
            self.add("uses", a.kind, texts, "none", Place(a.owner, b.owner), detail)

    def _call(self, i: int, j: int) -> None:
        """Judge one call, and the stretch before it."""
        a, b = self.left.calls[i], self.right.calls[j]
        left, forced = self.replays.left, self.replays.forced
        place = Place(a.owner, b.owner)
        out = left[f"out.{i}"]
        if not np.isfinite(out).all():
            self.add("NaN", a.kind, ("NaN or infinity", ""), "output", place)
            return
        if not out.any():
            self.add("zero", a.kind, ("all zero", ""), "output", place, "it compares nothing")
        taken = left[f"in.{i}"]
        before = gap(taken, fitted(forced[f"in.{j}"], taken.shape))
        is_apart = not before.within(gaps.CALL)
        alone = self._alone(i, j, out, is_apart)
        keys = a.settings.keys() | b.settings.keys()
        if a.kind != b.kind:  # a dense layer has no strides
            keys = a.settings.keys() & b.settings.keys()
        diff = {k for k in keys if a.settings.get(k) != b.settings.get(k)}
        diff -= TRAINING_ONLY
        own = Gap(0.0) if alone is None else alone
        if not own.within(gaps.CALL):
            self.found.calls_apart.append(i)
            names = sorted(diff) or ["call"]
            self.add(", ".join(names), a.kind, _both(a, b, diff), "output", _at(place, own))
        elif diff:
            self.add(
                ", ".join(sorted(diff)), a.kind, _both(a, b, diff), "none", place, "no effect here"
            )
        if is_apart:
            self.found.stretches_apart.append(i)
            sides = (ops_text(a.between), ops_text(b.between))
            self.add("between", "before " + a.kind, sides, "output", _at(place, before))
        if "gradients" not in self.asked:
            self._training_only(a, b)
        self._drops("before " + a.kind, a.drops, b.drops, place)
        ours, theirs = (sorted({*c.frozen} & a.roles.keys() & b.roles.keys()) for c in (a, b))
        if ours != theirs:
            effect = "training" if "gradients" in self.asked else "none"
            sides = (", ".join(ours) or "none", ", ".join(theirs) or "none")
            self.add("frozen", a.kind, sides, effect, place)
        small = [g.size for g in (before, own) if g.within(gaps.CALL)]
        self.found.rounding = max([self.found.rounding, *small])

    def _drops(self, kind: str, ours: list[str], theirs: list[str], place: Place) -> None:
        """Note what acts at random in training on one side: dropout, and layers that augment."""
        for what, is_rate, zero in (("dropout", True, "0"), ("augmentation", False, "off")):
            first, second = ([d for d in of if d[0].isdigit() == is_rate] for of in (ours, theirs))
            if Counter(first) != Counter(second):
                sides = (", ".join(first) or "none", ", ".join(second) or "none")
                self.add(what, kind, sides, "none", place, f"in training only; {zero} here")

    def _training_only(
        self, a: Call, b: Call, effect: str = "none", detail: str = "in training only"
    ) -> None:
        """Note settings that differ and act in training alone."""
        # Where one has no moving statistics, there is no momentum to compare.
        by = [call.settings.get("normalised by") for call in (a, b)]
        names = TRAINING_ONLY if by[0] == by[1] else {"padding_idx"}
        for name in sorted(names):
            if a.settings.get(name) != b.settings.get(name):
                place = Place(a.owner, b.owner)
                self.add(name, a.kind, _both(a, b, {name}), effect, place, detail)

    def _alone(self, i: int, j: int, out: np.ndarray, is_apart: bool) -> Gap | None:
        forced = self.replays.forced
        if f"alone.{j}" in forced:
            return gap(out, fitted(forced[f"alone.{j}"], out.shape))
        return None if is_apart else gap(out, fitted(forced[f"out.{j}"], out.shape))

    def _outputs(self) -> None:
        left, free, forced = self.replays.left, self.replays.free, self.replays.forced
        rows, num = len(left["final.0"]), len(self.left.outputs)
        names = [f"final.{k}" for k in range(num)]
        turned = gaps.turned([left[name] for name in names], [forced[name] for name in names])
        if turned:
            sides = (", ".join(map(str, range(num))), ", ".join(map(str, turned)))
            said = self.add("order", "outputs", sides, "output", Place("the last call", "outputs"))
            said.cause = "the same outputs, in another order"
        for k, name in enumerate(names):
            label = self._label(k)
            for batch, a, b in [(f"batch of {rows}", left, free), *self.replays.smaller]:
                self.found.outputs[f"{label}, {batch}"] = gap(a[name], b[name])
            ours, theirs = self.left.outputs[k], self.right.outputs[turned[k] if turned else k]
            end = gap(left[name], forced[name])
            place = Place("the last call", label)
            sides = (ops_text(ours.between), ops_text(theirs.between))
            if not end.within(gaps.CALL):
                self.found.end_apart.append(k)
                if not turned:
                    self.add("between", "before the " + label, sides, "output", _at(place, end))
            else:
                self.found.rounding = max(self.found.rounding, end.size)
            if not (left[name] - left[name][:1]).any():
                sides = ("the same for every sample", "")
                self.add("zero", label, sides, "output", place, "it compares nothing")
            self._drops("before the " + label, ours.drops, theirs.drops, place)

    def outputs_settled(self) -> None:
        """Judge the outputs once more, with constants rounded to float32 in both."""
        if self.replays.settled:
            self.found.first = self._first(*self.replays.settled[0][1:])
        for batch, a, b in self.replays.settled:
            for k in range(len(self.left.outputs)):
                self.found.settled[f"output {k}, {batch}"] = gap(a[f"final.{k}"], b[f"final.{k}"])

    def _first(self, left: Arrays, free: Arrays) -> tuple[str, str, Gap] | None:
        """Return where two runs from the inputs on part first, in the reference's order."""
        for i, j in sorted(self.pairs.items()):
            out = left[f"out.{i}"]
            whole = gap(out, fitted(free[f"out.{j}"], out.shape))
            if np.isfinite(out).all() and not whole.within(gaps.END_TO_END):
                return self.left.calls[i].owner, self.right.calls[j].owner, whole
        for k in range(len(self.left.outputs)):
            whole = gap(left[f"final.{k}"], free[f"final.{k}"])
            if not whole.within(gaps.END_TO_END):
                return "the last call", self._label(k), whole
        return None

    def _label(self, k: int) -> str:
        return f"output {k}" if len(self.left.outputs) > 1 else "output"

    def gradients(self, acts: Callable[[int], bool] = lambda _: False) -> None:
        """Judge training mode: what calls give, gradients to weights and outputs, statistics.

        Args:
            acts: whether other weights of a call of the reference would give other outputs; asked
                where no gradient says so.
        """
        a_train, b_train = self.replays.left_train, self.replays.right_train
        largest, reached, otherwise = 0.0, self.left.reached(), self._otherwise()
        self.found.otherwise = set(otherwise)
        # Where gates are saturated, what is left of a gradient is the rounding of 1 - y.
        sizes = {i: float(np.abs(leaf).max()) for i in self.pairs
                 if (leaf := a_train.get(f"leaf.{i}")) is not None}  # fmt: skip
        typical = float(np.median([*sizes.values()])) if sizes else 0.0
        for i, j in sorted(self.pairs.items()):
            a, b = self.left.calls[i], self.right.calls[j]
            place = Place(a.owner, b.owner)
            is_apart = i in self.found.calls_apart
            before_apart = i in self.found.stretches_apart
            still = self._still_moving(i, j) if i in otherwise else None
            if i in otherwise:
                here = _at(place, otherwise[i])
                self.add("training mode", a.kind, ("", ""), "training", here).cause = still
            trains_alike = True
            # Statistics come from what a call takes: another ε leaves them as they are.
            for what, skip in (
                ("grad", is_apart or before_apart),
                ("moved", before_apart or still is not None),
            ):
                size, agrees = self._roles(what, i, j, skip, place)
                largest, trains_alike = max(largest, size), trains_alike and agrees
            if before_apart:
                unclear = "acts in training; not compared, for what the call takes differs"
                self._training_only(a, b, "training", unclear)
            elif trains_alike:
                self._training_only(a, b)
            leaf = a_train.get(f"leaf.{i}")
            if leaf is None or f"leaf.{j}" not in b_train:
                continue
            other = fitted(b_train[f"leaf.{j}"], leaf.shape)
            if not (leaf.any() or other.any()):
                if i in reached:
                    self._still(a.kind, "no output changes with it", place, acts(i),
                                "what follows it is not compared")  # fmt: skip
                continue
            after = [sizes.get(n, 0.0) for n, c in enumerate(self.left.calls) if i in c.preds]
            unit = max([typical, *after])
            behind = gap(leaf, other, unit)
            if behind.within(gaps.LOCAL_GRADIENT):
                largest = max(largest, behind.size)
            elif not self._follows_a_difference(i):
                self._behind(a.kind, bool(leaf.any()), bool(other.any()), _at(place, behind))
        self._training_outputs()
        self._unmoved(reached, acts)
        self.found.hidden = {*self.pairs} - self.left.with_gradient(self.replays.left_whole)
        self.found.gradient, self.found.whole_gradient = largest, self.whole()

    def _behind(self, kind: str, ours: bool, theirs: bool, place: Place) -> None:
        """Note gradients that differ behind a call; of one side none may come back at all."""
        words = ("" if ours else "no gradient", "" if theirs else "no gradient")
        found = self.add("gradients", "behind " + kind, words, "training", place)
        if not (ours and theirs):
            side = "suspect" if ours else "reference"
            found.cause = f"no gradient comes back to it in the {side}"

    def _otherwise(self) -> dict[int, Gap]:
        """Return calls that agree in evaluation and give something else in training mode."""
        apart = {*self.found.calls_apart, *self.found.stretches_apart}
        found = {}
        for i, j in self.pairs.items():
            out = self.replays.left_train[f"out.{i}"]
            moved = gap(out, fitted(self.replays.right_train[f"out.{j}"], out.shape))
            if i not in apart and not moved.within(gaps.CALL):
                found[i] = moved
        return found

    def _still_moving(self, i: int, j: int) -> str | None:
        """Return which side's norm takes its moving statistics in training too, if one does."""
        ours, theirs = (
            gap(before[name], trained[name]).within(gaps.CALL)
            for before, trained, name in (
                (self.replays.left, self.replays.left_train, f"out.{i}"),
                (self.replays.forced, self.replays.right_train, f"out.{j}"),
            )
        )
        if self.left.calls[i].kind != "batch_norm" or ours == theirs:
            return None
        a, b = ("reference", "suspect") if ours else ("suspect", "reference")
        return f"in training, too, by moving statistics in the {a}, by the batch in the {b}"

    def _training_outputs(self) -> None:
        """Judge what comes behind the last calls in training mode, fed the same numbers."""
        ours, theirs = self.replays.left_train, self.replays.right_train
        for k in range(len(self.left.outputs)):
            label = self._label(k)
            mine, other = ours.get(f"final.{k}"), theirs.get(f"final.{k}")
            if mine is None or other is None or k in self.found.end_apart:
                continue
            end = gap(mine, other)
            if not end.within(gaps.CALL):
                place = _at(Place("the last call", label), end)
                self.add("training mode", "before the " + label, ("", ""), "training", place)

    def _still(self, kind: str, what: str, place: Place, is_acting: bool, detail: str) -> None:
        """Report a call that no gradient reaches; one that is rounded or detached may act."""
        if is_acting:
            what, detail = "no gradient reaches it from the outputs", "they change with its weights"
        known = [p for d in self.found.differences if d.what == "zero" for p in d.places]
        if not is_acting or place not in known:
            self.add("zero", kind, (what, ""), "none" if is_acting else "output", place, detail)

    def _unmoved(self, reached: set[int], acts: Callable[[int], bool]) -> None:
        """Report calls that lead to an output and whose weights have no gradient from it."""
        for i, j in sorted(self.pairs.items()):
            a = self.left.calls[i]
            trained = [f"grad|{a.key}|{role}" for role in a.roles]
            found = [self.replays.left_whole[n] for n in trained if n in self.replays.left_whole]
            if found and i in reached and not any(g.any() for g in found):
                place = Place(a.owner, self.right.calls[j].owner)
                self._still(a.kind, "no output moves with its weights", place, acts(i),
                            "it compares nothing")  # fmt: skip

    def whole(self) -> Gap:
        """Return the largest gap of gradients and statistics through the whole model."""
        a, b = self.replays.left_whole, self.replays.right_whole
        names = [name for name in sorted(a) if name.startswith("input.")]
        sizes = [gap(a[name], b[name]) for name in names]
        sizes += [self._whole(i, j) for i, j in sorted(self._all.items())]
        return max(sizes, key=lambda g: g.size, default=Gap(0.0))

    def _roles(self, what: str, i: int, j: int, is_apart: bool, place: Place) -> tuple[float, bool]:
        """Judge one call's gradients or statistics.

        Returns:
            The largest gap that is rounding, and whether there is no other.
        """
        a, b = self.left.calls[i], self.right.calls[j]
        ours, theirs = self.replays.left_train, self.replays.right_train
        largest = self._largest(ours, what, a)
        rounding, agrees = 0.0, True
        for role in sorted(b.roles):
            mine = ours.get(f"{what}|{a.key}|{role}")
            if mine is None and role in SPLIT_BIAS and role not in a.roles:
                mine = ours.get(f"{what}|{a.key}|{SPLIT_BIAS[role]}")
            other = theirs.get(f"{what}|{b.key}|{role}")
            if mine is None or other is None:
                continue
            if what == "moved" and role in a.roles:
                largest = 0.0
            g = gap(mine, fitted(other, mine.shape), largest)
            if g.within(gaps.LOCAL_GRADIENT):
                rounding = max(rounding, g.size)
                continue
            agrees = False
            if not is_apart:
                name = "statistics" if what == "moved" else "gradients"
                self.add(name, a.kind, (role, role), "training", _at(place, g))
        return rounding, agrees

    def _whole(self, i: int, j: int) -> Gap:
        """Return the largest gap of a call's gradients and statistics through the whole model."""
        a, b = self.left.calls[i], self.right.calls[j]
        ours, theirs = self.replays.left_whole, self.replays.right_whole
        worst = Gap(0.0)
        for what in ("grad", "moved"):
            largest = self._largest(ours, what, a)
            for role in b.roles:
                mine, other = (
                    ours.get(f"{what}|{a.key}|{role}"),
                    theirs.get(f"{what}|{b.key}|{role}"),
                )
                if mine is not None and other is not None:
                    g = gap(mine, fitted(other, mine.shape), largest)
                    worst = max(worst, g, key=lambda g: g.size)
        return worst

    def _largest(self, arrays: Arrays, what: str, call: Call) -> float:
        found = [arrays.get(f"{what}|{call.key}|{role}") for role in call.roles]
        return max((float(np.abs(f).max()) for f in found if f is not None and f.size), default=0.0)

    def _follows_a_difference(self, i: int) -> bool:
        """Return whether the next calls that are compared behind this one differ already."""
        apart = {*self.found.calls_apart, *self.found.stretches_apart, *self.found.otherwise}
        through = {i}
        for n, c in enumerate(self.left.calls):
            if through & set(c.preds):
                if n in apart:
                    return True
                through |= set() if n in self.pairs else {n}
        ends = [k for k, o in enumerate(self.left.outputs) if through & set(o.preds)]
        return bool(set(ends) & set(self.found.end_apart))


def _at(place: Place, g: Gap) -> Place:
    return Place(place.left, place.right, g.size)


def _both(a: Call, b: Call, names: set[str]) -> tuple[str, str]:
    def text(call: Call) -> str:
        values = [call.settings.get(name) for name in sorted(names)]
        return ", ".join(short(v) for v in values)

    return text(a), text(b)


def short(value: Any) -> str:
    """Return a setting in few characters: one number where all axes have the same."""
    if isinstance(value, list) and value and all(v == value[0] for v in value):
        return short(value[0]) if not isinstance(value[0], list) else json.dumps(value[0])
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
