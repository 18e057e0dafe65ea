"""TensorBoard's event files, written without a framework."""

import sys
import types
from collections.abc import Mapping
from pathlib import Path


def keep_tensorflow_out() -> None:
    """Tell TensorBoard to use its own stub instead of an installed TensorFlow.

    The presence of a module `tensorboard.compat.notf` is TensorBoard's own switch for it
    (tensorboard/compat/__init__.py). Without it, writing a scalar from a torch process would
    import TensorFlow, and that process would crash.
    """
    name = "tensorboard.compat.notf"
    sys.modules.setdefault(name, types.ModuleType(name))


class EventFile:
    """An event file in a folder, for scalars by epoch."""

    def __init__(self, folder: Path) -> None:
        keep_tensorflow_out()
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventFileWriter(str(folder))

    def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write one value for each name at `step`."""
        import time

        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        entries = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._writer.add_event(
            Event(wall_time=time.time(), step=step, summary=Summary(value=entries))
        )
        self._writer.flush()
