"""Trainings on several devices, each a fork of a process that has imported Keras.

`python -m tests.keras.devices BACKEND CASES`, a JSON file of a list: each case has a `name`, the
trainer's `flags`, and optionally a `mutant`, a name in MUTANTS, a number of `ranks` that train
together, flags of the last alone (`last`), and a `fault` of the last, or of rank `at`, in its
second epoch: a signal, `sleep` or `raise`. A case trains in a folder of its name beside CASES and
leaves `NAME.json` there, and `NAME.RANK.json` for each other rank: its exit code, what it said, how
many images its metrics counted by epoch; and rank 0's state after each step.
"""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

from pipeline.engines import KERAS_JAX, KERAS_TENSORFLOW

BACKEND, CASES = sys.argv[1], Path(sys.argv[2])
ENGINE = {"jax": KERAS_JAX, "tensorflow": KERAS_TENSORFLOW}[BACKEND]
os.environ |= {**ENGINE.environment("64"), "KERAS_HOME": os.devnull}

import keras  # noqa: E402
import numpy as np  # noqa: E402
import sklearn.metrics  # noqa: E402, F401

import pipeline.run  # noqa: E402, F401
from keras_impl import devices, processes, train  # noqa: E402
from keras_impl.watch import synchronise  # noqa: E402
from keras_impl.weights import export_training_state  # noqa: E402
from ladder.arrays import write_arrays  # noqa: E402
from pipeline import run_report  # noqa: E402
from pipeline.command import trainer_main  # noqa: E402

for picture in ("plot_curves", "plot_confusion", "plot_classified"):
    setattr(run_report, picture, lambda *_, **__: None)
processes.TIME_LIMIT_SECONDS = 180


class Steps(keras.callbacks.Callback):
    """Keep the state after each step, and how many images an epoch's metrics have counted."""

    max_steps_per_execution = 25

    def __init__(self, fault):
        super().__init__()
        self.states, self.counts, self.fault = {}, [], fault

    def on_train_batch_end(self, batch, logs=None):
        if self.fault and self.counts:
            if self.fault == "raise":
                raise OSError("no space left on device")
            if self.fault == "sleep":
                time.sleep(600)
            os.kill(os.getpid(), signal.Signals[self.fault])
        synchronise(self.model)
        state = export_training_state(self.model)
        place = len(self.states) // len(state)
        self.states |= {f"{place}.{name}": np.array(value) for name, value in state.items()}

    def on_test_begin(self, logs=None):
        synchronise(self.model)
        self.count()

    def on_test_end(self, logs=None):
        synchronise(self.model)
        self.count()

    def count(self):
        self.counts.append(int(keras.ops.convert_to_numpy(self.model._loss_tracker.count)))


def num_shares(model):
    """Return how many devices share a batch."""
    if BACKEND == "jax":
        return keras.distribution.distribution().device_mesh.devices.size
    return model.distribute_strategy.num_replicas_in_sync


def whole_steps(planted):
    """Let each step of a model see other batches: `planted` makes them of a batch's parts."""
    share_steps = devices.share_steps

    def share(model):
        share_steps(model)
        for name in ("train_step", "test_step"):
            step = getattr(model, name)

            def mutated(*given, step=step):
                return step(
                    *given[:-1], tuple(planted(part, num_shares(model)) for part in given[-1])
                )

            setattr(model, name, mutated)

    devices.share_steps = share


def padded():
    """As a padded sampler: the batch's first images again, until all shares are as large."""

    def more(part, num_devices):
        size = keras.ops.shape(part)[0]
        each = (size + num_devices - 1) // num_devices
        chosen = keras.ops.arange(each * num_devices) % size
        return keras.ops.take(part, chosen, axis=0)

    whole_steps(more)


def dropped():
    """As `drop_remainder`: what the devices cannot share evenly is left out, if it is not all."""

    def fewer(part, num_devices):
        size = part.shape[0] if BACKEND == "jax" else keras.ops.shape(part)[0]
        each = size // num_devices
        each = max(each, 1) if BACKEND == "jax" else keras.ops.maximum(each, 1)
        return part[: each * num_devices]

    whole_steps(fewer)


def whole_batches():
    """Each replica trains on the whole batch, as where a loader deals batches, not images."""
    share, init = devices._Replicas.share, devices._Replicas.__init__

    def all_of_it(self, whole):
        share(self, whole)  # which notes the batch's size
        return whole

    def remember(self, model):
        init(self, model)
        # Predictions of too many images would end the run by themselves.
        model.predict_step = lambda batch: self.predict(tuple(share(self, part) for part in batch))

    devices._Replicas.share, devices._Replicas.__init__ = all_of_it, remember


def sum_for_mean():
    """Gradients are added up of losses that are means already, each of a whole batch."""
    share_steps = devices.share_steps

    def share(model):
        optimizer, num_devices = model.optimizer, num_shares(model)
        share_steps(model)
        name = "apply_gradients" if BACKEND == "tensorflow" else "stateless_apply"
        original = getattr(optimizer, name)

        def summed(*given):
            if BACKEND == "tensorflow":
                return original([(num_devices * part, weight) for part, weight in given[0]])
            return original(given[0], [num_devices * part for part in given[1]], given[2])

        setattr(optimizer, name, summed)

    devices.share_steps = share


def unweighted_shares():
    """Keras's own step on a share: the mean of the shares' means."""

    def planted(self, batch):
        return self.stock(tuple(map(self.share, batch)))

    init = devices._Replicas.__init__

    def remember(self, model):
        self.stock = model.train_step
        init(self, model)

    devices._Replicas.__init__, devices._Replicas.train_step = remember, planted


def one_mask():
    """Each replica's layers draw for its share by the same generator."""
    devices._Replicas._drawn_whole = lambda self, draw: draw


def dealt_whole():
    """As Keras deals NumPy batches to several processes: each whole batch is a share of a larger.

    In training alone: predictions of too many images would end the run by themselves.
    """
    share_steps = devices.share_steps

    def share(model):
        share_steps(model)
        fit, layouts = model.fit, keras.distribution.distribution()

        def dealt(*given, **options):
            layouts.get_data_layout = layouts.get_share_layout
            fit(*given, **options)
            del layouts.get_data_layout

        model.fit = dealt

    devices.share_steps = share


MUTANTS = {
    function.__name__: function
    for function in (
        padded, dropped, whole_batches, sum_for_mean, unweighted_shares, one_mask, dealt_whole,
    )
}  # fmt: skip


def run(case, rank=0):
    """Train, in a process of its own."""
    os.chdir(CASES.parent)
    if mutant := case.get("mutant"):
        MUTANTS[mutant]()
    is_last = rank == case.get("ranks", 1) - 1
    is_at = rank == case.get("at", case.get("ranks", 1) - 1)
    steps, original = Steps(is_at and case.get("fault")), train.train
    train.train = lambda *given: original(*given, callbacks=[steps])
    stem = CASES.parent / (f"{case['name']}.{rank}" if rank else case["name"])
    words = Path(f"{stem}.words")
    for stream in (1, 2):
        os.dup2(os.open(words, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    folder = str(CASES.parent / case["name"])
    arguments = ["--backend", BACKEND, "--run-dir", folder, *case["flags"]]
    arguments += case.get("last", []) if is_last else []
    sys.argv = ["train_keras.py", *arguments]
    began = time.monotonic()
    code = trainer_main("keras", lambda: train, arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    if rank == 0:
        write_arrays(Path(f"{stem}.states"), steps.states, {})
    found = {"code": code, "counts": steps.counts, "said": words.read_text(),
             "seconds": time.monotonic() - began}  # fmt: skip
    Path(f"{stem}.json").write_text(json.dumps(found))


def started(case, rank, port):
    """Fork a rank; return its process's number."""
    size = case.get("ranks", 1)
    child = os.fork()
    if child == 0:
        if size > 1:
            os.environ |= {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size),
                "MASTER_PORT": str(port),
            }  # fmt: skip
        try:
            run(case, rank)
        finally:
            os._exit(0)
    return child


def main():
    for case in json.loads(CASES.read_text()):
        began = time.monotonic()
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        children = [started(case, rank, port) for rank in range(case.get("ranks", 1))]
        for child in children:
            if os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1]):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        print(f"{case['name']}: {time.monotonic() - began:.1f} s", file=sys.stderr)
    os._exit(0)


if __name__ == "__main__":
    main()
