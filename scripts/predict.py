"""Classify a person's own pictures with one run, or with several side by side."""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.command import OneLineParser, main_of


def parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        description="Classify pictures of one's own: what stands out from the background is cut "
        "out and turned into the data set's form, light on black, 28 × 28, grey.",
        epilog="Exit codes: 0 done, 1 a file could not be classified, 2 wrong call, "
        "130 interrupted, 143 terminated.",
    )
    parser.add_argument(
        "pictures", type=Path, nargs="+", metavar="IMAGE",
        help="PNG, JPEG, WebP, AVIF, GIF, BMP or TIFF file (HEIC: pip install "
        "'keras-lightning-parity[heic]'), or a folder of them",
    )  # fmt: skip
    parser.add_argument(
        "--run", type=Path, action="append", required=True, metavar="RUN",
        help="folder of a run of either framework; several are shown side by side",
    )  # fmt: skip
    parser.add_argument(
        "--background", choices=("auto", "light", "dark"), default="auto",
        help="of the pictures (auto: the object is what stands out from the border's usual grey, "
        "be it lighter or darker)",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, metavar="PNG", default=Path("runs/predictions.png"),
        help="picture of what the network saw and said (runs/predictions.png)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    return parser


@contextmanager
def writable(path: Path) -> Iterator[None]:
    from pipeline.errors import UsageError

    try:
        yield
    except OSError as error:
        raise UsageError(
            f"`--output`: cannot write to {path}: {error.strerror or error}"
        ) from error


def show(arguments: argparse.Namespace) -> None:
    from pipeline.errors import RunError
    from pipeline.terminal import say
    from trained.guess_plot import draw
    from trained.prediction import classify, lines_of, printable, read_photos, remarks, to_json
    from trained.run_folder import read_run

    runs = [read_run(folder) for folder in arguments.run]
    photos, failures, left_out = read_photos(arguments.pictures, arguments.background)
    for failure in failures:
        print(f"predict.py: {printable(failure.path)}: {failure.reason}", file=sys.stderr)
    for remark in remarks(photos, left_out):
        print(f"predict.py: {remark}", file=sys.stderr)
    guesses = []
    if photos:
        with writable(arguments.output):
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
        guesses = [classify(photos, run) for run in runs]
        with writable(arguments.output):
            draw(arguments.output, photos, guesses)
    found = to_json(photos, failures, left_out, guesses)
    if photos:
        found["picture"] = str(arguments.output)
    if arguments.json:
        say(json.dumps(found, indent=2))
    else:
        for line in lines_of(photos, guesses):
            say(line)
        if photos:
            say(f"written: {printable(arguments.output)}")
    if failures:
        total = len(photos) + len(failures)
        raise RunError(f"{len(failures):,} of {total:,} could not be classified; see above")


main = main_of("predict.py", parser, show)

if __name__ == "__main__":
    sys.exit(main())
