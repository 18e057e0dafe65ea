"""The ladder, explained gaps and mutants."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from reporting import charts
from reporting.charts import Mark, Row
from reporting.evidence import Climb, Fault, Faults, Gap, Ladder, Rung, finite, name_of
from reporting.wording import NONE, Fields, colour_of

LANES = ("float64", "float32")
BY_LAYER = ("layers", "gradients", "optimizer")
"""Rungs whose gaps are shown place by place."""
AXIS = "gap |left − right|; the bar beside a mark is what is allowed there"


def parity(ladder: Ladder) -> Fields:
    """Return the ladder as tables and pictures by precision, and the gaps that are explained."""
    explained: dict[tuple[str, str], list[str]] = {}
    for climb in ladder.climbs:
        for rung in climb.rungs:
            if rung.status == "explained":
                key = (name_of(climb.right), rung.reason.partition(":")[0])
                where = f"{rung.name} ({climb.lane}, {climb.title.partition(' · ')[0]})"
                explained.setdefault(key, []).append(where)
    lanes = {lane: [climb for climb in ladder.climbs if climb.lane == lane]
             for lane in (*LANES, *(climb.lane for climb in ladder.climbs))}  # fmt: skip
    return {
        "lanes": [_lane(lane, climbs) for lane, climbs in lanes.items() if climbs],
        "explained": [
            {"engine": engine, "cause": cause, "rungs": rungs}
            for (engine, cause), rungs in explained.items()
        ],
        "compared": f"{sum(r.compared for c in ladder.climbs for r in c.rungs):,}",
        "climbs": len(ladder.climbs),
        "passed": sum(climb.passed for climb in ladder.climbs),
    }


def _lane(lane: str, climbs: Sequence[Climb]) -> Fields:
    names = list(dict.fromkeys(rung.name for climb in climbs for rung in climb.rungs))
    worst = {
        name: [
            _gap_mark(climb, rung, max(rung.gaps, key=_share))
            for climb, rung in _taken(climbs, name)
            if rung.gaps
        ]
        for name in names
    }
    return {
        "lane": lane,
        "heads": [f"{name_of(climb.right)} · {climb.title}" for climb in climbs],
        "statuses": [
            (name, [_status(next((r for r in climb.rungs if r.name == name), None))
                    for climb in climbs])
            for name in names
        ],
        "chart": charts.rows_chart(
            [Row(name, marks) for name, marks in worst.items() if marks],
            f"Gap of each rung against its limit, {lane}, logarithmic",
            AXIS,
            is_log=True,
        ),
        "places": [
            (name, *_by_place(climbs, name, lane))
            for name in names
            if name in BY_LAYER and worst[name]
        ],
        "engines": [
            (name_of(engine), colour_of(engine))
            for engine in dict.fromkeys(climb.right for climb in climbs)
        ],
    }  # fmt: skip


def _status(rung: Rung | None) -> tuple[str, str]:
    """Return a rung's status and what is shown of it."""
    if rung is None:
        return "skipped", NONE
    if rung.status != "passed":
        return rung.status, rung.status
    return "passed", f"{rung.worst.gap:.0e}" if rung.worst and finite(rung.worst.gap) else "equal"


def _taken(climbs: Sequence[Climb], name: str) -> Iterator[tuple[Climb, Rung]]:
    """Yield the rung of a name in each climb that took it."""
    for climb in climbs:
        rung = next((rung for rung in climb.rungs if rung.name == name), None)
        if rung is not None and rung.status != "skipped":
            yield climb, rung


def _share(place: Gap) -> float:
    """Return a gap as a share of its limit; where none is allowed, any is too much."""
    gap, limit = _size(place.gap), finite(place.limit)
    return gap / limit if limit else (math.inf if gap else 0.0)


def _size(gap: float | str) -> float:
    """Return a gap, infinite where it is no number."""
    found = finite(gap)
    return math.inf if found is None else found


def _gap_mark(climb: Climb, rung: Rung, found: Gap) -> Mark:
    gap, limit = _size(found.gap), finite(found.limit)
    allowed = "" if limit is None else f", {limit:.1e} allowed"
    shape = {"passed": "dot", "explained": "ring"}.get(rung.status, "cross")
    text = f"{name_of(climb.right)}, {climb.title}: {found.place} {gap:.1e}{allowed}, {rung.status}"
    return Mark(gap, colour_of(climb.right), text, shape, limit)


def _by_place(
    climbs: Sequence[Climb], name: str, lane: str
) -> tuple[list[tuple[str, list[str]]], charts.Markup]:
    """Return, for each place of a rung, each climb's gap and limit as text, and their chart."""
    marks: dict[str, list[Mark]] = {}
    texts: dict[str, dict[int, str]] = {}
    for climb, rung in _taken(climbs, name):
        for found in rung.gaps:
            marks.setdefault(found.place, []).append(_gap_mark(climb, rung, found))
            text = f"{_size(found.gap):.0e} of {_size(found.limit):.0e}"
            texts.setdefault(found.place, {})[id(climb)] = text
    table = [
        (place, [cells.get(id(climb), NONE) for climb in climbs]) for place, cells in texts.items()
    ]
    title = f"Gap at each place of {name} against its limit, {lane}"
    rows = [Row(place, own) for place, own in marks.items()]
    return table, charts.rows_chart(rows, title, AXIS, is_log=True)


def faults(found: Faults) -> Fields:
    """Return how many planted mistakes were caught, rung by rung, and each of them."""
    mistakes = [fault for fault in found.faults if not fault.is_harmless]
    harmless = [fault for fault in found.faults if fault.is_harmless]
    caught = [fault.rung for fault in mistakes if not fault.not_as_expected and fault.rung]
    return {
        "caught": len(caught),
        "mistakes": len(mistakes),
        "quiet": sum(not fault.not_as_expected for fault in harmless),
        "harmless": len(harmless),
        "by_rung": charts.stacked_bars(
            [(name, (float(count),)) for name, count in Counter(caught).items()],
            ("",),
            "Planted mistakes by the rung that caught them",
            "planted mistakes caught",
        ),
        "rows": [
            {
                "mistake": fault.mistake,
                "engine": name_of(fault.engine),
                "came": _what_came_of(fault),
                "cause": fault.cause or NONE,
            }
            for fault in found.faults
        ],
    }


def _what_came_of(fault: Fault) -> str:
    if fault.is_harmless:
        return "nothing, as it should" if not fault.not_as_expected else "a false alarm"
    came = f"caught at {fault.rung}" if fault.rung else "not caught"
    if fault.not_as_expected:
        came += f"; not as expected: {', '.join(fault.not_as_expected)}"
    return came
