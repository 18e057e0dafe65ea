"""What a benchmark found: which contenders count, the table, and the picture."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmark.runner import Contender, Measured, baselines, steady_seconds
from pipeline.network import parameter_shapes
from pipeline.origin import told_commit
from pipeline.recipe import Recipe, preset
from reporting.markdown import table
from reporting.pictures import plot_measurements
from reporting.repeated import paired_ratio, spread

STRAY = 0.02
"""Largest gap of an epoch's loss from the reference trajectory, as the parity tests have it."""
ACCURACY_RANGE = 0.03
"""By how much a stock program's validation accuracy may stay below our arms' lowest."""
GIB = 2**30
ON_A_GPU = {
    ("stock", "lightning"): ("on the host", "kernel by kernel", "no", "for logged values"),
    ("stock", "keras-torch"): ("on the host", "kernel by kernel", "no", "in threads"),
    ("stock", "keras-jax"): ("on the host", "compiled", "by XLA", "in threads"),
    ("stock", "keras-tensorflow"): ("on the host", "compiled by XLA", "by XLA", "each step"),
    ("ours", "lightning"): ("on the GPU", "a CUDA graph", "no", "every 250 steps"),
    ("ours", "keras-torch"): ("on the GPU", "kernel by kernel", "no", "in threads"),
    ("ours", "keras-jax"): ("on the GPU", "compiled, 25 in a scan", "by XLA", "in threads"),
    ("ours", "keras-tensorflow"): ("on the host", "a graph, 25 in a call", "yes", "every 25 steps"),
    ("raw", "torch"): ("on the GPU", "a CUDA graph", "no", "twice an epoch"),
    ("raw", "jax"): ("on the GPU", "compiled, an epoch's in a scan", "by XLA", "twice an epoch"),
    ("raw", "tensorflow"): ("on the GPU", "a graph, an epoch's in a call", "yes", "twice an epoch"),
}
"""How contenders go about it on a GPU: what a reader needs to know before comparing them."""


def flops_of(recipe: Recipe) -> tuple[float, float]:
    """Return the floating-point operations of one image's training step and of its evaluation.

    A product and a sum count as two; the forward pass once, the backward pass twice, but the
    first convolution, whose input needs no gradient, once.
    """
    shapes, size, found = parameter_shapes(recipe), recipe.image_size, []
    for name, shape in shapes.items():
        if not name.endswith(".kernel"):
            continue
        is_convolution = len(shape) == 4
        found.append(2.0 * math.prod(shape) * (size**2 if is_convolution else 1))
        if is_convolution:
            size = math.ceil(size / recipe.pool_size)
    return 3 * sum(found) - found[0], sum(found)


def why_thrown_out(
    contender: Contender,
    runs: Sequence[Measured],
    reference: Sequence[Mapping[str, float]],
    lowest_accuracy: float,
) -> str:
    """Return why an arm's times do not count; empty where they do.

    Ours and raw contenders start alike and must follow the reference trajectory; a stock program
    must come as far as ours do.
    """
    for number, measured in enumerate(runs, 1):
        if slowed_by := measured.get("slowed_by"):
            return f"the GPU was slowed down in round {number}: {', '.join(slowed_by)}"
        history = measured["history"]
        if contender.track == "stock":
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
    contenders: Sequence[Contender],
    measurements: Mapping[str, Sequence[Measured]],
    reference: Sequence[Mapping[str, float]],
    images: tuple[int, int],
    peak_flops: float | None,
    accuracy: float,
    idle_watts: float | None = None,
) -> list[dict[str, Any]]:
    """Return a row for each contender.

    `images` are the training and validation images of an epoch, `accuracy` is what the time to an
    accuracy is measured to.
    """
    ours = [
        measured["history"][-1]["val_accuracy"]
        for contender in contenders
        if contender.track != "stock"
        for measured in measurements[contender.name]
    ]
    lowest = min(ours, default=0.0)
    flops = sum(count * each for count, each in zip(images, flops_of(preset("base")), strict=True))
    rows = []
    for contender in contenders:
        runs = measurements[contender.name]
        seconds = [steady_seconds(measured) for measured in runs]
        epoch = spread(seconds)
        device_bytes = [b for run in runs if (b := run.get("peak_device_memory_bytes")) is not None]
        row = {
            "arm": contender.name,
            "precision": contender.precision,
            "options": list(contender.options),
            "thrown_out": why_thrown_out(contender, runs, reference, lowest),
            "epoch_seconds": dataclasses.asdict(epoch),
            "images_per_second": images[0] / epoch.median,
            "flops_per_second": flops / epoch.median,
            "share_of_peak": flops / epoch.median / peak_flops if peak_flops else None,
            "to_first_step_seconds": _spread_if_all(runs, to_first_step),
            "startup_seconds": _spread_if_all(runs, "startup_seconds"),
            "startup": {
                phase: _spread_if_all([run["startup"] for run in runs], phase)
                for phase in runs[0].get("startup", ())
            },
            "first_step_seconds": _spread_if_all(runs, "first_step_seconds"),
            "warm_up_seconds": _spread_if_all(runs, warm_up),
            "to_accuracy_seconds": _spread_if_all(runs, partial(to_accuracy, accuracy=accuracy)),
            "wall_seconds": _spread_if_all(runs, "wall_seconds"),
            "peak_memory_bytes": max(run["peak_memory_bytes"] for run in runs),
            "peak_device_memory_bytes": max(device_bytes, default=None),
            "energy_joules": _spread_if_all(runs, "energy_joules"),
            "epoch_joules": _spread_if_all(runs, "epoch_joules"),
            "epoch_joules_above_idle": _spread_if_all(
                runs, partial(above_idle, idle_watts=idle_watts)
            ),
            **{name: _spread_if_all(runs, name) for name in ("sm_mhz", "watts", "celsius_max")},
            "power_capped": sum(bool(run.get("power_capped")) for run in runs),
            "device_share": _spread_if_all(runs, device_share),
            "first_call_steps": max(run.get("first_call_steps", 1) for run in runs),
            "notes": sorted({note for run in runs for note in run.get("notes", ())}),
            "val_accuracy": [run["history"][-1]["val_accuracy"] for run in runs],
            "test_accuracy": [run["test_accuracy"] for run in runs],
            "faster_than": {
                other: dataclasses.asdict(
                    paired_ratio(list(map(steady_seconds, measurements[other])), seconds)
                )
                for other in baselines(contender)
                if other in measurements
            },
        }
        rows.append(row)
    return rows


def to_first_step(measured: Measured) -> float:
    """Return the seconds from the command until the first step is done."""
    return float(measured["startup_seconds"] + measured["first_step_seconds"])


def warm_up(measured: Measured) -> float:
    """Return the seconds that the first epoch takes longer than the later ones."""
    return float(measured["epoch_seconds"][0] - steady_seconds(measured))


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


def above_idle(measured: Measured, idle_watts: float | None) -> float | None:
    """Return the joules an epoch beyond what the idle GPU takes in that time."""
    epoch_joules = measured.get("epoch_joules")
    if epoch_joules is None or idle_watts is None:
        return None
    num_epochs = len(measured["epoch_seconds"]) - 1
    return float(epoch_joules - idle_watts * measured["window_seconds"] / num_epochs)


def device_share(measured: Measured) -> float | None:
    """Return the time by CUDA events as a share of the steady epochs' wall time, in [0, 1]."""
    seconds = measured.get("epoch_device_seconds")
    if not seconds:
        return None
    return sum(seconds[1:]) / sum(measured["epoch_seconds"][1:])


def _spread_if_all(
    runs: Sequence[Measured], find: str | Callable[[Measured], float | None]
) -> dict[str, Any] | None:
    """Return the spread of a field of `runs`, or of what `find` finds in each.

    None where a run has no value: the others would flatter the contender.
    """
    values = [run.get(find) if isinstance(find, str) else find(run) for run in runs]
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
    shortest = min((row["epoch_seconds"]["median"] for row in found["arms"]), default=1)
    unit, factor, digits = ("ms", 1000.0, 1) if shortest < 1 else ("s", 1.0, 2)
    alternatives: list[str] = []
    headings = (
        "contender", f"{unit} an epoch (quartiles)", "images/s", "against stock", "against raw",
        "against float32", "share of peak", "memory, GiB", "val. accuracy",
    )  # fmt: skip
    rows = []
    for row in found["arms"]:
        epoch, ratios = row["epoch_seconds"], row["faster_than"]
        share = row["share_of_peak"]
        single = row["arm"].removesuffix(f" {row['precision']}")  # the same contender in float32
        as_it_is = row["arm"].partition(",")[0]  # an alternative is compared with that
        others = {name: ratio for name, ratio in ratios.items() if name != single}
        cells = [
            row["arm"] + (f" (thrown out: {row['thrown_out']})" if row["thrown_out"] else ""),
            f"{epoch['median'] * factor:.{digits}f} "
            f"({epoch['lower'] * factor:.{digits}f}–{epoch['upper'] * factor:.{digits}f})",
            f"{row['images_per_second']:,.0f}",
            *(_ratio(others, f"{track} ") for track in ("stock", "raw")),
            _ratio(ratios, single) if single != row["arm"] else "–",
            "–" if share is None or row["precision"] != "32" else f"{share:.0%}",
            f"{row['peak_memory_bytes'] / GIB:.2f}",
            f"{min(row['val_accuracy']):.3f}–{max(row['val_accuracy']):.3f}",
        ]
        rows.append(cells)
        if as_it_is != row["arm"] and as_it_is in ratios:
            alternatives.append(f"{row['arm']}: {_ratio(ratios, as_it_is)} of {as_it_is}")
        alternatives += [f"{row['arm']}: {note}" for note in row.get("notes", ())]
    yield from table(headings, rows, numbers=range(1, len(headings)))
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
        + f"; {versions}{told_commit(machine)}."
    )
    for line in alternatives:
        yield ""
        yield f"{line}."
    for name, reason in found["left_out"].items():
        yield ""
        yield f"Not measured: {name}: {reason}."


def start_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table of what a command takes until its first step, and until its end."""
    accuracy = found["conditions"]["accuracy"]
    headings = (
        "contender", "to first step, s", "program + data + framework + build + first step",
        "warm-up, s", f"to {accuracy:.0%} accuracy, s", "whole program, s",
    )  # fmt: skip
    rows = []
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
        rows.append(cells)
    yield from table(headings, rows, numbers=range(1, len(headings)))
    calls = [(row["arm"], row.get("first_call_steps", 1)) for row in found["arms"]]
    several = ", ".join(f"{steps} in {contender}" for contender, steps in calls if steps > 1)
    yield ""
    yield (
        "The first step ends when the program hears of it: where several steps are one call, "
        f"after these{f': {several}' if several else ''}. Warm-up is what the "
        "first epoch takes longer than the later ones; what is compiled is in it. The time to an "
        "accuracy ends with the epoch that reaches it in validation; what a program does between "
        "epochs, as our trainers write checkpoints, is in that of the whole program only."
    )


def gpu_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the tables of what each contender takes of the GPU, and how it goes about it."""
    headings = (
        "contender", "memory, GiB", "J an epoch (quartiles)", "above idle", "SM clock, MHz",
        "power, W", "hottest, °C", "CUDA events / wall", "first time, s",
    )  # fmt: skip
    cold = found.get("cold_first_step_seconds") or {}
    rows = []
    for row in found["arms"]:
        memory, first = row["peak_device_memory_bytes"], cold.get(row["arm"])
        cells = [
            row["arm"],
            "–" if memory is None else f"{memory / GIB:.2f}",
            _quartiles(row.get("epoch_joules")),
            _quartiles(row.get("epoch_joules_above_idle")),
            _median(row.get("sm_mhz")),
            _median(row.get("watts")) + (" (capped)" if row.get("power_capped") else ""),
            _median(row.get("celsius_max")),
            _median(row.get("device_share"), digits=3),
            "–" if first is None else f"{first:.1f}",
        ]
        rows.append(cells)
    yield from table(headings, rows, numbers=range(1, len(headings)))
    gpu, watts = found["environment"]["gpu"], found.get("idle_watts")
    idle = "untold" if watts is None else f"{watts:.0f} W"
    yield ""
    yield (
        f"{gpu['name']}, driver {gpu['driver']}. Memory is the most in use on the device above "
        "what was in use before, the framework's own context included. Energy is the GPU's alone, "
        "by its own counter, from the end of the first epoch to that of the last; idle is what it "
        f"took before, {idle}. Clock, power and heat are of the same "
        "time, looked at every 100 ms; a contender whose GPU was slowed down does not count. "
        "TensorFlow and JAX do not take the memory in advance here. In float32, TF32 is off: "
        "NVIDIA's libraries are told so, and XLA leaves its matrix products to them. The first "
        "time is that until the first step while nothing is in a cache."
    )
    yield ""
    rows = []
    for row in found["arms"]:
        track, _, engine = row["arm"].partition(",")[0].partition(" ")
        if terms := ON_A_GPU.get((track, engine.split(" ")[0])):
            rows.append([row["arm"], *terms])
    ways = ("contender", "the data lie", "a step is", "kernels chosen by trial", "the host waits")
    yield from table(ways, rows)


def _quartiles(values: Mapping[str, Any] | None) -> str:
    if values is None:
        return "–"
    return f"{values['median']:,.1f} ({values['lower']:,.1f}–{values['upper']:,.1f})"


def _median(values: Mapping[str, Any] | None, digits: int = 0) -> str:
    return "–" if values is None else f"{values['median']:,.{digits}f}"


def _ratio(ratios: Mapping[str, Mapping[str, Any]], start: str) -> str:
    for name, ratio in ratios.items():
        if name.startswith(start):
            words = f"{ratio['median']:.2f}×"
            if ratio["low"] is not None:
                words += f" ({ratio['low']:.2f}–{ratio['high']:.2f})"
            return words
    return "–"


def draw(path: Path, measurements: Mapping[str, Sequence[Measured]]) -> None:
    """Draw the seconds an epoch of each process, a row for each contender."""
    seconds = {
        name: [steady_seconds(measured) for measured in runs] for name, runs in measurements.items()
    }
    plot_measurements(path, seconds, "seconds an epoch, validation included")
