"""Train both sides on the user's batches, the suspect on several processes if asked; try causes."""

from collections import ChainMap
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np

from portproof.causes import Causes, Remedy
from portproof.graph.align import Alignment
from portproof.graph.carry import Carried
from portproof.graph.gaps import gap
from portproof.graph.inputs import inputs_of_batch
from portproof.graph.ranks import cause_of_gradients
from portproof.graph.steps import (
    LOSS,
    first_apart,
    judge_metrics,
    moved_apart,
    rounded,
)
from portproof.graph.users import as_reference, judge_batches
from portproof.graph.verdict import Difference
from portproof.programs import CheckError, answers
from portproof.sides import Arrays, Side, fill
from portproof.stored import Stored, save

HERE: dict[str, Any] = {"accelerator": "cpu", "num_nodes": 1}
ALONE = {**HERE, "devices": 1, "strategy": "auto"}
"""A Trainer's arguments for the reference of a suspect on several processes."""
ONE_STEP = {**ALONE, "accumulate_grad_batches": 1, "max_epochs": 1, "limit_val_batches": 0}
BROADCAST = "targets (N,) against outputs (N, 1): the suspect's loss is of (N, N)"
STARTS = "the processes start from different weights"
SHARED = "each process's BatchNorm takes the statistics of its own share (sync_batchnorm=True)"


Trial = tuple[str, list[str], dict[str, Any]]
"""A cause, and without it the processes' shares of the batches and the Trainer's arguments."""
Parted = tuple[tuple[int, int], Difference]
"""The moment at which trainings part, and how; see `first_apart`."""


class Training:
    """A reference that trains on one process, and a suspect that trains on one or several.

    Args:
        left: the reference, its weights carried over.
        ranks: the suspect's processes, the first one's weights carried over.
        alignment: which calls belong together.
        carried: weights to start from.
        files: of batches: the reference's, whole, and one for each of the suspect's processes.
    """

    def __init__(
        self, left: Side, ranks: list[Side], alignment: Alignment, carried: Carried, *files: str
    ) -> None:
        self.left, self.ranks, self.carried, self.shares = left, ranks, carried, list(files[1:])
        self.batches, self.of = files[0], (left.graph, ranks[0].graph, alignment)
        self.overrides = {**HERE, "devices": len(ranks)} if len(ranks) > 1 else {}
        """Arguments of the suspect's Trainer that outdo the user's own."""
        self.ours: Arrays = {}
        self._are_there = True
        """Whether the suspect's processes still answer."""
        frameworks = left.program.about["framework"], ranks[0].program.about["framework"]
        self._causes = Causes(left.graph, ranks[0].graph, alignment.pairs, frameworks)
        self._rules = self._causes.rules
        self._references: dict[str, Arrays] = {}
        """What the reference gave, by the arguments that it was trained with."""

    def take_batches(self, reference: str) -> list[Difference]:
        """Let the user's function give the suspect's batches; return how they differ.

        Each of several processes trains on what it gives there, and the steps are compared alone.

        Raises:
            CheckError: it gives them different numbers of batches.
        """
        outs = [side.program.path("batches") for side in self.ranks]
        for side, out in zip(self.ranks, outs, strict=True):
            names = [name for name, _ in inputs_of_batch(Stored(self.batches), 0)]
            side.program.send("batches", reference=reference, out=out, names=names)
        answers([side.program for side in self.ranks])
        given = [as_reference(self.of[1], Stored(out)) for out in outs]
        if not self.overrides:
            return judge_batches(Stored(self.batches), given[0])
        self.shares = [save(out, arrays) for out, arrays in zip(outs, given, strict=True)]
        counts = [len(_rows(Stored(out))) for out in outs]
        if len(set(counts)) > 1:
            raise CheckError(f"{reference}() gives the suspect's processes {counts} batches: they "
                             "would wait for each other")  # fmt: skip
        return []

    def judge(self) -> tuple[list[Difference], list[str]]:
        """Train, and return what differs first, with causes, and what is to be said.

        A process that started from the same weights as the suspect's first one starts from those
        carried over, too.

        Raises:
            CheckError: the first training of one side does not end well, or the suspect's processes
                have other models or numbers of steps.
        """
        are_alike = self._fill_alike()
        out = self.left.train(self.batches, **(ALONE if self.overrides else {}))
        theirs = self._train([self.left])
        self.ours = self._references["{}"] = self.left.read(out)
        apart, found = self._apart(theirs), []
        kept: dict[str, Any] = {}
        while apart is not None:
            resolved = self._resolved(apart, theirs, kept, are_alike)
            if resolved is None:
                break
            causes, later, theirs, kept = resolved
            self.ours = self._reference(kept)
            apart[1].cause = "; and ".join(causes)
            apart[1].is_rule = all(each in self._rules for each in causes)
            found.append(apart[1])
            apart = later
        if apart is None:
            return found + self._metrics(theirs), self._notes(theirs)
        if self.overrides and apart[1].what != "steps":
            apart[1].cause = self._weighed(apart[0][0], theirs) or apart[1].cause
        return [*found, apart[1]], self._notes(theirs)

    def _resolved(
        self, apart: Parted, theirs: list[Arrays], kept: dict[str, Any], are_alike: bool
    ) -> tuple[list[str], Parted | None, list[Arrays], dict[str, Any]] | None:
        """Return causes without which the two part later: one alone, or else several together.

        Args:
            apart: where they part.
            theirs: what the suspect's processes gave then.
            kept: arguments of the Trainer with which they did.
            are_alike: whether the processes started from the same weights.

        Returns:
            The causes, where they part now, what the processes gave, and the arguments; or None.
        """
        causes = list(self._trials(apart[1].what, apart[0][0], are_alike, theirs[0]))
        trials = [trial for trial in causes if "optimizer" not in trial[2]]
        acting: list[Trial] = []
        equal: list[Trial] = []
        """Equal starts, which each trial after them has: named where they change anything."""
        start = theirs, apart
        for is_together in (False, True):
            chosen: list[Trial] = []
            base, where = start
            trials = acting if is_together else trials
            for trial in trials:
                made = self._tried([*equal, *chosen, trial], kept)
                if made is None:
                    if self.overrides:
                        return None
                    continue
                later, again, merged = made
                if _is_later(later, apart):
                    for one in chosen[:]:  # those that it does without
                        fewer = [each for each in (*equal, *chosen, trial) if each is not one]
                        made = self._tried(fewer, kept)
                        if made is not None and _is_later(made[0], apart):
                            chosen.remove(one)
                            later, again, merged = made
                    return [each[0] for each in (*equal, *chosen, trial)], later, again, merged
                has_effect = self._differ(0, self.ours, self._reference(merged))
                has_effect = has_effect or self._differ(1, base[0], again[0])
                if trial[0] == STARTS:
                    equal = [trial] if has_effect else []
                    base, where = start = again, later or where
                elif not is_together:
                    acting += [trial] if has_effect else []
                elif later is not None and (
                    _is_nearer(later, where) or (has_effect and trial[0] in self._rules)
                ):
                    chosen.append(trial)
                    base, where = again, later
            if len(acting) < 2:
                break
        # A rule of torch's own in its place says no more than that nothing else is wrong.
        last = [t for t in causes if "optimizer" in t[2]] if apart[1].cause is None else []
        return self._alone(last, kept)

    def _alone(
        self, trials: list[Trial], kept: dict[str, Any]
    ) -> tuple[list[str], Parted | None, list[Arrays], dict[str, Any]] | None:
        """Return the first trial by which nothing parts any more, in the form of `_resolved`."""
        for trial in trials:
            made = self._tried([trial], kept)
            if made is not None and made[0] is None:
                return [trial[0]], *made
        return None

    def _tried(
        self, trials: Sequence[Trial], kept: dict[str, Any]
    ) -> tuple[Parted | None, list[Arrays], dict[str, Any]] | None:
        """Train the suspect with some causes taken away; return None where it does not end well."""
        merged = kept
        for _, _, overrides in trials:
            merged = _merged(merged, overrides)
        try:
            fill(self.ranks, self.carried.right)
            ours = self._reference(merged)
            again = self._train(shares=trials[-1][1], **merged)
        except CheckError:  # a loss that does not take such targets; it explains nothing
            self._are_there = not self.overrides  # one may hang, and is asked for nothing more
            return None
        return self._apart(again, ours), again, merged

    def _differ(self, side: int, one: Arrays, other: Arrays) -> bool:
        """Return whether two trainings of a side differ, in losses or in the weights at the end."""
        last = len(one["losses"]) - 1
        calls = (self.of[1] if side else self.of[0]).calls
        names = [f"step.{last}|{c.key}|{role}" for c in calls for role in c.roles]
        known = [n for n in names if n in one and n in other]
        return any(not gap(one[n], other[n]).within(LOSS) for n in ("losses", *known))

    def _reference(self, how: dict[str, Any]) -> Arrays:
        """Return the reference's training by its own arguments in `how`, carried out once."""
        given = how.get("reference", {})
        if repr(given) not in self._references:
            self.left.fill(self.carried.left)
            out = self.left.train(self.batches, **given)
            self.left.program.answer()
            self._references[repr(given)] = self.left.read(out)
        return self._references[repr(given)]

    def _trials(self, what: str, step: int, are_alike: bool, theirs: Arrays) -> Iterator[Trial]:
        """Yield what may be wrong with the batches and the Trainer's arguments that make it right.

        Args:
            what: differs first.
            step: in which it does, from 0.
            are_alike: whether the processes started from the same weights.
            theirs: what the suspect gave.
        """
        made: Iterator[Remedy] = iter(())
        if self.overrides:
            if what == "update":
                made = self._causes.of_epsilon()
            yield from ((text, self.shares, how) for text, how in made)
            if not are_alike:  # they do from here on
                yield STARTS, self.shares, {}
            if any(c.kind == "batch_norm" for c in self.of[1].calls):
                yield SHARED, self.shares, {"sync_batchnorm": True}
            return
        if what == "update":
            made = self._causes.of_updates()
        elif what == "loss":
            turned = {n: a[:, None] if n.startswith("y.") and a.ndim == 1 else a
                      for n, a in Stored(self.batches).items()}  # fmt: skip
            yield BROADCAST, [save(self.left.program.path("turned"), turned)], {}
            if self._causes.is_torch:
                rules = self._causes.of_rules() if step else iter(())  # they act on what follows
                made = chain(rules, self._causes.of_losses(theirs))
        yield from ((text, self.shares, how) for text, how in made)

    def _fill_alike(self) -> bool:
        """Fill the processes that started from the first one's weights; return whether all did."""
        others = self.ranks[1:]
        for side in others:
            if [c.key for c in side.graph.calls] != [c.key for c in self.of[1].calls]:
                raise CheckError(f"{side.program.side}: its model is not the first process's")
            side.first()
        alike = [side for side in others if side.digest == self.ranks[0].digest]
        fill(alike, self.carried.right)
        return len(alike) == len(others)

    def _train(
        self, others: Sequence[Side] = (), shares: Sequence[str] = (), **overrides: Any
    ) -> list[Arrays]:
        """Train the suspect, in step with others that train; losses are the processes' mean."""
        overrides.pop("reference", None)
        outs = [side.train(share, **{**self.overrides, **overrides})
                for side, share in zip(self.ranks, shares or self.shares, strict=True)]  # fmt: skip
        for side in others:
            side.program.answer()
        answers([side.program for side in self.ranks])
        found = [side.read(out) for side, out in zip(self.ranks, outs, strict=True)]
        counts = [len(arrays["losses"]) for arrays in found]
        if len(set(counts)) > 1:
            raise CheckError(f"the suspect's processes took {counts} steps")
        losses = np.mean([arrays["losses"] for arrays in found], 0)
        return [ChainMap({"losses": losses}, arrays) for arrays in found]  # type: ignore[arg-type]

    def _apart(self, theirs: Sequence[Arrays], ours: Arrays | None = None) -> Parted | None:
        """Return where the first process parts that does, and how."""
        ours = self.ours if ours is None else ours
        parted = []
        for rank, arrays in enumerate(theirs):
            peer = theirs[: min(rank, 1)]
            found = first_apart(*self.of, ours, arrays, self.carried.left, *peer)
            if found is not None:
                found[1].detail += f"; in process {rank}" if rank else ""
                parted.append(found)
        return min(parted, key=lambda found: found[0], default=None)

    def _metrics(self, theirs: Sequence[Arrays]) -> list[Difference]:
        """Return metrics that differ; those that do in the first process's share alone say so."""
        found = judge_metrics(*self.of[:2], self.ours, theirs[0])
        if found and self.overrides and len({arrays["metrics"].shape for arrays in theirs}) == 1:
            rows = [_rows(Stored(share)).sum() for share in self.shares]
            mean = np.average([arrays["metrics"] for arrays in theirs], 0, rows)
            of_all = ChainMap({"metrics": mean}, theirs[0])  # type: ignore[arg-type]
            left = {d.kind for d in judge_metrics(*self.of[:2], self.ours, of_all)}
            for d in found:
                if d.kind not in left:
                    d.cause = "logged for each process's share alone (sync_dist=True)"
        return found

    def _weighed(self, k: int, theirs: list[Arrays]) -> str | None:
        """Return what the processes make of their shares in step k.

        The reference is trained on each share alone, from its weights before that step; and the
        suspect's processes, where they still answer, each on the whole batch.
        """
        start, whole = self._before(0, k, self.ours), self._gradients(self.ours, k, 0)
        behind = any(moved_apart(*self.of, k, self.ours, a, self.carried.left) for a in theirs)
        # Without weights that part nothing came of the gradients; some are of several batches.
        if not behind or not whole or (k and not self._gradients(self.ours, k - 1, 0)):
            return None
        shares, rows = [], []
        for share in self.shares:
            one = _one(share, k)
            try:
                self.left.fill(start)
                out = self.left.train(save(self.left.program.path("share"), one), **ONE_STEP)
                self.left.program.answer()
            except CheckError:  # a step that takes no share by itself; it explains nothing
                return None
            shares.append(self._gradients(self.left.read(out), 0, 0))
            rows.append(_rows(one)[0])
        processes = [self._gradients(arrays, k, 1) for arrays in theirs]
        if any(made.keys() != whole.keys() for made in (*shares, *processes)):
            return None
        names = [f"step.{k}|{c.key}|{role}" for c in self.of[1].calls for role in c.roles]
        are_apart = any(not np.array_equal(arrays[n], theirs[0][n])
                        for n in names for arrays in theirs)  # fmt: skip

        def alone() -> list[dict[str, np.ndarray]]:
            try:  # at once: a module may let them wait for each other
                fill(self.ranks, self._before(1, k, theirs[0]))
                file = save(self.left.program.path("whole"), _one(self.batches, k))
                made = self._train(shares=[file] * len(self.ranks), **ONE_STEP)
            except CheckError:
                return []
            return [self._gradients(arrays, 0, 1) for arrays in made]

        asked = alone if self._are_there else list
        return cause_of_gradients(whole, shares, rows, processes, are_apart, asked)

    def _before(self, side: int, k: int, arrays: Arrays) -> Arrays:
        """Return the weights before step k."""
        first = self.carried.right if side else self.carried.left
        return {n: arrays[f"step.{k - 1}|{n}"] for n in first} if k else first

    def _gradients(self, arrays: Arrays, k: int, side: int) -> dict[str, np.ndarray]:
        """Return the gradients that step k's optimizer got, under names of the reference's."""
        found = {}
        for i, j in self.of[2].pairs.items():
            a = self.of[0].calls[i]
            call = self.of[1].calls[j] if side else a
            for role in a.roles:
                if (name := f"grad.{k}|{call.key}|{role}") in arrays:
                    found[a.place(role)] = arrays[name]
        return found

    def _notes(self, theirs: Sequence[Arrays]) -> list[str]:
        notes = []
        if self.overrides:
            sizes = np.stack([_rows(Stored(share)) for share in self.shares], 1).tolist()
            texts = dict.fromkeys(" + ".join(map(str, rows)) for rows in sizes)
            notes = [f"the suspect trained on {len(self.ranks)} processes; rows of their shares of "
                     f"a batch: {', '.join(texts)}; losses are the processes' mean"]  # fmt: skip
        last = max(min(len(a["losses"]) for a in (self.ours, *theirs)) - 1, 0)
        loose = [f"{a.owner} ({role})" for a, role in rounded(*self.of, last, self.ours, theirs[0])]
        if loose:
            notes.append("gradients that are rounding, as before a norm, so that moves are bounded "
                         f"by the call's others alone: {', '.join(loose)}")  # fmt: skip
        return notes


def _is_later(later: Parted | None, apart: Parted) -> bool:
    return later is None or later[0] > apart[0]


def _is_nearer(later: Parted, apart: Parted) -> bool:
    """Return whether what differs at the same moment differs by less."""
    first, second = (found[1].gap for found in (later, apart))
    return later[0] == apart[0] and first is not None and second is not None and first < second


def _merged(kept: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Return both, with the options of the optimizer, and the functions, of both."""
    both = {name: {**kept.get(name, {}), **more.get(name, {})} for name in ("options", "swaps")}
    return {**kept, **more, **{name: found for name, found in both.items() if found}}


def _rows(batches: Arrays) -> np.ndarray:
    """Return each batch's number of rows."""
    count = 1 + max(int(name.split(".")[1]) for name in batches)
    return np.array([len(inputs_of_batch(batches, k)[0][1]) for k in range(count)])


def _one(file: str, k: int) -> dict[str, np.ndarray]:
    """Return the batch of step k as the only one."""
    batches = Stored(file)
    count = len(_rows(batches))
    return {".".join([n.split(".")[0], "0", *n.split(".")[2:]]): a
            for n, a in batches.items() if int(n.split(".")[1]) == k % count}  # fmt: skip


def even_shares(batches: Arrays, count: int) -> list[dict[str, np.ndarray]]:
    """Return even shares of each batch's rows, in order.

    Raises:
        CheckError: a batch has fewer rows than there are shares, or its arrays differ in rows.
    """
    rows = _rows(batches)
    for name, a in batches.items():
        k = int(name.split(".")[1])
        if a.shape[:1] != (rows[k],):
            raise CheckError(f"batch {k + 1}: {name} is {a.shape}, for inputs of {rows[k]} rows")
        if rows[k] < count:
            raise CheckError(f"batch {k + 1} has {rows[k]} rows, too few for {count} processes")
    parts = {name: np.array_split(a, count) for name, a in batches.items()}
    return [{name: p[r] for name, p in parts.items()} for r in range(count)]
