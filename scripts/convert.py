"""Take a run into the other framework: weights, optimizer state, and all that goes on from them."""

import argparse
import shlex
import sys
from pathlib import Path

from pipeline.command import OneLineParser, main_of
from pipeline.engines import ENGINES


def parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        description="Write a run folder in which another framework goes on where a run stands, "
        "and verify it: the same state, bit for bit, and the same logits on the test images.",
        epilog="Exit codes: 0 done, 1 failed or did not hold, 2 wrong call, "
        "130 interrupted, 143 terminated.",
    )
    parser.add_argument("--run", type=Path, required=True, metavar="RUN", help="the run's folder")
    parser.add_argument("--to", choices=tuple(ENGINES), required=True, help="engine to go on with")
    parser.add_argument(
        "--run-dir", type=Path, required=True, metavar="D", help="folder of the run that is written"
    )
    parser.add_argument(
        "--epochs", type=int, metavar="N", help="epochs in all that it is to train (the run's)"
    )
    parser.add_argument("--data-dir", type=Path, metavar="D", help="folder of the four IDX files")
    return parser


def show(arguments: argparse.Namespace) -> None:
    from pipeline.recorded import read_record
    from pipeline.terminal import say
    from trained.conversion import convert

    done = convert(
        arguments.run, arguments.to, arguments.run_dir, arguments.epochs, arguments.data_dir
    )
    say(f"{arguments.run} → {done.engine}, after epoch {done.epochs}: {done.run_dir}")
    say("weights, Adam's slots and step count: the same bits, read back from the checkpoint")
    say(
        f"logits of {done.num_images:,} test images: at most {done.logit_gap:.2g} apart; "
        f"{done.allowed_gap:.2g} is allowed ({done.tolerance.reason})"
    )
    command = done.resume_command(read_record(done.run_dir).execution)
    if arguments.data_dir:
        command += ["--data-dir", str(arguments.data_dir)]
    say(f"to go on: {shlex.join(command)}")


main = main_of("convert.py", parser, show)

if __name__ == "__main__":
    sys.exit(main())
