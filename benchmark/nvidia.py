"""What an NVIDIA GPU says of itself, by nvidia-ml-py: who it is, energy and memory.

Asked by the process that starts an arm, so that nothing is on the timed path and all arms are asked
alike. Memory is the device's, above what was in use before; so nothing else may run there.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.errors import UsageError

SECONDS_BETWEEN_LOOKS = 0.05
JOULES = 1e-3  # NVML counts millijoules


def require_gpu() -> None:
    """Raise UsageError where no NVIDIA GPU can be asked."""
    try:
        with _first_gpu():
            pass
    except UsageError:
        raise
    except Exception as error:  # NVML's own, for every way in which there is no GPU
        raise UsageError(f"`--device gpu`: no NVIDIA GPU can be asked here: {error}") from error


def describe_gpu() -> dict[str, Any]:
    """Return the GPU's name, driver, memory, highest clocks (MHz) and power limit (W)."""
    with _first_gpu() as (nvml, gpu):
        return {
            "name": _text(nvml.nvmlDeviceGetName(gpu)),
            "driver": _text(nvml.nvmlSystemGetDriverVersion()),
            "memory_bytes": nvml.nvmlDeviceGetMemoryInfo(gpu).total,
            "sm_mhz_max": _if_told(nvml.nvmlDeviceGetMaxClockInfo, gpu, nvml.NVML_CLOCK_SM),
            "memory_mhz_max": _if_told(nvml.nvmlDeviceGetMaxClockInfo, gpu, nvml.NVML_CLOCK_MEM),
            "power_limit_watts": _if_told(nvml.nvmlDeviceGetEnforcedPowerLimit, gpu, scale=1e-3),
        }


class Gauge:
    """While it runs: the energy that the GPU takes and the most memory in use.

    `found` holds `energy_joules` (None where the GPU does not count) and
    `peak_device_memory_bytes`.
    """

    def __init__(self) -> None:
        self.found: dict[str, float | None] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure what happens inside."""
        with _first_gpu() as (nvml, gpu):
            stop = threading.Event()
            used_before = peak = nvml.nvmlDeviceGetMemoryInfo(gpu).used

            def watch() -> None:
                nonlocal peak
                while not stop.wait(SECONDS_BETWEEN_LOOKS):
                    peak = max(peak, nvml.nvmlDeviceGetMemoryInfo(gpu).used)

            watcher = threading.Thread(target=watch, daemon=True)
            before = _if_told(nvml.nvmlDeviceGetTotalEnergyConsumption, gpu)
            watcher.start()
            try:
                yield
            finally:
                stop.set()
                watcher.join()
            after = _if_told(nvml.nvmlDeviceGetTotalEnergyConsumption, gpu)
        told = before is not None and after is not None
        self.found = {
            "energy_joules": (after - before) * JOULES if told else None,  # type: ignore[operator]
            "peak_device_memory_bytes": peak - used_before,
        }


@contextmanager
def _first_gpu() -> Iterator[tuple[Any, Any]]:
    try:
        import pynvml
    except ImportError as error:
        raise UsageError(
            "`--device gpu` needs nvidia-ml-py: pip install 'keras-lightning-parity[energy]'"
        ) from error
    pynvml.nvmlInit()
    try:
        yield pynvml, pynvml.nvmlDeviceGetHandleByIndex(0)
    finally:
        pynvml.nvmlShutdown()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _if_told(ask: Any, *arguments: Any, scale: float = 1) -> float | None:
    """Return what a function of NVML answers; None where this GPU does not support it."""
    try:
        return float(ask(*arguments)) * scale
    except Exception:  # NVML raises a class of its own for each reason
        return None
