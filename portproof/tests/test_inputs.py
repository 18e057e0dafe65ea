"""Inputs as a user writes them, and what is drawn for them."""

import numpy as np
import pytest
from portproof.graph.inputs import EDGE_ROWS, WIDE, InputSpec


@pytest.mark.parametrize(
    ("text", "shape", "classes"),
    [
        ("64,64,3", (64, 64, 3), None),
        ("10", (10,), None),
        ("int20000:128", (128,), 20000),
        ("int20000pad:128", (128,), 20000),
        ("words=int20000:128", (128,), 20000),
    ],
)
def test_inputs_are_read(text, shape, classes) -> None:
    spec = InputSpec.parse(text)
    assert (spec.shape, spec.classes) == (shape, classes)
    assert str(spec) == text
    drawn = spec.draw(4, np.random.default_rng(0))
    assert drawn.shape == (4, *shape)
    if classes:
        assert drawn.max() < classes
        assert (drawn[1] == 0).any()
        assert not (np.diff((drawn == 0).astype(int), axis=1) < 0).any()
        assert {1, 2, 3, classes - 1} <= set(drawn[0])


def test_the_edge_batch_holds_zeros_anywhere_wide_numbers_and_steps_of_zeros() -> None:
    def edges(text):
        return InputSpec.parse(text).draw_edges(np.random.default_rng(0))

    zero = edges("int11:7") == 0
    assert zero.shape == (EDGE_ROWS, 7)
    assert zero[1, 0]
    assert not zero[1, -1]
    assert zero[2, 1:-1].any()
    assert not zero[2, [0, -1]].any()
    assert not zero.all(1).any()
    behind = np.diff((edges("int11pad:7") == 0).astype(int), axis=1)
    assert behind.any()
    assert not (behind < 0).any()
    assert np.abs(edges("6")[0]).max() > WIDE / 2
    assert np.abs(edges("6")[2]).max() < WIDE / 3
    steps = edges("9,4")
    assert not steps[4, -4:].any()
    assert steps[:, 0].all()
    maps = edges("8,8,3")
    assert maps[[0, 1, 3, 4]].all()
    assert set(np.unique(maps[2])) == set(range(-3, 4))
    assert not (steps[2] % 1).any()
    assert steps[2].all()


@pytest.mark.parametrize(("text", "rows"), [("int2:", 4), ("int3:1", 3), ("int4:", 5)])
def test_a_single_integer_takes_all_values(text, rows) -> None:
    spec = InputSpec.parse(text)
    assert set(spec.draw(rows, np.random.default_rng(1)).ravel()) == set(range(spec.classes))
    many = InputSpec.parse("int9000:").draw(4, np.random.default_rng(1))
    assert {0, 1} < set(many)
    assert 1 in InputSpec.parse("int2pad:").draw(3, np.random.default_rng(1))


@pytest.mark.parametrize(
    ("text", "message"),
    [("1000000,1000000", "more than 50,000,000 numbers"), ("int99999999999999:3", "must be below")],
)
def test_an_input_that_is_too_large_is_refused(text, message) -> None:
    with pytest.raises(ValueError, match=message):
        InputSpec.parse(text)


@pytest.mark.parametrize(
    "text", ["", "a,b", "int:3", "int1:4", "3,-1", "float3:4", "3,,x", "intpad:3"]
)
def test_an_input_that_is_none_is_refused(text) -> None:
    with pytest.raises(ValueError, match="write sizes behind the batch axis"):
        InputSpec.parse(text)
