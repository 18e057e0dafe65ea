"""Writing the page: one HTML file that needs no other."""

import base64
import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ladder.files import write_text
from pipeline.errors import RunError
from reporting import samples
from reporting.evidence import Evidence, Source
from reporting.sections import (
    benchmark,
    data,
    evaluation,
    learning,
    made,
    model,
    parity,
    summary,
    training,
)

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TITLE = "Keras and Lightning, one pipeline twice"
CONTENTS = (
    ("summary", "Summary"),
    ("data", "Data"),
    ("model", "Model"),
    ("training", "Training"),
    ("evaluation", "Evaluation"),
    ("samples", "Samples"),
    ("parity", "Parity"),
    ("learning", "Learning"),
    ("benchmark", "Benchmark"),
    ("made", "How this was made"),
)
NO_RUNS = "No runs here: run make compare."


def write_page(path: Path, evidence: Evidence, command: Sequence[str]) -> None:
    """Write the page, whole or not at all.

    Raises:
        RunError: it cannot be written.
    """
    text = render(evidence, command)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def render(evidence: Evidence, command: Sequence[str]) -> str:
    """Return the page; the same evidence always gives the same text."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    script = (HERE / "page.js").read_text()
    runs = evidence.complete
    shown = None
    if runs and evidence.dataset is not None:
        shown = samples.data_of(runs, evidence.dataset)
    return environment.get_template("template.html").render(
        title=TITLE,
        contents=CONTENTS,
        command=shlex.join(command),
        # Both are this room's own files: no text from elsewhere is in them.
        style=Markup((HERE / "style.css").read_text()),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        no_runs=NO_RUNS,
        no_dataset=evidence.no_dataset,
        no_samples=NO_RUNS if not runs else f"No images here: {evidence.no_dataset}",
        summary=summary.summary(evidence),
        data=data.data(evidence.dataset, evidence.runs) if evidence.dataset else None,
        model=model.model(evidence, ROOT),
        training=training.training(evidence),
        evaluation=evaluation.evaluation(evidence),
        samples=shown,
        parity=None if evidence.ladder is None else parity.parity(evidence.ladder),
        proof_note=_note(evidence.sources.proof),
        faults=None if evidence.faults is None else parity.faults(evidence.faults),
        learning=learning.learning(evidence.certificates) if evidence.certificates else None,
        learning_note=_note(evidence.sources.certificates),
        benchmark=None if evidence.benchmark is None else benchmark.benchmark(evidence.benchmark),
        benchmark_note=_note(evidence.sources.benchmark),
        time_split=benchmark.time_split(evidence),
        startup_parts=benchmark.STARTUP_PARTS,
        time_parts=benchmark.TIME_PARTS,
        made=made.made(evidence),
        engine_keys=lambda lane: [(name, colour, False) for name, colour in lane["engines"]],
    )


def _note(source: Source | None) -> str:
    if source is None or not source.is_committed:
        return ""
    return "These are the project's own results, from the machine named at the end of this page."
