"""Answers that take long: each in a folder of its own, where an interrupted one goes on."""

import shutil
from pathlib import Path
from typing import Any

from ladder.engines import EngineError, answer
from ladder.exchange import Question, read_trace, write_question
from ladder.files import write_json, write_text
from pipeline.engines import ENGINES
from pipeline.origin import code_digest
from pipeline.session import read_kept

RESULT = "result.json"
SIGN = "made-by.txt"
ROOMS = ("pipeline", "ladder", "keras_impl", "lightning_impl")
"""What an engine's process runs."""
TIMEOUT_SECONDS = 24 * 3600.0


def kept_answer(engine: str, question: Question, run_dir: Path, precision: str) -> dict[str, Any]:
    """Return an engine's facts, kept in `run_dir`: asked for, or gone on with.

    Raises:
        EngineError: the engine cannot run here or died, or could not answer.
    """
    # What another question, other sources or other versions have left is no beginning of this.
    sign, result = run_dir / SIGN, run_dir / RESULT
    mark = f"{question.identity} {code_digest(ROOMS)}"
    if run_dir.exists() and not (sign.exists() and sign.read_text() == mark):
        shutil.rmtree(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    write_text(sign, mark)
    if result.exists():
        return dict(read_kept(result))
    write_question(run_dir / "question.safetensors", question)
    trace_path = run_dir / "trace.safetensors"
    answer(
        ENGINES[engine],
        run_dir / "question.safetensors",
        trace_path,
        precision=precision,
        timeout_seconds=TIMEOUT_SECONDS,
    )
    facts = read_trace(trace_path, question).facts
    if failed := facts.get("failed"):
        raise EngineError(f"{run_dir.name} failed: {'; '.join(failed.values())}")
    kept = {"question": question.identity, **facts}
    write_json(result, kept)
    return kept
