"""What works here: versions, devices, Keras's configuration, threads, the data and the engines.

Each framework is asked in a process of its own; one that crashes or hangs becomes a finding.
"""

import ctypes
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.datasets import FASHION_MNIST, find_dataset, load_dataset
from pipeline.devices import PROBE_SECONDS, Finding, ask, examine_engine
from pipeline.engines import DEFAULT_ENGINES, ENGINES
from pipeline.environment import describe_machine
from pipeline.errors import UsageError
from pipeline.origin import versions_in_use
from pipeline.workers import end_children, workers

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)

LIBRARIES = {
    "12": (
        "libcudart.so.12", "libcublas.so.12", "libcublasLt.so.12", "libcudnn.so.9",
        "libcufft.so.11", "libcusolver.so.11", "libcusparse.so.12", "libnccl.so.2",
        "libcupti.so.12", "libnvJitLink.so.12",
    ),
    "13": (
        "libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13", "libcudnn.so.9",
        "libcufft.so.12", "libcusolver.so.12", "libcusparse.so.12", "libnccl.so.2",
        "libcupti.so.13", "libnvJitLink.so.13",
    ),
}  # fmt: skip
"""What the frameworks load for a GPU, by the major version of the CUDA they are built for."""
STATES_OF_LIBRARIES = ("loadable", "missing")
"""A library that is there and cannot be opened has another, which says why."""
# Opened after the framework is imported, in its own environment: as packages, or as the system's.
LIBRARIES_QUESTION = f"""
import ctypes, glob, os, sys
report["libraries"] = {{}}
for name in {LIBRARIES!r}.get(str(report["cuda"]).partition(".")[0], ()):
    inside = (os.path.join(glob.escape(path), "nvidia", "*", "lib", name) for path in sys.path)
    paths = [path for pattern in inside for path in glob.glob(pattern)]
    try:
        library = ctypes.CDLL(paths[0] if paths else name)
        report["libraries"][name] = "loadable"
    except OSError as error:
        report["libraries"][name] = f"not loadable: {{error}}" if paths else "missing"
        continue
    if name.startswith("libcudnn"):
        report["cudnn"] = ctypes.c_size_t(library.cudnnGetVersion()).value
"""
NVIDIA_VERSION = Path("/proc/driver/nvidia/version")
KERAS_QUESTION = """
import keras
report = {
    "backend": keras.config.backend(),
    "image_data_format": keras.config.image_data_format(),
    "epsilon": keras.config.epsilon(),
    "floatx": keras.config.floatx(),
}
"""


def examine(data_dir: Path | None) -> Finding:
    """Return all findings, ready for JSON; `ok` tells whether default engines and data are fine."""
    with workers(2, end_children) as pool:
        asked = {
            name: pool.submit(examine_engine, engine, extra=LIBRARIES_QUESTION)
            for name, engine in ENGINES.items()
        }
        keras = pool.submit(examine_keras, os.environ, PROBE_SECONDS)
        data = examine_data(data_dir, os.environ)
        engines = {
            name: {"python": ENGINES[name].find_python().path, **answer.result()}
            for name, answer in asked.items()
        }
    findings = {
        "machine": {**describe_machine(), "gpu_driver": describe_gpu_driver()},
        "versions": versions_in_use(),
        "keras": keras.result(),
        "threads": {name: os.environ.get(name) for name in THREAD_VARIABLES},
        "data": data,
        "engines": engines,
    }
    return {"ok": not problems(findings), **findings}


def examine_keras(environ: Mapping[str, str], timeout_seconds: float) -> Finding:
    """Return Keras's configuration file and how Keras itself reads it.

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


def describe_gpu_driver() -> str | None:
    """Return the NVIDIA driver's version and the newest CUDA that it runs, None without one."""
    try:
        told = NVIDIA_VERSION.read_text()
        version = next(iter(re.findall(r"Module\s+(?:for \w+\s+)?([\d.]+)", told)), "")
    except OSError:
        version = ""  # as under WSL
    try:
        library, number = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
        library.cuDriverGetVersion(ctypes.byref(number))
    except OSError:
        return f"NVIDIA {version}, but libcuda.so.1 is not here" if version else None
    cuda = f"CUDA {number.value // 1000}.{number.value % 1000 // 10}"
    return " ".join(filter(None, ["NVIDIA", version, f"for programs up to {cuda}"]))


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
        "Machine": {
            **machine,
            "memory_bytes": f"{machine['memory_bytes'] / 2**30:.1f} GiB",
            "gpu_driver": machine["gpu_driver"] or "none",
        },
        "Versions": {name: text or "not installed" for name, text in findings["versions"].items()},
        "Keras configuration (the trainers do not depend on it)": _without_problem(keras),
        "Threads": {name: text or "not set" for name, text in findings["threads"].items()},
        "Data": _without_problem(data),
        "Engines": {
            name: _engine_lines(engine, machine["gpu_driver"])
            for name, engine in findings["engines"].items()
        },
    }
    lines: list[str] = []
    for title, rows in sections.items():
        lines.append(title)
        width = max(len(name) for name in rows)
        for name, value in rows.items():
            texts = [_one_line(text) for text in (value if title == "Engines" else [value])]
            lines += [f"  {name:{width}}  {texts[0]}"]
            lines += [f"  {'':{width}}  {text}" for text in texts[1:]]
    return "\n".join(lines)


def _without_problem(finding: Finding) -> Finding:
    """Drop what is empty; a problem is shown only where there is one."""
    return {name: value for name, value in finding.items() if value is not None}


def _engine_lines(engine: Finding, driver: str | None) -> list[str]:
    if engine["problem"] is not None:
        return [f"cannot run: {engine['problem']}", engine["python"]]
    device = ", ".join(engine["gpus"]) or "on the CPU: it sees no GPU"
    unused = "".join(f"; {name} is not used" for name in engine.get("unused", ()))
    threads = f"; {engine['threads']} threads" if engine["threads"] else ""
    return [f"ready; {device}{unused}{threads}", engine["python"], _cuda_line(engine, driver)]


def _cuda_line(engine: Finding, driver: str | None) -> str:
    """Say for which CUDA an engine's framework is built, and which of its libraries are there.

    A driver runs programs of its own major version of CUDA and of older ones.
    """
    if not engine.get("cuda"):
        return "not built for CUDA"
    libraries = engine["libraries"]
    loadable = [name for name, state in libraries.items() if state == "loadable"]
    missing = [name for name, state in libraries.items() if state == "missing"]
    broken = [
        f"{name} is {state}"
        for name, state in libraries.items()
        if state not in STATES_OF_LIBRARIES
    ]
    parts = [f"built for CUDA {engine['cuda']}: {len(loadable)} of {len(libraries)} libraries load"]
    if cudnn := engine.get("cudnn"):
        parts.append(f"cuDNN {cudnn // 10000}.{cudnn // 100 % 100}.{cudnn % 100}")
    if missing:
        parts.append(f"missing: {', '.join(missing)}")
    runs = re.search(r"CUDA (\d+)", driver or "")
    if runs and int(runs[1]) < int(engine["cuda"].partition(".")[0]):
        parts.append("the driver is too old for it")
    return "; ".join([*parts, *broken])


def _one_line(value: Any) -> str:
    return " ".join(str(value).split())
