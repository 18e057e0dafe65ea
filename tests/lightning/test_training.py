"""Whole trainings of the Lightning implementation on drawn data."""

import io
import os
import pickle
import signal
import zipfile

import lightning as L
import numpy as np
import pytest
import torch

from ladder.following import Follower
from lightning_impl import train as training
from lightning_impl.model import Classifier
from lightning_impl.train import predict_logits, steps_per_batch
from lightning_impl.transfer import read_state
from lightning_impl.watch import Follow
from pipeline.answers import scratch_journal
from pipeline.datasets import load_dataset
from pipeline.errors import Terminated
from pipeline.execution import Execution
from pipeline.preprocess import prepare
from pipeline.recipe import preset
from pipeline.record import BEST_WEIGHTS, read_layers, read_predictions
from tests.training import (
    check_more_epochs,
    check_tracked,
    check_validation_seconds,
    mlflow_runs,
    without_seconds,
)

# The fast path takes LeakyReLU after the pool, and layouts and kernels that add up in another
# order: float64's rounding over nine steps; measured 4e-16.
FAST_AGAINST_PLAIN = 1e-12


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (("--variant", "dropout"), "kill 2 1"),
        pytest.param(("--variant", "dropout", "--plain"), "interrupt 2 1", marks=pytest.mark.slow),
        pytest.param(("--variant", "base"), "interrupt 1 0", marks=pytest.mark.slow),
        pytest.param(("--variant", "base"), "terminate 1 1", marks=pytest.mark.slow),
        # After the first 25 of 40 steps, which are one batch of the Trainer.
        (("--variant", "dropout", "--batch-size", "4"), "kill 2 1"),
    ],
)
def test_a_resumed_run_ends_with_the_same_bits(trainings, flags, fault):
    name = f"resumed{''.join(flags)} {fault}"
    part = trainings.forked(name, *flags, fault=fault)
    how, epoch, _ = fault.split()
    codes = {"interrupt": 130, "terminate": 143, "kill": None}
    assert part.code == codes[how]
    assert part.record.status == ("running" if how == "kill" else "interrupted")
    words = {"interrupt": ": interrupted; to go on: ", "terminate": ": terminated; to go on: "}
    assert words.get(how, "") in part.err
    assert len(part.record.history) == int(epoch)
    resumed = trainings.forked(name, *flags, "--resume")
    assert (resumed.code, resumed.err) == (0, "")
    whole = trainings.once(*flags)
    assert resumed.metrics == whole.metrics
    assert resumed.bits == whole.bits
    check_validation_seconds(resumed.record, part.record)
    best = [(run.folder / BEST_WEIGHTS).read_bytes() for run in (resumed, whole)]
    assert best[0] == best[1]


@pytest.mark.parametrize("batch_size", ["4", pytest.param("64", marks=pytest.mark.slow)])
def test_more_epochs_end_with_the_bits_of_as_many_at_once(trainings, batch_size):
    """Of batches of 4 an epoch has 40: 25 in one call and the rest in another."""
    check_more_epochs(trainings, "--variant", "dropout", "--batch-size", batch_size)


@pytest.mark.parametrize(
    "flags",
    [
        ("--deterministic",),
        pytest.param(("--precision", "bf16"), marks=pytest.mark.slow),
        pytest.param(("--precision", "64", "--plain"), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_the_same_command_twice_gives_the_same_bits(trainings, flags):
    flags = ("--variant", "dropout", *flags)
    again = trainings.forked(f"again{''.join(flags)}", *flags)
    assert again.code == 0
    assert (again.metrics, again.bits) == (
        trainings.once(*flags).metrics,
        trainings.once(*flags).bits,
    )


@pytest.mark.slow
def test_another_number_of_threads_rounds_otherwise_at_most(trainings):
    """Sums may be split otherwise; in float64 the logits stay within rounding of nine steps."""
    flags = ("--variant", "base", "--precision", "64", "--threads")
    one, two = (read_predictions(trainings.once(*flags, n).folder)[0] for n in ("1", "2"))
    assert np.abs(one - two).max() < 1e-9


def test_other_runs_have_other_bits(trainings):
    runs = [trainings.once("--variant", "dropout", *more) for more in ([], ["--seed", "1"])]
    runs.append(trainings.once("--variant", "base"))
    assert len({run.bits for run in runs}) == 3


def metrics_of(run):
    names = ("loss", "accuracy", "val_loss", "val_accuracy")
    return np.array([[row[name] for name in names] for row in run.record.history])


@pytest.mark.parametrize("variant", ["base", "dropout"])
def test_the_fast_path_trains_as_the_plain_one(trainings, variant):
    flags = ("--variant", variant, "--precision", "64")
    fast, plain = (metrics_of(trainings.once(*flags, *more)) for more in ([], ["--plain"]))
    assert np.abs(fast - plain).max() < FAST_AGAINST_PLAIN


class Trained(L.Callback):
    """Keeps the Trainer, and what it was handed; sees batches of any number of steps."""

    max_steps_per_batch = 1000

    def __init__(self):
        self.sizes = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.trainer = trainer
        self.sizes.append(len(batch[0]))


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning's own
@pytest.mark.parametrize(
    "precision", ["32", *(pytest.param(name, marks=pytest.mark.slow) for name in ("64", "bf16"))]
)
def test_several_steps_in_a_batch_end_with_the_bits_of_single_ones(drawn_data, tmp_path, precision):
    """Of batches of 4 an epoch has 40: 25 and the rest."""
    recipe = preset("dropout", batch_size=4, num_epochs=2, precision=precision)
    data, execution = prepare(load_dataset(drawn_data), recipe), Execution(device="cpu")
    found = []
    for name, callbacks in (("several", []), ("single", [L.Callback()])):
        kept, folder = Trained(), tmp_path / name
        folder.mkdir()
        torch.manual_seed(0)
        journal = scratch_journal(recipe, data, str(folder))
        module = training.train(recipe, data, execution, journal, None, [kept, *callbacks])
        optimizer = kept.trainer.optimizers[0].state_dict()
        states = [value.numpy().tobytes() for slots in optimizer["state"].values()
                  for value in slots.values()]  # fmt: skip
        weights = [weight.detach().numpy().tobytes() for weight in module.parameters()]
        history = without_seconds(journal.record.history)
        saved = sorted(path.name for path in (folder / "checkpoints").iterdir())
        found.append((weights, states, optimizer["param_groups"], history, saved,
                      kept.trainer.global_step))  # fmt: skip
        assert kept.sizes == ([100, 60] * 2 if name == "several" else [4] * 80)
    assert found[0] == found[1]
    assert found[0][4:] == (["best.ckpt", "last.ckpt"], 80)


@pytest.mark.parametrize(
    ("every", "steps_per_epoch", "expected"),
    [(75, 750, 25), (75, 250, 25), (10, 250, 5), (75, 40, 5), (1, 750, 1)],
)
def test_who_follows_a_run_sees_each_step_that_is_due(tmp_path, every, steps_per_epoch, expected):
    follow = Follow(Follower(tmp_path, every), preset("base"), steps_per_epoch)
    num_steps = steps_per_batch(Execution(), [follow])
    assert num_steps == expected
    # Batches begin anew with each epoch.
    ends = {step % steps_per_epoch for step in range(every, 10 * steps_per_epoch, every)}
    assert all(end % num_steps == 0 for end in ends)


def test_any_other_callback_sees_each_step():
    assert steps_per_batch(Execution(), []) == 25
    assert steps_per_batch(Execution(), [L.Callback()]) == 1
    assert steps_per_batch(Execution(plain=True), []) == 1


def test_another_seed_trains_otherwise(trainings):
    flags = ("--variant", "base", "--precision", "64")
    one, other = (metrics_of(trainings.once(*flags, *more)) for more in ([], ["--seed", "1"]))
    assert np.abs(one - other).max() > 1e-3


def test_a_script_trains_to_the_same_bits_and_says_little(trainings):
    run, loaded = trainings.script("a {epoch} ü", "--variant", "base")
    assert (run.code, run.err) == (0, "")
    assert run.bits == trainings.once("--variant", "base").bits
    assert loaded == {"torch", "lightning"}
    layers = read_layers(run.folder)
    assert [layers[0].type, layers[0].output_shape] == ["Conv2d", (32, 28, 28)]
    assert sum(layer.parameters for layer in layers) == run.record.parameters == 356_234
    lines = run.out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        f"lightning base: {run.folder}", "epoch 1/3", "epoch 2/3", "epoch 3/3", lines[-1],
    ]  # fmt: skip
    assert lines[-1].startswith("lightning base: test accuracy ")
    assert "\r" not in run.out
    assert not (run.folder / "logs" / "tensorboard").exists()
    assert not (run.folder / "plots" / "samples.png").exists()


@pytest.mark.slow
def test_a_script_is_followed_by_the_trackers_that_were_asked_for(trainings):
    run, loaded = trainings.script(
        "b {epoch} ü", "--variant", "base", "--logger", "tensorboard,mlflow"
    )
    assert (run.code, run.err) == (0, "")
    assert run.bits == trainings.once("--variant", "base").bits
    assert loaded == {"torch", "lightning", "tensorboard", "mlflow"}
    events, _ = check_tracked(run, run.folder.name, 3)
    assert set(events["images"]) == {
        "samples", "accuracy", "loss", "confusion", "correct", "incorrect"
    }  # fmt: skip
    names = [name for name, *_ in events["graph"]]
    assert names == [
        "image", "conv1", "act1", "pool1", "conv2", "act2", "pool2", "conv3", "act3", "pool3",
        "flatten", "hidden", "hidden_act", "logits",
    ]  # fmt: skip
    assert [kind for _, kind, _ in events["graph"][:4]] == [
        "Input",
        "Conv2d",
        "LeakyReLU",
        "MaxPool2d",
    ]
    assert [inputs for *_, inputs in events["graph"][1:]] == [[name] for name in names[:-1]]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill 2 1", "interrupt 1 0", "terminate 1 0"])
def test_a_resumed_run_is_followed_as_one(trainings, fault):
    name = f"followed {fault}"
    flags = ("--variant", "base", "--logger", "tensorboard,mlflow")
    part = trainings.forked(name, *flags, fault=fault)
    (before,) = [run for run in mlflow_runs(trainings.folder / "mlflow.db") if run["name"] == name]
    assert before["status"] == ("RUNNING" if part.code is None else "KILLED")
    run = trainings.forked(name, *flags, "--resume")
    assert (run.code, run.err) == (0, "")
    assert run.bits == trainings.once("--variant", "base").bits
    check_tracked(run, name, 3)


def test_a_loss_that_is_not_a_number_is_recorded(trainings):
    run = trainings.forked("nan", "--learning-rate", "1e30")
    assert run.code == 1
    assert run.err.startswith("train_lightning.py: the loss became ")
    assert " in epoch 1, step 2; a smaller --learning-rate may help" in run.err
    assert run.err.count("\n") == 1
    assert run.record.status == "failed"
    assert (run.record.failure["epoch"], run.record.failure["step"]) == (1, 2)


def test_a_gpu_that_is_not_there_is_a_wrong_call(trainings):
    run = trainings.forked("gpu", "--device", "gpu")
    assert run.code == 2
    assert "error: `--device gpu`: torch sees no GPU here; use --device cpu" in run.err
    assert run.err.count("\n") == 1
    assert not run.folder.exists()


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning's own
@pytest.mark.parametrize("error", [KeyboardInterrupt, Terminated])
@pytest.mark.parametrize("where", ["setup", "predict_step", "teardown"])
def test_an_interrupt_while_predicting_is_one_too(drawn_data, monkeypatch, where, error):
    """Lightning turns it into an exit, after which it ignores Ctrl-C."""

    def interrupt(*_, **__):
        raise error

    recipe, execution = preset("base"), Execution(device="cpu")
    test = prepare(load_dataset(drawn_data), recipe).test
    module = Classifier(recipe)
    assert predict_logits(module, test, recipe, execution).shape == (60, 10)
    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(module, where, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            predict_logits(module, test, recipe, execution)
        assert caught.type is error
    finally:
        signal.signal(signal.SIGINT, handler)


def test_a_damaged_checkpoint_fails_in_one_line(trainings):
    trainings.forked("damaged", fault="kill 1 0")
    checkpoint = trainings.folder / "damaged" / "checkpoints" / "last.ckpt"
    whole = checkpoint.read_bytes()
    for content in (whole[:1000], b"", b"garbage" * 100):
        checkpoint.write_bytes(content)
        run = trainings.forked("damaged", "--resume")
        assert run.code == 1
        assert f"train_lightning.py: cannot go on from {checkpoint}" in run.err
        assert run.err.count("\n") == 1
    checkpoint.write_bytes(whole)
    assert trainings.forked("damaged", "--resume").code == 0


class Evil:
    """What runs a command where it is unpickled."""

    def __init__(self, sign):
        self.sign = sign

    def __reduce__(self):
        return os.system, (f"touch {self.sign}",)


def packed_by_torch(value):
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


def bomb():
    """Return a zip like torch's that unpacks to 300 MB of zeros."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
        archive.writestr("archive/data/0", bytes(300 << 20))
    return content.getvalue()


def test_a_hostile_checkpoint_fails_in_one_line_and_runs_nothing(trainings, tmp_path):
    trainings.forked("hostile", fault="kill 1 0")
    checkpoint = trainings.folder / "hostile" / "checkpoints" / "last.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    sign = tmp_path / "ran"
    cases = {
        "code": packed_by_torch({**saved, "state_dict": Evil(sign)}),
        "bare pickle": pickle.dumps(Evil(sign)),
        "bomb": bomb(),
        "nothing": packed_by_torch({}),
        "a list": packed_by_torch([1]),
        "no weights": packed_by_torch({**saved, "state_dict": {}}),
        "other shapes": packed_by_torch(
            {**saved, "state_dict": {name: torch.zeros(1) for name in saved["state_dict"]}}
        ),
        "no optimizer": packed_by_torch({**saved, "optimizer_states": []}),
        "no loops": packed_by_torch({**saved, "loops": {}}),
    }
    for name, content in cases.items():
        checkpoint.write_bytes(content)
        run = trainings.forked("hostile", "--resume")
        assert run.code == 1, name
        assert f"train_lightning.py: cannot go on from {checkpoint}" in run.err, name
        assert run.err.count("\n") == 1, (name, run.err)
        if name != "no loops":  # which only Lightning needs
            with pytest.raises(ValueError, match="cannot read"):
                read_state(trainings.folder / "hostile", preset("base"))
    assert not sign.exists()
    # The twin: what is refused would have run.
    torch.load(io.BytesIO(cases["code"]), weights_only=False)
    assert sign.exists()
