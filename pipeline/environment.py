"""What a run ran on: versions, processor, memory. Nothing here imports a framework."""

import math
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from ladder.interpreters import this_interpreter

CGROUP = Path("/sys/fs/cgroup")
ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "keras",
    "tensorflow",
    "jax",
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "numpy",
    "scikit-learn",
)
GPU_NODES = ("nvidiactl", "nvidia[0-9]*", "dxg", "kfd", "nvmap")
"""Files of /dev that a driver makes: NVIDIA's, Windows's under WSL, AMD's, and Tegra's."""


def package_versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str | None]:
    """Return each package's version in this process's environment, None where it is missing."""
    return this_interpreter().versions(packages)


def describe_machine() -> dict[str, Any]:
    """Return the code's commit, platform, Python, processor, usable cores and memory in bytes."""
    return {
        "commit": commit(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def commit() -> str | None:
    """Return the commit of this checkout, with `+` where files have changed since; None of none."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"]
    outside = {**os.environ, "GIT_CEILING_DIRECTORIES": str(ROOT.parent)}
    try:
        found = subprocess.run(
            command, cwd=ROOT, env=outside, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return found.stdout.strip() or None


def cpu_name() -> str:
    """Return the processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def has_gpu_driver() -> bool:
    """Return whether a GPU's driver is here; without one there is no framework worth asking."""
    return any(path for node in GPU_NODES for path in Path("/dev").glob(node))


def usable_cores() -> int:
    """Return how many cores this process may keep busy: by affinity, and by a container's quota.

    A quota of one and a half cores counts as two.
    """
    quota = _quota()
    return bound_cores() if quota is None else min(bound_cores(), max(1, math.ceil(quota)))


def _quota() -> float | None:
    """Return the cores' worth of time that a container gets (cgroup v2, then v1); None for all."""
    try:
        if (CGROUP / "cpu.max").exists():
            quota, period = (CGROUP / "cpu.max").read_text().split()
        else:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = ((CGROUP / "cpu" / name).read_text() for name in names)
        cores = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such files, or the word "max"
        return None
    return cores if cores > 0 else None  # v1 says -1


def bound_cores() -> int:
    """Return how many cores this process may run on, whatever time it is given on them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory_bytes() -> int:
    """Return the largest resident size this process has had.

    On Linux from `VmHWM`: `ru_maxrss` is handed down from the process that started this one.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def seconds_since_process_start() -> float:
    """Return the age of this process in seconds, on Linux to a hundredth.

    psutil reckons from the second in which the machine started, and can be a second off.
    """
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, AttributeError):
        return time.time() - psutil.Process().create_time()
