"""The parts of the README that are made from results and sources, so that they can't go stale."""

import ast
import json
from pathlib import Path

from ladder.files import write_text
from reporting.comparison import comparison_from_json
from reporting.comparison_page import readme_table
from reporting.markdown import with_parts

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
COMPARISON = ROOT / "results" / "compare-20-epochs" / "comparison.json"
CERTIFICATE = ROOT / "results" / "equivalence" / "certificate.json"
BENCHMARK = ROOT / "results" / "benchmark-cpu" / "benchmark.md"


def render(text: str) -> str:
    """Return a README's text with its marked parts made anew."""
    parts = {
        "results": results_part(),
        "seeds": seeds_part(),
        "benchmark": benchmark_part(),
        "models": models_part(),
    }
    return with_parts(text, parts)


def results_part() -> str:
    """Return the table of the 20-epoch comparison."""
    return readme_table(comparison_from_json(json.loads(COMPARISON.read_text())))


def seeds_part() -> str:
    """Return the sentences of the certificates of shared first weights, one for each variant."""
    found = json.loads(CERTIFICATE.read_text())["certificates"]
    return "\n".join(
        f"- {design['variant']}, {design['num_epochs']} epochs: {design['sentence']}"
        for design in found
        if design["design"] in ("shared-base", "shared-dropout")
    )


def benchmark_part() -> str:
    """Return the benchmark's first table and what it was measured with, without its title."""
    _, _, rest = BENCHMARK.read_text().partition("\n\n")
    table, _, _ = rest.partition("\n### ")
    return table.strip()


def models_part() -> str:
    """Return the two `build_model` side by side."""
    cells = [
        f"<td>\n\n```python\n{function_source(ROOT / f'{impl}_impl' / 'model.py', 'build_model')}\n"
        "```\n\n</td>"
        for impl in ("keras", "lightning")
    ]
    names = "".join(
        f'<th><a href="{impl}_impl/model.py">{impl}_impl/model.py</a></th>'
        for impl in ("keras", "lightning")
    )
    return f"<table>\n<tr>{names}</tr>\n<tr>\n{cells[0]}\n{cells[1]}\n</tr>\n</table>"


def function_source(path: Path, name: str) -> str:
    """Return the source of a function in a file."""
    source = path.read_text()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return ast.get_source_segment(source, node) or ""
    raise ValueError(f"{path} has no function {name}")


if __name__ == "__main__":
    write_text(README, render(README.read_text()))
