"""What the charts draw."""

import re

import pytest

from ladder.reading import built
from reporting import charts
from reporting.evidence import Ladder
from reporting.sections import parity
from tests.page import paged


def test_points_of_a_single_epoch_hide_none_of_each_other():
    lines = [charts.Line(str(n), n % 2, n > 1, [0.5]) for n in range(4)]
    drawn = str(charts.curves(lines, "title"))
    places = re.findall(r'<(?:circle|rect) class="curve[^>]*? c?x="([0-9.]+)"', drawn)
    assert len(set(places)) == 4


def test_values_that_are_no_numbers_leave_a_gap_in_a_curve():
    line = charts.Line("x", 0, False, [1.0, float("nan"), 2.0])
    drawn = str(charts.curves([line], "title"))
    assert "nan" not in drawn
    assert drawn.count("<polyline") == 2


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.32, 0.91), (0.5, 0.5), (0.0, 123456.0)])
def test_ticks_are_few_and_hold_the_values(low, high):
    ticks = charts.linear_ticks(low, high)
    assert ticks[0] <= low <= high <= ticks[-1]
    assert 2 <= len(ticks) <= 8


def test_a_gap_of_zero_stands_apart_and_limits_are_drawn():
    rows = [
        charts.Row(
            "layers", [charts.Mark(0.0, 0, "none"), charts.Mark(1e-9, 1, "some", limit=1e-8)]
        )
    ]
    drawn = str(charts.rows_chart(rows, "title", "gap", is_log=True))
    assert "equal" in drawn
    assert drawn.count('class="limit"') == 1
    places = [float(x) for x in re.findall(r'cx="([0-9.]+)"', drawn)]
    assert places[0] == charts.WIDE[1] < places[1]


@pytest.mark.parametrize(("gap", "limit", "told"), [(1e-3, 0.0, "1.0e-03"), ("nan", 1e-13, "inf")])
def test_a_place_that_allows_nothing_and_one_without_a_number_are_the_worst(gap, limit, told):
    failing = paged.rung(5, "layers", "failed", gap=5e-14)
    failing["gaps"][1] |= {"gap": gap, "limit": limit}
    climb = {**paged.climb(), "rungs": [failing], "passed": False}
    ladder = built(Ladder, {**paged.ladder(), "climbs": [climb]})
    (lane,) = parity.parity(ladder)["lanes"]
    (mark,) = re.findall(r'<g class="mark.*?</g>', lane["chart"])
    assert f"base · fast path: logits {told}, " in mark
    assert "<path" in mark  # a cross
    assert not re.search(r'[xydr]\d?="[^"]*(nan|inf)', lane["chart"].lower())


def test_bars_tell_their_unit():
    drawn = str(charts.stacked_bars([("Coat", (12.0,))], ("training",), "t", "a", unit=" images"))
    assert "<title>Coat, training: 12 images</title>" in drawn


@pytest.mark.parametrize("count", [1, 5, 20, 100, 12_345])
def test_an_axis_names_a_few_epochs(count):
    assert 1 <= len(charts.epoch_ticks(count)) <= 13
