"""The second pair: layers and an optimizer that the tutorial's network has not.

Strided convolutions, BatchNorm, average pooling, AdamW with a schedule and global-norm clipping.
`portproof` is asked about it, as about anybody's pair.
"""

from portproof.graph.verdict import Difference

from portproof import Verdict, check

PAIRS = "parity_tests.pairs"
KERAS, LIGHTNING = "keras", "lightning"


def model_of(side: str, change: str = "") -> str:
    """Return what builds a side, changed as the function of this name in its mutants does."""
    if change:
        return f"{PAIRS}.mutants_{side}:{change.replace('-', '_')}"
    return f"{PAIRS}.strided_{side}:build"


def check_strided(engine: str, mutant: str = "", variant: str = "") -> Verdict:
    """Check the pair in `variant`, with a mutant planted in `engine` if one is named.

    Args:
        engine: `lightning`, or the Keras engine that is compared with it.
        mutant: a function of the side's mutants; it brings what `variant` changes along.
        variant: a function that both sides' mutants have.

    Raises:
        CheckError: a side fails.
    """
    is_torch = engine == LIGHTNING
    return check(
        model_of(KERAS, variant if is_torch else mutant or variant),
        model_of(LIGHTNING, mutant or variant if is_torch else variant),
        ["16,16,3"],
        batches=f"{PAIRS}.strided_keras:batches",
        backend="tensorflow" if is_torch else engine.removeprefix("keras-"),
    )


def first_apart(verdict: Verdict) -> Difference | None:
    """Return the first difference in numbers; only if there is no other, one of the frameworks."""
    apart = [each for each in verdict.differences if each.gap is not None]
    return min(apart, key=lambda each: not each.fails, default=None)
