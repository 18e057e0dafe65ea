"""Which results a page shows where none are named: the last of this machine, or the project's."""

from pathlib import Path

from pipeline.errors import UsageError
from reporting.evidence import BENCHMARK_JSON, CERTIFICATE_JSON, LADDER_JSON, Source

ROOT = Path(__file__).resolve().parent.parent
RUNS = Path("runs")
PROOFS = (RUNS / "proof", RUNS / "proof-short")
BENCHMARKS = (RUNS / "benchmark",)
CERTIFICATES = (RUNS / "equivalence",)
COMMITTED_CERTIFICATE = ROOT / "results" / "equivalence"
COMMITTED_PROOF = ROOT / "results" / "proof"
COMMITTED_BENCHMARK = ROOT / "results" / "benchmark-cpu"
PAGE = "report.html"


def proof_source(named: Path | None = None) -> Source:
    """Return the folder of verdicts.

    Raises:
        UsageError: the one that was named holds none.
    """
    return _source(named, PROOFS, COMMITTED_PROOF, LADDER_JSON)


def benchmark_source(named: Path | None = None) -> Source:
    """Return the folder of measurements.

    Raises:
        UsageError: the one that was named holds none.
    """
    return _source(named, BENCHMARKS, COMMITTED_BENCHMARK, BENCHMARK_JSON)


def certificate_source() -> Source:
    """Return the folder of the certificate over seeds; it may hold none yet."""
    return _source(None, CERTIFICATES, COMMITTED_CERTIFICATE, CERTIFICATE_JSON)


def _source(named: Path | None, own: tuple[Path, ...], committed: Path, file: str) -> Source:
    if named is not None:
        if not (named / file).is_file():
            raise UsageError(f"{named} holds no {file}")
        return Source(named, is_committed=False)
    there = [folder for folder in own if (folder / file).is_file()]
    found = max(there, key=lambda folder: (folder / file).stat().st_mtime, default=None)
    return Source(found or committed, is_committed=found is None)
