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

SEEDS = {
    "shared-base": "",
    "shared-dropout": "",
    "natural-base": ", each its own first weights",
}
"""Designs that the README tells of, and what is said of each."""


def render(text: str) -> str:
    """Return a README's text with its marked parts made anew."""
    certificates = json.loads(CERTIFICATE.read_text())["certificates"]
    seeds = [
        f"- {design['variant']}, {design['num_epochs']} epochs{SEEDS[design['design']]}: "
        f"{design['sentence']}"
        for design in certificates
        if design["design"] in SEEDS
    ]
    # Of the benchmark, the first table and what it was measured with, without its title.
    benchmark = BENCHMARK.read_text().partition("\n\n")[2].partition("\n### ")[0]
    parts = {
        "results": readme_table(comparison_from_json(json.loads(COMPARISON.read_text()))),
        "seeds": "\n".join(seeds),
        "benchmark": benchmark.strip(),
        "models": models_part(),
    }
    return with_parts(text, parts)


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
