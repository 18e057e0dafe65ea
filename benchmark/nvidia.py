"""What an NVIDIA GPU says of itself, by nvidia-ml-py: who it is, energy, clocks, heat and memory.

Asked by the process that starts a contender, so that nothing is on the timed path and all are asked
alike. Figures are the whole device's, so nothing else may run there.
"""

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import UsageError

SECONDS_BETWEEN_LOOKS = 0.1
JOULES = WATTS = 1e-3  # NVML counts millijoules and milliwatts
IDLE_SECONDS = 5.0
SHORTEST_WINDOW = 1.0
"""Seconds of epochs below which no energy is given: the GPU's counter moves every 20 to 100 ms."""

SLOWDOWNS = {
    0x08: "a hardware slowdown",
    0x20: "heat (software)",
    0x40: "heat (hardware)",
    0x80: "the power brake",
}
"""Throttle reasons, by NVML's bit, under which a measurement does not count."""
POWER_CAP = 0x04


def require_gpu(environ: Mapping[str, str] = os.environ) -> str:
    """Return the UUID of the GPU that is measured: the first that CUDA is let see.

    Raises:
        UsageError: no NVIDIA GPU can be asked, it is a part of one (MIG), or it is not clear which.
    """
    try:
        with _nvml() as nvml:
            gpu = _selected(nvml, environ)
            if _told(nvml, "nvmlDeviceGetMigMode", gpu, pick=0):
                raise UsageError(
                    "MIG is on, under which NVML tells of the whole GPU only; "
                    "measure on a GPU without it"
                )
            return str(nvml.nvmlDeviceGetUUID(gpu))
    except UsageError:
        raise
    except Exception as error:  # NVML's own, for every way in which there is no GPU
        raise UsageError(f"no NVIDIA GPU can be asked here: {error}") from error


def _selected(nvml: Any, environ: Mapping[str, str]) -> Any:
    """Return NVML's handle of the first GPU in CUDA_VISIBLE_DEVICES, or of the first there is."""
    handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None and handles:
        return handles[0]
    first = (visible or "").split(",")[0].strip()
    if first.startswith("MIG-"):
        raise UsageError("CUDA_VISIBLE_DEVICES names a part of a GPU (MIG)")
    if first.isdecimal() and int(first) < len(handles):
        # NVML counts as the bus does, CUDA the fastest first unless told.
        if len(handles) > 1 and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
            raise UsageError(
                f"CUDA_VISIBLE_DEVICES={visible} does not say which GPU that is; "
                "give the UUID that `nvidia-smi -L` shows, or set CUDA_DEVICE_ORDER=PCI_BUS_ID"
            )
        return handles[int(first)]
    found = [each for each in handles if first and nvml.nvmlDeviceGetUUID(each) == first]
    if not found:
        raise UsageError(f"CUDA_VISIBLE_DEVICES={visible} hides every GPU, or names none")
    return found[0]


def visible_gpus(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the GPUs that CUDA is let see, as CUDA_VISIBLE_DEVICES names them."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",")]
    with _nvml() as nvml:
        return [str(i) for i in range(nvml.nvmlDeviceGetCount())]


def describe_gpu(uuid: str) -> dict[str, Any]:
    """Return the GPU's name and settings: clocks in MHz, power in W; None where NVML has none."""
    with _handle(uuid) as (nvml, gpu):
        driver_cuda = _told(nvml, "nvmlSystemGetCudaDriverVersion")
        return {
            "name": nvml.nvmlDeviceGetName(gpu),
            "uuid": uuid,
            "driver": nvml.nvmlSystemGetDriverVersion(),
            "driver_cuda": driver_cuda
            and f"{driver_cuda // 1000:.0f}.{driver_cuda % 1000 // 10:.0f}",
            "memory_bytes": _memory(nvml, gpu, "total"),
            "sm_mhz_max": _told(nvml, "nvmlDeviceGetMaxClockInfo", gpu, nvml.NVML_CLOCK_SM),
            "memory_mhz_max": _told(nvml, "nvmlDeviceGetMaxClockInfo", gpu, nvml.NVML_CLOCK_MEM),
            "power_limit_watts": _told(nvml, "nvmlDeviceGetEnforcedPowerLimit", gpu, scale=WATTS),
            "ecc": _told(nvml, "nvmlDeviceGetEccMode", gpu, pick=0),
            "mig": _told(nvml, "nvmlDeviceGetMigMode", gpu, pick=0),
            "persistence": _told(nvml, "nvmlDeviceGetPersistenceMode", gpu),
        }


@dataclass(frozen=True)
class Look:
    """What the GPU said at a time; None where it does not tell."""

    at: float
    """`time.time()`."""
    joules: float | None
    watts: float | None
    sm_mhz: float | None
    celsius: float | None
    throttled: float | None
    """NVML's bits."""
    used_bytes: float | None


class Gauge:
    """Looks at a GPU every 100 ms while it runs."""

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid
        self.looks: list[Look] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Look at what happens inside; the first look comes before, the last after it."""
        with _handle(self.uuid) as (nvml, gpu):
            stop = threading.Event()

            def look() -> None:
                self.looks.append(_look(nvml, gpu))

            def watch() -> None:
                while not stop.wait(SECONDS_BETWEEN_LOOKS):
                    look()

            look()
            watcher = threading.Thread(target=watch, daemon=True)
            watcher.start()
            try:
                yield
            finally:
                stop.set()
                watcher.join()
                look()

    def found(self, marks: Sequence[float]) -> dict[str, Any]:
        """Summarise the samples of a run whose epochs ended at `marks` (time.time()).

        From the first mark to the last, when the contender has warmed up: `epoch_joules` (gross;
        None where the window is short or the GPU does not count), `window_seconds`, and the
        medians or extremes of clocks, power and heat. Of the whole run: the peak of memory in use
        above what was in use before, and the energy.
        """
        window = marks[-1] - marks[0] if len(marks) > 1 else 0.0
        inside = [look for look in self.looks if marks and marks[0] <= look.at <= marks[-1]]
        bits = 0
        for look in inside:
            bits |= int(look.throttled or 0)
        used = [look.used_bytes for look in self.looks if look.used_bytes is not None]
        joules = [look.joules for look in self.looks if look.joules is not None]
        counts, energy = len(joules) == len(self.looks), None
        if counts and window >= SHORTEST_WINDOW:
            times = [look.at for look in self.looks]
            first, last = np.interp([marks[0], marks[-1]], times, joules).tolist()
            energy = last - first
        return {
            "energy_joules": joules[-1] - joules[0] if counts else None,
            "epoch_joules": None if energy is None else energy / (len(marks) - 1),
            "window_seconds": window,
            "sm_mhz": _of(inside, "sm_mhz", statistics.median),
            "sm_mhz_min": _of(inside, "sm_mhz", min),
            "watts": _of(inside, "watts", statistics.median),
            "celsius_max": _of(inside, "celsius", max),
            "slowed_by": [name for bit, name in SLOWDOWNS.items() if bits & bit],
            "power_capped": bool(bits & POWER_CAP),
            "peak_device_memory_bytes": max(used) - used[0] if used else None,
        }


def idle_watts(uuid: str, seconds: float = IDLE_SECONDS) -> float | None:
    """Return the power that the GPU takes while nothing runs on it, in W; None where untold."""
    gauge = Gauge(uuid)
    with gauge.running():
        time.sleep(seconds)
    return _of(gauge.looks, "watts", statistics.median)


def _of(looks: Sequence[Look], name: str, choose: Callable[[list[float]], float]) -> float | None:
    values = [value for look in looks if (value := getattr(look, name)) is not None]
    return choose(values) if values else None


def _look(nvml: Any, gpu: Any) -> Look:
    return Look(
        time.time(),
        _told(nvml, "nvmlDeviceGetTotalEnergyConsumption", gpu, scale=JOULES),
        _told(nvml, "nvmlDeviceGetPowerUsage", gpu, scale=WATTS),
        _told(nvml, "nvmlDeviceGetClockInfo", gpu, nvml.NVML_CLOCK_SM),
        _told(nvml, "nvmlDeviceGetTemperature", gpu, nvml.NVML_TEMPERATURE_GPU),
        _told(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", gpu),
        _memory(nvml, gpu, "used"),
    )


@contextmanager
def _nvml() -> Iterator[Any]:
    try:
        import pynvml
    except ImportError as error:
        raise UsageError(
            "a GPU is asked through nvidia-ml-py: pip install 'keras-lightning-parity[energy]'"
        ) from error
    pynvml.nvmlInit()
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


@contextmanager
def _handle(uuid: str) -> Iterator[tuple[Any, Any]]:
    with _nvml() as nvml:
        yield nvml, nvml.nvmlDeviceGetHandleByUUID(uuid)


def _memory(nvml: Any, gpu: Any, which: str) -> float | None:
    """Return bytes of memory; None on boards that share the host's, which do not tell."""
    try:
        return float(getattr(nvml.nvmlDeviceGetMemoryInfo(gpu), which))
    except Exception:  # as in `_told`
        return None


def _told(
    nvml: Any, name: str, *arguments: Any, scale: float = 1, pick: int | None = None
) -> float | None:
    """Call an NVML function; None where this GPU or NVML does not support it."""
    try:
        answer = getattr(nvml, name)(*arguments)
        return float(answer if pick is None else answer[pick]) * scale
    except Exception:  # NVML raises a class of its own for each reason
        return None
