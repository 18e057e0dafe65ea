"""What trackers are told, with a made-up half; those of the real halves are in their rooms."""

import dataclasses
import importlib.util
import json
import shutil

import pytest

from pipeline import tracking
from pipeline.errors import UsageError
from pipeline.event_files import TENSORBOARD_FOLDER, TensorBoardTracker
from pipeline.mlflow_runs import MLFLOW_RUN, MlflowTracker
from pipeline.recipe import shortest
from pipeline.record import EPOCH_METRICS, Layer
from pipeline.tracking import Trackers, require_loggers
from tests.fabricated import make_record
from tests.read_mlflow import mlflow_runs
from tests.run.made_up import fake_implementation, interrupted_at
from tests.training import tracked_events

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A store that MLflow has made, which takes it seconds."""
    from mlflow.tracking import MlflowClient

    store = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{store}").search_experiments()
    return store


@pytest.fixture
def call(call, tmp_path, monkeypatch):
    """The same of runs that share a store; `run` names the run's folder."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def trainer(impl, *flags, run="runs/one"):
        (tmp_path / run).parent.mkdir(exist_ok=True)
        return call(impl, *flags, run_dir=tmp_path / run)

    return trainer


class Broken:
    """A tracker that works until its `after`-th call."""

    name = "broken"

    def __init__(self, after=0):
        self.after, self.calls = after, []

    def __getattr__(self, name):
        def act(*arguments):
            self.calls.append(name)
            if len(self.calls) > self.after:
                raise RuntimeError("no space\nand more")

        return act


METRICS = dict.fromkeys(EPOCH_METRICS, 0.5)


def test_a_tracker_that_fails_is_left_out_with_a_line():
    said, broken, works = [], Broken(after=1), Broken(after=9)
    trackers = Trackers([broken, works], said.append)
    trackers.begin(None)
    for epoch in (1, 2):
        trackers.log_epoch(epoch, METRICS)
    trackers.end(None)
    assert said == ["broken tracking has failed, training goes on: no space"]
    assert works.calls == ["begin", "log_epoch", "log_epoch", "end"]
    assert broken.calls == ["begin", "log_epoch", "end"]  # it may work again by then


def test_an_interrupt_is_no_failure_of_a_tracker():
    class Interrupted(Broken):
        def begin(self, record):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trackers([Interrupted()]).begin(None)


@pytest.mark.parametrize(("name", "extra"), [("tensorboard", "tracking"), ("mlflow", "mlflow")])
def test_a_missing_extra_is_named_before_anything_is_done(name, extra, monkeypatch, call, tmp_path):
    require_loggers(["csv", name])
    found = importlib.util.find_spec
    monkeypatch.setattr(tracking, "find_spec", lambda n: None if n == name else found(n))
    with pytest.raises(UsageError, match=f"`--logger {name}` needs the extra `{extra}`"):
        require_loggers(["csv", name])
    impl = fake_implementation()
    code, out, err = call(impl, "--logger", name)
    assert (code, out, err.count("\n"), impl.began) == (2, "", 1, [])
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_second_session_takes_the_place_of_the_first(tmp_path):
    for offset in (0, 1):
        tracker = TensorBoardTracker(tmp_path)
        tracker.log_graph([Layer("image", "Input", (28,), 0), Layer("hidden", "Dense", (8,), 9)])
        for step in (1, 2):
            tracker.log_epoch(step, {"loss": step + offset})
        if offset == 0:  # killed while it wrote
            path = next((tmp_path / TENSORBOARD_FOLDER).iterdir())
            path.write_bytes(path.read_bytes()[:-5])
            path.rename(path.with_name(path.name.replace("tfevents.", "tfevents.0")))
        else:
            tracker.end(make_record(status="interrupted"))
    found = tracked_events(tmp_path / TENSORBOARD_FOLDER)
    assert found["scalars"] == {"loss": [[1, 2.0], [2, 3.0]]}
    assert found["graph"] == [["image", "Input", []], ["hidden", "Dense", ["image"]]]


@pytest.fixture
def mlflow_run(tmp_path, empty_store):
    """Return a function that opens the MLflow run of one run folder, with its record."""
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    shutil.copy(empty_store, tmp_path / "runs")
    history = [
        {"epoch": epoch, **dict.fromkeys(EPOCH_METRICS, epoch / 8), "seconds": 1.0}
        for epoch in (1, 2)
    ]

    def opened(epochs=2, **changes):
        record = make_record()
        record = dataclasses.replace(record, history=history[:epochs], **changes)
        return MlflowTracker(folder, record, None), record

    return opened


def test_a_run_that_goes_on_doubles_no_step_and_lacks_none(mlflow_run, tmp_path):
    tracker, record = mlflow_run(epochs=0, status="interrupted")
    tracker.begin(record)
    tracker.log_epoch(1, dict.fromkeys(EPOCH_METRICS, 1 / 8))
    tracker.log_epoch(2, {"val_loss": 2 / 8})  # killed before training's came
    again, record = mlflow_run(epochs=1)
    again.begin(record)
    again.log_epoch(2, dict.fromkeys(EPOCH_METRICS, 2 / 8))
    again.end(record)
    (run,) = mlflow_runs(tmp_path / "runs" / "mlflow.db")
    expected = [[1, 1 / 8], [2, 2 / 8]]
    assert [run["metrics"][name] for name in EPOCH_METRICS] == [expected] * 4
    assert run["status"] == "FINISHED"


def test_a_doubled_step_would_be_seen(mlflow_run, tmp_path):
    tracker, record = mlflow_run(epochs=1)
    tracker.begin(record)
    tracker._logged.clear()
    tracker.begin(record)
    (run,) = mlflow_runs(tmp_path / "runs" / "mlflow.db")
    assert len(run["metrics"]["loss"]) == 2


def test_a_run_whose_mlflow_run_is_gone_gets_a_new_one(mlflow_run, tmp_path):
    seen = {mlflow_run()[0].run_id}
    for number, content in enumerate(["", "../../etc/passwd", "0" * 32, "\0"], start=2):
        (tmp_path / "runs" / "one" / MLFLOW_RUN).write_text(content)
        again, record = mlflow_run()
        again.begin(record)
        seen.add(again.run_id)
        assert len(seen) == number
        assert again.client.get_run(again.run_id).data.metrics["loss"] == 2 / 8


def test_how_a_run_ended_is_its_status(call, tmp_path):
    def fails(epoch, step):
        raise ZeroDivisionError("a planted bug")

    flags = ("--logger", "mlflow", "--logger", "tensorboard")
    for name, impl in (
        ("good", fake_implementation()), ("bad", fake_implementation(fails)),
        ("stopped", interrupted_at(1)),
    ):  # fmt: skip
        call(impl, *flags, run=f"runs/{name}")
    found = {run["name"]: run for run in mlflow_runs(tmp_path / "runs" / "mlflow.db")}
    statuses = {name: run["status"] for name, run in found.items()}
    assert statuses == {"good": "FINISHED", "bad": "FAILED", "stopped": "KILLED"}
    assert found["bad"]["tags"]["failure"] == "a planted bug"
    good = found["good"]
    wanted = {"record.json", "history.csv", "layers.json", "weights-last.safetensors"}
    assert {*wanted, "plots/samples.png"} <= set(good["artifacts"])
    saved = json.loads((tmp_path / "runs" / "good" / "record.json").read_text())
    assert good["params"] == {name: str(shortest(value)) for name, value in saved["recipe"].items()}
    assert good["metrics"]["test_accuracy"] == [[3, saved["test"]["accuracy"]]]
    assert (good["tags"]["engine"], good["tags"]["variant"]) == ("lightning", "base")
    assert good["tags"]["version.python"] == saved["environment"]["python"]
    stopped = call(fake_implementation(), *flags, "--resume", run="runs/stopped")
    assert (stopped[0], stopped[2]) == (0, "")
    found = {run["name"]: run for run in mlflow_runs(tmp_path / "runs" / "mlflow.db")}
    assert (len(found), found["stopped"]["status"]) == (3, "FINISHED")
    assert len(found["stopped"]["metrics"]["loss"]) == 1  # the made-up half hands no epoch over


@pytest.mark.parametrize(
    ("store", "run", "words"),
    [
        ("no database", "runs/one", "`--logger mlflow` cannot use the store {runs}/mlflow.db: "),
        ("folder", "runs/one", "`--logger mlflow` cannot use the store {runs}/mlflow.db: "),
        ("http://127.0.0.1:9", "runs/one", "cannot use the store MLFLOW_TRACKING_URI: "),
        ("", "50%/one", "can't hold `?` or `%`; set MLFLOW_TRACKING_URI"),  # in SQLite's addresses
    ],
)
def test_a_store_that_cannot_be_used_is_a_wrong_call(
    call, tmp_path, monkeypatch, store, run, words
):
    file = tmp_path / "runs" / "mlflow.db"
    file.parent.mkdir()
    if store == "folder":
        file.mkdir()
    elif store == "no database":
        file.write_text(store * 1000)
    elif store:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    impl = fake_implementation()
    code, _, err = call(impl, "--logger", "mlflow", run=run)
    assert (code, err.count("\n"), impl.began) == (2, 1, [])
    assert words.format(runs=file.parent) in err
    assert not (tmp_path / run).exists()
