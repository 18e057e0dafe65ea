"""Measuring programs in fresh processes, interleaved: the contenders, and one run of each."""

import dataclasses
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from benchmark.nvidia import Gauge
from ladder.engines import leashed
from ladder.interpreters import Engine
from pipeline.engines import ENGINES, trainer_arguments
from pipeline.environment import usable_cores
from pipeline.errors import RunError
from pipeline.record import EPOCH_METRICS, LOG, STARTUP_PHASES
from pipeline.recorded import read_record
from pipeline.terminal import say

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "benchmark" / "contenders"
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
LOOPS_NEED = ("numpy", "PIL", "platformdirs", "psutil", "safetensors", "yaml")
"""What a hand-written loop imports besides its framework."""
WORKERS = {"cpu": (0, 1, 2), "gpu": (0, 2, 4, 8, 16)}
"""Numbers of loader workers of which the stock Lightning program takes the fastest."""
ALTERNATIVES = {
    "lightning": ("nchw", "autotune", "eager", "events"),
    "keras-tensorflow": ("xla",),
}
"""Ours with one setting another way, for a GPU to decide on; see `contenders/varied_*.py`."""

DEVICE_VARIABLES = {
    "cpu": {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu", "KERAS_TORCH_DEVICE": "cpu"},
    "gpu": {
        # Or JAX falls back to the CPU without a word.
        "JAX_PLATFORMS": "cuda",
        # Or TensorFlow and JAX take most of the memory at once, whatever they need.
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        # TensorFlow's build holds no kernels for the newest GPUs: they are compiled at first use,
        # and the cache, of 1 GiB where not told, must keep all of them.
        "CUDA_CACHE_MAXSIZE": "4294967296",
    },
}
"""What keeps a contender on its device, and makes contenders there comparable."""
FLOAT32_VARIABLES = {
    # cuDNN, TensorFlow and JAX take TF32 unless told. The first is heeded by NVIDIA's libraries,
    # not by XLA's own products: these go to the libraries, and a stock JAX is told by the last.
    "NVIDIA_TF32_OVERRIDE": "0",
    "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_enable_triton_gemm=false".strip(),
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",
}
"""What makes float32 on a GPU float32 in every contender."""
EPOCH_LINE = "epoch"
"""How a line begins by which a contender tells that an epoch has ended."""
NO_GRAPH = "no CUDA graph could be captured"

Measured = dict[str, Any]


@dataclass(frozen=True)
class Conditions:
    """What every contender of a benchmark is run with."""

    data_dir: Path
    num_epochs: int = 3
    batch_size: int = 64
    num_threads: int | None = None
    """Cores that each process may use; None for all."""
    device: str = "cpu"
    """`cpu`, or `gpu` for the NVIDIA GPU that `gpu_uuid` names."""
    gpu_uuid: str = ""

    def variables(self, precision: str) -> dict[str, str]:
        """Return the environment variables of a contender at `precision`."""
        if self.device == "cpu":
            return DEVICE_VARIABLES["cpu"]
        exact = {} if precision == "tf32" else FLOAT32_VARIABLES
        return {**DEVICE_VARIABLES["gpu"], "CUDA_VISIBLE_DEVICES": self.gpu_uuid, **exact}


@dataclass(frozen=True)
class Contender:
    """One program to measure."""

    name: str
    track: str
    """`stock`, `ours` or `raw`."""
    engine: str
    """The engine or, of a raw contender, the framework."""
    precision: str = "32"
    options: tuple[str, ...] = ()
    alternative: str = ""
    """One of ALTERNATIVES; empty for the engine as it is."""
    environment: dict[str, str] = field(default_factory=dict, hash=False)


def contenders_of(
    engines: Sequence[str],
    tracks: Sequence[str],
    precisions: Sequence[str] = ("32",),
    with_alternatives: bool = False,
) -> tuple[list[Contender], dict[str, str]]:
    """Return the contenders that can run here, and the reasons of those that cannot, by name."""
    contenders, left_out = [], {}
    for track, precision in product([one for one in TRACKS if one in tracks], precisions):
        for name in dict.fromkeys(RAW_OF[e] if track == "raw" else e for e in engines):
            contender = _contender(track, name, precision)
            if reason := why_not(contender):
                left_out[contender.name] = reason
            elif track == "raw" and name != "torch" and precision == "bf16":
                left_out[contender.name] = "this loop is written for float32"
            else:
                contenders.append(contender)
    if with_alternatives:
        ours = [
            contender
            for contender in contenders
            if contender.track == "ours" and contender.precision == "32"
        ]
        for contender in ours:
            contenders += [
                dataclasses.replace(contender, name=f"{contender.name}, {word}", alternative=word)
                for word in ALTERNATIVES.get(contender.engine, ())
            ]
    return contenders, left_out


def why_not(contender: Contender) -> str | None:
    """Return why a contender cannot run here, or None: a loop by hand needs no Keras."""
    engine = _engine_of(contender)
    if contender.track == "raw":
        return engine.find_python().why_not((contender.engine, *LOOPS_NEED))
    return engine.why_not()


def _engine_of(contender: Contender) -> Engine:
    """Return the engine under whose interpreter a contender runs."""
    return ENGINES[ENGINE_OF.get(contender.engine, contender.engine)]


def contender_name(track: str, engine: str, precision: str) -> str:
    """Return the name of a contender, which says the precision only where it is not float32."""
    return f"{track} {engine}" if precision == "32" else f"{track} {engine} {precision}"


def _contender(track: str, engine: str, precision: str) -> Contender:
    environment = {} if track == "raw" else ENGINES[engine].environment()
    if track == "stock":  # a newcomer sets no more than the backend
        environment = {k: v for k, v in environment.items() if k == "KERAS_BACKEND"}
    name = contender_name(track, engine, precision)
    return Contender(name, track, engine, precision, environment=environment)


def baselines(contender: Contender) -> Iterator[str]:
    """Yield the names of the contenders that `contender` is compared with."""
    if contender.alternative:
        yield contender_name(contender.track, contender.engine, contender.precision)
    elif contender.track == "ours":
        yield contender_name("stock", contender.engine, contender.precision)
        yield contender_name("raw", RAW_OF[contender.engine], contender.precision)
    if contender.precision != "32":
        yield contender_name(contender.track, contender.engine, "32")


def measure(contender: Contender, conditions: Conditions) -> Measured:
    """Run a contender in a fresh process and return what it measured; see `benchmark.raw.Clock`.

    Raises:
        RunError: the contender failed, printed no measurement, or ran on another device.
    """
    gauge = Gauge(conditions.gpu_uuid) if conditions.device == "gpu" else None
    precision = conditions.variables(contender.precision)
    variables = {"PYTHONPATH": str(ROOT), **precision, **contender.environment}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        program = _program(contender, conditions, Path(scratch))
        command = leashed(_engine_of(contender).command(*program))
        with gauge.running() if gauge else nullcontext():
            began, began_at = time.perf_counter(), time.time()
            with _bound(conditions.num_threads):
                done, marks = _heard(command, {**os.environ, **variables})
            wall_seconds = time.perf_counter() - began
        if done.returncode != 0:
            raise RunError(
                f"{contender.name} exited with {done.returncode}:\n{done.stderr[-2000:]}"
            )
        measured = _from_record(Path(scratch) / "run") if contender.track == "ours" else {}
        measured |= _printed(done.stdout)
    if not measured:
        raise RunError(f"{contender.name} printed no measurement:\n{done.stdout}")
    if measured.get("device") != conditions.device:
        raise RunError(
            f"{contender.name} ran on {measured.get('device')}, not on {conditions.device}"
        )
    if "built_at" in measured:
        measured["startup_seconds"] = measured.pop("built_at") - began_at
    return {**measured, **(gauge.found(marks) if gauge else {}), "wall_seconds": wall_seconds}


def _heard(
    command: Sequence[str], environment: Mapping[str, str]
) -> tuple[subprocess.CompletedProcess[str], list[float]]:
    """Run `command`; return how it ended, and when it told that each epoch had (time.time())."""
    lines, marks = [], []
    with (
        tempfile.TemporaryFile("w+", errors="replace") as errors,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as child,
    ):
        try:
            assert child.stdout is not None
            for line in child.stdout:
                if line.startswith(EPOCH_LINE):
                    marks.append(time.time())
                lines.append(line)
            child.wait()
        except BaseException:
            child.kill()
            raise
        errors.seek(0)
        done = subprocess.CompletedProcess(command, child.returncode, "".join(lines), errors.read())
    return done, marks


def _printed(stdout: str) -> Measured:
    """Return the JSON object in a contender's last printed line; empty where none is."""
    try:
        found = json.loads(stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def steady_seconds(measured: Measured) -> float:
    """Return the median of the epochs after the first, which warms up."""
    return statistics.median(measured["epoch_seconds"][1:] or measured["epoch_seconds"])


def with_best_workers(
    contender: Contender,
    conditions: Conditions,
    part: Callable[[str, Callable[[], Measured]], Measured],
) -> Contender:
    """Return the contender; stock Lightning with the number of workers that is fastest here.

    `part` is `Session.part`.
    """
    if (contender.track, contender.engine) != ("stock", "lightning"):
        return contender
    seconds = {}
    for workers in (each for each in WORKERS[conditions.device] if each <= usable_cores()):
        tried = dataclasses.replace(contender, options=("--workers", str(workers)))
        name = f"{contender.name}, {workers} workers"
        seconds[workers] = steady_seconds(part(name, partial(measure, tried, conditions)))
        say(f"{name}: {in_words(seconds[workers])} an epoch")
    best = min(seconds, key=lambda workers: seconds[workers])
    return dataclasses.replace(contender, options=("--workers", str(best)))


def reference_history(conditions: Conditions) -> list[dict[str, float]]:
    """Return the epochs that Lightning's plain path goes through in float64, one epoch of it.

    Without Lightning it is Keras's, and without both a hand-written loop's in float32, whose
    rounding is a hundredth of what `report.STRAY` allows.

    Raises:
        RunError: it failed, or nothing can run here.
    """
    contenders, left_out = contenders_of(("lightning", *ENGINES), ("ours", "raw"))
    if not contenders:
        raise RunError(f"nothing can run here: {'; '.join(left_out.values())}")
    contender = dataclasses.replace(contenders[0], name="the reference")
    if contender.track == "ours":
        contender = dataclasses.replace(contender, precision="64", options=("--plain",))
    return measure(contender, dataclasses.replace(conditions, num_epochs=1))["history"]


def _program(contender: Contender, conditions: Conditions, scratch: Path) -> list[str]:
    if contender.track == "peak":
        return [str(PROGRAMS / "peak_torch.py"), conditions.device]
    shared = ["--data-dir", str(conditions.data_dir), "--epochs", str(conditions.num_epochs)]
    shared += ["--batch-size", str(conditions.batch_size), "--device", conditions.device]
    # `--precision tf32` is the hand-written loops' alone; a stock program is at its framework's.
    precision = (
        "32" if contender.precision == "tf32" and contender.track != "raw" else contender.precision
    )
    shared += ["--precision", precision]
    framework = "lightning" if contender.engine == "lightning" else "keras"
    if contender.track == "ours":
        script, *first = trainer_arguments(contender.engine)
        program = [str(ROOT / "scripts" / script)]
        if contender.alternative:
            program = [str(PROGRAMS / f"varied_{framework}.py"), contender.alternative]
        first += ["--tf32"] * (contender.precision == "tf32")
        return [*program, *first, *shared, "--run-dir", str(scratch / "run"), *contender.options]
    leaf = f"raw_{contender.engine}.py" if contender.track == "raw" else f"stock_{framework}.py"
    return [str(PROGRAMS / leaf), *shared, *contender.options]


@contextmanager
def _bound(num_threads: int | None) -> Iterator[None]:
    """Bind what is started inside to its first cores, which every framework heeds.

    Linux binds this thread, and a new process has what the thread that started it has.
    """
    if num_threads is None:
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:num_threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def in_words(seconds: float) -> str:
    """Return a duration as people read it: below a second in milliseconds."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _from_record(run_dir: Path) -> Measured:
    record = read_record(run_dir)
    log = (run_dir / LOG).read_text(errors="replace") if (run_dir / LOG).exists() else ""
    return {
        "device": record.environment.get("device"),
        "first_call_steps": record.timing.get("first_call_steps", 1),
        "notes": [NO_GRAPH] if NO_GRAPH in log else [],
        "epoch_seconds": [float(row["seconds"]) for row in record.history],
        "history": [{name: row[name] for name in EPOCH_METRICS} for row in record.history],
        "startup_seconds": record.timing["startup_seconds"],
        "startup": {phase: record.timing[f"{phase}_seconds"] for phase in STARTUP_PHASES},
        "first_step_seconds": record.timing["first_step_seconds"],
        "test_accuracy": record.test["accuracy"],
        "peak_memory_bytes": record.timing["peak_memory_bytes"],
    }
