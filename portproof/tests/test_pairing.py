"""Calls that lead to a stretch in another order than the reference's are named."""

from pathlib import Path

import pytest
from portproof.checking import Verdict, check

PAIRS = Path(__file__).parent / "pairs"
KERAS, TORCH = PAIRS / "paired_keras.py", PAIRS / "paired_torch.py"


@pytest.mark.parametrize(
    ("name", "inputs", "cause", "meant"),
    [
        (
            "gated",
            ["6,8"],
            "both[1 of 2], both[2 of 2] do what dense_1, dense do in the reference",
            [("dense", "both[2 of 2]")],
        ),
        pytest.param(
            "attending",
            ["6,8"],
            "qkv[1 of 3], qkv[3 of 3] do what value, key do in the reference",
            [("value", "qkv[1 of 3]"), ("key", "qkv[3 of 3]")],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "towers",
            ["8", "8"],
            "what a, b give stands where that of dense_1, dense does in the reference",
            [],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_parts_in_another_order_are_named_and_pass_only_if_meant(
    name: str, inputs: list[str], cause: str, meant: list[tuple[str, str]]
) -> None:
    def verdict(pairs: list[tuple[str, str]]) -> Verdict:
        return check(f"{KERAS}:{name}", f"{TORCH}:{name}", inputs, upto="forward", pairs=pairs)

    found = verdict([])
    assert not found.passed
    (difference,) = (d for d in found.differences if d.fails)
    assert (difference.cause or "").startswith(cause)
    assert [f"--pair '{a}={b}'" in (difference.cause or "") for a, b in meant] == [True] * len(
        meant
    )
    if meant:
        assert verdict(meant).passed
