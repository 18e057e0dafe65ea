"""Show what the data set holds: numbers on the screen, a sample grid and a histogram as PNG."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from pipeline.command import OneLineParser, main_of


def parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        description="Show what the data set holds, and draw samples and a class histogram.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong call.",
    )
    parser.add_argument("--data-dir", type=Path, metavar="D", help="folder of the four IDX files")
    parser.add_argument(
        "--output-dir", type=Path, metavar="D", default=Path("runs/explore"),
        help="folder for the pictures (runs/explore)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser


def show(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from pipeline.datasets import find_dataset, load_dataset
    from pipeline.terminal import say
    from reporting.explore import explore, tables, write_pictures

    dataset = load_dataset(find_dataset(arguments.data_dir))
    exploration = explore(dataset)
    pictures = write_pictures(arguments.output_dir, dataset, exploration)
    if arguments.json:
        say(json.dumps(dataclasses.asdict(exploration), indent=2, ensure_ascii=False))
        return
    for table in tables(exploration):
        Console().print(table)
    say(f"read from {exploration.folder}; SHA-256 {exploration.fingerprint}")
    for picture in pictures:
        say(f"written: {picture}")


main = main_of("explore.py", parser, show)

if __name__ == "__main__":
    sys.exit(main())
