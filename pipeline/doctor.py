"""What works here: versions, devices, Keras's configuration, threads, the data and the engines.

Each framework is asked in a process of its own; one that crashes or hangs becomes a finding.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.datasets import FASHION_MNIST, find_dataset, load_dataset
from pipeline.engines import DEFAULT_ENGINES, ENGINES
from pipeline.environment import describe_machine, package_versions
from pipeline.errors import UsageError
from pipeline.workers import end_children, workers
from portproof.engines import Engine

Finding = dict[str, Any]

PROBE_SECONDS = 120.0
REPORT_MARK = "doctor-report "
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)

# What each framework is asked; the code runs in a process of its own and leaves `report`.
QUESTIONS = {
    "torch": """
import torch
gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
if torch.backends.mps.is_available():
    gpus.append("Apple GPU (mps)")
report = {"gpus": gpus, "threads": torch.get_num_threads()}
""",
    "tensorflow": """
import tensorflow as tf
details = tf.config.experimental.get_device_details
gpus = [details(gpu).get("device_name", gpu.name) for gpu in tf.config.list_physical_devices("GPU")]
report = {"gpus": gpus, "threads": tf.config.threading.get_intra_op_parallelism_threads()}
""",
    "jax": """
import jax
report = {"gpus": [device.device_kind for device in jax.devices() if device.platform != "cpu"]}
""",
}
KERAS_QUESTION = """
import keras
report = {
    "backend": keras.config.backend(),
    "image_data_format": keras.config.image_data_format(),
    "epsilon": keras.config.epsilon(),
    "floatx": keras.config.floatx(),
}
"""
# JAX would take most of a GPU's memory just for being asked.
QUIET = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "3"}


def examine(
    data_dir: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    timeout_seconds: float = PROBE_SECONDS,
) -> Finding:
    """Return all findings, ready for JSON; `ok` tells whether default engines and data are fine."""
    with workers(2, end_children) as pool:
        asked = {
            name: pool.submit(examine_engine, engine, environ, timeout_seconds)
            for name, engine in ENGINES.items()
        }
        keras = pool.submit(examine_keras, environ, timeout_seconds)
        data = examine_data(data_dir, environ)
        engines = {name: answer.result() for name, answer in asked.items()}
    findings = {
        "machine": describe_machine(),
        "versions": package_versions(),
        "keras": keras.result(),
        "threads": {name: environ.get(name) for name in THREAD_VARIABLES},
        "data": data,
        "engines": engines,
    }
    return {"ok": not problems(findings), **findings}


def examine_engine(engine: Engine, environ: Mapping[str, str], timeout_seconds: float) -> Finding:
    """Import an engine's packages as it would; return `problem`, its GPUs and its threads."""
    nothing: Finding = {"gpus": [], "threads": None}
    problem = engine.why_not()
    if problem is not None:
        return {"problem": problem, **nothing}
    framework = next(name for name in engine.packages if name in QUESTIONS)
    code = f"import {', '.join(engine.packages)}\n{QUESTIONS[framework]}"
    return {**nothing, **ask(code, {**environ, **engine.environment()}, timeout_seconds)}


def examine_keras(environ: Mapping[str, str], timeout_seconds: float) -> Finding:
    """Return Keras's configuration file and what Keras itself makes of it.

    The trainers state these settings and don't depend on them; code of one's own does.
    """
    home = Path(environ.get("KERAS_HOME") or Path.home() / ".keras").expanduser()
    path = home / "keras.json"
    try:
        with path.open("rb") as file:
            content = file.read(4096).decode(errors="replace")
    except OSError:
        content = None  # Keras writes one with its defaults when it is first imported
    return {
        "file": str(path),
        "content": content,
        **ask(KERAS_QUESTION, environ, timeout_seconds),
    }


def examine_data(data_dir: Path | None, environ: Mapping[str, str]) -> Finding:
    """Return where the data are, what they are, and what is wrong with them."""
    finding: Finding = {"folder": None, "name": None, "is_fashion_mnist": False, "problem": None}
    try:
        folder = find_dataset(data_dir, environ)
        finding["folder"] = str(folder)
        dataset = load_dataset(folder)
    except UsageError as error:
        return {**finding, "problem": str(error)}
    finding["name"] = dataset.name
    finding["is_fashion_mnist"] = dataset.name == FASHION_MNIST
    return {**finding, "images": [len(dataset.train_labels), len(dataset.test_labels)]}


def ask(code: str, environ: Mapping[str, str], timeout_seconds: float) -> Finding:
    """Run `code` in a process of its own; return its `report` and the `problem`, None if none."""
    script = f"{code}\nimport json\nprint({REPORT_MARK!r} + json.dumps(report))\n"
    try:
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**environ, **QUIET},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"problem": f"no answer in {timeout_seconds:g} s"}
    except OSError as error:
        return {"problem": f"cannot be started: {error.strerror}"}
    reports = [line for line in done.stdout.splitlines() if line.startswith(REPORT_MARK)]
    if done.returncode == 0 and reports:
        return {"problem": None, **json.loads(reports[-1].removeprefix(REPORT_MARK))}
    return {"problem": _death(done.returncode, done.stderr)}


def problems(findings: Finding) -> list[str]:
    """Return what stands in the way of the default engines, a line each."""
    engines = {name: findings["engines"][name]["problem"] for name in DEFAULT_ENGINES}
    found = [f"{name} cannot run: {text}" for name, text in engines.items() if text is not None]
    data = findings["data"]["problem"]
    return found if data is None else [*found, data]


def describe(findings: Finding) -> str:
    """Return the findings as lines for people."""
    machine, keras, data = findings["machine"], findings["keras"], findings["data"]
    sections = {
        "Machine": {**machine, "memory_bytes": f"{machine['memory_bytes'] / 2**30:.1f} GiB"},
        "Versions": {name: text or "not installed" for name, text in findings["versions"].items()},
        "Keras configuration (the trainers do not depend on it)": _without_problem(keras),
        "Threads": {name: text or "not set" for name, text in findings["threads"].items()},
        "Data": _without_problem(data),
        "Engines": {name: _engine_line(engine) for name, engine in findings["engines"].items()},
    }
    lines = []
    for title, rows in sections.items():
        width = max(len(name) for name in rows)
        lines += [title, *(f"  {name:{width}}  {_one_line(value)}" for name, value in rows.items())]
    return "\n".join(lines)


def _without_problem(finding: Finding) -> Finding:
    """Drop what is empty; a problem is shown only where there is one."""
    return {name: value for name, value in finding.items() if value is not None}


def _engine_line(engine: Finding) -> str:
    if engine["problem"] is not None:
        return f"cannot run: {engine['problem']}"
    gpus = ", ".join(engine["gpus"]) or "no GPU"
    threads = f"; {engine['threads']} threads" if engine["threads"] else ""
    return f"ready; {gpus}{threads}"


def _death(code: int, stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.strip()]
    last = f": {lines[-1].strip()[:300]}" if lines else ""
    if code < 0:
        return f"crashed with {signal.Signals(-code).name}{last}"
    return f"exited with {code}{last}"


def _one_line(value: Any) -> str:
    return " ".join(str(value).split())
