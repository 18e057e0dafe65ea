"""The parts of `docs/` that are made from the proof's results, so that they can't go stale."""

import json
from pathlib import Path
from typing import Any

from ladder.files import write_text
from parity_tests.certificate_page import verdict_lines
from parity_tests.horizon_plot import horizon_picture
from parity_tests.pages import (
    horizon_lines,
    jax_lines,
    ladder_lines,
    mutants_page,
    processes_lines,
    replays_page,
    training_lines,
)
from reporting.markdown import with_parts

ROOT = Path(__file__).resolve().parent.parent
RESULTS, DOCS = ROOT / "results" / "proof", ROOT / "docs"
CERTIFICATE = ROOT / "results" / "equivalence" / "certificate.json"
PARITY = DOCS / "parity.md"


def made_pages() -> dict[Path, str]:
    """Return the text of each page of `docs/` that is made, or has made parts, by path."""
    practice = result("practice.json")
    mutants = {**result("faults.json"), "practice": practice}
    return {
        DOCS / "faults.md": "\n".join([*mutants_page(mutants), ""]),
        DOCS / "replays.md": "\n".join([*replays_page(result("replays.json")), ""]),
        PARITY: parity_page(PARITY.read_text()),
        DOCS / "horizon.svg": horizon_picture(result("training.json")["stages"]),
    }


def parity_page(text: str) -> str:
    """Return the text of `docs/parity.md` with its marked parts made anew."""
    training = result("training.json")
    parts = {
        "ladder": ladder_lines((RESULTS / "ladder.md").read_text()),
        "training": training_lines(training),
        "jax": jax_lines(training["stages"]),
        "horizon": horizon_lines(training["stages"]),
        "processes": processes_lines(result("processes.json")),
        "seeds": verdict_lines(json.loads(CERTIFICATE.read_text())["certificates"]),
    }
    return with_parts(text, {name: "\n".join(lines) for name, lines in parts.items()})


def result(name: str) -> dict[str, Any]:
    """Return a committed result of the proof."""
    return json.loads((RESULTS / name).read_text())


if __name__ == "__main__":
    for path, text in made_pages().items():
        write_text(path, text)
