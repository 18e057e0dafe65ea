"""What a benchmark found: which arms count, the table, and the picture."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.runner import Arm, Measured, baselines, steady_seconds
from pipeline.network import parameter_shapes
from pipeline.plots import plot_measurements
from pipeline.recipe import Recipe, preset
from pipeline.repeated import paired_ratio, spread

STRAY = 0.02
"""Largest gap of an epoch's loss from the reference trajectory, as the parity tests have it."""
ACCURACY_RANGE = 0.03
"""By how much a stock program's validation accuracy may stay below our arms' lowest."""
GIB = 2**30


def training_flops(recipe: Recipe) -> float:
    """Return the floating-point operations of one image's training step.

    A product and a sum count as two; the forward pass once, the backward pass twice, but the
    first convolution, whose input needs no gradient, once.
    """
    forward = _forward_flops(recipe)
    return 3 * sum(forward) - forward[0]


def evaluation_flops(recipe: Recipe) -> float:
    """Return the floating-point operations of one image's forward pass."""
    return sum(_forward_flops(recipe))


def _forward_flops(recipe: Recipe) -> list[float]:
    shapes, size, found = parameter_shapes(recipe), recipe.image_size, []
    for name, shape in shapes.items():
        if not name.endswith(".kernel"):
            continue
        is_convolution = len(shape) == 4
        found.append(2.0 * math.prod(shape) * (size**2 if is_convolution else 1))
        if is_convolution:
            size = math.ceil(size / recipe.pool_size)
    return found


def why_thrown_out(
    arm: Arm,
    runs: Sequence[Measured],
    reference: Sequence[Mapping[str, float]],
    lowest_accuracy: float,
) -> str:
    """Return why an arm's times do not count; empty where they do.

    Ours and raw arms start alike and must follow the reference trajectory; a stock program must
    come as far as ours do.
    """
    for measured in runs:
        history = measured["history"]
        if arm.track == "stock":
            reached = history[-1]["val_accuracy"]
            if not reached >= lowest_accuracy - ACCURACY_RANGE:
                return f"validation accuracy {reached:.3f}, ours {lowest_accuracy:.3f}"
            continue
        for epoch, (row, expected) in enumerate(zip(history, reference, strict=False), 1):
            for name in ("loss", "val_loss"):
                gap = abs(row[name] - expected[name])
                if not gap <= STRAY:
                    return f"{name} of epoch {epoch} is {gap:.3f} off the reference trajectory"
    return ""


def summarize(
    arms: Sequence[Arm],
    measurements: Mapping[str, Sequence[Measured]],
    reference: Sequence[Mapping[str, float]],
    images: tuple[int, int],
    peak_flops: float | None,
    accuracy: float,
) -> list[dict[str, Any]]:
    """Return a row for each arm.

    `images` are the training and validation images of an epoch, `accuracy` is what the time to an
    accuracy is measured to.
    """
    ours = [
        measured["history"][-1]["val_accuracy"]
        for arm in arms
        if arm.track != "stock"
        for measured in measurements[arm.name]
    ]
    lowest = min(ours, default=0.0)
    recipe = preset("base")
    flops = images[0] * training_flops(recipe) + images[1] * evaluation_flops(recipe)
    rows = []
    for arm in arms:
        runs = measurements[arm.name]
        seconds = [steady_seconds(measured) for measured in runs]
        epoch = spread(seconds)
        row: dict[str, Any] = {
            "arm": arm.name,
            "precision": arm.precision,
            "options": list(arm.options),
            "thrown_out": why_thrown_out(arm, runs, reference, lowest),
            "epoch_seconds": dataclasses.asdict(epoch),
            "images_per_second": images[0] / epoch.median,
            "flops_per_second": flops / epoch.median,
            "share_of_peak": flops / epoch.median / peak_flops if peak_flops else None,
            "to_first_step_seconds": dataclasses.asdict(
                spread([run["startup_seconds"] + run["first_step_seconds"] for run in runs])
            ),
            "startup_seconds": dataclasses.asdict(spread([run["startup_seconds"] for run in runs])),
            "startup": {
                phase: dataclasses.asdict(spread([run["startup"][phase] for run in runs]))
                for phase in runs[0].get("startup", ())
            },
            "first_step_seconds": dataclasses.asdict(
                spread([run["first_step_seconds"] for run in runs])
            ),
            "warm_up_seconds": dataclasses.asdict(
                spread([run["epoch_seconds"][0] - steady_seconds(run) for run in runs])
            ),
            "to_accuracy_seconds": _spread_if_all([to_accuracy(run, accuracy) for run in runs]),
            "wall_seconds": dataclasses.asdict(spread([run["wall_seconds"] for run in runs])),
            "peak_memory_bytes": max(run["peak_memory_bytes"] for run in runs),
            "peak_device_memory_bytes": _largest([r.get("peak_device_memory_bytes") for r in runs]),
            "energy_joules": _spread_if_all([run.get("energy_joules") for run in runs]),
            "val_accuracy": [run["history"][-1]["val_accuracy"] for run in runs],
            "test_accuracy": [run["test_accuracy"] for run in runs],
            "faster_than": {},
        }
        for other in baselines(arm):
            if other in measurements:
                theirs = [steady_seconds(measured) for measured in measurements[other]]
                row["faster_than"][other] = dataclasses.asdict(paired_ratio(theirs, seconds))
        rows.append(row)
    return rows


def to_accuracy(measured: Measured, accuracy: float) -> float | None:
    """Return the seconds from the command until an epoch ends at `accuracy` in validation.

    Start-up and epochs, without what a program does between them.
    """
    seconds = measured["startup_seconds"]
    for row, epoch_seconds in zip(measured["history"], measured["epoch_seconds"], strict=True):
        seconds += epoch_seconds
        if row["val_accuracy"] >= accuracy:
            return float(seconds)
    return None


def _largest(values: Sequence[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _spread_if_all(values: Sequence[float | None]) -> dict[str, Any] | None:
    """Return the spread; None where a run has no value: those that have would flatter the arm."""
    there = [value for value in values if value is not None]
    return dataclasses.asdict(spread(there)) if len(there) == len(values) else None


def markdown(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the page."""
    yield "# Benchmark"
    yield ""
    yield from table_lines(found)
    yield ""
    yield "### From the command on"
    yield ""
    yield from start_lines(found)
    if found["conditions"]["device"] == "gpu":
        yield ""
        yield "### On the GPU"
        yield ""
        yield from gpu_lines(found)
    yield ""
    yield "![Seconds an epoch of each process](benchmark.png)"


def table_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table and where it comes from."""
    yield (
        "| arm | s an epoch (quartiles) | images/s | against stock | against raw | "
        "against float32 | share of peak | memory, GiB | val. accuracy |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for row in found["arms"]:
        epoch, ratios = row["epoch_seconds"], row["faster_than"]
        share = row["share_of_peak"]
        single = row["arm"].removesuffix(f" {row['precision']}")  # the same arm in float32
        others = {name: ratio for name, ratio in ratios.items() if name != single}
        cells = [
            row["arm"] + (f" (thrown out: {row['thrown_out']})" if row["thrown_out"] else ""),
            f"{epoch['median']:.2f} ({epoch['lower']:.2f}–{epoch['upper']:.2f})",
            f"{row['images_per_second']:,.0f}",
            *(_ratio(others, f"{track} ") for track in ("stock", "raw")),
            _ratio(ratios, single) if single != row["arm"] else "–",
            "–" if share is None or row["precision"] != "32" else f"{share:.0%}",
            f"{row['peak_memory_bytes'] / GIB:.2f}",
            f"{min(row['val_accuracy']):.3f}–{max(row['val_accuracy']):.3f}",
        ]
        yield f"| {' | '.join(cells)} |"
    machine, conditions = found["environment"], found["conditions"]
    versions = ", ".join(
        f"{name} {version}" for name, version in machine["packages"].items() if version
    )
    peak = found["peak_flops"]
    yield ""
    yield (
        f"`{found['command']}`: {conditions['train_images']:,} training and "
        f"{conditions['validation_images']:,} validation images an epoch, batches of "
        f"{conditions['batch_size']}, precision {', '.join(conditions['precisions'])}, fresh "
        f"processes, "
        f"interleaved A B B A, n = {found['rounds']} rounds; the median of the epochs after the "
        f"first of {conditions['num_epochs']}. Ratios are paired by round, with 95 % bootstrap "
        f"intervals of their median. {machine['cpu']}, {machine['cores']} cores"
        + (f", {machine['gpu']['name']}" if conditions["device"] == "gpu" else "")
        + (f", {peak / 1e9:.0f} GFLOP/s in a float32 matrix product" if peak else "")
        + f"; {versions}."
    )
    for name, reason in found["left_out"].items():
        yield ""
        yield f"Not measured: {name}: {reason}."


def start_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table of what a command takes until its first step, and until its end."""
    accuracy = found["conditions"]["accuracy"]
    yield (
        "| arm | to first step, s | program + data + framework + build + first step | "
        f"warm-up, s | to {accuracy:.0%} accuracy, s | whole program, s |"
    )
    yield "|---|---:|---:|---:|---:|---:|"
    for row in found["arms"]:
        to_first, reached = row["to_first_step_seconds"], row["to_accuracy_seconds"]
        phases = [*row["startup"].values(), row["first_step_seconds"]]
        cells = [
            row["arm"],
            f"{to_first['median']:.1f} ({to_first['lower']:.1f}–{to_first['upper']:.1f})",
            " + ".join(f"{phase['median']:.1f}" for phase in phases) if row["startup"] else "–",
            f"{row['warm_up_seconds']['median']:.1f}",
            "not in each run" if reached is None else f"{reached['median']:.1f}",
            f"{row['wall_seconds']['median']:.1f}",
        ]
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield (
        "The first step ends when the program hears of it: where several steps are one call, "
        "after these, which are 25 in our TensorFlow and Lightning arms. Warm-up is what the "
        "first epoch takes longer than the later ones; what is compiled is in it. The time to an "
        "accuracy ends with the epoch that reaches it in validation; what a program does between "
        "epochs, as our trainers write checkpoints, is in that of the whole program only."
    )


def gpu_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table of what each program takes of the GPU."""
    yield "| arm | memory, GiB | energy, J (quartiles) |"
    yield "|---|---:|---:|"
    for row in found["arms"]:
        memory, energy = row["peak_device_memory_bytes"], row["energy_joules"]
        cells = [
            row["arm"],
            "–" if memory is None else f"{memory / GIB:.2f}",
            "–"
            if energy is None
            else f"{energy['median']:,.0f} ({energy['lower']:,.0f}–{energy['upper']:,.0f})",
        ]
        yield f"| {' | '.join(cells)} |"
    gpu = found["environment"]["gpu"]
    yield ""
    yield (
        f"{gpu['name']}, driver {gpu['driver']}. Memory is the most in use on the device above "
        "what was in use before, the framework's own context included; energy is the whole "
        "device's during the whole program. TensorFlow and JAX do not take the memory in advance "
        "here, and no arm uses TF32."
    )


def _ratio(ratios: Mapping[str, Mapping[str, Any]], start: str) -> str:
    for name, ratio in ratios.items():
        if name.startswith(start):
            words = f"{ratio['median']:.2f}×"
            if ratio["low"] is not None:
                words += f" ({ratio['low']:.2f}–{ratio['high']:.2f})"
            return words
    return "–"


def draw(path: Path, measurements: Mapping[str, Sequence[Measured]]) -> None:
    """Draw the seconds an epoch of each process, a row for each arm."""
    seconds = {
        name: [steady_seconds(measured) for measured in runs] for name, runs in measurements.items()
    }
    plot_measurements(path, seconds, "seconds an epoch, validation included")
