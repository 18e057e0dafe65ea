"""Gaps between arrays; shapes that are fitted; and what one array is of another, if it is so."""

import math

import numpy as np
import pytest
from portproof.graph import gaps
from portproof.graph.gaps import fitted, gap
from portproof.graph.relations import relation
from portproof.record.program import cuts_of


def test_only_axes_of_size_one_and_of_places_are_fitted() -> None:
    a = np.arange(6.0).reshape(2, 3)
    assert fitted(a, (2, 1, 1, 3)).shape == (2, 1, 1, 3)
    maps = np.arange(48.0).reshape(2, 2, 4, 3)
    assert np.array_equal(fitted(maps, (2, 8, 3)), maps.reshape(2, 8, 3))
    assert np.array_equal(fitted(maps, (4, 4, 3)), maps.reshape(4, 4, 3))  # frames as samples
    assert fitted(maps, (2, 24)).shape == fitted(maps, (2, 4, 2, 3)).shape == maps.shape
    assert fitted(a, (3, 2)).shape == (2, 3)


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (lambda a: np.maximum(a, 0), "ReLU in the suspect alone"),
        (lambda a: np.where(a > 0, a, 0.01 * a), "a leaky ReLU of slope 0.01 in the suspect alone"),
        (lambda a: np.where(a > 0, a, np.expm1(a)), "ELU in the suspect alone"),
        (lambda a: a - np.log(np.exp(a).sum(-1, keepdims=True)), "the logarithm of a softmax"),
        (lambda a: a[:, ::-1], "axis 1 read backwards"),
        (lambda a: a[:, [1, 2, 0]], "the same channels in another order"),
        (lambda a: a[:, [1, 2, 0]] + [0, 0, 1e-6], None),
        (lambda a: a / 255 - 1, "255 × the suspect's + 255"),
        (lambda a: a.swapaxes(0, 1), "axes 0 and 1 exchanged"),
        (lambda a: a * np.arange(1.0, 4.0), "each channel times a factor and shifted"),
        (lambda a: a + 1e-3 * np.sin(a), None),
    ],
)
def test_a_relation_is_named_only_where_it_gives_the_number(step, text) -> None:
    a = np.random.default_rng(0).normal(size=(5, 3))
    found = relation(a, step(a))
    assert found == text if text is None else text in str(found)


def test_maps_cut_out_of_features_in_another_order_are_named() -> None:
    features = np.random.default_rng(0).normal(size=(3, 24))
    last, first = features.reshape(3, 2, 4, 3), np.moveaxis(features.reshape(3, 3, 2, 4), 1, -1)
    assert "channels first in the suspect" in str(relation(last, first))
    assert "channels first in the reference" in str(relation(first, last))
    assert relation(last, first + 1e-6 * last) is None


def test_channels_of_few_values_are_no_factor_and_shift() -> None:
    few = np.array([[0.0, 1.0, 2.0]] * 3 + [[3.0, 5.0, 1.0]] * 3)
    assert relation(few, few**2 + 1) is None


def test_a_gap_is_relative_to_the_largest_number_and_sees_what_is_none() -> None:
    a = np.array([[100.0, 1e-9]])
    assert gap(a, a + 1e-10).size == pytest.approx(1e-12, rel=1e-3)
    assert gap(a, a * np.nan).size == math.inf
    assert gap(a, a.T).text == "shapes (1, 2) | (2, 1)"
    assert gap(np.zeros(3), np.full(3, 1e-30)).size == math.inf
    assert gap(np.zeros(3), np.full(3, 1e-30), largest=1.0).within(gaps.CALL)
    assert gap(np.full(3, 0.01), np.full(3, 0.02), largest=1.0).size == pytest.approx(1.0)


def test_bytes_do_not_wrap_and_truth_values_compare() -> None:
    a, b = np.array([1, 200], np.uint8), np.array([2, 200], np.uint8)
    assert gap(a, b).size == pytest.approx(1 / 200)
    assert gap(a > 5, b > 5).size == 0
    assert gap(a > 1, b > 1).size == 1


def test_a_cut_is_told_by_the_numbers() -> None:
    x = np.arange(24.0).reshape(2, 3, 4)
    assert cuts_of(x, [x[..., 1:3], x[..., 3:], x, x * 2, x[:, :2]]) == [
        [1, 2], [3, 1], None, None, None,
    ]  # fmt: skip
    assert cuts_of(x, [x[:, :2]], 1) == [[0, 2]]
    assert cuts_of(x, [x[:, :2]], None) == cuts_of(x, [x[:, :2]], 3) == [None]
