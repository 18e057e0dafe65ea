"""From two functions that return models to a verdict on whether they compute the same."""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from portproof.graph.conclude import conclude
from portproof.graph.inputs import InputSpec
from portproof.graph.verdict import PortError, Verdict
from portproof.passes import run_passes
from portproof.programs import CheckError, Program, interpreter

__all__ = ["DEPTHS", "CheckError", "PortError", "Verdict", "check"]

DEPTHS = ("forward", "gradients", "steps")
"""How far a check can go, each with what comes before it."""


def check(
    reference: str,
    suspect: str,
    inputs: Sequence[str],
    *,
    upto: str = "gradients",
    batches: str | None = None,
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
            integers below 20000 `int20000:128`.
        upto: `forward`, `gradients` (training mode: gradients and moving statistics), or `steps`
            (training by `fit` and `Trainer.fit` with the models' own losses and optimizers).
        batches: for `steps`: `module:function` that returns (inputs, targets) in NumPy for each.
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
        found = run_passes((left, right), specs, asked, pairs, seed, folder, progress, batches)
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
        verdict.memory = (left.ask("memory")["gb"], right.ask("memory")["gb"])
    verdict.seconds = time.monotonic() - began
    return verdict
