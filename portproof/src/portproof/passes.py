"""The passes of a check between two running programs: record, fill, replay, differentiate."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from portproof.explain import Bench, explain_forward, explain_training
from portproof.graph.align import Alignment, align
from portproof.graph.calls import Graph
from portproof.graph.carry import Carried, carry
from portproof.graph.compare import Judge, Judged, Replays
from portproof.graph.first import frozen_values, judge_first
from portproof.graph.fused import Part, Split, joined_calls, joined_weights, split_fused
from portproof.graph.gaps import fitted
from portproof.graph.inputs import EDGE_ROWS, InputSpec
from portproof.graph.steps import judge_steps
from portproof.graph.users import judge_batches, judge_conversion
from portproof.graph.verdict import Difference
from portproof.programs import CheckError, Program, save

BATCHES = (("batch of 4", 4), ("batch of 3", 3), ("single", 1), ("edge batch", EDGE_ROWS))
"""Full, partial and single batches, and one of wide numbers, zeros and small ids.

Calls are compared on the first, outputs on all."""
ROWS = BATCHES[0][1]
Arrays = Mapping[str, np.ndarray]


@dataclass
class Side:
    """One program with its graph, as the comparison reads it."""

    program: Program
    files: dict[int, str]
    """Inputs by the number of rows."""
    graph: Graph
    parts: list[Part] = field(default_factory=list)
    swaps: dict[str, str] = field(default_factory=dict)
    """Functions computed in another way from here on: constants that were found."""
    forced: str = ""
    trained: dict[str, Any] = field(default_factory=dict)
    _out: str = ""

    def split(self, other: Graph) -> None:
        """Read dense calls as several, where the other side has them so."""
        self.graph, self.parts = split_fused(self.graph, other)

    def first(self) -> Arrays:
        """Return the weights that the model starts from; of large ones some of their numbers."""
        out = self.program.path("first")
        self.program.ask("first", out=out)
        return Split(Stored(out), self.graph, self.parts)

    def fill(self, weights: Arrays) -> None:
        """Send weights; `filled` waits."""
        joined = joined_weights(weights, self.graph, self.parts)
        self.program.send("fill", given=save(self.program.path("weights"), joined))

    def filled(self) -> None:
        """Wait until the weights are in place.

        Raises:
            CheckError: a weight is another one behind.
        """
        lost = self.program.answer()["lost"]
        if lost and not self.graph.unreadable:
            raise CheckError(
                f"{self.program.side}: {len(lost)} weights did not keep what was put there: "
                f"{lost[0].rpartition('|')[2]} of {lost[0].partition(';')[0]}"
            )

    def give(self, arrays: Arrays) -> str:
        """Write what a replay is forced by, and return the file."""
        return save(self.program.path("force"), joined_calls(arrays, self.parts))

    def start(self, rows: int = ROWS, **how: Any) -> None:
        """Ask for a replay; `seen` waits."""
        self._out = self.program.path("seen")
        how.setdefault("swaps", self.swaps)
        self.program.send("replay", inputs=self.files[rows], out=self._out, **how)

    def seen(self) -> Arrays:
        """Return what the replay saw."""
        self.program.answer()
        return Split(Stored(self._out), self.graph, self.parts)

    def vary(self, trials: list[dict[str, Any]], given: dict[str, np.ndarray]) -> Arrays:
        """Run single calls by other settings; return `alone.n` by trial."""
        trials = [{**t, "call": self.parts[t["call"]].call} for t in trials]
        out = self.program.path("varied")
        path = save(self.program.path("given"), joined_calls(given, self.parts))
        self.program.ask("vary", given=path, trials=trials, out=out)
        return Stored(out)

    def seeds(self, of: Mapping[int, int]) -> dict[str, list[int]]:
        """Return seeds by the program's own calls, block by block."""
        found: dict[str, list[int]] = {}
        for i, part in enumerate(self.parts):
            if i in of:
                found.setdefault(str(part.call), []).append(of[i])
        counts = {str(part.call): part.count for part in self.parts}
        return {call: seeds for call, seeds in found.items() if len(seeds) == counts[call]}


class Stored(Mapping[str, np.ndarray]):
    """The arrays of an `.npz` file, read one at a time: a large model's are never all held."""

    def __init__(self, path: str) -> None:
        self._file = np.load(path, allow_pickle=False)
        self._names = set(self._file.files)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        array: np.ndarray = self._file[name]
        is_count = name.startswith("final.") and array.dtype.kind in "biu"
        return array.astype(np.float64) if is_count else array  # bytes wrap when subtracted

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names


@dataclass
class Passes:
    """What all passes found."""

    left: Graph
    right: Graph
    alignment: Alignment
    carried: Carried
    judged: Judged


def run_passes(
    programs: tuple[Program, Program],
    specs: Sequence[InputSpec],
    asked: Sequence[str],
    named: Sequence[tuple[str, str]],
    seed: int,
    folder: Path,
    progress: Callable[[str], None],
    functions: Mapping[str, str | None],
) -> Passes:
    """Compare two models whose programs are open.

    Args:
        programs: the reference's and the suspect's.
        specs: of the inputs.
        asked: `forward`, and `gradients` where they are wanted.
        named: owners that belong together.
        seed: of weights and inputs.
        folder: where inputs are written.
        progress: told what is done.
        functions: the user's own: `batches` to train on, `suspect_batches` of the port's loader,
            `convert` that carries weights over.

    Raises:
        CheckError: a program fails, or the models cannot be compared as they are.
    """
    progress("recording calls")
    left, right = _recorded(programs, specs, seed, folder)
    try:
        alignment = align(left.graph, right.graph, named)
    except ValueError as error:
        raise CheckError(str(error)) from error
    carried = carry(left.graph, right.graph, alignment, seed)
    first = (left.first(), right.first())
    notes = frozen_values(left.graph, right.graph, alignment, *first)
    left.fill(carried.left)
    right.fill(carried.right)
    left.filled()
    right.filled()
    converted = _conversion(left, right, alignment, carried, functions)
    progress("replaying")
    replays = _replays(left, right, alignment)
    judge = Judge(left.graph, right.graph, alignment, replays, list(asked))
    judge.add_all(converted, notes)
    judge.forward()
    bench = _bench(left, right)
    of = (left.graph, right.graph, alignment.pairs, judge.found, replays)
    if bench is not None and (judge.found.calls_apart or judge.is_apart_between):
        progress("trying causes")
        constants = explain_forward(bench, *of)
        if constants:
            (right if bench.is_suspect else left).swaps = constants
            _settle(left, right, replays)
    judge.outputs_settled()
    if "gradients" in asked:
        progress("gradients")
        _gradients(left, right, alignment, replays)
        judge.gradients()
        judge.add_all(*judge_first(left.graph, right.graph, alignment, *first))
        if bench is not None and judge.has_trained_otherwise:
            rules = explain_training(bench, *of)
            if rules:
                right.swaps = {**right.swaps, **rules}
                right.start(train=True)
                replays.right_whole = right.seen()
                judge.found.whole_settled = judge.whole()
    if functions.get("batches"):
        progress("training")
        steps = _steps(left, right, alignment, carried, functions)
        for word, effect in (("outputs", "output"), ("gradients", "training")):
            if any(d.fails and d.effect == effect for d in judge.found.differences):
                for d in steps:
                    d.detail += f"; {word} differ already"
                break
        judge.found.differences += steps
    return Passes(left.graph, right.graph, alignment, carried, judge.found)


def _recorded(
    programs: tuple[Program, Program], specs: Sequence[InputSpec], seed: int, folder: Path
) -> tuple[Side, Side]:
    files = {}
    for _, rows in BATCHES:
        rng = np.random.default_rng([seed, rows])
        drawn = {
            f"x{i}": spec.draw_edges(rng) if rows == EDGE_ROWS else spec.draw(rows, rng)
            for i, spec in enumerate(specs)
        }
        files[rows] = save(str(folder / f"inputs-{rows}.npz"), drawn)
    for program in programs:
        program.send("describe", given=files[ROWS])
    left, right = (
        Side(program, files, Graph.from_dict(program.answer()["graph"])) for program in programs
    )
    for side in (left, right):
        if any(not output.shape for output in side.graph.outputs):
            raise CheckError(
                f"{side.program.side} {side.program.reference}: it gives a single number; let it "
                "give one for each sample"
            )
    if len(left.graph.outputs) != len(right.graph.outputs):
        raise CheckError(
            f"the reference gives {len(left.graph.outputs)} outputs and the suspect "
            f"{len(right.graph.outputs)}; let both functions return models of the same outputs"
        )
    whole = left.graph
    left.split(right.graph)
    right.split(whole)
    return left, right


def _replays(left: Side, right: Side, alignment: Alignment) -> Replays:
    left.start()
    right.start()
    reference, free = left.seen(), right.seen()
    force: dict[str, np.ndarray] = {}
    for i, j in alignment.pairs.items():
        call = right.graph.calls[j]
        force[f"out.{j}"] = fitted(reference[f"out.{i}"], call.out_shape)
        force[f"in.{j}"] = fitted(reference[f"in.{i}"], call.in_shape)
    right.forced = right.give(force)
    right.start(given=right.forced)
    left.forced = left.give({f"out.{i}": reference[f"out.{i}"] for i in alignment.pairs})
    replays = Replays(reference, free, right.seen())
    for name, rows in BATCHES[1:]:
        left.start(rows, outputs_only=True)
        right.start(rows, outputs_only=True)
        replays.smaller.append((name, left.seen(), right.seen()))
    return replays


def _settle(left: Side, right: Side, replays: Replays) -> None:
    """Run both from the inputs on once more, with the constants that were found in both."""
    for name, rows in BATCHES:
        left.start(rows, outputs_only=True)
        right.start(rows, outputs_only=True)
        replays.settled.append((name, left.seen(), right.seen()))


def _gradients(left: Side, right: Side, alignment: Alignment, replays: Replays) -> None:
    """Differentiate both in training mode, with the reference's numbers handed on and without."""
    pairs = alignment.pairs
    seeds = ({i: i for i in pairs}, {j: i for i, j in pairs.items()})
    for side, of in zip((left, right), seeds, strict=True):
        side.trained = {"given": side.forced, "train": True, "seeds": side.seeds(of)}
        side.start(**side.trained)
    replays.left_train, replays.right_train = left.seen(), right.seen()
    for side in (left, right):
        side.start(train=True)
    replays.left_whole, replays.right_whole = left.seen(), right.seen()


def _steps(
    left: Side,
    right: Side,
    alignment: Alignment,
    carried: Carried,
    functions: Mapping[str, str | None],
) -> list[Difference]:
    """Train both on the user's batches from the carried weights; return what differs first."""
    given = left.program.path("batches")
    left.program.ask("batches", reference=functions["batches"], out=given)
    apart: list[Difference] = []
    if functions.get("suspect_batches"):
        out = right.program.path("batches")
        right.program.ask("batches", reference=functions["suspect_batches"], out=out)
        apart = judge_batches(right.graph, Stored(given), Stored(out))
    outs = []
    for side in (left, right):
        outs.append(side.program.path("trained"))
        side.program.send("train", given=given, out=outs[-1], swaps=side.swaps)
    left.program.answer()
    right.program.answer()
    ours, theirs = (
        Split(Stored(out), side.graph, side.parts)
        for out, side in zip(outs, (left, right), strict=True)
    )
    of = (left.graph, right.graph, alignment)
    found = judge_steps(*of, ours, theirs, carried.left)
    if not any(d.what == "loss" for d in found):
        return apart + found
    turned = {n: a[:, None] if n.startswith("y.") and a.ndim == 1 else a
              for n, a in Stored(given).items()}  # fmt: skip
    right.fill(carried.right)
    right.filled()
    out = right.program.path("trained")
    try:
        given = save(right.program.path("turned"), turned)
        right.program.ask("train", given=given, out=out, swaps=right.swaps)
    except CheckError:  # a loss that does not take such targets; it explains nothing
        return apart + found
    again = judge_steps(*of, ours, Split(Stored(out), right.graph, right.parts), carried.left)
    if not any(d.what == "loss" for d in again):
        found[0].cause = "targets (N,) against outputs (N, 1): the suspect's loss is of (N, N)"
        found += again
    return apart + found


def _conversion(
    left: Side,
    right: Side,
    alignment: Alignment,
    carried: Carried,
    functions: Mapping[str, str | None],
) -> list[Difference]:
    """Let the user's function carry the reference's weights over; return what it put elsewhere."""
    if not functions.get("convert"):
        return []
    native, out = left.program.path("native"), right.program.path("converted")
    left.program.ask("native", out=native)
    rng = np.random.default_rng(0)  # what it leaves as it is shall be seen
    right.fill({name: rng.uniform(0.5, 1, a.shape) for name, a in carried.right.items()})
    right.filled()
    right.program.ask("convert", reference=functions["convert"], given=native, out=out)
    seen = Split(Stored(out), right.graph, right.parts)
    right.fill(carried.right)
    right.filled()
    return judge_conversion(left.graph, right.graph, alignment, carried.right, seen)


def _bench(left: Side, right: Side) -> Bench | None:
    """Return the side in torch, on which experiments are made; None where neither is."""
    in_torch = [s for s in (right, left) if s.program.about["framework"].startswith("torch")]
    if not in_torch:
        return None
    side = in_torch[0]

    def run(swaps: dict[str, str], **how: Any) -> Arrays:
        side.start(**how, swaps={**side.swaps, **swaps})
        try:
            return side.seen()
        except CheckError:  # a variant that this call does not take; it explains nothing
            return {}

    return Bench(
        side is right,
        side.graph,
        lambda swaps: run(swaps, given=side.forced, alone=False),
        lambda swaps: run(swaps, **side.trained),
        side.vary,
    )
