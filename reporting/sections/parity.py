"""The ladder, explained gaps and mutants."""

import math
from collections.abc import Sequence

from reporting import charts
from reporting.charts import Mark, Row
from reporting.evidence import Climb, Fault, Faults, Gap, Ladder, Rung, finite, name_of
from reporting.wording import Fields, colour_of

LANES = ("float64", "float32")
BY_LAYER = ("layers", "gradients", "optimizer")
"""Rungs whose gaps are shown place by place."""


def parity(ladder: Ladder) -> Fields:
    """Return the ladder as tables and pictures by precision, and the gaps that are explained."""
    lanes = list(dict.fromkeys((*LANES, *(climb.lane for climb in ladder.climbs))))
    explained: dict[tuple[str, str], list[str]] = {}
    for climb in ladder.climbs:
        for rung in climb.rungs:
            if rung.status == "explained":
                key = (name_of(climb.right), rung.reason.partition(":")[0])
                where = f"{rung.name} ({climb.lane}, {climb.title.partition(' · ')[0]})"
                explained.setdefault(key, []).append(where)
    return {
        "lanes": [
            _lane(lane, [climb for climb in ladder.climbs if climb.lane == lane])
            for lane in lanes
            if any(climb.lane == lane for climb in ladder.climbs)
        ],
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
    heads = [f"{name_of(climb.right)} · {climb.title}" for climb in climbs]
    statuses = []
    for name in names:
        own = [next((r for r in climb.rungs if r.name == name), None) for climb in climbs]
        statuses.append((name, [_status(rung) for rung in own]))
    rungs = [Row(name, [m for climb in climbs for m in _worst_mark(climb, name)]) for name in names]
    places = [
        (name, _place_rows(climbs, name))
        for name in names
        if name in BY_LAYER and _place_rows(climbs, name)
    ]
    axis = "gap |left − right|; the bar beside a mark is what is allowed there"
    return {
        "lane": lane,
        "heads": heads,
        "statuses": statuses,
        "chart": charts.rows_chart(
            [row for row in rungs if row.marks],
            f"Gap of each rung against its limit, {lane}, logarithmic",
            axis,
            is_log=True,
        ),
        "places": [
            (
                name,
                _place_table(climbs, name),
                charts.rows_chart(
                    rows,
                    f"Gap at each place of {name} against its limit, {lane}",
                    axis,
                    is_log=True,
                ),
            )
            for name, rows in places
        ],
        "engines": [
            (name_of(engine), colour_of(engine))
            for engine in dict.fromkeys(climb.right for climb in climbs)
        ],
    }


def _status(rung: Rung | None) -> tuple[str, str]:
    """Return a rung's status and what is shown of it."""
    if rung is None:
        return "skipped", "–"
    if rung.status != "passed":
        return rung.status, rung.status
    return "passed", f"{rung.worst.gap:.0e}" if rung.worst and finite(rung.worst.gap) else "equal"


def _nearest(rung: Rung) -> tuple[str, float, float | None] | None:
    """Return a rung's place that is nearest to its limit, its gap and that limit."""
    if rung.gaps:
        place = max(rung.gaps, key=_share)
        return place.place, _size(place.gap), finite(place.limit)
    return None if rung.worst is None else (rung.worst.where, _size(rung.worst.gap), None)


def _share(place: Gap) -> float:
    """Return a gap as a share of its limit; where none is allowed, any is too much."""
    gap, limit = _size(place.gap), finite(place.limit)
    return gap / limit if limit else (math.inf if gap else 0.0)


def _size(gap: float | str) -> float:
    """Return a gap, infinite where it is no number."""
    found = finite(gap)
    return math.inf if found is None else found


def _worst_mark(climb: Climb, name: str) -> list[Mark]:
    rung = next((rung for rung in climb.rungs if rung.name == name), None)
    found = None if rung is None or rung.status == "skipped" else _nearest(rung)
    if rung is None or found is None:
        return []
    place, gap, limit = found
    return [_gap_mark(climb, rung, place, gap, limit)]


def _gap_mark(climb: Climb, rung: Rung, place: str, gap: float, limit: float | None) -> Mark:
    allowed = "" if limit is None else f", {limit:.1e} allowed"
    shape = {"passed": "dot", "explained": "ring"}.get(rung.status, "cross")
    text = f"{name_of(climb.right)}, {climb.title}: {place} {gap:.1e}{allowed}, {rung.status}"
    return Mark(gap, colour_of(climb.right), text, shape, limit)


def _place_rows(climbs: Sequence[Climb], name: str) -> list[Row]:
    marks: dict[str, list[Mark]] = {}
    for climb in climbs:
        rung = next((rung for rung in climb.rungs if rung.name == name), None)
        if rung is None or rung.status == "skipped":
            continue
        for each in rung.gaps:
            mark = _gap_mark(climb, rung, each.place, _size(each.gap), finite(each.limit))
            marks.setdefault(each.place, []).append(mark)
    return [Row(place, own) for place, own in marks.items()]


def _place_table(climbs: Sequence[Climb], name: str) -> list[tuple[str, list[str]]]:
    """Return, for each place of a rung, each climb's gap and limit as text."""
    found: dict[str, dict[int, str]] = {}
    for number, climb in enumerate(climbs):
        for rung in climb.rungs:
            for each in rung.gaps if rung.name == name and rung.status != "skipped" else ():
                text = f"{_size(each.gap):.0e} of {_size(each.limit):.0e}"
                found.setdefault(each.place, {})[number] = text
    return [
        (place, [cells.get(number, "–") for number in range(len(climbs))])
        for place, cells in found.items()
    ]


def faults(found: Faults) -> Fields:
    """Return how many planted mistakes were caught, rung by rung, and each of them."""
    mistakes = [fault for fault in found.faults if not fault.is_harmless]
    harmless = [fault for fault in found.faults if fault.is_harmless]
    caught = [fault for fault in mistakes if not fault.not_as_expected and fault.rung]
    by_rung: dict[str, int] = {}
    for fault in caught:
        by_rung[fault.rung] = by_rung.get(fault.rung, 0) + 1
    return {
        "caught": len(caught),
        "mistakes": len(mistakes),
        "quiet": sum(not fault.not_as_expected for fault in harmless),
        "harmless": len(harmless),
        "by_rung": charts.bars(
            [(name, float(count)) for name, count in by_rung.items()],
            "Planted mistakes by the rung that caught them",
            "planted mistakes caught",
        )
        if by_rung
        else "",
        "rows": [_fault_row(fault) for fault in found.faults],
    }


def _fault_row(fault: Fault) -> Fields:
    if fault.is_harmless:
        came = "nothing, as it should" if not fault.not_as_expected else "a false alarm"
    else:
        came = f"caught at {fault.rung}" if fault.rung else "not caught"
        if fault.not_as_expected:
            came += f"; not as expected: {', '.join(fault.not_as_expected)}"
    return {
        "mistake": fault.mistake,
        "engine": name_of(fault.engine),
        "came": came,
        "cause": fault.cause or "–",
    }
