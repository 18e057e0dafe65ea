"""Measuring programs in fresh processes, interleaved: which arms there are, and one run of each."""

import dataclasses
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from benchmark.nvidia import Gauge
from pipeline.engines import ENGINES, trainer_arguments
from pipeline.errors import RunError
from pipeline.launch import leashed
from pipeline.record import EPOCH_METRICS, STARTUP_PHASES, read_record

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "benchmark" / "arms"
TRACKS = ("stock", "ours", "raw")
RAW_OF = {
    "lightning": "torch",
    "keras-torch": "torch",
    "keras-tensorflow": "tensorflow",
    "keras-jax": "jax",
}
"""The framework whose hand-written loop is an engine's control."""
ENGINE_OF = {"torch": "lightning", "tensorflow": "keras-tensorflow", "jax": "keras-jax"}
"""The engine under whose interpreter a framework's hand-written loop runs."""
WORKERS = (0, 1, 2)
"""Numbers of loader workers of which the stock Lightning program takes the fastest."""

DEVICE_VARIABLES = {
    "cpu": {"CUDA_VISIBLE_DEVICES": "-1"},
    "gpu": {
        # float32 is float32 in every arm: cuDNN, TensorFlow and JAX take TF32 unless told.
        "NVIDIA_TF32_OVERRIDE": "0",
        # Or TensorFlow and JAX take most of the memory at once, whatever they need.
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    },
}
"""What keeps an arm on its device, and makes arms there comparable."""

Measured = dict[str, Any]


@dataclass(frozen=True)
class Conditions:
    """What every arm of a benchmark is run with."""

    data_dir: Path
    num_epochs: int = 3
    batch_size: int = 64
    num_threads: int | None = None
    """Cores that each process may use; None for all."""
    device: str = "cpu"
    """`cpu`, or `gpu` for the first NVIDIA GPU."""


@dataclass(frozen=True)
class Arm:
    """One program to measure."""

    name: str
    track: str
    """`stock`, `ours` or `raw`."""
    engine: str
    """The engine or, of a raw arm, the framework."""
    precision: str = "32"
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict, hash=False)


def arms_of(
    engines: Sequence[str], tracks: Sequence[str], precisions: Sequence[str] = ("32",)
) -> tuple[list[Arm], dict[str, str]]:
    """Return the arms that can run here, and the reasons of those that cannot, by name."""
    arms, left_out = [], {}
    for track, precision in product([one for one in TRACKS if one in tracks], precisions):
        for name in dict.fromkeys(RAW_OF[e] if track == "raw" else e for e in engines):
            arm = _arm(track, name, precision)
            needed = [engine for engine in engines if name in (engine, RAW_OF[engine])]
            reasons = [reason for engine in needed if (reason := ENGINES[engine].why_not())]
            if len(reasons) == len(needed):
                left_out[arm.name] = reasons[0]
            elif track == "raw" and name != "torch" and precision != "32":
                left_out[arm.name] = "this loop is written for float32"
            else:
                arms.append(arm)
    return arms, left_out


def arm_name(track: str, engine: str, precision: str) -> str:
    """Return what an arm is called; float32 goes without saying."""
    return f"{track} {engine}" if precision == "32" else f"{track} {engine} {precision}"


def _arm(track: str, engine: str, precision: str) -> Arm:
    environment = {} if track == "raw" else ENGINES[engine].environment()
    if track == "stock":  # a newcomer sets no more than the backend
        environment = {k: v for k, v in environment.items() if k == "KERAS_BACKEND"}
    name = arm_name(track, engine, precision)
    return Arm(name, track, engine, precision, environment=environment)


def baselines(arm: Arm) -> Iterator[str]:
    """Yield the names of the arms that `arm` is compared with."""
    if arm.track == "ours":
        yield arm_name("stock", arm.engine, arm.precision)
        yield arm_name("raw", RAW_OF[arm.engine], arm.precision)
    if arm.precision != "32":
        yield arm_name(arm.track, arm.engine, "32")


def measure(arm: Arm, conditions: Conditions) -> Measured:
    """Run an arm in a fresh process and return what it measured; see `benchmark.raw.Clock`.

    Raises:
        RunError: the arm failed, or printed no measurement.
    """
    gauge = Gauge()
    variables = {"PYTHONPATH": str(ROOT), **DEVICE_VARIABLES[conditions.device], **arm.environment}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        with gauge.running() if conditions.device == "gpu" else nullcontext():
            began, began_at = time.perf_counter(), time.time()
            done = subprocess.run(
                leashed(_command(arm, conditions, Path(scratch))),
                env={**os.environ, **variables},
                preexec_fn=_limit(conditions.num_threads),
                capture_output=True,
                text=True,
                check=False,
            )
            wall_seconds = time.perf_counter() - began
        if done.returncode != 0:
            raise RunError(f"{arm.name} exited with {done.returncode}:\n{done.stderr[-2000:]}")
        if arm.track == "ours":
            measured = _from_record(Path(scratch) / "run")
        else:
            try:
                measured = json.loads(done.stdout)
            except ValueError as error:
                raise RunError(f"{arm.name} printed no measurement:\n{done.stdout}") from error
            if "built_at" in measured:
                measured["startup_seconds"] = measured.pop("built_at") - began_at
    return {**measured, **gauge.found, "wall_seconds": wall_seconds}


def steady_seconds(measured: Measured) -> float:
    """Return the median of the epochs after the first, which warms up."""
    return statistics.median(measured["epoch_seconds"][1:] or measured["epoch_seconds"])


def with_best_workers(
    arm: Arm,
    conditions: Conditions,
    part: Callable[[str, Callable[[], Measured]], Measured],
    say: Callable[[str], None],
) -> Arm:
    """Return the stock Lightning arm with the number of loader workers that is fastest here.

    `part` is `Session.part`.
    """
    seconds = {}
    for workers in WORKERS:
        tried = dataclasses.replace(arm, options=("--workers", str(workers)))
        name = f"{arm.name}, {workers} workers"
        seconds[workers] = steady_seconds(part(name, partial(measure, tried, conditions)))
        say(f"{name}: {seconds[workers]:.2f} s an epoch")
    best = min(seconds, key=lambda workers: seconds[workers])
    return dataclasses.replace(arm, options=("--workers", str(best)))


def reference_history(conditions: Conditions) -> list[dict[str, float]]:
    """Return the epochs that Lightning's plain path goes through in float64, one epoch of it.

    Raises:
        RunError: it failed.
    """
    arm = Arm("the reference", "ours", "lightning", "64", ("--plain",))
    return measure(arm, dataclasses.replace(conditions, num_epochs=1))["history"]


def _command(arm: Arm, conditions: Conditions, scratch: Path) -> list[str]:
    engine = ENGINES[ENGINE_OF.get(arm.engine, arm.engine)]
    return engine.command(*_program(arm, conditions, scratch))


def _program(arm: Arm, conditions: Conditions, scratch: Path) -> list[str]:
    if arm.track == "peak":
        return [str(PROGRAMS / "peak_torch.py")]
    shared = ["--data-dir", str(conditions.data_dir), "--epochs", str(conditions.num_epochs)]
    shared += ["--batch-size", str(conditions.batch_size), "--precision", arm.precision]
    if arm.track == "ours":
        script, *first = trainer_arguments(arm.engine)
        place = ["--run-dir", str(scratch / "run"), "--device", conditions.device]
        return [str(ROOT / "scripts" / script), *first, *shared, *place, *arm.options]
    framework = "lightning" if arm.engine == "lightning" else "keras"
    program = f"raw_{arm.engine}.py" if arm.track == "raw" else f"stock_{framework}.py"
    return [str(PROGRAMS / program), *shared, *arm.options]


def _limit(num_threads: int | None) -> Callable[[], None] | None:
    """Return what binds a new process to its first cores, which every framework heeds."""
    if num_threads is None:
        return None
    cores = sorted(os.sched_getaffinity(0))[:num_threads]
    return lambda: os.sched_setaffinity(0, cores)


def _from_record(run_dir: Path) -> Measured:
    record = read_record(run_dir)
    return {
        "epoch_seconds": [float(row["seconds"]) for row in record.history],
        "history": [{name: row[name] for name in EPOCH_METRICS} for row in record.history],
        "startup_seconds": record.timing["startup_seconds"],
        "startup": {phase: record.timing[f"{phase}_seconds"] for phase in STARTUP_PHASES},
        "first_step_seconds": record.timing["first_step_seconds"],
        "test_accuracy": record.test["accuracy"],
        "peak_memory_bytes": record.timing["peak_memory_bytes"],
    }
