"""Show what works here: versions, devices, settings, data and engines."""

import argparse
import json
import sys
from pathlib import Path

from pipeline.command import OneLineParser, main_of


def parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        description="Show versions, devices, Keras's configuration, threads, data and engines.",
        epilog="Exit codes: 0 the default engines can run and the data are fine, 1 otherwise.",
    )
    parser.add_argument("--data-dir", type=Path, metavar="D", help="folder of the four IDX files")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def diagnose(arguments: argparse.Namespace) -> None:
    from pipeline.errors import RunError
    from pipeline.terminal import say
    from reporting.doctor import describe, examine, problems

    if sys.stderr.isatty():
        print("asking each framework in a process of its own …", file=sys.stderr)
    findings = examine(arguments.data_dir)
    say(json.dumps(findings, indent=2) if arguments.json else describe(findings))
    if not findings["ok"]:
        raise RunError("; ".join(problems(findings)))


main = main_of("doctor.py", parser, diagnose)

if __name__ == "__main__":
    sys.exit(main())
