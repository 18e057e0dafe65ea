"""Causes of gradients that part where a function has none: pools' ties and slopes at zero."""

from collections.abc import Sequence

import numpy as np

from ladder.causes.fits import (
    agree,
)
from ladder.causes.formulas import TIE_RULES, Row, Run, pool_views
from ladder.causes.gradients import (
    TIE_WORDS,
    WEIGHTED,
    Recomputed,
    are_gradients,
    fit_gradients,
    recompute,
    shared_names,
)
from ladder.causes.reading import (
    join,
)
from ladder.causes.registry import Diagnosis, Evidence, Rank, detects


@detects("max-pool-ties", on=("gradients",))
def pool_ties(evidence: Evidence) -> Diagnosis | None:
    """Recognise the rule by which a pool's gradient goes to one of several equal values."""
    if not are_gradients(recompute(evidence)):
        return None
    for rule in TIE_RULES[1:]:
        fitted = fit_gradients(recompute(evidence, rule))
        if fitted:
            where = _tied_pools(recompute(evidence))
            sentence = "where values tie for the largest, the pool's gradient goes to "
            sentence += f"{TIE_WORDS[rule]}, not to the first; {fitted}"
            return Diagnosis("max-pool-ties", join(where), sentence)
    return None


@detects("gradient-at-zero", on=("gradients",))
def gradient_at_zero(evidence: Evidence) -> Diagnosis | None:
    """Recognise activations that pass the whole gradient on where their input is exactly zero."""
    known = recompute(evidence, is_zero_positive=True)
    if not known:
        return None
    fitting = [one for one in known if fit_gradients([one])]
    # In float32, rounding sends some pool's gradient another way in a large batch, in any engine.
    is_double = known[0].case.right[shared_names(known[0].case)[0]].dtype == np.float64
    if not is_double and 2 * len(fitting) >= len(known):
        known = fitting
    fitted = fit_gradients(known)
    if not fitted:
        return None
    where = [
        row["name"]
        for row in known[0].rows
        if row["kind"] in ("leaky_relu", "relu")
        and any((one.ran.inputs[row["name"]] == 0).any() for one in known)
    ]
    words = "where its input is exactly zero, the activation's gradient is 1 and not the slope; "
    return Diagnosis("gradient-at-zero", join(where), f"{words}{fitted}")


def _tied_pools(known: Sequence[Recomputed]) -> list[str]:
    """Return the max pools where values tie, or nearly do, in any case."""
    found = []
    for row in known[0].rows:
        if row["kind"] == "max_pool" and any(_has_ties(row, one.ran) for one in known):
            found.append(row["name"])
    return found


def _has_ties(row: Row, ran: Run) -> bool:
    """Return whether the two largest values of a window are equal to rounding, and not all zero."""
    views, _ = pool_views(row, ran.inputs[row["name"]])
    ordered = np.sort(views, axis=-1)
    near = ordered[..., -1] - ordered[..., -2] <= 1e-12 * np.abs(ordered[..., -1])
    return bool((near & (ordered[..., -1] != 0)).any())


@detects("max-pool-ties", on=("gradients",), rank=Rank.PATTERN)
def gradients_part_at_ties(evidence: Evidence) -> Diagnosis | None:
    """Recognise gradients that part only before a pool with ties, and only in cases with ties."""
    known = recompute(evidence)
    pools = _tied_pools(known)
    if not pools or gradient_at_zero(evidence):
        return None
    names = [row["name"] for row in known[0].rows]
    last = max(names.index(pool) for pool in pools)
    for one in known:
        after, before = _either_side(one, names, last)
        parts = [name for name in before if not agree(one.case.left[name], one.case.right[name])]
        has_ties = any(_has_ties(row, one.ran) for row in one.rows if row["name"] in pools)
        is_after_equal = all(agree(one.case.left[name], one.case.right[name]) for name in after)
        if not after or not is_after_equal or (parts and not has_ties):
            return None
        if parts and not _is_within_routing(one, names[last]):
            return None
    sentence = f"gradients part only before {join(pools)}, where values tie for the largest: "
    sentence += "the gradient goes to another of them"
    return Diagnosis("max-pool-ties", join(pools), sentence)


def _either_side(one: Recomputed, names: list[str], last: int) -> tuple[list[str], list[str]]:
    """Return the parameters after the last pool with ties, and those before it."""
    shared = [name for name in shared_names(one.case) if name != "input"]
    places = {name: names.index(name.rpartition(".")[0]) for name in shared}
    return (
        [name for name in shared if places[name] > last],
        [name for name in shared if places[name] < last],
    )


def _is_within_routing(one: Recomputed, pool: str) -> bool:
    """Return whether the bias before a pool has the sum that any way among ties leaves it.

    Tied values lie on one side of zero, so that whichever takes the gradient adds it to the bias.
    """
    names = [row["name"] for row in one.rows]
    before = [row["name"] for row in one.rows[: names.index(pool)] if row["kind"] in WEIGHTED]
    if not before or f"{before[-1]}.bias" not in one.case.right:
        return False
    bias = f"{before[-1]}.bias"
    return agree(one.case.left[bias], one.case.right[bias])
