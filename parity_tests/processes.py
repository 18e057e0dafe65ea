"""N devices are one: a training on several devices or processes, followed against that on one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ladder.exchange import Question
from ladder.files import write_json
from parity_tests.kept import kept_answer
from parity_tests.questions import on_device
from pipeline.datasets import Dataset
from pipeline.drawn import write_first_images
from pipeline.engines import ENGINES
from pipeline.origin import origin_of
from pipeline.recipe import Recipe, preset, recipe_to_dict
from pipeline.record import EPOCH_METRICS

ENGINE_NAMES = ("lightning", "keras-jax", "keras-tensorflow")
PROCESSES_JSON = "processes.json"
BATCH = 5
TRAININGS = {"every-step": (160, 1, 1), "long": (1560, 3, 25)}
"""Images, epochs, and steps from one look to the next.

Of the images 128 and 1,248 train, in 26 and 250 steps an epoch, the last of 3 images: 2 divides
neither size of batch, 3 the last alone. 25 steps are one call on the fast path.
"""
NUM_TEST = 100
STATE_LIMIT = 1e-13
METRIC_LIMIT = 1e-12


def prove_processes(
    dataset: Dataset,
    output_dir: Path,
    engines: Sequence[str],
    variants: Sequence[str],
    counts: Sequence[int],
    say: Callable[[str], None],
    command: str,
    device: str = "cpu",
) -> list[str]:
    """Train on each number of devices, write `processes.json`, and return what parted from one.

    Dropout draws by itself in Keras; in Lightning each rank has a generator of its own, so there
    its masks are NumPy's, by place in the whole batch. What an earlier call has finished is kept.

    Raises:
        EngineError: an engine cannot run here or died.
    """
    folder = output_dir / ("processes" if device == "cpu" else f"processes-{device}")
    rows: list[dict[str, Any]] = []
    for name, (num_images, num_epochs, every) in TRAININGS.items():
        data = folder / f"first-{num_images}"
        write_first_images(dataset, data, num_images, NUM_TEST)
        for engine in engines:
            for variant in variants:
                recipe = preset(variant, precision="64", batch_size=BATCH, num_epochs=num_epochs)
                runs = {
                    count: _followed(folder, data, name, engine, recipe, every, count, device)
                    for count in dict.fromkeys((1, *counts))
                }
                for count in counts:
                    if count > 1:
                        rows.append(_compared(name, engine, variant, runs[1], runs[count], count))
                        say(_words(rows[-1]))
    origin = origin_of(command, dataset=dataset.name, device=device)
    write_json(output_dir / PROCESSES_JSON, {"origin": origin, "trainings": rows})
    return [f"parted: {_words(row)}" for row in rows if not row["passed"]]


def _followed(
    folder: Path,
    data: Path,
    name: str,
    engine: str,
    recipe: Recipe,
    every: int,
    count: int,
    device: str,
) -> dict[str, Any]:
    stem = f"{name}-{engine}-{recipe.variant}"
    run_dir = folder / f"{stem}-{count}"
    settings = {
        "recipe": recipe_to_dict(recipe),
        "data_dir": str(data),
        "run_dir": str(run_dir),
        "every": every,
        "threads": 1,
        "own_dropout": engine != "lightning",
    }
    if count == 1:
        settings["keeps_every"] = every
    else:
        settings |= {"devices": count, "reference": str(folder / f"{stem}-1" / "states")}
    question = on_device(Question(("follow",), settings, {}), device)
    return kept_answer(engine, question, run_dir, recipe.precision)


def _compared(
    name: str, engine: str, variant: str, one: dict[str, Any], several: dict[str, Any], count: int
) -> dict[str, Any]:
    """Return how far a training on `count` devices lies from that on one at most."""
    looks = several["steps"]
    gaps = {
        group: max(row[group] for row in looks.values()) for group in ("weight", "adam.m", "adam.v")
    }
    pairs = list(zip(one["history"], several["history"], strict=True))
    metrics = {
        metric: max(abs(left[metric] - right[metric]) for left, right in pairs)
        for metric in EPOCH_METRICS
    }
    # Accuracies are counts: one image more or less is no rounding.
    exact = all(metrics[metric] == 0 for metric in ("accuracy", "val_accuracy"))
    passed = (
        exact
        and all(value <= STATE_LIMIT for value in gaps.values())
        and all(value <= METRIC_LIMIT for value in metrics.values())
    )
    return {
        "training": name,
        "engine": engine,
        "variant": variant,
        "devices": count,
        "steps": max(map(int, looks)),
        "looks": len(looks),
        "gaps": gaps,
        "metrics": metrics,
        "seconds": {
            "one": [row["seconds"] for row in one["history"]],
            "several": [row["seconds"] for row in several["history"]],
        },
        "passed": passed,
    }


def _words(row: dict[str, Any]) -> str:
    gaps = ", ".join(f"{group} {value:.2g}" for group, value in row["gaps"].items())
    return (
        f"{row['engine']} {row['variant']} on {row['devices']}, {row['training']}: {gaps}, "
        f"metrics {max(row['metrics'].values()):.2g}, after {row['steps']} steps "
        f"({row['looks']} looks)"
    )


def require_engines(engines: Sequence[str] | None) -> list[str]:
    """Return the engines to prove, those named or all that can run here.

    Raises:
        ValueError: one that is named trains on one device, or none can run here.
    """
    for name in engines or ():
        if name not in ENGINE_NAMES:
            raise ValueError(f"{name} trains on one device; `--processes` takes no such engine")
    names = [name for name in engines or ENGINE_NAMES if not ENGINES[name].why_not()]
    if not names:
        raise ValueError("no engine that trains on several devices can run here")
    return names
