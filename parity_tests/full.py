"""The long proof: the tutorial's whole training in pieces, and how far two runs can be followed.

A stage is one production training run in one engine, in a folder of its own, where an interrupted
stage goes on. They run side by side, one thread each; one that follows another waits for its
states, and one that is followed ends with the last that follows it.
"""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ladder.arrays import Array, read_arrays
from ladder.compare import gap
from ladder.engines import EngineError
from ladder.exchange import Question
from ladder.files import write_json
from ladder.following import ROWS, group_of, horizon, read_rows, state_path
from parity_tests.catalogue import JAX, LIGHTNING, TENSORFLOW, TORCH
from parity_tests.engine_room import EngineRoom
from parity_tests.fleet import Pool
from parity_tests.gaps import moved_by_one_ulp
from parity_tests.kept import RESULT, kept_answer
from parity_tests.ray_fleet import ClusterPool, cores
from pipeline.datasets import Dataset
from pipeline.drawn import write_first_images, write_idx_set
from pipeline.engines import ENGINES
from pipeline.environment import usable_cores
from pipeline.errors import RunError
from pipeline.network import shared_first_weights
from pipeline.origin import origin_of
from pipeline.recipe import Recipe, preset, recipe_to_dict
from pipeline.workers import end_children, workers

EVERY = 75
"""Steps between two looks at a run; a tenth of the tutorial's epoch."""
STEPS_PER_EPOCH = 750
"""Of the tutorial: 48,000 images in batches of 64."""
FREE_EPOCHS = 5
NUM_SEEDS = 5
SMALL, SMALL_STEPS = "small", 250
"""The smaller training and its steps an epoch."""
CUT, GRAINY = "first-images", "grainy-images"
"""Folders of smaller data sets: the first images, and the same with noise on every pixel."""
GRAIN = 64
"""Grey levels of that noise, of which the image keeps the rest."""
SMALL_IMAGES, SMALL_TEST_IMAGES, SMALL_BATCH, SMALL_EPOCHS = 5000, 100, 16, 40
"""Of the data set's first images 4,000 train, 250 steps an epoch; they part before the last."""
MOVED = "lightning-moved"
JAX_FREE, JAX_EXPLAINED = "jax", "jax-grainy"
"""What JAX is followed on: the small training, and the same on images without flat ground."""
SYNCHRONISED = "base-0-keras-tensorflow-synchronised"
PARTED = 1e-3
"""Gap of weights past which a run is followed no further."""
TRAINING_JSON = "training.json"
KEPT = ("stage", "steps")
FREE = (f"base-0-{TENSORFLOW}", f"dropout-0-{TENSORFLOW}")
FREE_LIMITS = {1: 1e-14, FREE_EPOCHS: 1e-12}
"""By number of epochs, how far weights may lie apart in a free run."""
PIECE_LIMIT = 1e-12
HORIZON_GAP = 1e-6
"""Gap of weights at which two runs have parted."""
HORIZON_KINDS = (SMALL, "base")
"""Trainings that are followed until they part."""
HORIZON_SHARE = 0.8
"""Share of the engine's own horizon that the one between engines must reach in the median."""


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
    images: str = ""
    """Folder of a smaller data set, `CUT` or `GRAINY`; empty for the whole one."""


def horizon_stages(name: str, recipe: Recipe, images: str = "") -> list[Stage]:
    """Return a training with its states kept, and two that follow it until they part.

    One is the other framework's; the other is the engine's own, its first weights moved by one
    ulp: what rounding alone does.
    """
    reference = f"{name}-lightning"
    return [
        Stage(reference, LIGHTNING, recipe, keeps_every=EVERY, images=images),
        Stage(f"{name}-{TENSORFLOW}", TENSORFLOW, recipe, follows=reference, images=images),
        Stage(
            f"{name}-{MOVED}", LIGHTNING, recipe, reference, moved_by_one_ulp=True, images=images
        ),
    ]


def small_stages(seed: int) -> list[Stage]:
    """Return the horizon's stages on fewer images in smaller batches.

    The network is soon past fitting them, where Adam makes steps of next to no gradient and
    rounding grows: the runs part within the cost of one epoch of the tutorial's.
    """
    recipe = preset(
        "base", precision="64", seed=seed, batch_size=SMALL_BATCH, num_epochs=SMALL_EPOCHS
    )
    return horizon_stages(f"{SMALL}-{seed}", recipe, CUT)


def jax_stages() -> list[Stage]:
    """Return five epochs of the small training by JAX, on two sets of images.

    On flat ground activations are exactly 0, where JAX's LeakyReLU has another gradient, and equal,
    where its max pool passes the gradient another way. Grainy images have no flat ground.
    """
    recipe = preset("base", precision="64", batch_size=SMALL_BATCH, num_epochs=FREE_EPOCHS)
    stages = []
    for name, images in ((JAX_FREE, CUT), (JAX_EXPLAINED, GRAINY)):
        reference = f"{name}-lightning"
        stages += [
            Stage(reference, LIGHTNING, recipe, keeps_every=EVERY, images=images),
            Stage(f"{name}-{JAX}", JAX, recipe, follows=reference, images=images),
        ]
    return stages


def write_smaller_sets(dataset: Dataset, folder: Path) -> None:
    """Write the data sets `CUT` and `GRAINY` to `folder`."""
    write_first_images(dataset, folder / CUT, SMALL_IMAGES, SMALL_TEST_IMAGES)
    random = np.random.default_rng(0)
    images, test_images = (
        (part * ((256 - GRAIN) / 256) + random.integers(GRAIN, size=part.shape)).astype(np.uint8)
        for part in (dataset.train_images[:SMALL_IMAGES], dataset.test_images[:SMALL_TEST_IMAGES])
    )
    labels = dataset.train_labels[:SMALL_IMAGES], dataset.test_labels[:SMALL_TEST_IMAGES]
    write_idx_set(folder / GRAINY, images, labels[0], test_images, labels[1])


def full_stages(num_seeds: int) -> list[Stage]:
    """Return every run of the long proof.

    The tutorial's 20 epochs re-synchronised; five epochs with dropout and of the other Keras
    backends, running free; and for each seed the horizon, of the tutorial's training and the small
    one.
    """
    recipes = [preset("base", precision="64", seed=seed) for seed in range(num_seeds)]
    base, reference = recipes[0], "base-0-lightning"
    five = dataclasses.replace(base, num_epochs=FREE_EPOCHS)
    dropout = preset("dropout", precision="64", num_epochs=FREE_EPOCHS)
    return [
        *(stage for seed in range(num_seeds) for stage in small_stages(seed)),
        *horizon_stages("base-0", base),
        Stage(
            SYNCHRONISED,
            TENSORFLOW,
            base,
            follows=reference,
            synchronises=True,
            keeps_every=STEPS_PER_EPOCH,
        ),
        Stage(f"base-0-{TORCH}", TORCH, five, follows=reference),
        *jax_stages(),
        Stage("dropout-0-lightning", LIGHTNING, dropout, keeps_every=EVERY),
        Stage(f"dropout-0-{TENSORFLOW}", TENSORFLOW, dropout, follows="dropout-0-lightning"),
        *(
            stage
            for seed, recipe in enumerate(recipes)
            for stage in horizon_stages(f"base-{seed}", recipe)
            if seed > 0
        ),
    ]


def runnable_stages(num_seeds: int, say: Callable[[str], None]) -> list[Stage]:
    """Return the stages whose engines can run here, and say which cannot."""
    stages = full_stages(num_seeds)
    for engine in dict.fromkeys(stage.engine for stage in stages):
        if reason := ENGINES[engine].why_not():
            say(f"{engine} cannot run here: {reason}; its stages are left out")
    return [stage for stage in stages if not ENGINES[stage.engine].why_not()]


def question_of(
    stage: Stage, data_dir: Path, folder: Path, followers: Iterable[str] = ()
) -> Question:
    """Return the question that carries a stage out in `folder`; it ends with its `followers`."""
    settings: dict[str, Any] = {
        "recipe": recipe_to_dict(stage.recipe),
        "data_dir": str(folder / stage.images if stage.images else data_dir),
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
    if ends_with := [str(folder / name / RESULT) for name in followers]:
        settings["ends_with"] = ends_with
    if not stage.moved_by_one_ulp:
        return Question(("follow",), settings, {})
    weights = shared_first_weights(stage.recipe).items()
    arrays = {f"weights.{name}": array.astype(np.float64) for name, array in weights}
    return moved_by_one_ulp(Question(("follow",), settings, arrays), "up")


def run_stage(
    stage: Stage, data_dir: Path, folder: Path, followers: Iterable[str] = ()
) -> dict[str, Any]:
    """Carry a stage out, or go on with it, and return what was seen; see `Follower`.

    Raises:
        EngineError: the engine cannot run here or died.
    """
    if not folder.is_dir():
        raise EngineError(f"{folder} is not here: the cluster's machines must share it")
    run_dir = folder / stage.name
    question = question_of(stage, data_dir, folder, followers)
    kept = kept_answer(stage.engine, question, run_dir, stage.recipe.precision)
    return {"stage": stage_to_dict(stage), **kept}


def forget_states(folder: Path) -> None:
    """Remove the states of a run that nobody follows any more, but for those of whole epochs."""
    for path in folder.glob("state-*.safetensors"):
        if int(path.stem.removeprefix("state-")) % STEPS_PER_EPOCH:
            path.unlink()


def stage_to_dict(stage: Stage) -> dict[str, Any]:
    """Return a stage as plain values."""
    return {**dataclasses.asdict(stage), "recipe": recipe_to_dict(stage.recipe)}


def run_stages(
    stages: Iterable[Stage],
    data_dir: Path,
    folder: Path,
    say: Callable[[str], None],
    is_on_cluster: bool = False,
) -> dict[str, dict[str, Any]]:
    """Carry stages out, here or on the cluster that is connected, and return results by name.

    One more at a time than there are cores: one that follows waits now and then. The cluster's
    machines must share `folder`.

    Raises:
        EngineError: an engine cannot run here or died; the stages that do not follow it, straight
            or by another, are finished first.
    """
    waiting = {stage.name: stage for stage in stages}
    followers = {
        name: [stage.name for stage in waiting.values() if stage.follows == name]
        for name in waiting
    }
    results: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    running: dict[Future[dict[str, Any]], str] = {}
    stop = threading.Event()
    watcher = threading.Thread(target=_tell_progress, args=(waiting.copy(), folder, say, stop))
    watcher.start()
    try:
        with _places(is_on_cluster) as (pool, num_slots):
            while waiting or running:
                for stage in list(waiting.values()):
                    begun = {None, *results, *running.values()}
                    if len(running) < num_slots and stage.follows in begun:
                        follow = followers[waiting.pop(stage.name).name]
                        future = pool.submit(run_stage, stage, data_dir, folder, follow)
                        running[future] = stage.name
                assert running or failed, f"stages wait for each other: {', '.join(waiting)}"
                if not running:
                    break
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    name = running.pop(future)
                    try:
                        results[name] = future.result()
                    except (EngineError, RunError) as error:
                        failed[name] = str(error)
                        say(f"{name}: {error}")
                        continue
                    say(f"{name}: done")
                    for reference, names in followers.items():
                        if {reference, *names} <= set(results):
                            forget_states(folder / reference / "states")
    finally:
        stop.set()
        watcher.join()
    if failed:
        raise EngineError("; ".join(f"{name}: {reason}" for name, reason in failed.items()))
    return results


@contextmanager
def _places(is_on_cluster: bool) -> Iterator[tuple[Pool, int]]:
    if is_on_cluster:  # half a processor each: there is room for one that is begun again, too
        return (yield ClusterPool(num_cpus=0.5), cores() + 1)
    with workers(usable_cores() + 1, end_children) as pool:
        yield pool, usable_cores() + 1


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
        return read_rows(path)
    except FileNotFoundError:
        return {}


def prove_training(
    dataset: Dataset,
    output_dir: Path,
    num_seeds: int,
    say: Callable[[str], None],
    command: str,
    is_on_cluster: bool = False,
) -> list[str]:
    """Follow whole trainings, write `training.json`, and return which targets were missed.

    What an earlier call has finished is kept.

    Raises:
        EngineError: an engine cannot run here or died.
    """
    folder = output_dir / "training"
    write_smaller_sets(dataset, folder)
    results = run_stages(
        runnable_stages(num_seeds, say), dataset.folder, folder, say, is_on_cluster
    )
    found = {
        "origin": origin_of(command, dataset=dataset.name),
        "stages": {name: {key: kept[key] for key in KEPT} for name, kept in results.items()},
        "test_images_after_each_epoch": {
            "of": SYNCHRONISED,
            "epochs": compare_predictions(dataset, folder),
        },
    }
    write_json(output_dir / TRAINING_JSON, found)
    return list(missed_targets(found))


def prove_one_epoch(dataset: Dataset, output_dir: Path, say: Callable[[str], None]) -> list[str]:
    """Follow an epoch of the small training by TensorFlow; return which target was missed.

    Raises:
        EngineError: an engine cannot run here or died.
    """
    folder = output_dir / "training"
    write_smaller_sets(dataset, folder)
    stages = [
        dataclasses.replace(
            stage,
            name=f"one-epoch-{stage.name}",
            follows=stage.follows and f"one-epoch-{stage.follows}",
            recipe=dataclasses.replace(stage.recipe, num_epochs=1),
        )
        for stage in small_stages(0)
        if not stage.moved_by_one_ulp
    ]
    results = run_stages(stages, dataset.folder, folder, say)
    name = stages[-1].name
    gap = largest_gap(results[name], SMALL_STEPS)
    if gap is None:
        return [f"{name} ended before its epoch did"]
    say(f"{name}: weights within {gap:.1e} at every {EVERY}th of {SMALL_STEPS} steps")
    limit = FREE_LIMITS[1]
    return [] if gap <= limit else [f"{name} is {gap} apart after an epoch, target {limit:g}"]


def compare_predictions(dataset: Dataset, folder: Path) -> list[dict[str, Any]]:
    """Return, after each epoch, how the two implementations predict the test images.

    The Keras implementation has the weights that its re-synchronised run ended the epoch with, the
    Lightning implementation those of the run that it follows.
    """
    recipe = preset("base", precision="64")
    images = np.ascontiguousarray(dataset.test_images[..., np.newaxis])
    rows = []
    with EngineRoom() as room:
        for epoch in range(1, recipe.num_epochs + 1):
            logits = [
                _logits(room, engine, recipe, images, folder / name / "states", epoch)
                for engine, name in ((LIGHTNING, "base-0-lightning"), (TENSORFLOW, SYNCHRONISED))
            ]
            others = logits[0].argmax(axis=1) != logits[1].argmax(axis=1)
            rows.append(
                {
                    "epoch": epoch,
                    "images": len(images),
                    "largest_logit_gap": gap(*logits),
                    "other_labels": int(others.sum()),
                }
            )
    return rows


def _logits(
    room: EngineRoom, engine: str, recipe: Recipe, images: Array, states: Path, epoch: int
) -> Array:
    state, _ = read_arrays(state_path(states, epoch * STEPS_PER_EPOCH))
    arrays = {f"weights.{name}": state[name] for name in state if group_of(name) == "weight"}
    settings = {"recipe": recipe_to_dict(recipe)}
    question = Question(("logits",), settings, {**arrays, "images": images})
    return room.ask(engine, question).arrays["logits"]


def largest_gap(stage: Mapping[str, Any], num_steps: int) -> float | None:
    """Return the largest gap of weights in the first steps; None where the run ended before.

    The last look that counts is the last one due by then.
    """
    steps = {int(step): row["weight"] for step, row in stage["steps"].items()}
    if num_steps // EVERY * EVERY not in steps:
        return None
    # NumPy's largest of NaN and anything is NaN, which is within no limit.
    return float(np.max([gap for step, gap in steps.items() if step <= num_steps]))


def missed_targets(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield each figure of the long proof that is not reached."""
    stages = found["stages"]
    for name, (num_epochs, limit) in product(FREE, FREE_LIMITS.items()):
        reached = largest_gap(stages[name], num_epochs * STEPS_PER_EPOCH)
        if reached is None or not reached <= limit:
            yield f"{name} is {reached} apart after {num_epochs} epochs, target {limit:g}"
    jax = stages.get(f"{JAX_EXPLAINED}-{JAX}", {"steps": {}})
    reached = largest_gap(jax, SMALL_STEPS * FREE_EPOCHS)
    if reached is None or not reached <= FREE_LIMITS[FREE_EPOCHS]:
        yield f"JAX is {reached} apart on images without flat ground"
    pieces = [row["weight"] for row in stages[SYNCHRONISED]["steps"].values()]
    largest = float(np.max(pieces))
    if len(pieces) != 200 or not largest <= PIECE_LIMIT:
        yield f"{len(pieces)} pieces are within {largest}, target 200 within {PIECE_LIMIT:g}"
    rows = found["test_images_after_each_epoch"]["epochs"]
    if len(rows) != 20 or any(row["other_labels"] for row in rows):
        yield "the implementations label test images differently"
    shares = horizon_shares(stages)
    for kind in HORIZON_KINDS:
        measured = shares.get(kind, [])
        if len(measured) < NUM_SEEDS:
            yield f"{kind}: {len(measured)} seeds have both horizons, target {NUM_SEEDS}"
        elif not np.median(measured) >= HORIZON_SHARE:
            yield f"{kind}: the median horizon is {np.median(measured):.2f} of the engine's own"


def horizons(stages: Mapping[str, Any]) -> dict[str, dict[str, int | None]]:
    """Return, by recipe and seed, the step at which each follower's weights part.

    None where they are still together at its end; a follower that was not run is missing.
    """
    found: dict[str, dict[str, int | None]] = {}
    for name, stage in stages.items():
        for follower in (TENSORFLOW, MOVED):
            start = name.removesuffix(f"-{follower}")
            if start != name and start.partition("-")[0] in HORIZON_KINDS:
                found.setdefault(start, {})[follower] = horizon(stage["steps"], HORIZON_GAP)
    return found


def horizon_shares(stages: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return, by recipe, the horizon between engines as a share of the engine's own, by seed."""
    shares: dict[str, list[float]] = {}
    for start, found in horizons(stages).items():
        between, own = found.get(TENSORFLOW), found.get(MOVED)
        if between and own:
            shares.setdefault(start.rpartition("-")[0], []).append(between / own)
    return shares
