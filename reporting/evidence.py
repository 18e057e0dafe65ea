"""What a page is made from: run folders, verdicts and measurements, whichever are there."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ladder.reading import Kind, built, read_json
from pipeline.datasets import Dataset, find_dataset_again, load_dataset
from pipeline.errors import RunError, UsageError
from pipeline.evaluation import Evaluation, evaluate_logits
from pipeline.launch import Outcome
from pipeline.record import LAYERS, RECORD, Layer, Record
from pipeline.recorded import read_layers, read_predictions, read_record
from reporting.comparison import DATA as COMPARISON_JSON
from reporting.comparison import Run, run_of
from reporting.repeated import Ratio, Spread

LADDER_JSON, FAULTS_JSON, BENCHMARK_JSON = "ladder.json", "faults.json", "benchmark.json"
CERTIFICATE_JSON = "certificate.json"
ENGINE_NAMES = {
    "keras-tensorflow": "Keras on TensorFlow",
    "lightning": "Lightning",
    "keras-jax": "Keras on JAX",
    "keras-torch": "Keras on torch",
}
MAX_RUNS = 16

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TrainedRun:
    """One run folder; of a run that is not complete, `reason` says why."""

    folder: Path
    record: Record
    layers: tuple[Layer, ...]
    """As built; none where the run ended before it wrote them."""
    reason: str = ""
    name: str = ""
    """What people call it: its engine, its variant, and its folder where two are alike in these."""

    @property
    def engine(self) -> str:
        """Return the engine's name."""
        return self.record.engine

    @property
    def variant(self) -> str:
        """Return `base` or `dropout`."""
        return self.record.variant


@dataclass(frozen=True, kw_only=True)
class CompleteRun(TrainedRun):
    """A run that has a result."""

    cell: Run
    evaluation: Evaluation
    labels: Array


MAX_JSON_BYTES = 16 * 1024 * 1024
SomeRun = TypeVar("SomeRun", bound=TrainedRun)


@dataclass(frozen=True)
class Gap:
    """How far two answers are apart at one place, and how far they may be."""

    place: str
    gap: float | str
    """A word where it is not finite."""
    limit: float | str


@dataclass(frozen=True)
class Worst:
    """The place of a rung that is nearest to its limit."""

    gap: float | str


@dataclass(frozen=True)
class Rung:
    """One rung of a climb."""

    name: str
    status: str
    reason: str
    compared: int
    worst: Worst | None
    gaps: tuple[Gap, ...]


@dataclass(frozen=True)
class Climb:
    """Two engines on the ladder."""

    left: str
    right: str
    lane: str
    title: str
    passed: bool
    rungs: tuple[Rung, ...]


@dataclass(frozen=True)
class Origin:
    """Where results come from."""

    command: str
    machine: dict[str, Any]
    packages: dict[str, Any]


@dataclass(frozen=True)
class Ladder:
    """`ladder.json`."""

    origin: Origin
    climbs: tuple[Climb, ...]


@dataclass(frozen=True)
class Fault:
    """A planted porting mistake, and what came of it."""

    engine: str
    mistake: str
    is_harmless: bool
    rung: str
    status: str
    cause: str
    not_as_expected: tuple[str, ...]


@dataclass(frozen=True)
class Faults:
    """`faults.json`."""

    command: str
    machine: dict[str, Any]
    packages: dict[str, Any]
    faults: tuple[Fault, ...]


@dataclass(frozen=True)
class Arm:
    """One program that was measured."""

    arm: str
    precision: str
    thrown_out: str
    epoch_seconds: Spread | None = None
    images_per_second: float | None = None
    to_first_step_seconds: Spread | None = None
    startup: dict[str, Spread] | None = None
    first_step_seconds: Spread | None = None
    warm_up_seconds: Spread | None = None
    wall_seconds: Spread | None = None
    peak_memory_bytes: float | None = None
    faster_than: dict[str, Ratio] | None = None


@dataclass(frozen=True)
class Measured:
    """One process of a contender."""

    epoch_seconds: tuple[float, ...]


@dataclass(frozen=True)
class Benchmark:
    """`benchmark.json`."""

    command: str
    rounds: int
    conditions: dict[str, Any]
    environment: dict[str, Any]
    left_out: dict[str, str]
    arms: tuple[Arm, ...]
    measurements: dict[str, tuple[Measured, ...]]


@dataclass(frozen=True)
class Design:
    """Two implementations over seeds, and what was found."""

    design: str
    suspect: str
    reference: str
    variant: str
    num_epochs: int
    is_planted: bool
    sentence: str
    values: tuple[tuple[float, ...], ...]
    """Test accuracies by seed, the reference's and the suspect's."""


@dataclass(frozen=True)
class Certificates:
    """`certificate.json`."""

    command: str
    machine: dict[str, Any]
    certificates: tuple[Design, ...]


@dataclass(frozen=True)
class Source:
    """A folder of results that the page shows."""

    folder: Path
    is_committed: bool
    """The project's own results, and not those of this machine."""


@dataclass(frozen=True)
class Sources:
    """The folders whose results the page shows beside the runs'."""

    proof: Source | None = None
    benchmark: Source | None = None
    certificates: Source | None = None


@dataclass(frozen=True)
class Evidence:
    """All of it."""

    runs: tuple[TrainedRun, ...] = ()
    lost: tuple[tuple[str, str], ...] = ()
    """Names of runs that left no record, and why."""
    dataset: Dataset | None = None
    no_dataset: str = ""
    """Why there are no images."""
    ladder: Ladder | None = None
    faults: Faults | None = None
    benchmark: Benchmark | None = None
    certificates: Certificates | None = None
    sources: Sources = Sources()

    @property
    def complete(self) -> list[CompleteRun]:
        """Return the runs that have a result."""
        return [run for run in self.runs if isinstance(run, CompleteRun)]


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Return the run folders among `folders` and directly in them.

    Raises:
        UsageError: a folder is none, holds no run, or there are more than a page can show.
    """
    found: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"{folder} is not a folder")
        if (folder / RECORD).is_file():
            inside = [folder]
        else:
            inside = sorted(path.parent for path in folder.glob(f"*/{RECORD}"))
        if not inside:
            raise UsageError(f"{folder} holds no run: no {RECORD} in it, nor in a folder of it")
        found += [path for path in inside if path not in found]
    if len(found) > MAX_RUNS:
        raise UsageError(f"{len(found)} runs are too many for one page; name at most {MAX_RUNS}")
    return found


def latest_comparison(runs_dir: Path) -> Path | None:
    """Return the folder in `runs_dir` whose comparison was written last."""
    written = [
        path.parent
        for path in runs_dir.glob(f"*/{COMPARISON_JSON}")
        if any(path.parent.glob(f"*/{RECORD}"))
    ]
    return max(written, key=lambda folder: (folder / COMPARISON_JSON).stat().st_mtime, default=None)


def read_run(folder: Path) -> TrainedRun:
    """Read a run's folder.

    Raises:
        RunError: its files are missing, broken, or say different things.
    """
    record = read_record(folder)
    layers = tuple(read_layers(folder)) if (folder / LAYERS).exists() else ()
    if record.status != "complete":
        failure = (record.failure or {}).get("reason")
        reason = f"{record.status}: {failure}" if failure else record.status
        return TrainedRun(folder, record, layers, reason=reason)
    logits, labels = read_predictions(folder)
    class_names = record.dataset.get("class_names")
    if not isinstance(class_names, list) or not all(isinstance(n, str) for n in class_names):
        raise RunError(f"{folder / RECORD}: `class_names` of `dataset` must be a list of names")
    try:
        evaluation = evaluate_logits(logits, labels, class_names)
        cell = run_of(Outcome(record.engine, record.variant, record, logits, labels))
    except (ValueError, LookupError, TypeError, ArithmeticError, RunError) as error:
        raise RunError(f"{folder} holds no usable run: {' '.join(str(error).split())}") from error
    return CompleteRun(folder, record, layers, cell=cell, evaluation=evaluation, labels=labels)


def read_runs(folders: Sequence[Path]) -> tuple[TrainedRun, ...]:
    """Read runs, base before dropout and engines in their usual order.

    Raises:
        RunError: a run is broken, or two were tested on different images.
    """
    runs = [read_run(folder) for folder in folders]
    complete = [run for run in runs if isinstance(run, CompleteRun)]
    for run in complete[1:]:
        first = complete[0]
        same = all(
            first.record.dataset[name] == run.record.dataset[name]
            for name in ("class_names", "fingerprint")
        )
        if not same or not np.array_equal(first.labels, run.labels):
            raise RunError(f"{run.folder} was tested on other images than {first.folder}")

    def order(run: TrainedRun) -> tuple[str, int, str]:  # unknown engines come last
        return run.variant, [*ENGINE_NAMES, run.engine].index(run.engine), str(run.folder)

    runs.sort(key=order)
    plain = [f"{name_of(run.engine)}, {run.variant}" for run in runs]
    return tuple(
        dataclasses.replace(
            run, name=f"{name} ({_telling(run, runs)})" if plain.count(name) > 1 else name
        )
        for name, run in zip(plain, runs, strict=True)
    )


def _telling(run: TrainedRun, runs: Sequence[TrainedRun]) -> str:
    """Return the shortest end of a run's path that no other run's path has."""
    parts = run.folder.resolve().parts
    others = [other.folder.resolve().parts for other in runs if other is not run]
    for length in range(1, len(parts) + 1):
        end = parts[-length:]
        if not any(other[-length:] == end for other in others):
            return "/".join(end)
    return str(run.folder)


def name_of(engine: str) -> str:
    """Return an engine's name for people."""
    return ENGINE_NAMES.get(engine, engine)


def read_dataset(data_dir: Path | None, runs: Sequence[TrainedRun]) -> tuple[Dataset | None, str]:
    """Return the data set of the runs, or None and why it is not there.

    Raises:
        UsageError: `data_dir` was named and is not usable.
    """
    try:
        recorded = runs[0].record.dataset if runs else {}
        dataset = load_dataset(find_dataset_again(recorded, data_dir))
    except UsageError as error:
        if data_dir is not None:
            raise
        return None, str(error).splitlines()[0]
    for run in runs:
        fingerprint = run.record.dataset.get("fingerprint")
        if fingerprint != dataset.fingerprint:
            return None, f"the data set in {dataset.folder} is not that of {run.folder.name}"
        if isinstance(run, CompleteRun) and not np.array_equal(run.labels, dataset.test_labels):
            return None, f"the predictions in {run.folder.name} are not of all its test images"
    return dataset, ""


def gather(
    runs: tuple[TrainedRun, ...],
    sources: Sources,
    data_dir: Path | None,
    lost: Sequence[tuple[str, str]] = (),
) -> Evidence:
    """Put together what a page is made from; what a folder does not hold is left out.

    Raises:
        UsageError: `data_dir` was named and is not usable.
        RunError: a file is broken.
    """
    dataset, no_dataset = read_dataset(data_dir, runs)
    return Evidence(
        runs=runs,
        lost=tuple(lost),
        dataset=dataset,
        no_dataset=no_dataset,
        ladder=_read_in(Ladder, sources.proof, LADDER_JSON),
        faults=_read_in(Faults, sources.proof, FAULTS_JSON),
        benchmark=_read_in(Benchmark, sources.benchmark, BENCHMARK_JSON),
        certificates=_read_in(Certificates, sources.certificates, CERTIFICATE_JSON),
        sources=sources,
    )


def read_as(kind: type[Kind], path: Path) -> Kind:
    """Read a JSON file as the dataclass `kind`; fields that it does not have are passed over.

    Raises:
        RunError: missing, too large, not JSON, or a field is missing or of the wrong type.
    """
    try:
        return built(kind, read_json(path, MAX_JSON_BYTES))
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from error


def _read_in(kind: type[Kind], source: Source | None, name: str) -> Kind | None:
    path = None if source is None else source.folder / name
    return read_as(kind, path) if path is not None and path.exists() else None


def finite(value: float | str | None) -> float | None:
    """Return a number of a file, None where it is a word or not finite."""
    if value is None or isinstance(value, str) or not math.isfinite(value):
        return None
    return float(value)
