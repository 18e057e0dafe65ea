"""Run the tutorial's code, each framework's in a process, and write what it puts out."""

import argparse
import sys
from pathlib import Path

from pipeline.command import OneLineParser, main_of


def parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        description="Run the tutorial's code and write what it puts out into the page, its "
        "pictures beside it, and a notebook for each implementation.",
        epilog="Exit codes: 0 done, 1 a step failed, 2 wrong call, "
        "130 interrupted, 143 terminated.",
    )
    parser.add_argument(
        "--page",
        type=Path,
        metavar="F",
        help="the page; all else lies beside it (docs/tutorial.md)",
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="write this into the page first")
    parser.add_argument(
        "--text", action="store_true", help="renew prose and layout; run nothing, keep the outputs"
    )
    return parser


def make(arguments: argparse.Namespace) -> None:
    from pipeline.errors import UsageError
    from pipeline.terminal import say
    from tutorial import making
    from tutorial.page import with_setting

    path = arguments.page or making.PAGE
    try:
        page = path.read_text()
    except (OSError, UnicodeError) as error:
        raise UsageError(f"cannot read the page {path}: {error}") from error
    if arguments.epochs is not None:
        if arguments.epochs < 1:
            raise UsageError(f"`epochs` must be at least 1; received epochs={arguments.epochs}")
        page = with_setting(page, "EPOCHS", arguments.epochs)
    if arguments.text:
        notebooks = making.with_earlier_outputs(page, path)
    else:
        notebooks = making.run_all(page, path.name, say)
    files = making.made_files(page, path, notebooks)
    try:
        making.write_made(path, *files)
    except OSError as error:
        raise UsageError(f"cannot write beside {path}: {error.strerror or error}") from error


main = main_of("make_tutorial.py", parser, make)

if __name__ == "__main__":
    sys.exit(main())
