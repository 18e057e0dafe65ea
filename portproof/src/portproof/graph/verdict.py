"""What a check found: differences, grouped, and whether the two models compute the same."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from portproof.graph.gaps import Gap

ALREADY = "differ already"
"""At the end of a step's detail, where what comes before the step differs."""


@dataclass(frozen=True)
class Place:
    """Where a difference stands."""

    left: str
    right: str
    gap: float | None = None
    """Relative to the reference's largest number there; None where nothing was measured."""


@dataclass
class Difference:
    """One difference, with all the places where it is the same."""

    what: str
    """`strides`, `epsilon`, `between`, `parameters`, `unmatched`, `gradients`, …"""
    kind: str
    """The kind of call, `output`, or the operation."""
    left: str
    right: str
    effect: str
    """`output`, `training`, `weights` that a conversion puts wrongly, or `none` where it changes no
    number of what was asked."""
    places: list[Place] = field(default_factory=list)
    cause: str | None = None
    """What was made equal for the gap to vanish; None: unknown."""
    is_rule: bool = False
    """The framework's and not the port's, found by trying it: a constant rounded to float32, or
    the n/(n − 1) of torch's moving variance."""
    detail: str = ""

    @property
    def gap(self) -> float | None:
        """The largest gap of its places."""
        sizes = [p.gap for p in self.places if p.gap is not None]
        return max(sizes) if sizes else None

    @property
    def fails(self) -> bool:
        """Whether the two models do not compute the same because of it."""
        return self.effect != "none" and not self.is_rule


class PortError(AssertionError):
    """Two models that do not compute the same."""


@dataclass
class Verdict:
    """What was asked, what was compared, and what differs."""

    reference: str
    suspect: str
    frameworks: tuple[str, str]
    asked: list[str]
    inputs: list[str]
    matched: int
    calls: tuple[int, int]
    counts: tuple[dict[str, int], dict[str, int]]
    """By side: what the framework counts, and what was compared of it."""
    differences: list[Difference]
    outputs: dict[str, Gap]
    """End-to-end gaps by batch and output."""
    first: tuple[str, str, Gap] | None
    """The first call at which the two part, from the inputs on."""
    rounding: float
    """The largest gap that is rounding, in a call or a stretch."""
    gradient: float | None
    """The largest gap of gradients that is rounding."""
    whole_gradient: Gap | None
    """The largest gap of gradients through the whole model."""
    settled: tuple[Gap, Gap | None] | None = None
    """Outputs, and gradients and statistics, with the frameworks' rules made equal in both."""
    strict: bool = False
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    memory: tuple[float, float] = (0.0, 0.0)
    """Largest memory of each side's program, in GB."""

    @property
    def declarations(self) -> list[Difference]:
        """Differences that change no number of what was asked, and rules of the frameworks."""
        return [d for d in self.differences if not d.fails]

    @property
    def failures(self) -> list[Difference]:
        """Differences in the computation."""
        return [d for d in self.differences if d.fails]

    @property
    def passed(self) -> bool:
        """Whether the suspect computes what the reference does, in all that was asked."""
        return not self.failures and not (self.strict and self.declarations)

    def raise_for_difference(self) -> None:
        """Raise where the two models do not compute the same.

        Raises:
            PortError: with the whole verdict as text.
        """
        if not self.passed:
            from portproof.graph.text import verdict_text

            raise PortError("\n" + verdict_text(self))

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON holds it; gaps that are no numbers are None, with a text."""
        found = asdict(self)
        found["passed"] = self.passed
        for made, difference in zip(found["differences"], self.differences, strict=True):
            made["fails"] = difference.fails
            made["gap"] = difference.gap
        return _finite(found)

    def __str__(self) -> str:
        """Return the verdict as text."""
        from portproof.graph.text import verdict_text

        return verdict_text(self)


def _finite(value: Any) -> Any:
    """Return a value with None for NaN and infinities, which JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


MANY_RATES = 4
"""Differences of dropout rates that are said in one."""


def joined_rates(differences: list[Difference]) -> list[Difference]:
    """Return differences with dropout in one, where its rates grow from block to block."""
    rates = [d for d in differences if d.what == "dropout"]
    if len(rates) < MANY_RATES:
        return differences
    sides: list[str] = []
    for texts in ([d.left for d in rates], [d.right for d in rates]):
        each = {n.split()[0] for text in texts for n in text.split(", ")} - {"none"}
        found = sorted(map(float, each))
        ends = dict.fromkeys(found[:1] + found[-1:])
        sides.append(" … ".join(f"{r:g}" for r in ends) or "none")
    places = [p for d in rates for p in d.places]
    first = rates[0]
    left, right = sides
    whole = Difference("dropout", "call", left, right, first.effect, places, detail=first.detail)
    return [whole if d is first else d for d in differences if d is first or d.what != "dropout"]
