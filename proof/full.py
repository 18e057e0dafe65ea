"""The long proof: every step of the tutorial's training, and how far two runs can be followed.

A stage is one production training run in one engine, in a folder of its own, where an interrupted
stage goes on. As many run side by side as there are cores, one thread each; one that follows
another waits for its states.
"""

import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.engines import ENGINES
from pipeline.environment import usable_cores
from pipeline.network import shared_first_weights
from pipeline.recipe import Recipe, recipe_to_dict
from portproof.engines import answer
from portproof.exchange import Array, Question, read_trace, write_question
from portproof.files import write_json
from portproof.following import ROWS

EVERY = 75
"""Steps between two looks at a run; a tenth of the tutorial's epoch."""
PARTED = 1e-3
"""Gap of weights past which a run is followed no further."""
RESULT = "result.json"
TIMEOUT_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Stage:
    """One training run of the long proof."""

    name: str
    engine: str
    recipe: Recipe
    follows: str | None = None
    """Name of the stage whose states it is compared with; it may be still under way."""
    synchronises: bool = False
    keeps_every: int | None = None
    moved_by_one_ulp: bool = False
    """Start from first weights of which each is the next float64 above."""


def question_of(stage: Stage, data_dir: Path, folder: Path) -> Question:
    """Return the question that carries a stage out in `folder`."""
    settings: dict[str, Any] = {
        "recipe": recipe_to_dict(stage.recipe),
        "data_dir": str(data_dir),
        "run_dir": str(folder / stage.name),
        "every": EVERY,
        "threads": 1,
    }
    if stage.keeps_every:
        settings["keeps_every"] = stage.keeps_every
    if stage.follows:
        settings |= {
            "reference": str(folder / stage.follows / "states"),
            "synchronises": stage.synchronises,
        }
        if not stage.synchronises:
            settings["stop_gap"] = PARTED
    arrays = moved_weights(stage.recipe) if stage.moved_by_one_ulp else {}
    return Question(("follow",), settings, arrays)


def moved_weights(recipe: Recipe) -> dict[str, Array]:
    """Return the shared first weights in float64, each moved up by one unit in the last place.

    Zeros stay zeros. A bias that is the least number above zero would let a flat background be
    above zero too, where LeakyReLU has another slope: no rounding, but another computation.
    """
    return {
        f"weights.{name}": np.where(array == 0, 0.0, np.nextafter(array.astype(np.float64), np.inf))
        for name, array in shared_first_weights(recipe).items()
    }


def run_stage(stage: Stage, data_dir: Path, folder: Path) -> dict[str, Any]:
    """Carry a stage out, or go on with it, and return what was seen; see `Follower`.

    Raises:
        EngineError: the engine cannot run here or died.
    """
    run_dir = folder / stage.name
    run_dir.mkdir(parents=True, exist_ok=True)
    question = question_of(stage, data_dir, folder)
    result = run_dir / RESULT
    if result.exists():
        kept = json.loads(result.read_text())
        if kept["question"] == question.identity:
            return kept
    write_question(run_dir / "question.safetensors", question)
    trace_path = run_dir / "trace.safetensors"
    answer(
        ENGINES[stage.engine],
        run_dir / "question.safetensors",
        trace_path,
        precision=stage.recipe.precision,
        timeout_seconds=TIMEOUT_SECONDS,
    )
    facts = read_trace(trace_path, question).facts
    kept = {"question": question.identity, "stage": stage_to_dict(stage), **facts}
    write_json(result, kept)
    return kept


def stage_to_dict(stage: Stage) -> dict[str, Any]:
    """Return a stage as plain values."""
    return {**dataclasses.asdict(stage), "recipe": recipe_to_dict(stage.recipe)}


def run_stages(
    stages: Iterable[Stage], data_dir: Path, folder: Path, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Carry stages out, as many at a time as there are cores, and return their results by name.

    Raises:
        EngineError: an engine cannot run here or died; the other stages under way finish first.
    """
    waiting = {stage.name: stage for stage in stages}
    results: dict[str, dict[str, Any]] = {}
    running: dict[Future[dict[str, Any]], str] = {}
    stop = threading.Event()
    watcher = threading.Thread(target=_tell_progress, args=(waiting.copy(), folder, say, stop))
    watcher.start()
    try:
        with ThreadPoolExecutor(usable_cores()) as pool:
            while waiting or running:
                free = usable_cores() - len(running)
                begun = {None, *results, *running.values()}
                ready = [stage for stage in waiting.values() if stage.follows in begun]
                for stage in ready[:free]:
                    del waiting[stage.name]
                    running[pool.submit(run_stage, stage, data_dir, folder)] = stage.name
                assert running, f"stages wait for each other: {', '.join(waiting)}"
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    name = running.pop(future)
                    results[name] = future.result()
                    say(f"{name}: done")
    finally:
        stop.set()
        watcher.join()
    return results


def _tell_progress(
    stages: Mapping[str, Stage], folder: Path, say: Callable[[str], None], stop: threading.Event
) -> None:
    """Say, epoch by epoch, how far each stage has come."""
    told: dict[str, int] = {}
    while not stop.wait(5):
        for name, stage in stages.items():
            rows = _rows(folder / name / "states" / ROWS)
            if len(rows) // 10 > told.get(name, 0):
                told[name] = len(rows) // 10
                gap = max(row.get("weight", 0.0) for row in rows.values())
                words = f", largest gap of weights {gap:.2g}" if stage.follows else ""
                clock = time.strftime("%H:%M:%S")
                say(f"{clock} {name}: {max(map(int, rows))} steps{words}")


def _rows(path: Path) -> dict[str, dict[str, float]]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
