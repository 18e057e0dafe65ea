"""Which GPU each engine sees, and the device that engines which are compared all run on.

Only an engine's own framework can tell what it would use, so each is asked in a process of its own,
where one that crashes or hangs becomes a finding; none is asked where there is no GPU's driver.
"""

import json
import os
import signal
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ladder.engines import EngineError, ran
from ladder.interpreters import Engine
from pipeline.engines import ENGINES, python_variable
from pipeline.environment import has_gpu_driver
from pipeline.errors import UsageError
from pipeline.workers import end_children, workers

Finding = dict[str, Any]

PROBE_SECONDS = 120.0
REPORT_MARK = "engine-report "

# What each framework is asked; the code runs in a process of its own and leaves `report`.
QUESTIONS = {
    "torch": """
import torch
gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
unused = ["Apple GPU (mps)"] if torch.backends.mps.is_available() else []
report = {"gpus": gpus, "unused": unused, "threads": torch.get_num_threads()}
report["cuda"] = torch.version.cuda
""",
    "tensorflow": """
import tensorflow as tf
details = tf.config.experimental.get_device_details
gpus = [details(gpu).get("device_name", "GPU") for gpu in tf.config.list_physical_devices("GPU")]
report = {"gpus": gpus, "threads": tf.config.threading.get_intra_op_parallelism_threads()}
report["cuda"] = tf.sysconfig.get_build_info().get("cuda_version")
""",
    "jax": """
import jax
from importlib.util import find_spec
report = {"gpus": [device.device_kind for device in jax.devices() if device.platform == "gpu"]}
report["cuda"] = next((v for v in ("13", "12") if find_spec(f"jax_cuda{v}_plugin")), None)
""",
}
# JAX would take most of a GPU's memory just for being asked.
QUIET = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "3"}


@dataclass(frozen=True)
class Devices:
    """The device that all engines of a comparison run on."""

    device: str
    """`cpu` or `gpu`, as the trainers' `--device` takes it."""
    gpus: Mapping[str, str | None]
    """The GPU that each engine runs on; None on the CPU."""
    note: str = ""
    """Why it is not the GPU, where some engines see one."""


def common_device(engines: Iterable[str], wanted: str = "auto") -> Devices:
    """Return the device for engines that are compared: `auto` is a GPU if each of them sees one.

    Raises:
        UsageError: `wanted` is `gpu` and an engine sees none.
    """
    names = list(engines)
    on_cpu = Devices("cpu", dict.fromkeys(names))
    if wanted == "cpu" or (wanted == "auto" and not has_gpu_driver()):
        return on_cpu
    with workers(len(names), end_children) as pool:
        asked = pool.map(examine_engine, [ENGINES[name] for name in names])
        findings = dict(zip(names, asked, strict=True))
    gpus = {name: next(iter(found["gpus"]), None) for name, found in findings.items()}
    if all(gpus.values()):
        return Devices("gpu", gpus)
    if not any(gpus.values()) and wanted == "auto":
        return on_cpu
    without = [name for name in names if not gpus[name]]
    reasons = "; ".join(
        f"{name} sees no GPU" + (f" ({problem})" if (problem := findings[name]["problem"]) else "")
        for name in without
    )
    cure = f"run make setup GPU=1, or name a Python with CUDA in {python_variable(without[0])}"
    if wanted == "gpu":
        raise UsageError(f"`--device gpu`: {reasons}; {cure}, or see scripts/doctor.py")
    return Devices("cpu", on_cpu.gpus, f"all run on the CPU, as {reasons}; {cure}")


def examine_engine(
    engine: Engine,
    environ: Mapping[str, str] = os.environ,
    timeout_seconds: float = PROBE_SECONDS,
    extra: str = "",
) -> Finding:
    """Import an engine's packages as it would; return its `problem`, `gpus`, `threads` and more.

    `extra` is code that adds to `report`.
    """
    nothing: Finding = {"gpus": [], "threads": None}
    problem = engine.why_not()
    if problem is not None:
        return {"problem": problem, **nothing}
    framework = next(name for name in engine.packages if name in QUESTIONS)
    code = f"import {', '.join(engine.packages)}\n{QUESTIONS[framework]}{extra}"
    (python,) = engine.command()
    return {**nothing, **ask(code, {**environ, **engine.environment()}, timeout_seconds, python)}


def ask(
    code: str, environ: Mapping[str, str], timeout_seconds: float, python: str = sys.executable
) -> Finding:
    """Run `code` in a process of its own; return its `report` and the `problem`, None if none."""
    script = f"{code}\nimport json\nprint({REPORT_MARK!r} + json.dumps(report))\n"
    try:
        done = ran([python, "-c", script], {**environ, **QUIET}, timeout_seconds)
    except EngineError as error:
        return {"problem": str(error)}
    reports = [line for line in done.stdout.splitlines() if line.startswith(REPORT_MARK)]
    if done.returncode == 0 and reports:
        return {"problem": None, **json.loads(reports[-1].removeprefix(REPORT_MARK))}
    return {"problem": _death(done.returncode, done.stderr)}


def _death(code: int, stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.strip()]
    last = f": {lines[-1].strip()[:300]}" if lines else ""
    if code < 0:
        return f"crashed with {signal.Signals(-code).name}{last}"
    return f"exited with {code}{last}"
