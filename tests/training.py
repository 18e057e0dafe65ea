"""Trainings on drawn data: scripts as a user calls them, or forks of one loaded framework."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ladder.engines import EngineError, answer
from ladder.serve import Server
from pipeline.engines import ENGINES
from pipeline.record import BEST_WEIGHTS, EPOCH_METRICS, LAST_WEIGHTS
from pipeline.recorded import read_predictions, read_record
from tests.programs import run_python

ROOT = Path(__file__).parents[1]
CALL = ".call"
"""Suffix of a file of a training's arguments."""
FRAMEWORKS = {"torch", "lightning", "tensorflow", "keras", "jax"}
TRACKERS = {"tensorboard", "mlflow"}

# Written to a folder on the path, Python runs it at the start of every process.
SITECUSTOMIZE = """
import atexit, os, sys
atexit.register(lambda: open(os.environ["MODULES"], "w").write(" ".join(sys.modules)))
"""


@dataclass(frozen=True)
class Run:
    """What a training left: None as its exit code where it was killed."""

    code: int | None
    out: str
    err: str
    folder: Path

    @property
    def record(self):
        return read_record(self.folder)

    @property
    def metrics(self):
        return without_seconds(self.record.history)

    @property
    def bits(self):
        """The last weights and the test logits."""
        logits, _ = read_predictions(self.folder)
        return (self.folder / LAST_WEIGHTS).read_bytes(), logits.tobytes()


def without_seconds(history):
    """Return a history's rows without what differs from run to run."""
    spent = {"seconds", "validation_seconds"}
    return [{name: row[name] for name in row if name not in spent} for row in history]


def start_engine(engine):
    """Start tests/trainer_server.py with an engine."""
    # No GPU: what is on the machine can't change what is computed.
    environment = {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    program = str(ROOT / "tests" / "trainer_server.py")
    command = ENGINES[engine].command(program, engine.partition("-")[0])
    return Server(engine, command, {**ENGINES[engine].environment(), **environment})


class WarmEngines:
    """Engines that train and answer questions, each started once."""

    def __init__(self):
        self.servers = {}

    def server(self, engine):
        if engine not in self.servers:
            self.servers[engine] = start_engine(engine)
        return self.servers[engine]

    def answer(self, engine, question, trace, *, precision, timeout_seconds):
        """As `ladder.engines.answer`, which takes a process's variables along, and JAX goes by."""
        if engine.name == "keras-jax":
            answer(engine, question, trace, precision=precision, timeout_seconds=timeout_seconds)
        else:
            self.server(engine.name).answer(question, trace)

    def close(self):
        for server in self.servers.values():
            server.close()


class Trainings:
    """Trains with one engine in `folder`; `fault` as in trainer_server.py."""

    def __init__(self, engine, folder, data, server=None):
        impl = engine.partition("-")[0]
        self.engine, self.impl, self.folder, self.data = engine, impl, folder, data
        self.server = server or start_engine(engine)
        self.whole = {}

    def arguments(self, name, flags):
        files = ["--data-dir", str(self.data), "--run-dir", str(self.folder / name)]
        backend = ["--backend", self.engine.partition("-")[2]] if self.impl == "keras" else []
        return ["--epochs", "3", *files, *backend, *flags]

    @property
    def script_name(self):
        return f"train_{self.impl}.py"

    def forked(self, name, *flags, fault=""):
        """Train in a forked process; `name` may be a folder's whole path."""
        stem = Path(name).name
        question, answer = (self.folder / f"{stem}{kind}" for kind in (CALL, ".answer"))
        question.write_text(json.dumps(self.arguments(name, flags)))
        try:
            self.server.answer(question, answer, fault)
        except EngineError:
            if not fault.startswith("kill"):
                raise
            return Run(None, "", "", self.folder / name)
        return Run(*json.loads(answer.read_text()), self.folder / name)

    def once(self, *flags):
        """Return the run with these flags, trained when first asked for."""
        if flags not in self.whole:
            run = self.forked(f"whole{''.join(flags)}", *flags)
            assert (run.code, run.err) == (0, ""), run.err
            self.whole[flags] = run
        return self.whole[flags]

    def script(self, name, *flags, **environment):
        """Train as a user does; return the run, and which frameworks and trackers were loaded."""
        site = self.folder / f"{name}.site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(SITECUSTOMIZE)
        modules = self.folder / f"{name}.modules"
        path = {"PYTHONPATH": str(site), "MODULES": str(modules)}
        script = ROOT / "scripts" / self.script_name
        environment = {"CUDA_VISIBLE_DEVICES": "", **path, **environment}
        done = run_python(script, *self.arguments(name, flags), cwd=self.folder, env=environment)
        run = Run(done.returncode, done.stdout, done.stderr, self.folder / name)
        return run, (FRAMEWORKS | TRACKERS) & set(modules.read_text().split())


# In a process of its own: neither package is loaded beside a framework for the reading's sake.
READ_EVENTS = """
import json, sys, types
sys.modules["tensorboard.compat.notf"] = types.ModuleType("notf")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={"images": 0}).Reload()
tags = events.Tags()
print(json.dumps({
    "scalars": {tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in tags["scalars"]},
    "images": {tag: [[e.step, e.width, e.height] for e in events.Images(tag)]
               for tag in tags["images"]},
    "graph": [[node.name, node.op, list(node.input)] for node in events.Graph().node]
             if tags["graph"] else [],
}))
"""


def tracked_events(folder):
    """Return what TensorBoard reads in a folder: scalars and images by tag, and the graph."""
    return _read("-c", READ_EVENTS, folder)


def mlflow_runs(store):
    """Return what MLflow's client finds in an SQLite store, a run each."""
    return _read("-m", "tests.read_mlflow", store)


def _read(*command):
    return json.loads(run_python(*command, check=True, cwd=ROOT).stdout)


def check_validation_seconds(record, before):
    """Check that a resumed run counts each epoch's validation, `before`'s too, and each once."""
    rows = [row["validation_seconds"] for row in record.history]
    assert all(0 < spent < row["seconds"] for spent, row in zip(rows, record.history, strict=True))
    kept = [row["validation_seconds"] for row in before.history]
    assert rows[: len(kept)] == kept
    assert record.timing["validation_seconds"] == sum(rows)
    assert record.timing["validation_seconds"] < record.timing["train_seconds"]


def check_tracked(run, name, num_epochs):
    """Check that TensorBoard, MLflow and history.csv hold the same epochs, each once."""
    events = tracked_events(run.folder / "logs" / "tensorboard")
    (followed,) = [
        found for found in mlflow_runs(run.folder.parent / "mlflow.db") if found["name"] == name
    ]
    assert followed["status"] == "FINISHED"
    assert [row["epoch"] for row in run.metrics] == list(range(1, num_epochs + 1))
    for metric in EPOCH_METRICS:
        history = [[row["epoch"], row[metric]] for row in run.metrics]
        assert followed["metrics"][metric] == history
        assert events["scalars"][metric] == [[step, float32(value)] for step, value in history]
    for metric, value in run.record.test.items():
        assert followed["metrics"][f"test_{metric}"] == [[num_epochs, value]]
        assert events["scalars"][f"test_{metric}"] == [[num_epochs, float32(value)]]
    assert [step for step, *_ in events["images"]["samples"]] == [0]
    assert "plots/samples.png" in followed["artifacts"]
    return events, followed


def float32(value):
    return float(np.float32(value))


def check_more_epochs(trainings, *flags):
    """Check that a run of one epoch, gone on with to three, ends as one of three does."""
    name, followed = f"longer{''.join(flags)}", ("--logger", "tensorboard,mlflow")
    part = trainings.forked(name, *flags, *followed, "--epochs", "1")
    assert (part.code, part.record.status) == (0, "complete")
    first_bits, first_history = part.bits, part.record.history  # the folder is the same run's
    longer = trainings.forked(name, *flags, "--resume")
    assert (longer.code, longer.err) == (0, "")
    whole = trainings.once(*flags)
    assert (longer.metrics, longer.bits) == (whole.metrics, whole.bits)
    assert longer.record.recipe == whole.record.recipe
    assert longer.record.history[:1] == first_history
    assert longer.record.test == whole.record.test
    best = [(run.folder / BEST_WEIGHTS).read_bytes() for run in (longer, whole)]
    assert best[0] == best[1]
    assert first_bits != whole.bits  # the twin: an epoch less shows
    events = tracked_events(longer.folder / "logs" / "tensorboard")
    assert [step for step, _ in events["scalars"]["val_loss"]] == [1, 2, 3]
    runs = [run for run in mlflow_runs(trainings.folder / "mlflow.db") if run["name"] == name]
    shown = {run["params"]["num_epochs"]: len(run["metrics"]["val_loss"]) for run in runs}
    assert shown == {"1": 1, "3": 3}
    assert {run["status"] for run in runs} == {"FINISHED"}
