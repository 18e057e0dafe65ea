"""`portproof` asked about this pipeline's two pairs, with mutants planted or without.

The tutorial's network is one. The other has layers and an optimizer that this has not: strided
convolutions, BatchNorm, average pooling, AdamW with a schedule and global-norm clipping.
"""

from functools import partial

from ladder.causes import Diagnosis
from pipeline.engines import ENGINES
from portproof import CheckError, Difference, Verdict, check

PAIRS = "parity_tests.pairs"
KERAS, LIGHTNING = "keras", "lightning"


def check_tutorial(engine: str, mutant: str = "", variant: str = "base") -> Verdict:
    """Check the tutorial's pair strictly: settings, first weights and the conversion count, too.

    Args:
        engine: `lightning`, or the Keras engine that is compared with it.
        mutant: what is planted in it; see `parity_tests/mutants`.
        variant: of the network.

    Raises:
        CheckError: a side fails.
    """
    changed = f"{variant}__{mutant.replace('-', '_')}" if mutant else variant
    is_torch = engine == LIGHTNING
    other = "keras-tensorflow" if is_torch else engine
    asked = partial(
        check,
        f"{PAIRS}.tutorial_keras:{variant if is_torch else changed}",
        f"{PAIRS}.tutorial_lightning:{changed if is_torch else variant}",
        ["28,28,1"],
        backend=other.removeprefix("keras-"),
        reference_python=ENGINES[other].find_python().path,
        suspect_python=ENGINES[LIGHTNING].find_python().path,
        strict=True,
    )
    try:
        return asked(
            batches=f"{PAIRS}.tutorial_keras:batches",
            convert=f"{PAIRS}.tutorial_lightning:converted",
        )
    except CheckError:
        if not mutant:
            raise
    return asked()  # weights of other shapes are not converted, nor trained


def why(engine: str, mutant: str = "", variant: str = "base") -> Diagnosis | None:
    """Return the first cause that `portproof` names in the tutorial's pair; None if it names none.

    A setting of one side alone is named by itself, and where numbers part, what makes them equal.
    Keras comes first in it, and is portproof's reference.

    Raises:
        CheckError: a side fails.
    """
    verdict = check_tutorial(engine, mutant, variant)
    found = first_apart(verdict)
    if found is None or not found.cause:
        found = next((d for d in verdict.differences if d.fails and d.gap is None), None)
    if found is None:
        return None
    cause = found.cause or f"{found.what} {found.left} | {found.right}"
    for side, name in (("the reference", "Keras"), ("the suspect", "Lightning")):
        cause = cause.replace(side, name)
    rule = "" if found.fails else "a rule of the frameworks: "
    where = " | ".join(dict.fromkeys((found.places[0].left, found.places[0].right)))
    return Diagnosis(rule + cause, where, "")


def check_strided(engine: str, mutant: str = "", variant: str = "") -> Verdict:
    """Check the second pair in `variant`, with a mutant planted in `engine` if one is named.

    Args:
        engine: `lightning`, or the Keras engine that is compared with it.
        mutant: a function of the side's mutants; it brings what `variant` changes along.
        variant: a function that both sides' mutants have.

    Raises:
        CheckError: a side fails.
    """
    is_torch = engine == LIGHTNING
    return check(
        _strided(KERAS, variant if is_torch else mutant or variant),
        _strided(LIGHTNING, mutant or variant if is_torch else variant),
        ["16,16,3"],
        batches=f"{PAIRS}.strided_keras:batches",
        backend="tensorflow" if is_torch else engine.removeprefix("keras-"),
    )


def _strided(side: str, change: str) -> str:
    """Return `module:function` of the model of a side, or of one of its mutants."""
    if change:
        return f"{PAIRS}.mutants_{side}:{change.replace('-', '_')}"
    return f"{PAIRS}.strided_{side}:build"


def first_apart(verdict: Verdict) -> Difference | None:
    """Return the first difference in numbers; only if there is no other, one of the frameworks."""
    apart = [each for each in verdict.differences if each.gap is not None]
    return min(apart, key=lambda each: not each.fails, default=None)
