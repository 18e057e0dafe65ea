"""How a run is carried out: what may change its speed and rounding, but not its meaning."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UsageError
from pipeline.flags import check, flag

DEVICES = ("auto", "cpu", "gpu")
LOGGERS = ("csv", "tensorboard", "mlflow")
ONNX_OPSET = 18
"""What both frameworks' exporters write without a conversion; onnxruntime 1.14 reads it."""
MAX_THREADS = 1024  # asked for 100,000, OpenMP crashes the process


@dataclass(frozen=True)
class Execution:
    """Settings of the machine for one run, the same flags in both implementations.

    Raises:
        UsageError: a field is out of its range.
    """

    device: str = flag("auto", "--device", choices=DEVICES)
    """`auto` takes a GPU where there is one; `gpu` without one is an error."""
    devices: int = flag(
        1, "--devices", "devices that share each batch; not with Keras on torch", limits=(1, 1024)
    )
    """Each has a process of its own in Lightning."""
    num_threads: int | None = flag(None, "--threads", "CPU threads", limits=(1, MAX_THREADS))
    """None leaves the framework's own choice."""
    deterministic: bool = flag(False, "--deterministic", "only repeatable operations")
    tf32: bool = flag(False, "--tf32", "allow TensorFloat-32 on NVIDIA GPUs")
    plain: bool = flag(False, "--plain", "the framework's ordinary path")
    loggers: tuple[str, ...] = flag(
        ("csv",),
        "--logger",
        f"of {', '.join(LOGGERS)}; CSV is always written",
        metavar="A,B",
        choices=LOGGERS,
    )
    show_progress: bool = False
    """Draw progress bars; meant for a terminal."""

    def __post_init__(self) -> None:
        """Check each field."""
        check(self)


def execution_from_dict(fields: dict[str, Any]) -> Execution:
    """Build an execution from plain values, as a record holds them; of older ones, what is known.

    Raises:
        UsageError: a field is out of its range or of a wrong type.
    """
    known = {field.name for field in dataclasses.fields(Execution)}
    values = {name: value for name, value in fields.items() if name in known}
    try:
        return Execution(**{**values, "loggers": tuple(values.get("loggers", ("csv",)))})
    except TypeError as error:
        raise UsageError(f"an execution cannot be {values!r:.200}: {error}") from error


def computed(fields: dict[str, Any]) -> dict[str, Any]:
    """Return those of an execution's fields that may change rounding; some only show a run.

    The device is not among them: `auto` does not say which it became. A run's record does. Nor is
    the number of devices, with another of which a run may go on.
    """
    # `logger` is in older records.
    left_out = {"device", "devices", "show_progress", "loggers", "logger"}
    return {name: fields[name] for name in fields if name not in left_out}
