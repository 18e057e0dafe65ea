"""The passes of a check between two running programs: record, fill, replay, differentiate."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from portproof.explain import Bench, Explanation
from portproof.graph.align import Alignment, align, parameters_to_open
from portproof.graph.calls import Graph
from portproof.graph.carry import Carried, carry, draw
from portproof.graph.compare import Judge, Judged, Replays
from portproof.graph.first import frozen_values, judge_first
from portproof.graph.gaps import fitted
from portproof.graph.inputs import EDGE_ROWS, InputSpec
from portproof.graph.users import judge_conversion
from portproof.graph.verdict import Difference, Place
from portproof.programs import CheckError, Program, answers
from portproof.sides import BATCHES, ROWS, Arrays, Side
from portproof.stored import save
from portproof.training import Training

SCALES = (1.0, 0.3, 0.1)
"""Of drawn kernels: smaller ones where outputs are the same for every sample."""


@dataclass
class Passes:
    """What all passes found."""

    left: Graph
    right: Graph
    alignment: Alignment
    carried: Carried
    judged: Judged


def run_passes(
    programs: Sequence[Program],
    specs: Sequence[InputSpec],
    asked: Sequence[str],
    named: Sequence[tuple[str, str]],
    seed: int,
    folder: Path,
    progress: Callable[[str], None],
    functions: Mapping[str, str | None],
    shares: Sequence[str] = (),
) -> Passes:
    """Compare two models whose programs are open.

    Args:
        programs: the reference's and the suspect's; behind them the suspect's other processes.
        specs: of the inputs.
        asked: `forward`, and `gradients` where they are wanted.
        named: owners that belong together.
        seed: of weights and inputs.
        folder: where inputs are written.
        progress: told what is done.
        functions: the user's own: `suspect_batches` of the port's loader, `convert` that carries
            weights over; and `batches` to train on, a file of the arrays that one gave.
        shares: of the batches, a file for each of the suspect's processes.

    Raises:
        CheckError: a program fails, or the models cannot be compared as they are.
    """
    progress("recording calls")
    left, right, *others = _recorded(programs, specs, seed, folder)
    try:
        alignment = align(left.graph, right.graph, named)
    except ValueError as error:
        raise CheckError(str(error)) from error
    if opened := parameters_to_open(left.graph, right.graph, alignment):
        alignment = _opened(left, [right, *others], named, opened, alignment)
    first = (left.first(), right.first())
    frozen = frozen_values(left.graph, right.graph, alignment, *first)
    progress("replaying")
    carried, judge = _filled(left, [right, *others], alignment, opened, seed, asked, first)
    replays = judge.replays
    judge.found.differences[:0] = _conversion(left, right, alignment, carried, functions)
    judge.add_all(*frozen)
    bench = _bench(left, right, alignment.compared, replays.left)
    of = (left.graph, right.graph, alignment.compared, judge.found, replays, carried.left)
    explanation = bench and Explanation(bench, *of)
    if explanation and (judge.found.calls_apart or judge.is_apart_between):
        progress("trying causes")
        constants = explanation.forward()
        if constants:
            (right if explanation.bench.is_suspect else left).swaps = constants
            _settle(left, right, replays)
    judge.outputs_settled()
    if "gradients" in asked:
        progress("gradients")
        _gradients(left, right, alignment, replays)
        judge.gradients(lambda i: _acts(left, carried, replays, i))
        judge.add_all(_buffers(replays), [])
        judge.add_all(*judge_first(left.graph, right.graph, alignment, *first))
        if explanation and judge.has_trained_otherwise:
            rules = explanation.training()
            if rules:
                right.swaps = {**right.swaps, **rules}
                right.start(train=True)
                replays.right_whole = right.seen()
                judge.found.whole_settled = judge.whole()
    if batches := functions.get("batches"):
        progress("training")
        training = Training(left, [right, *others], alignment, carried, batches, *shares)
        loader = functions.get("suspect_batches")
        steps = training.take_batches(loader) if loader else []
        parted, said = training.judge()
        judge.add_all(steps + parted, said)
    return Passes(left.graph, right.graph, alignment, carried, judge.found)


def _recorded(
    programs: Sequence[Program], specs: Sequence[InputSpec], seed: int, folder: Path
) -> list[Side]:
    files = {}
    for _, rows in BATCHES:
        rng = np.random.default_rng([seed, rows])
        drawn = {
            f"x{i}": spec.draw_edges(rng) if rows == EDGE_ROWS else spec.draw(rows, rng)
            for i, spec in enumerate(specs)
        }
        files[rows] = save(str(folder / f"inputs-{rows}.npz"), drawn)
    for program in programs:
        named = [spec.name for spec in specs if spec.name]
        program.send("describe", given=files[ROWS], named=named)
    sides = [
        Side(program, files, Graph.from_dict(program.answer()["graph"])) for program in programs
    ]
    left, right, *others = sides
    shapes = [[o.shape for o in graph.outputs] for graph in (left.graph, right.graph)]
    turned = [k for k, (a, b) in enumerate(zip(*shapes, strict=False))
              if a != b and a == [*b[:1], *b[2:], *b[1:2]]]  # fmt: skip
    if turned:  # maps whose channels were not followed
        for side in (right, *others):
            side.program.send("describe", given=files[ROWS], turned=turned)
        for side, found in zip((right, *others), answers(programs[1:]), strict=True):
            side.graph = Graph.from_dict(found["graph"])
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
    for side in (right, *others):
        side.split(whole)
    return sides


def _opened(
    left: Side,
    ranks: Sequence[Side],
    named: Sequence[tuple[str, str]],
    opened: Mapping[str, Sequence[int]],
    alignment: Alignment,
) -> Alignment:
    """Let parameters of the suspect be weights used by themselves, if more calls match then."""
    for names in (opened, {}):
        for side in ranks:
            side.program.send("describe", given=left.files[ROWS], opened=dict(names))
        try:
            made = answers([side.program for side in ranks])
        except CheckError:  # a function that does not take them so
            if not names or len(ranks) > 1:
                raise
            continue
        graphs = [Graph.from_dict(found["graph"]) for found in made]
        for side, graph in zip(ranks, graphs, strict=True):
            side.graph = graph
            side.split(left.graph)
        found = align(left.graph, ranks[0].graph, named)
        if not names or len(found.pairs) > len(alignment.pairs):
            return found
    raise AssertionError("the second one returns")


def _filled(
    left: Side,
    ranks: Sequence[Side],
    alignment: Alignment,
    opened: Mapping[str, Sequence[int]],
    seed: int,
    asked: Sequence[str],
    first: tuple[Arrays, Arrays],
) -> tuple[Carried, Judge]:
    """Draw weights that tell samples apart, fill both models, and judge them in evaluation."""
    for scale in SCALES:
        draw = partial(carry, alignment=alignment, seed=seed, scale=scale, own=first)
        carried = draw(left.graph, ranks[0].graph)
        left.fill(carried.left)
        ranks[0].fill(carried.right)
        judge = _judged(left, ranks[0], alignment, asked)
        if not judge.is_in_vain:
            break
    if judge.is_apart_between and ranks[0].graph.about.get("unfolds"):
        return _unfolded(left, ranks, alignment, opened, draw, judge)
    return carried, judge


def _judged(left: Side, right: Side, alignment: Alignment, asked: Sequence[str]) -> Judge:
    replays = _replays(left, right, alignment)
    judge = Judge(left.graph, right.graph, alignment, replays, list(asked))
    judge.forward()
    return judge


def _unfolded(
    left: Side,
    ranks: Sequence[Side],
    alignment: Alignment,
    opened: Mapping[str, Sequence[int]],
    draw: Callable[[Graph, Graph], Carried],
    judge: Judge,
) -> tuple[Carried, Judge]:
    """Let features that the suspect cuts into maps be those of channels last, if less parts then.

    Returns:
        The weights carried over, and what was judged.
    """
    for unfold in (True, False):
        for side in ranks:
            how = {"opened": dict(opened), "unfold": unfold}
            side.program.send("describe", given=left.files[ROWS], **how)
        for side, found in zip(ranks, answers([side.program for side in ranks]), strict=True):
            side.graph = Graph.from_dict(found["graph"])
            side.split(left.graph)
        carried = draw(left.graph, ranks[0].graph)
        ranks[0].fill(carried.right)
        if unfold:
            again = _judged(left, ranks[0], alignment, judge.asked)
            if _parting(again) < _parting(judge):
                names = ", ".join(ranks[0].graph.about["unfolds"])
                again.add_all([], [f"{names}: features as in the maps that are made of them, which "
                                   "the suspect has channels first"])  # fmt: skip
                return carried, again
    return carried, judge


def _parting(judge: Judge) -> tuple[int, float]:
    """Return how many stretches part, and by how much in sum."""
    sizes = [place.gap or 0.0 for d in judge.found.differences if d.what == "between"
             for place in d.places]  # fmt: skip
    return len(sizes), sum(size for size in sizes if np.isfinite(size))


def _replays(left: Side, right: Side, alignment: Alignment) -> Replays:
    left.start()
    right.start()
    reference, free = left.seen(), right.seen()
    right.forced = right.give(_handed_on(right.graph, alignment.compared, reference), free)
    right.start(given=right.forced)
    paired = {f"out.{i}": reference[f"out.{i}"] for i in alignment.compared}
    left.forced = left.give(paired, reference)
    replays = Replays(reference, free, right.seen())
    for name, rows in BATCHES[1:]:
        left.start(rows, outputs_only=True)
        right.start(rows, outputs_only=True)
        replays.smaller.append((name, left.seen(), right.seen()))
    return replays


def _handed_on(
    suspect: Graph, pairs: Mapping[int, int], reference: Arrays
) -> dict[str, np.ndarray]:
    """Return the reference's numbers, `in.j` and `out.j`, as the suspect's calls take them."""
    given: dict[str, np.ndarray] = {}
    for i, j in pairs.items():
        call = suspect.calls[j]
        given[f"out.{j}"] = fitted(reference[f"out.{i}"], call.out_shape)
        given[f"in.{j}"] = fitted(reference[f"in.{i}"], call.in_shape)
    return given


def _settle(left: Side, right: Side, replays: Replays) -> None:
    """Run both from the inputs on once more, with the constants that were found in both."""
    for name, rows in BATCHES:
        left.start(rows, outputs_only=rows != ROWS)
        right.start(rows, outputs_only=rows != ROWS)
        replays.settled.append((name, left.seen(), right.seen()))


def _gradients(left: Side, right: Side, alignment: Alignment, replays: Replays) -> None:
    """Differentiate both in training mode, with the reference's numbers handed on and without."""
    pairs = alignment.compared
    seeds = ({i: i for i in pairs}, {j: i for i, j in pairs.items()})
    for side, of in zip((left, right), seeds, strict=True):
        side.trained = {"given": side.forced, "train": True, "seeds": side.seeds(of)}
        side.start(**side.trained)
    replays.left_train, replays.right_train = left.seen(), right.seen()
    for side in (left, right):
        side.start(train=True)
    replays.left_whole, replays.right_whole = left.seen(), right.seen()


def _acts(left: Side, carried: Carried, replays: Replays, i: int) -> bool:
    """Return whether the reference gives other outputs with other weights in a call."""
    call = left.graph.calls[i]
    rng = np.random.default_rng([i, 1, 1])  # of no weights that were drawn before
    others = {f"{call.key}|{role}": draw(role, tuple(n), rng) for role, n in call.roles.items()}
    left.fill({**carried.left, **others})
    left.start(outputs_only=True)
    seen = left.seen()
    left.fill(carried.left)
    names = [f"final.{k}" for k in range(len(left.graph.outputs))]
    return any(not np.array_equal(seen[name], replays.left[name]) for name in names)


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
    before = {name: rng.uniform(0.5, 1, a.shape) for name, a in carried.right.items()}
    right.fill(before)
    right.program.ask("convert", reference=functions["convert"], given=native, out=out)
    right.fill(carried.right)
    seen = right.read(out)
    return judge_conversion(left.graph, right.graph, alignment, carried.right, before, seen)


def _buffers(replays: Replays) -> list[Difference]:
    """Report what training moves on one side alone, beside statistics, and evaluation goes by."""
    ours, theirs = (
        set(a["buffers"].tolist() if "buffers" in a else [])
        for a in (replays.left_train, replays.right_train)
    )
    if ours == theirs:
        return []
    left, right = (", ".join(sorted(names)) or "none" for names in (ours, theirs))
    place = Place("the model", "the model")
    detail = "training moves them, and evaluation goes by them; no call of a known kind does"
    return [
        Difference("buffers", "moved in training", left, right, "training", [place], detail=detail)
    ]


def _bench(left: Side, right: Side, pairs: Mapping[int, int], reference: Arrays) -> Bench | None:
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

    def exchanged(others: Mapping[int, int]) -> Arrays:
        given = _handed_on(right.graph, pairs, reference)
        given |= {f"out.{j}": given[f"out.{other}"] for j, other in others.items()}
        return run({}, given=right.give(given), alone=False)

    return Bench(
        side is right,
        side.graph,
        lambda swaps: run(swaps, given=side.forced, alone=False),
        lambda swaps: run(swaps, **side.trained),
        side.vary,
        exchanged,
    )
