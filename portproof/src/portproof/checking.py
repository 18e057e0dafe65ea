"""From two functions that return models to a verdict on whether they compute the same."""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from portproof.graph.align import nearest
from portproof.graph.calls import Graph
from portproof.graph.conclude import conclude, is_at
from portproof.graph.inputs import InputSpec
from portproof.graph.verdict import PortError, Verdict
from portproof.passes import run_passes
from portproof.programs import CheckError, Program, interpreter

__all__ = ["DEPTHS", "CheckError", "PortError", "Verdict", "check"]

DEPTHS = ("forward", "gradients", "steps")
"""How far a check can go, each with what comes before it."""
_LONGEST = 7 * 24 * 3600.0
"""Seconds that a step of a program may be given at most."""
_KINDS = frozenset(
    [
        "NaN",
        "augmentation",
        "batches",
        "between",
        "biases",
        "call",
        "computed weights",
        "conversion",
        "count",
        "dropout",
        "first weights",
        "frozen",
        "gradients",
        "loss",
        "metric",
        "momentum",
        "output",
        "padding_idx",
        "parameters",
        "shape",
        "sharing",
        "statistics",
        "steps",
        "training mode",
        "unmatched",
        "unused weights",
        "update",
        "zero",
    ]
)
"""Kinds of differences that have no setting's name."""


def check(
    reference: str,
    suspect: str,
    inputs: Sequence[str],
    *,
    upto: str = "gradients",
    batches: str | None = None,
    suspect_batches: str | None = None,
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
            integers below 20000 `int20000:128`; `int20000pad:128` where 0 stands behind alone.
        upto: `forward`, `gradients` (training mode: gradients and moving statistics), or `steps`
            (training by `fit` and `Trainer.fit` with the models' own losses and optimizers).
        batches: for `steps`: `module:function` that returns (inputs, targets) in NumPy for each.
        suspect_batches: one that returns what the port's own loader gives, to be compared.
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
    if upto not in DEPTHS:
        raise CheckError(f"`upto` must be one of {', '.join(DEPTHS)}; received {upto!r}")
    if (upto == "steps") != (batches is not None):
        raise CheckError("--upto steps and --batches module:function go together")
    if suspect_batches is not None and batches is None:
        raise CheckError("--suspect-batches is compared with --batches, which is not there")
    if not 0 < timeout <= _LONGEST:
        raise CheckError(f"`timeout` must be above 0 and at most {_LONGEST:g}; received {timeout}")
    if seed < 0:
        raise CheckError(f"`seed` must be at least 0; received {seed}")
    inputs = [inputs] if isinstance(inputs, str) else inputs
    accept = [accept] if isinstance(accept, str) else accept
    if not inputs:
        raise CheckError("no input shape: add --input 64,64,3 for each input")
    try:
        specs = [InputSpec.parse(text) for text in inputs]
    except ValueError as error:
        raise CheckError(str(error)) from error
    asked = list(DEPTHS[: DEPTHS.index(upto) + 1])
    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="portproof-")))
        progress("starting both programs")
        left, right = (
            stack.enter_context(Program(side, ref, interpreter(python), backend, folder, timeout))
            for side, ref, python in (
                ("reference", reference, reference_python),
                ("suspect", suspect, suspect_python),
            )
        )
        for program in (left, right):
            program.open()
        for program in (left, right):
            program.opened()
        functions = {"batches": batches, "suspect_batches": suspect_batches, "convert": convert}
        found = run_passes((left, right), specs, asked, pairs, seed, folder, progress, functions)
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
        verdict.memory = (left.ask("memory")["gb"], right.ask("memory")["gb"])
    verdict.seconds = time.monotonic() - began
    return verdict


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
