"""Prove that the two halves compute the same thing, or say where they part and why."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.command import OneLineParser, guarded
from pipeline.errors import RunError, UsageError

if TYPE_CHECKING:
    from pipeline.datasets import Dataset

ENGINE_NAMES = ("keras-tensorflow", "keras-jax", "keras-torch")
VARIANTS = ("base", "dropout")
LANES = ("float64",)


def parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        description="Climb the parity ladder in float64: compare Lightning with Keras rung by "
        "rung, from the contract to training, and name the cause where they part.",
        epilog="Exit codes: 0 proved, 1 a rung failed or an engine died, 2 wrong call, "
        "130 interrupted.",
    )
    parser.add_argument(
        "--engines", metavar="A,B", help=f"to compare with lightning: {', '.join(ENGINE_NAMES)}"
    )
    parser.add_argument("--variants", metavar="A,B", default=",".join(VARIANTS), help="(both)")
    parser.add_argument("--seeds", type=int, metavar="N", default=1, help="repeat for N seeds (1)")
    parser.add_argument("--output-dir", type=Path, metavar="D", default=Path("runs/proof"))
    parser.add_argument("--data-dir", type=Path, metavar="D", help="folder of the four IDX files")
    return parser


def chosen(text: str, known: tuple[str, ...], flag: str) -> list[str]:
    """Return the names in a list with commas, each once.

    Raises:
        UsageError: an unknown name.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in known:
            raise UsageError(f"`{flag}` takes {', '.join(known)}; received {name!r}")
    return names


def conduct(arguments: argparse.Namespace) -> None:
    if arguments.seeds < 1:
        raise UsageError(f"`--seeds` must be at least 1; received {arguments.seeds}")
    engines = arguments.engines and chosen(arguments.engines, ENGINE_NAMES, "--engines")
    variants = chosen(arguments.variants, VARIANTS, "--variants")
    climb_ladder(arguments, prepared(arguments), engines, variants)


def prepared(arguments: argparse.Namespace) -> "Dataset":
    """Make the output folder and return the data set."""
    from pipeline.datasets import find_dataset, load_dataset

    dataset = load_dataset(find_dataset(arguments.data_dir))
    try:
        arguments.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot write to {arguments.output_dir}: {error.strerror or error}"
        ) from error
    return dataset


def climb_ladder(
    arguments: argparse.Namespace,
    dataset: "Dataset",
    engines: list[str] | None,
    variants: list[str],
) -> None:
    from rich.console import Console
    from rich.table import Table

    from pipeline.terminal import say
    from portproof.engines import EngineError
    from proof.ladder_report import matrix
    from proof.standard import LADDER_PAGE, prove_ladder, runnable, standard_attempts

    try:
        attempts = standard_attempts(runnable(engines, say), variants, LANES, arguments.seeds)
        verdicts = prove_ladder(dataset, arguments.output_dir, list(attempts), say, command())
    except ValueError as error:
        raise UsageError(str(error)) from error
    except EngineError as error:
        raise RunError(str(error)) from error
    headings, rows = matrix(verdicts)
    table = Table(*headings)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    say(f"written: {arguments.output_dir / LADDER_PAGE}")
    failed = [verdict for verdict in verdicts if not verdict.passed]
    if failed:
        raise RunError(f"{len(failed)} of {len(verdicts)} climbs failed")


def command() -> str:
    """Return the call, as it is written down with results."""
    return " ".join(["python", "scripts/prove.py", *sys.argv[1:]])


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    return guarded("prove.py", lambda: conduct(arguments))


if __name__ == "__main__":
    sys.exit(main())
