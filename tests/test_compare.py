import math

import numpy as np
import pytest

from ladder.compare import EXACT, Difference, Tolerance, compare_arrays, compare_facts, gap

LOOSE = Tolerance("LOOSE", 0.5, "for these tests", "0")
NAN, INF = math.nan, math.inf


def facts(left, right):
    return [str(difference) for difference in compare_facts(left, right)]


@pytest.mark.parametrize(
    "value", [1, 0.5, "a", True, [1, [2.0, None]], {"a": {"b": [1]}, "c": "d"}, [{"name": "x"}]]
)
def test_equal_facts_do_not_differ(value):
    assert facts(value, value) == []


@pytest.mark.parametrize(
    ("left", "right", "found"),
    [
        (1, 2, [": 1 against 2"]),
        (1, 1.0, [": 1 against 1.0"]),
        (1, True, [": 1 against True"]),
        (0, None, [": 0 against None"]),
        ("1", 1, [": '1' against 1"]),
        (NAN, NAN, [": nan against nan"]),
        ([NAN], [NAN], ["0: nan against nan"]),
        (NAN, 1.0, [": nan against 1.0"]),
        ({"a": 1}, {"b": 1}, ["a: 1 against 'missing'", "b: 'missing' against 1"]),
        ({"a": {"b": 1}}, {"a": {}}, ["a.b: 1 against 'missing'"]),
        ({"a": [1]}, {"a": 1}, ["a: [1] against 1"]),
        ([1, 2], [1], [": 2 against 1 (lengths)"]),
        ([1, 2], [2, 2], ["0: 1 against 2"]),
        ([{"name": "c1", "n": 1}], [{"name": "c1", "n": 2}], ["c1.n: 1 against 2"]),
        ([[1], [2]], [[1], [3]], ["1.0: 2 against 3"]),
        ({}, {"a": 1}, ["a: 'missing' against 1"]),
    ],
)
def test_each_place_where_facts_differ_is_named(left, right, found):
    assert facts(left, right) == found


def test_the_same_nan_object_never_passes():
    shared = {"loss": NAN, "rows": [[NAN]]}
    assert [difference.where for difference in compare_facts(shared, shared)] == [
        "loss",
        "rows.0.0",
    ]


@pytest.mark.parametrize(("left", "right"), [({}, {}), ([], []), (None, None), ({}, [])])
def test_comparing_nothing_is_an_error(left, right):
    with pytest.raises(ValueError, match=r"^nothing to compare$"):
        compare_facts(left, right)
    with pytest.raises(ValueError, match=r"^nothing to compare at layers$"):
        compare_facts(left, right, "layers")


def arrays(left, right, tolerance=EXACT):
    found = compare_arrays({"x": np.asarray(left)}, {"x": np.asarray(right)}, tolerance)
    return [str(difference) for difference in found]


def test_equal_arrays_do_not_differ():
    values = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    assert arrays(values, values.copy()) == []


def test_the_worst_index_is_named():
    right = np.zeros((2, 3))
    right[0, 1], right[1, 2] = 0.6, -0.75
    assert arrays(np.zeros((2, 3)), right, LOOSE) == [
        "x[1, 2]: 0.0 against -0.75 (gap 0.75, LOOSE allows 0.5; 6.76e+15 ulp)"
    ]


def test_the_tolerance_is_the_last_gap_that_passes():
    assert arrays([0.0], [0.5], LOOSE) == []
    assert len(arrays([0.0], [np.nextafter(0.5, 1)], LOOSE)) == 1
    assert len(arrays([0.0], [5e-324])) == 1


@pytest.mark.parametrize(
    ("left", "right"),
    [(NAN, NAN), (NAN, 0.0), (0.0, NAN), (INF, INF), (INF, -INF), (0.0, INF), (-INF, -INF)],
)
@pytest.mark.parametrize("tolerance", [EXACT, LOOSE, Tolerance("ALL", INF, "", "")])
def test_what_is_not_finite_never_passes(left, right, tolerance):
    found = arrays([1.0, left], [1.0, right], tolerance)
    assert len(found) == 1
    assert found[0].startswith(f"x[1]: {left} against {right} (gap inf, ")


@pytest.mark.parametrize("dtypes", [("f4", "f8"), ("i8", "f8"), ("u1", "i1")])
def test_another_dtype_is_a_difference(dtypes):
    left, right = (np.ones(2, dtype) for dtype in dtypes)
    found = arrays(left, right)
    assert len(found) == 1
    assert "(dtypes)" in found[0]


def test_shapes_come_before_values():
    assert arrays([[1.0]], [1.0]) == ["x: [1, 1] against [1] (shapes)"]


def test_a_missing_array_is_named():
    one = {"x": np.ones(1)}
    assert compare_arrays(one, {"y": np.ones(1)}) == [
        Difference("x", "there", "missing"),
        Difference("y", "missing", "there"),
    ]


def test_nothing_and_empty_arrays_are_errors():
    with pytest.raises(ValueError, match="no arrays to compare"):
        compare_arrays({}, {})
    with pytest.raises(ValueError, match="x is empty: nothing to compare"):
        arrays(np.zeros((0, 3)), np.zeros((0, 3)))


def test_unsigned_integers_do_not_wrap():
    assert arrays(np.array([0], "u1"), np.array([255], "u1"), LOOSE) == [
        "x[0]: 0.0 against 255.0 (gap 255, LOOSE allows 0.5)"
    ]


def test_the_gap_is_the_largest_distance():
    assert gap(np.array([1.0, 5.0]), np.array([1.0, 2.0])) == 3
    for value in (NAN, INF):
        assert gap(np.array([1.0, value]), np.array([1.0, value])) == INF
    with pytest.raises(ValueError, match="shape"):
        gap(np.zeros((2, 1)), np.zeros(2))


def test_a_relative_tolerance_is_a_share_of_the_largest_value():
    tolerance = Tolerance("SHARE", 0.0, "", "", relative=1e-3)
    assert arrays([1000.0, 1.0], [1000.0, 1.9], tolerance) == []
    assert len(arrays([1000.0, 1.0], [1000.0, 2.1], tolerance)) == 1
    assert len(arrays([10.0, np.inf], [10.0, np.inf], tolerance)) == 1


def test_a_gap_is_told_in_units_in_the_last_place():
    found = compare_arrays({"x": np.ones(2)}, {"x": np.nextafter(np.ones(2), 2)})[0]
    assert (found.gap, found.ulps) == (2.0**-52, 1.0)
    found = compare_arrays({"x": np.zeros(1, "f4")}, {"x": np.full(1, 2.0, "f4")})[0]
    assert found.ulps == 2.0**23
