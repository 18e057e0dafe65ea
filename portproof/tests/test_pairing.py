"""Calls in each other's place, and a scale before a softmax, are found and named."""

from pathlib import Path

import pytest
from portproof.checking import Verdict, check

PAIRS = Path(__file__).parent / "pairs"
slow = pytest.mark.slow


def verdict(
    name: str, port: str, *inputs: str, of: str = "paired", upto: str = "forward", **options: object
) -> Verdict:
    files = PAIRS / f"{of}_keras.py", PAIRS / f"{of}_torch.py"
    functions = [f"{file}:{of}" for file, of in zip(files, (name, port), strict=True)]
    return check(*functions, inputs or ["6,8"], upto=upto, **options)


def test_a_functional_model_is_paired_in_the_order_in_which_it_was_written() -> None:
    """It runs by depths: its keys, which are transposed, before its queries."""
    assert verdict("attending", "attending").passed


@pytest.mark.parametrize(
    ("name", "port", "inputs", "cause"),
    [
        ("attending", "attending_unscaled", [],
         "Scores times 0.353553 (√(1/8)) before the softmax in the reference"),
        pytest.param("pooled", "pooled_inside", ["7,7,2"], "A maximum over padded zeros, in place "
                     "of one over what is there, in the reference", marks=slow),
        pytest.param("towers", "towers", ["8", "8"], "what b, a give stands where that of "
                     "dense, dense_1 does in the reference", marks=slow),
    ],
)  # fmt: skip
def test_a_cause_that_takes_a_search_is_named(
    name: str, port: str, inputs: list[str], cause: str
) -> None:
    found = verdict(name, port, *inputs)
    assert [d.cause for d in found.failures] == [cause]


@pytest.mark.parametrize(
    ("port", "slopes"),
    [("convolved", []), pytest.param("convolved_steeper", ["0.2"], marks=slow)],
)
def test_gates_in_one_convolution_and_features_cut_into_maps_are_carried_over(
    port: str, slopes: list[str]
) -> None:
    found = verdict("convolved", port, upto="gradients")
    causes = [f"Leaky ReLU with slope {each}, rounded to float32, in the reference"
              for each in slopes]  # fmt: skip
    assert [d.cause for d in found.failures] == causes, str(found)


@pytest.mark.parametrize(
    ("port", "causes"),
    [
        ("detecting", []),
        pytest.param("detecting_steeper", ["Leaky ReLU with slope 0.15, rounded to float32, and "
                     "resizing computed in float32 in the reference"], marks=slow),
    ],
)  # fmt: skip
def test_heads_of_unequal_size_match_one_and_causes_that_act_together_are_named(
    port: str, causes: list[str]
) -> None:
    found = verdict("detecting", port, "6,6,2", upto="gradients")
    assert [d.cause for d in found.failures] == causes, str(found)


@pytest.mark.parametrize(
    ("name", "port", "passes"),
    [
        ("quantised", "quantised", True),
        pytest.param("saturated", "saturated", True, marks=slow),
        pytest.param("saturated", "saturated_more", False, marks=slow),
    ],
)
def test_weights_that_no_gradient_reaches_are_not_in_vain_where_they_change_outputs(
    name: str, port: str, passes: bool
) -> None:
    """Through a rounding no gradient goes; where a softmax saturates, smaller weights are drawn."""
    found = verdict(name, port, "6", upto="gradients")
    assert found.passed == passes, str(found)
    assert not any(d.what == "zero" and d.effect != "none" for d in found.differences)


def test_a_gradient_that_comes_back_on_one_side_alone_is_named() -> None:
    found = verdict("quantised", "quantised_stopped", "6", upto="gradients")
    (difference,) = found.failures
    assert difference.what == "gradients"
    assert difference.cause == "no gradient comes back to it in the suspect"


@pytest.mark.parametrize(
    ("port", "what"),
    [("stepping", []), pytest.param("stepping_on", ["between"], marks=slow)],
)
def test_weights_that_one_side_uses_more_often_are_compared_by_what_comes_behind(
    port: str, what: list[str]
) -> None:
    found = verdict("stepping", port, "int9:5", upto="gradients")
    assert [d.what for d in found.failures] == what, str(found)
    uses = [(d.kind, d.left, d.right) for d in found.differences if d.what == "uses"]
    assert uses == [("lstm", "1 ×", "5 ×"), ("dense", "1 ×", "2 ×")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "inputs"), [("highway", ["6"]), ("modulated", ["6", "4"]),
                                                 ("pooled", ["7,7,2"])])  # fmt: skip
def test_what_looks_alike_is_told_apart(name: str, inputs: list[str]) -> None:
    assert verdict(name, name, *inputs).passed


@pytest.mark.slow
def test_masks_stay_where_a_calls_numbers_are_handed_on() -> None:
    found = verdict("asking", "asking", "int7pad:4", "3,5", upto="gradients")
    assert found.passed, str(found)


@pytest.mark.parametrize(
    ("port", "causes"),
    [
        pytest.param("frozen", [], marks=slow),
        ("frozen_alone", ["in training, too, by moving statistics in the reference, by the batch "
                          "in the suspect"]),
    ],
)  # fmt: skip
def test_a_frozen_norm_that_goes_on_by_the_batch_is_named(port: str, causes: list[str]) -> None:
    found = verdict("frozen", port, "6", upto="gradients")
    assert [d.cause for d in found.failures] == causes, str(found)


@pytest.mark.slow
def test_outputs_cut_by_hand_and_scales_frozen_at_one_are_right() -> None:
    found = verdict("shuffled", "shuffled", "4,5,2", upto="gradients")
    assert found.passed, str(found)
    assert "only on the right, where training leaves it so; 1 here" in str(found)
    found = verdict("shuffled", "shuffled_by_channel", "4,5,2", upto="gradients")
    assert [d.what for d in found.failures] == ["between"], str(found)


@pytest.mark.slow
def test_of_calls_of_one_shape_that_is_read_as_two_which_is_named_so() -> None:
    assert verdict("sharing", "sharing").passed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "port", "cause", "meant"),
    [
        ("gated", "gated", "both[1 of 2], both[2 of 2] do what dense_1, dense do",
         {"dense": "both[2 of 2]"}),
        ("attending", "attending_vqk", "together[1 of 3], together[2 of 3], together[3 of 3] do "
         "what value, query, key do", {"value": "together[1 of 3]", "key": "together[3 of 3]"}),
    ],
)  # fmt: skip
def test_parts_in_another_order_pass_only_if_that_is_said_to_be_meant(
    name: str, port: str, cause: str, meant: dict[str, str]
) -> None:
    found = verdict(name, port)
    (difference,) = found.failures
    assert str(difference.cause).startswith(f"{cause} in the reference")
    assert all(f"--pair '{a}={b}'" in str(difference.cause) for a, b in meant.items())
    assert verdict(name, port, pairs=list(meant.items())).passed


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("graph", ["5,4", "5,5"]),
        pytest.param("convolution", ["8,8,3"], marks=slow),
        pytest.param("scaled", ["3,6"], marks=slow),
        pytest.param("patches", ["8,6,3"], marks=slow),
        pytest.param("normed", ["6,6,2"], marks=slow),
        pytest.param("summarised", ["6,3"], marks=slow),
        pytest.param("filmed", ["3,4,4,1"], marks=slow),
    ],
)
def test_weights_that_a_layer_of_the_users_own_uses_alone_match_those_of_a_module(
    name: str, inputs: list[str]
) -> None:
    found = verdict(name, name, *inputs, of="opened", upto="gradients")
    assert found.passed, str(found)


@pytest.mark.slow
def test_a_mistake_beside_such_a_weight_is_placed() -> None:
    found = verdict("graph", "graph_turned", "5,4", "5,5", of="opened", upto="gradients")
    assert [(d.what, d.cause) for d in found.failures] == [("between", None)], str(found)
