"""TensorBoard's event files, written without a framework."""

import sys
import time
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.record import PLOTS, Layer, Record
from pipeline.tracking import SAMPLES, epochs_of, test_metrics

TENSORBOARD_FOLDER = Path("logs", "tensorboard")


class TensorBoardTracker:
    """An event file in the run's folder; tags are the columns of `history.csv`, steps its epochs.

    It begins with the mark of a session's start at step 0, at which readers forget what earlier
    files in the folder hold: a run that goes on writes its epochs so far again.
    """

    name = "tensorboard"

    def __init__(self, run_dir: Path) -> None:
        # TensorBoard's own switch (tensorboard/compat/__init__.py) to use its stub instead of an
        # installed TensorFlow. Without it, writing a scalar from a torch process would import
        # TensorFlow, and that process would crash.
        notf = "tensorboard.compat.notf"
        sys.modules.setdefault(notf, types.ModuleType(notf))
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.run_dir = run_dir
        folder = run_dir / TENSORBOARD_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventFileWriter(str(folder))
        self._add(0, session_log=SessionLog(status=SessionLog.START))

    def begin(self, record: Record) -> None:
        """Write the sample images at step 0, and the epochs of a resumed run."""
        self._write_picture(0, self.run_dir / PLOTS / f"{SAMPLES}.png")
        for epoch, metrics in epochs_of(record):
            self.log_epoch(epoch, metrics)

    def log_graph(self, layers: Sequence[Layer]) -> None:
        """Write `layers` as a graph in which each feeds the next, whatever the batch's size."""
        from tensorboard.compat.proto.graph_pb2 import GraphDef

        graph = GraphDef()
        for before, layer in zip([None, *layers], layers, strict=False):
            node = graph.node.add(name=layer.name, op=layer.type)
            if before is not None:
                node.input.append(before.name)
            shape = node.attr["_output_shapes"].list.shape.add()
            for size in (-1, *layer.output_shape):
                shape.dim.add(size=size)
        self._add(0, graph_def=graph.SerializeToString())

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Write one value for each name at the step `epoch`; float32, as the format has it."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        entries = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._add(epoch, summary=Summary(value=entries))

    def end(self, record: Record) -> None:
        """Write the test's metrics and the run's pictures at the step of the last epoch."""
        if record.status == "complete":
            step = len(record.history)
            self.log_epoch(step, test_metrics(record))
            for path in sorted((self.run_dir / PLOTS).glob("*.png")):
                if path.stem != SAMPLES:
                    self._write_picture(step, path)
        self._writer.close()

    def _write_picture(self, step: int, path: Path) -> None:
        """Write the PNG file at `path` under its own name."""
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary

        with Image.open(path) as picture:
            width, height = picture.size
        image = Summary.Image(
            height=height, width=width, colorspace=4, encoded_image_string=path.read_bytes()
        )
        self._add(step, summary=Summary(value=[Summary.Value(tag=path.stem, image=image)]))

    def _add(self, step: int, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=time.time(), step=step, **content))
        self._writer.flush()  # so that a live TensorBoard sees it, and a kill loses nothing
