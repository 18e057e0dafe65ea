"""`portproof check REFERENCE SUSPECT --input …` asks whether two models compute the same."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from portproof.checking import DEPTHS, CheckError, check


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="portproof", description="Does a PyTorch module compute what a Keras model does?"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser(
        "check",
        help="compare two models, call by call",
        description="Compare two models call by call. Exit codes: 0 same, 1 not, 2 a wrong call.",
    )
    one.add_argument("reference", help="module:function or file.py:function; returns a model")
    one.add_argument("suspect", help="the same for its port")
    one.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="SIZES",
        help="sizes behind the batch axis, channels last: 64,64,3; integers below 20000: "
        "int20000:128, or int20000pad:128 where 0 stands behind alone; once for each input, "
        "with its name if it goes in by name: ids=int20000:128",
    )
    one.add_argument("--upto", choices=DEPTHS,
                     help="how far (gradients; steps where there are --batches)")  # fmt: skip
    one.add_argument("--batches", metavar="FUNCTION",
                     help="for steps: returns (inputs, targets) for each batch")  # fmt: skip
    one.add_argument("--suspect-batches", metavar="FUNCTION",
                     help="the same by the port's own loader, to be compared")  # fmt: skip
    one.add_argument("--suspect-processes", metavar="N",
                     help="train the suspect on N processes, on shares of --batches")  # fmt: skip
    one.add_argument("--convert", metavar="FUNCTION",
                     help="your own: takes weights by path and the module, fills it")  # fmt: skip
    backends = ("tensorflow", "jax", "torch")
    one.add_argument(
        "--backend", choices=backends, default=backends[0], help="Keras's backend (%(default)s)"
    )
    one.add_argument("--reference-python", metavar="PATH", help="interpreter of the reference")
    one.add_argument("--suspect-python", metavar="PATH", help="interpreter of the suspect")
    one.add_argument("--pair", action="append", default=[], metavar="A=B",
                     help="layer A of the reference is module B of the suspect")  # fmt: skip
    one.add_argument("--accept", action="append", default=[], metavar="PATH",
                     help="a difference (epsilon, …) or a layer, known and wanted")  # fmt: skip
    one.add_argument("--strict", action="store_true", help="fail on declared differences too")
    one.add_argument("--json", metavar="FILE", help="write the verdict there as well")
    one.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS",
                     help="for one step of a program (%(default)g)")  # fmt: skip
    one.add_argument("--seed", type=int, default=0, help="of weights and inputs (%(default)s)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 (the same), 1 (not the same) or 2 (a wrong call)."""
    asked = _parser().parse_args(arguments)
    pairs = [tuple(pair.split("=", 1)) for pair in asked.pair]
    try:
        if any(len(pair) != 2 for pair in pairs):
            raise CheckError("--pair takes LAYER=MODULE")
        count = asked.suspect_processes
        if count is not None and not count.isdecimal():
            raise CheckError(f"--suspect-processes takes a number; received {count}")
        verdict = check(
            asked.reference,
            asked.suspect,
            asked.input,
            upto=asked.upto,
            batches=asked.batches,
            suspect_batches=asked.suspect_batches,
            suspect_processes=None if count is None else int(count),
            convert=asked.convert,
            backend=asked.backend,
            reference_python=asked.reference_python,
            suspect_python=asked.suspect_python,
            pairs=pairs,
            timeout=asked.timeout,
            strict=asked.strict,
            accept=asked.accept,
            seed=asked.seed,
            progress=_progress,
        )
        print(verdict)
        if asked.json:
            _write(Path(asked.json), json.dumps(verdict.to_dict(), indent=2) + "\n")
    except (CheckError, OSError, json.JSONDecodeError) as error:
        print(f"portproof: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # a fault of portproof's own: a line, and no verdict
        text = " ".join(str(error).split())
        print(f"portproof: {type(error).__name__}: {text[:300]}", file=sys.stderr)
        return 2
    return 0 if verdict.passed else 1


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _progress(what: str) -> None:
    if sys.stderr.isatty():
        print(f"… {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
