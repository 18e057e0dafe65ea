"""Put Fashion-MNIST where the trainers find it."""

import argparse
import sys
from pathlib import Path

from pipeline.command import OneLineParser, main_of


def parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        description="Put Fashion-MNIST where the trainers find it; nothing to do if it is there.",
        epilog="Exit codes: 0 the data are there, 1 no source gave them, 2 wrong call.",
    )
    parser.add_argument(
        "--data-dir", type=Path, metavar="D", help="fill this folder instead of the cache"
    )
    parser.add_argument(
        "--mirror",
        action="append",
        metavar="URL",
        help="folder of the four .gz files, instead of the public mirrors; repeatable",
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors")
    return parser


def fetch(arguments: argparse.Namespace) -> None:
    from pipeline.fetch import MIRRORS, ensure_dataset
    from pipeline.terminal import say

    ensure_dataset(
        arguments.data_dir,
        mirrors=arguments.mirror or MIRRORS,
        say=(lambda line: None) if arguments.quiet else say,
        show_progress=sys.stderr.isatty() and not arguments.quiet,
    )


main = main_of("fetch_data.py", parser, fetch)

if __name__ == "__main__":
    sys.exit(main())
