"""From two functions that return models to a verdict on whether they compute the same."""

import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from portproof.graph.align import nearest
from portproof.graph.calls import Graph
from portproof.graph.conclude import conclude, is_at
from portproof.graph.inputs import InputSpec, inputs_of_batch
from portproof.graph.verdict import Difference, PortError, Verdict
from portproof.passes import run_passes
from portproof.programs import CheckError, Program, answers, environments
from portproof.stored import Stored, save
from portproof.training import even_shares

__all__ = ["DEPTHS", "CheckError", "Difference", "PortError", "Verdict", "check"]

DEPTHS = ("forward", "gradients", "steps")
"""How far a check can go, each with what comes before it."""
_LONGEST = 7 * 24 * 3600.0
"""Seconds that a step of a program may be given at most."""
_KINDS = frozenset([
    "NaN", "augmentation", "batches", "between", "biases", "call", "computed weights",
    "conversion", "count", "dropout", "first weights", "frozen", "gradients", "loss", "metric",
    "momentum", "output", "padding_idx", "parameters", "shape", "sharing", "statistics", "steps",
    "training mode", "unmatched", "unused weights", "update", "uses", "zero",
])  # fmt: skip
"""Kinds of differences that have no setting's name."""


def check(
    reference: str,
    suspect: str,
    inputs: Sequence[str],
    *,
    upto: str | None = None,
    batches: str | None = None,
    suspect_batches: str | None = None,
    suspect_processes: int | None = None,
    convert: str | None = None,
    backend: str = "tensorflow",
    reference_python: str | None = None,
    suspect_python: str | None = None,
    pairs: Sequence[tuple[str, str]] = (),
    timeout: float = 600.0,
    strict: bool = False,
    accept: Sequence[str] = (),
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Verdict:
    """Compare two models call by call, with weights drawn at random and carried over.

    Args:
        reference: `module:function` or `file.py:function`; the function takes nothing and
            returns a Keras 3 model, an `nn.Module` or a LightningModule.
        suspect: the same for the port.
        inputs: for each input its sizes behind the batch axis, channels last: `64,64,3`; for
            integers below 20000 `int20000:128`; `int20000pad:128` where 0 stands behind alone;
            `ids=int20000:128` for one that goes in by name. Where there are none, they are like
            those of `batches`.
        upto: `forward`, `gradients` (training mode: gradients and moving statistics), or `steps`
            (training by `fit` and `Trainer.fit` with the models' own losses and optimizers); by
            default `steps` with `batches` and `gradients` without.
        batches: for `steps`: `module:function` that returns (inputs, targets) in NumPy for each.
        suspect_batches: one that returns what the port's own loader gives, to be compared.
        suspect_processes: how many processes train the suspect by `Trainer.fit`, at least 2, each
            on its share of each batch's rows; 1 by default.
        convert: one that takes the reference's weights by path, and the module, and fills it.
        backend: Keras's: `tensorflow`, `jax` or `torch`.
        reference_python: the reference's interpreter; this one by default.
        suspect_python: the suspect's.
        pairs: owners (layer, module) that belong together, where names must settle it.
        timeout: seconds that one step of a program may take.
        strict: whether differences without effect fail too.
        accept: places or kinds of differences that are known and wanted, as in the text.
        seed: of weights and inputs.
        progress: told in a few words what is done.

    Raises:
        CheckError: it cannot be checked as asked for: one line says why.
    """
    upto = upto or ("gradients" if batches is None else "steps")
    inputs = [inputs] if isinstance(inputs, str) else inputs
    accept = [accept] if isinstance(accept, str) else accept
    for is_wrong, message in (
        (upto not in DEPTHS, f"`upto` must be one of {', '.join(DEPTHS)}; received {upto!r}"),
        (
            batches is None and suspect_batches is not None,
            "--suspect-batches is compared with --batches, which is not there",
        ),
        (
            batches is None and suspect_processes is not None,
            "--suspect-processes trains on --batches module:function, which is not there",
        ),
        (
            (upto == "steps") != (batches is not None),
            "--batches module:function asks for training steps: give it without --upto",
        ),
        (
            suspect_processes is not None and suspect_processes < 2,
            f"`suspect_processes` must be at least 2; received {suspect_processes}",
        ),
        (
            not 0 < timeout <= _LONGEST,
            f"`timeout` must be above 0 and at most {_LONGEST:g}; received {timeout}",
        ),
        (seed < 0, f"`seed` must be at least 0; received {seed}"),
        (not inputs and batches is None, "no input shape: add --input 64,64,3 for each input"),
    ):
        if is_wrong:
            raise CheckError(message)
    try:
        specs = [InputSpec.parse(text) for text in inputs]
    except ValueError as error:
        raise CheckError(str(error)) from error
    names = [spec.name for spec in specs]
    if any(names) and ("" in names or len(set(names)) < len(names)):
        raise CheckError("--input: give each input a name of its own, or none")
    asked = list(DEPTHS[: DEPTHS.index(upto) + 1])
    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="portproof-")))
        progress("starting both programs")

        def start(side: str, function: str, python: str | None, **place: str) -> Program:
            python = python or sys.executable
            program = Program(side, function, python, backend, folder, timeout, place)
            return stack.enter_context(program)

        count = suspect_processes or 1
        places = environments(count) if count > 1 else [{}]
        left = start("reference", reference, reference_python)
        right = start("suspect", suspect, suspect_python, **places[0])
        others = [start(f"suspect, process {r}", suspect, suspect_python, **places[r])
                  for r in range(1, count)]  # fmt: skip
        programs = [left, right, *others]
        _open(programs)
        framework = right.about["framework"]
        if count > 1 and not framework.startswith("torch"):
            raise CheckError("--suspect-processes: the suspect must be a LightningModule; "
                             f"received a model of {framework}")  # fmt: skip
        shares: list[str] = []
        functions = {"suspect_batches": suspect_batches, "convert": convert}
        if batches is not None:
            functions["batches"] = file = left.path("batches")
            left.ask("batches", reference=batches, out=file)
            given = Stored(file)
            specs = _in_order(specs, given)
            shares = [file]
            if count > 1 and suspect_batches is None:
                shares = [save(right.path("share"), s) for s in even_shares(given, count)]
        found = run_passes(programs, specs, asked, pairs, seed, folder, progress, functions, shares)
        verdict = conclude(
            (reference, suspect),
            (left.about["framework"], right.about["framework"]),
            (found.left, found.right),
            found.alignment,
            found.carried.differences,
            found.judged,
            asked,
            [str(spec) for spec in specs],
            strict,
            accept,
        )
        verdict.notes += _without_effect(accept, verdict, (found.left, found.right))
        verdict.memory = (left.memory, right.memory)
    verdict.seconds = time.monotonic() - began
    return verdict


def _open(programs: Sequence[Program]) -> None:
    """Let the programs build their models, at once: the suspect's processes may join each other."""
    for program in programs:
        program.send("open", reference=program.reference)
    left, *ranks = programs
    left.about = left.answer()
    for program, about in zip(ranks, answers(ranks), strict=True):
        program.about = about


def _in_order(specs: Sequence[InputSpec], batches: Stored) -> list[InputSpec]:
    """Return specifications in the order of the batches' inputs; like these where none is given.

    Raises:
        CheckError: their names are not those of the batches' inputs.
    """
    names = [name for name, _ in inputs_of_batch(batches, 0)]
    if not specs:
        return [_like(batches, i, name) for i, name in enumerate(names)]
    if sorted(spec.name for spec in specs) != sorted(names) and any(names):
        raise CheckError(f"--input: name them as --batches does: {', '.join(names)}")
    return sorted(specs, key=lambda spec: names.index(spec.name)) if any(names) else list(specs)


def _like(batches: Stored, i: int, name: str) -> InputSpec:
    """Return the specification of input `i` of the batches."""
    arrays = [a for key, a in batches.items() if re.match(rf"x\.\d+\.{i}(\.|$)", key)]
    is_real = arrays[0].dtype.kind == "f"
    classes = None if is_real else 1 + max(1, *(int(a.max()) for a in arrays))
    return InputSpec(arrays[0].shape[1:], classes, name=name)


def _without_effect(
    accept: Sequence[str], verdict: Verdict, graphs: tuple[Graph, Graph]
) -> list[str]:
    """Return notes on what a user accepts and no difference needed.

    Raises:
        CheckError: there is neither such a kind of difference nor such a layer.
    """
    calls = [call for graph in graphs for call in graph.calls]
    kinds = _KINDS.union(*(c.settings for c in calls), (d.what for d in verdict.differences))
    owners = {c.owner for c in calls} | {name for g in graphs for name, _ in g.uncovered}
    owners |= {name for d in verdict.differences for p in d.places for name in (p.left, p.right)}
    notes = []
    for name in accept:
        if name not in kinds and not any(is_at(owner, name) for owner in owners):
            hint = nearest(name, kinds | owners)
            raise CheckError(f"--accept {name}: no such difference and no such layer{hint}")
        used = (
            d.what == name or any(is_at(n, name) for p in d.places for n in (p.left, p.right))
            for d in verdict.differences
            if d.detail.startswith("accepted")
        )
        if not any(used):
            notes.append(f"--accept {name}: nothing there to accept")
    return notes
