"""Write one page of runs, their comparison, the proof and the benchmark."""

import argparse
import sys
from pathlib import Path

from pipeline.command import OneLineParser, main_of
from pipeline.errors import UsageError


def parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        description="Write one HTML page, which needs no other file and no network, of runs, the "
        "parity proof and the benchmark, whichever are there.",
        epilog="Exit codes: 0 done, 1 a file is broken, 2 wrong call, "
        "130 interrupted, 143 terminated.",
    )
    parser.add_argument(
        "runs",
        nargs="*",
        type=Path,
        metavar="RUN",
        help="run folders, or folders of them (the last comparison in runs/)",
    )
    parser.add_argument(
        "--proof",
        type=Path,
        metavar="D",
        help="folder of ladder.json and faults.json (runs/proof, runs/proof-short, or the "
        "project's own results)",
    )
    parser.add_argument(
        "--benchmark",
        type=Path,
        metavar="D",
        help="folder of benchmark.json (runs/benchmark, or the project's own results)",
    )
    parser.add_argument("--data-dir", type=Path, metavar="D", help="folder of the four IDX files")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="(report.html beside the runs, or in runs/)"
    )
    return parser


def holds_images(page: Path) -> bool:
    return page.is_file() and b'id="samples-data"' in page.read_bytes()


def conduct(arguments: argparse.Namespace) -> None:
    from pipeline.terminal import say
    from reporting.defaults import PAGE, RUNS, sources
    from reporting.evidence import find_runs, gather, latest_comparison, read_runs
    from reporting.write import write_page

    folders = list(arguments.runs)
    if not folders and (latest := latest_comparison(RUNS)):
        folders = [latest]
    output = arguments.output or (folders[0] if len(folders) == 1 else RUNS) / PAGE
    if output.is_dir():
        raise UsageError(f"`--output` must be a file; {output} is a folder")
    evidence = gather(
        read_runs(find_runs(folders)),
        sources(arguments.proof, arguments.benchmark),
        arguments.data_dir,
    )
    if evidence.no_dataset and holds_images(output):
        raise UsageError(
            f"{evidence.no_dataset}; {output} stays: name their data with --data-dir, or another "
            "file with --output"
        )
    write_page(output, evidence, ["python", "scripts/report.py", *sys.argv[1:]])
    say(f"written: {output}")


main = main_of("report.py", parser, conduct)

if __name__ == "__main__":
    sys.exit(main())
