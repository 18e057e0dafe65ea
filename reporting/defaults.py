"""Which results a page shows where none are named: the last of this machine, or the project's."""

from pathlib import Path

from pipeline.errors import UsageError
from reporting.evidence import BENCHMARK_JSON, CERTIFICATE_JSON, LADDER_JSON, Source, Sources

ROOT = Path(__file__).resolve().parent.parent
RUNS = Path("runs")
RESULTS = ROOT / "results"
PAGE = "report.html"


def sources(proof: Path | None = None, benchmark: Path | None = None) -> Sources:
    """Return the folders of verdicts, measurements and the certificate over seeds.

    Raises:
        UsageError: one that was named does not hold such results.
    """
    return Sources(
        proof=_source(LADDER_JSON, "proof", named=proof, own=("proof", "proof-short")),
        benchmark=_source(BENCHMARK_JSON, "benchmark-cpu", named=benchmark, own=("benchmark",)),
        certificates=_source(CERTIFICATE_JSON, "equivalence", own=("equivalence",)),
    )


def _source(
    file: str, committed: str, *, own: tuple[str, ...], named: Path | None = None
) -> Source:
    if named is not None:
        if not (named / file).is_file():
            raise UsageError(f"{named} holds no {file}")
        return Source(named, is_committed=False)
    there = [RUNS / folder for folder in own if (RUNS / folder / file).is_file()]
    found = max(there, key=lambda folder: (folder / file).stat().st_mtime, default=None)
    return Source(found or RESULTS / committed, is_committed=found is None)
