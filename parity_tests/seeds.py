"""The runs behind a certificate: what is declared, which runs it needs, and a row for each."""

import dataclasses
import hashlib
import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ladder.files import read_limited
from parity_tests.equivalence import Array, calibration_error
from pipeline.engines import ENGINES
from pipeline.errors import RunError, UsageError
from pipeline.evaluation import evaluate_logits
from pipeline.recipe import Recipe, preset, recipe_to_dict
from pipeline.record import Record
from pipeline.recorded import read_predictions, read_record

PLAN = Path(__file__).resolve().parent / "equivalence.yaml"
MAX_PLAN_BYTES = 64 * 1024
METRICS = ("accuracy", "loss", "calibration_error")
"""Declared metrics beside the recall of each class."""
COMPLETE, FAILED = "complete", "failed"
COLUMNS = (
    "key", "plan", "engine", "recipe", "seed", "machine", "versions", "status", "reason",
    "metrics", "predicted", "train_seconds",
)  # fmt: skip
CREATE = f"create table if not exists runs ({', '.join(COLUMNS)}, primary key (key))"
SWITCHES = ("plain", "deterministic", "tf32")
MAX_PREDICTED = 10_000_000
"""Test images of one run, at the most."""


@dataclass(frozen=True)
class Design:
    """One comparison over seeds."""

    name: str
    suspect: str
    seeds: int
    paired: bool
    reference_recipe: Recipe
    """With seed 0."""
    suspect_recipe: Recipe
    is_planted: bool


@dataclass(frozen=True)
class Plan:
    """What was declared ahead; `parity_tests/equivalence.yaml`."""

    sha256: str
    level: float
    power: float
    reference: str
    margins: Mapping[str, float]
    """Of accuracy, loss, calibration error and recall."""
    spread_factor: float
    churn_margin: float
    designs: Mapping[str, Design]


@dataclass(frozen=True)
class Task:
    """One training run that a certificate needs."""

    engine: str
    recipe: Recipe

    @property
    def name(self) -> str:
        """Return the name of the run's folder; the same run has the same one."""
        digest = _digest(recipe_to_dict(self.recipe))[:8]
        return f"{self.engine}-{self.recipe.variant}-{self.recipe.seed:03}-{digest}"


@dataclass(frozen=True)
class Row:
    """What is kept of one run."""

    plan: str
    engine: str
    recipe: dict[str, Any]
    machine: str
    """Data set, processor or GPU, threads and switches: what two runs that are compared share."""
    versions: str
    """Of the packages that the engine runs on."""
    status: str
    """`complete`, or `failed`: the training itself ended in an error."""
    reason: str = ""
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    predicted: Array | None = None
    """Predicted class of each test image, uint8 (N,)."""
    train_seconds: float = 0.0

    @property
    def seed(self) -> int:
        """Return the seed that the recipe names."""
        return int(self.recipe["seed"])

    @property
    def key(self) -> str:
        """The run's identity, a digest: two rows with one key are the same run twice."""
        return _digest(self.plan, self.engine, self.recipe, self.machine, self.versions)


def read_plan(path: Path = PLAN) -> Plan:
    """Read and check what was declared.

    Raises:
        UsageError: missing, not YAML, or a field that is missing, unknown or out of range.
    """
    try:
        content = read_limited(path, MAX_PLAN_BYTES)
        fields = yaml.safe_load(content)
        designs = {
            name: _design(name, dict(design), fields) for name, design in fields["designs"].items()
        }
        plan = Plan(
            sha256=hashlib.sha256(content).hexdigest(),
            level=float(fields["level"]),
            power=float(fields["power"]),
            reference=fields["reference"],
            margins={
                name: float(fields["metrics"][name]["margin"]) for name in (*METRICS, "recall")
            },
            spread_factor=float(fields["spread"]["factor"]),
            churn_margin=float(fields["churn"]["margin"]),
            designs=designs,
        )
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"cannot read the plan {path}: {' '.join(str(error).split())}") from error
    if not 0 < plan.level < 0.5 or not 0 < plan.power < 1 or plan.spread_factor <= 1:
        raise UsageError(f"{path}: a level, a power or a factor is out of range")
    if min(*plan.margins.values(), plan.churn_margin) <= 0:
        raise UsageError(f"{path}: a margin must be above 0")
    return plan


def _design(name: str, design: dict[str, Any], fields: dict[str, Any]) -> Design:
    known = {"variant", "init", "seeds", "paired", "epochs", "suspect", "mutant"}
    if unknown := sorted(set(design) - known):
        raise ValueError(f"the design {name} has an unknown field `{unknown[0]}`")
    suspect = design.get("suspect", fields["suspect"])
    for engine in (suspect, fields["reference"]):
        if engine not in ENGINES:
            raise ValueError(f"the design {name} names an unknown engine {engine!r}")
    if type(design["seeds"]) is not int or design["seeds"] < 1:
        raise ValueError(f"the design {name} must have at least one seed")
    epochs = design.get("epochs", fields["epochs"])
    honest = {"num_epochs": epochs, "init": design["init"]}
    mutant = design.get("mutant", {})
    return Design(
        name=name,
        suspect=suspect,
        seeds=design["seeds"],
        paired=bool(design["paired"]),
        reference_recipe=preset(design["variant"], **honest),
        suspect_recipe=preset(design["variant"], **{**honest, **mutant}),
        is_planted=bool(mutant),
    )


def sides_of(plan: Plan, design: Design) -> tuple[tuple[str, Recipe], tuple[str, Recipe]]:
    """Return the reference's and the suspect's engine and recipe."""
    return (plan.reference, design.reference_recipe), (design.suspect, design.suspect_recipe)


def tasks_of(plan: Plan, designs: Iterable[Design], num_seeds: int | None = None) -> list[Task]:
    """Return the runs that `designs` need, each once; the first seeds of every design first.

    `num_seeds` takes fewer seeds than were declared.
    """
    wanted: dict[tuple[int, str], Task] = {}
    for design in designs:
        for seed in range(min(num_seeds or design.seeds, design.seeds)):
            for engine, recipe in sides_of(plan, design):
                task = Task(engine, dataclasses.replace(recipe, seed=seed))
                wanted.setdefault((seed, task.name), task)
    return [wanted[key] for key in sorted(wanted, key=lambda key: key[0])]


def row_of(plan: Plan, task: Task, run_dir: Path) -> Row:
    """Return the row of a run that has ended.

    Raises:
        RunError: it has not: no record, or one that says `running` or `interrupted`.
    """
    record = read_record(run_dir)
    if record.engine != task.engine or record.recipe != recipe_to_dict(task.recipe):
        raise RunError(f"{run_dir} is another run's folder")
    fields: dict[str, Any] = {
        "plan": plan.sha256,
        "engine": record.engine,
        "recipe": record.recipe,
        "machine": _machine(record),
        "versions": _versions(record),
    }
    if record.status == FAILED:
        return Row(**fields, status=FAILED, reason=str((record.failure or {}).get("reason", "")))
    if record.status != COMPLETE:
        raise RunError(f"{run_dir} has not ended: {record.status}")
    logits, labels = read_predictions(run_dir)
    names = record.dataset["class_names"]
    evaluation = evaluate_logits(logits, labels, names)
    metrics = {
        "accuracy": evaluation.accuracy,
        "loss": evaluation.loss,
        "calibration_error": calibration_error(evaluation.probabilities, labels),
        **{f"recall {name}": float(evaluation.report[name]["recall"]) for name in names},
    }
    return Row(
        **fields,
        status=COMPLETE,
        metrics=metrics,
        predicted=evaluation.predicted.astype(np.uint8),
        train_seconds=record.timing["train_seconds"],
    )


def machine_of(
    fingerprint: str, processor: str, num_threads: int | None, switches: Iterable[str] = ()
) -> str:
    """Return the `machine` of a row."""
    return ", ".join([fingerprint[:12], processor, f"{num_threads or 'all'} threads", *switches])


def _machine(record: Record) -> str:
    return machine_of(
        str(record.dataset["fingerprint"]),
        str(record.environment.get("gpu") or record.environment.get("cpu")),
        record.execution.get("num_threads"),
        [name for name in SWITCHES if record.execution.get(name)],
    )


def _versions(record: Record) -> str:
    packages = record.environment.get("packages") or {}
    named = sorted({*ENGINES[record.engine].packages, "numpy"} & set(packages))
    return ", ".join(f"{name} {packages[name]}" for name in named)


class Rows:
    """A file of rows, SQLite, one a run; each is written at once and whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, rows: Iterable[Row]) -> int:
        """Add rows, those that are there already but once; return how many were new.

        Raises:
            RunError: the file can't be written, or holds another result of the same run.
        """
        added = 0
        with self._opened() as database:
            database.execute(CREATE)
            for row in rows:
                found = database.execute(
                    "select status, metrics from runs where key = ?", (row.key,)
                ).fetchone()
                metrics = json.dumps(dict(row.metrics))
                if found is None:
                    marks = ", ".join("?" * len(COLUMNS))
                    database.execute(f"insert into runs values ({marks})", _cells(row, metrics))
                    added += 1
                elif found != (row.status, metrics):
                    raise RunError(
                        f"{self.path} holds another result of {row.engine}, seed {row.seed}: one "
                        "run can't end in two ways; keep the two files apart"
                    )
        return added

    def read(self) -> list[Row]:
        """Return all rows; none where there is no file.

        Raises:
            RunError: damaged, or not such a file.
        """
        if not self.path.exists():
            return []
        with self._opened() as database:
            found = database.execute(f"select {', '.join(COLUMNS)} from runs").fetchall()
        try:
            return [_row(dict(zip(COLUMNS, cells, strict=True))) for cells in found]
        except (ValueError, TypeError, KeyError, zlib.error) as error:
            raise RunError(f"{self.path} is damaged: {error}") from error

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """Open the file and commit at the end of the block, or leave the file as it was."""
        try:
            with closing(sqlite3.connect(self.path, timeout=60)) as database, database:
                yield database
        except sqlite3.Error as error:
            raise RunError(f"cannot use {self.path} as a file of runs: {error}") from error


def _cells(row: Row, metrics: str) -> tuple[Any, ...]:
    predicted = None if row.predicted is None else zlib.compress(row.predicted.tobytes(), 9)
    recipe = json.dumps(row.recipe, sort_keys=True)
    return (
        row.key, row.plan, row.engine, recipe, row.seed, row.machine, row.versions, row.status,
        row.reason, metrics, predicted, row.train_seconds,
    )  # fmt: skip


def _row(cells: dict[str, Any]) -> Row:
    packed = cells["predicted"]
    predicted = None
    if packed is not None:
        content = zlib.decompressobj().decompress(packed, MAX_PREDICTED)
        predicted = np.frombuffer(content, np.uint8)
    row = Row(
        plan=cells["plan"],
        engine=cells["engine"],
        recipe=json.loads(cells["recipe"]),
        machine=cells["machine"],
        versions=cells["versions"],
        status=cells["status"],
        reason=cells["reason"],
        metrics=json.loads(cells["metrics"]),
        predicted=predicted,
        train_seconds=float(cells["train_seconds"]),
    )
    if row.key != cells["key"]:
        raise ValueError("a row's key is not that of its fields")
    return row


def matching(rows: Iterable[Row], plan: Plan, engine: str, recipe: Recipe) -> Iterator[Row]:
    """Yield the rows of `engine` with `recipe`, whatever their seed, judged by this plan."""
    wanted = {**recipe_to_dict(recipe), "seed": None}
    for row in rows:
        is_wanted = row.plan == plan.sha256 and row.engine == engine
        if is_wanted and {**row.recipe, "seed": None} == wanted:
            yield row


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def missing_tasks(
    plan: Plan,
    designs: Iterable[Design],
    rows: Iterable[Row],
    machine: str,
    num_seeds: int | None = None,
) -> list[Task]:
    """Return the runs that `designs` still need if they are trained on `machine`.

    A seed is answered where both of its runs have a row of one and the same machine; half a pair
    from elsewhere is not gone on with here. `num_seeds` as in `tasks_of`.
    """
    found: dict[str, set[str]] = {}
    for row in rows:
        if row.plan == plan.sha256:
            found.setdefault(_digest(row.engine, row.recipe), set()).add(row.machine)

    def machines(task: Task) -> set[str]:
        return found.get(_digest(task.engine, recipe_to_dict(task.recipe)), set())

    needed: list[str] = []
    for design in designs:
        tasks = tasks_of(plan, [design], num_seeds)
        for reference, suspect in zip(tasks[::2], tasks[1::2], strict=True):
            if not machines(reference) & machines(suspect):
                needed += [t.name for t in (reference, suspect) if machine not in machines(t)]
    return [task for task in tasks_of(plan, designs, num_seeds) if task.name in needed]
