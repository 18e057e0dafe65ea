"""A verdict as text: the first divergence first, findings in groups, what agrees said too."""

from portproof.graph.gaps import END_TO_END, Gap
from portproof.graph.verdict import ALREADY, Difference, Verdict

WIDTH = 110


def verdict_text(verdict: Verdict) -> str:
    """Return the verdict in lines."""
    left, right = verdict.calls
    lines = [
        f"{verdict.reference} → {verdict.suspect} · float64 · "
        f"{verdict.matched} of {max(left, right)} calls matched",
        f"{verdict.frameworks[0]} · {verdict.frameworks[1]} · asked: {', '.join(verdict.asked)}",
    ]
    failures, declared = verdict.failures, verdict.declarations
    if verdict.first is not None and (failures or not declared):
        a, b, gap = verdict.first
        lines.append(f"they part at {a} | {b} ({gap}); {_number(len(failures), 'difference')}")
    elif failures and (apart := _apart(verdict)):
        lines.append(f"they part on the {apart[0]}; {_number(len(failures), 'difference')}")
    elif failures:
        lines.append(f"the outputs agree, but: {_number(len(failures), 'difference')}")
    for number, difference in enumerate(failures, 1):
        lines += _lines(f"{number:3d} ", difference)
    refused = ", refused by --strict" if verdict.strict else ""
    for head, some in (
        ("of the frameworks, not of the port, and reproduced", [d for d in declared if d.is_rule]),
        ("no number here changes with", [d for d in declared if not d.is_rule]),
    ):
        lines += [f"{head}{refused}:"] if some else []
        for difference in some:
            lines += _lines("  · ", difference)
    lines += _agreement(verdict)
    lines += [f"note: {note}" for note in verdict.notes]
    lines.append(
        f"{'the same computation' if verdict.passed else 'NOT the same'}"
        f" · {verdict.seconds:.0f} s, {verdict.memory[0]:.1f} and {verdict.memory[1]:.1f} GB"
    )
    return "\n".join(lines)


def _number(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


def _lines(mark: str, d: Difference) -> list[str]:
    count = f"{len(d.places)} × {d.kind}"
    values = f"{d.left} | {d.right}" if d.left or d.right else ""
    first = d.places[0]
    where = f"{first.left} | {first.right}"
    gap = ""
    if d.gap is not None:
        gap = (
            f"up to {Gap(d.gap)}"
            if d.gap != float("inf")
            else "shapes or numbers that do not compare"
        )
    parts = [p for p in (f"{d.what:<12} {count:<18}", values, where, gap, d.detail) if p]
    line = mark + "   ".join(parts)
    lines = [line] if len(line) <= WIDTH else [
        mark + "   ".join(parts[:1] + ([values] if values else [])),
        "    " + "   ".join(p for p in (where, gap, d.detail) if p),
    ]  # fmt: skip
    if d.cause is not None:
        lines.append(f"      cause: {d.cause}")
    elif d.fails and d.gap is not None and not d.detail.endswith(ALREADY):
        lines.append("      cause unknown")
    return lines


def _agreement(verdict: Verdict) -> list[str]:
    is_apart = verdict.failures or any(d.gap is not None for d in verdict.declarations)
    rest = "everything else" if is_apart else "every call and stretch"
    line = f"{rest} agrees to {verdict.rounding:.0e}"
    if verdict.gradient is not None:
        line += f", local gradients and statistics to {verdict.gradient:.0e}"
    outputs = [f"{name} {gap}" for name, gap in verdict.outputs.items()]
    lines = [line, "end to end: " + "; ".join(outputs)]
    if verdict.whole_gradient is not None:
        lines[-1] += f"; gradients and statistics {verdict.whole_gradient}"
    if verdict.settled is not None:
        output, whole = verdict.settled
        line = f"with the frameworks' own rules made equal: output {output}"
        lines.append(line + (f"; gradients and statistics {whole}" if whole is not None else ""))
    totals = [", ".join(f"{k} {v:,}" for k, v in counts.items()) for counts in verdict.counts]
    return [*lines, f"weights: {totals[0]} | {totals[1]}"]


def _apart(verdict: Verdict) -> list[str]:
    """Return the outputs that differ, by more than the frameworks' own rules make them."""
    if verdict.settled is not None and verdict.settled[0].within(END_TO_END):
        return []
    return [name for name, gap in verdict.outputs.items() if not gap.within(END_TO_END)]
