"""Check published Keras models against those in torch, and write docs/published-pairs.md."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.command import OneLineParser, main_of
from pipeline.flags import chosen
from pipeline.terminal import say

if TYPE_CHECKING:
    from parity_tests.published import Published

ROOT = Path(__file__).resolve().parent.parent
HUB = ("keras-hub", "transformers")
FRAMEWORKS = ("keras", "tensorflow", "torch", "numpy")


def parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        description="Check published Keras models against those in torch, as they are and repaired "
        "by what was found, and write docs/published-pairs.md. Verdicts that are there are kept.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong call, 130 interrupted, 143 terminated.",
    )
    parser.add_argument("--pairs", metavar="A,B", help="check these only: ResNet50,VGG16 (all)")
    parser.add_argument("--again", action="store_true", help="check these anew")
    parser.add_argument(
        "--hub-python", metavar="P", default=sys.executable,
        help="an interpreter that has keras-hub and transformers (this one)",
    )  # fmt: skip
    parser.add_argument(
        "--output-dir", type=Path, metavar="D", default=ROOT / "runs" / "published",
        help="the verdicts (runs/published)",
    )  # fmt: skip
    parser.add_argument(
        "--page", type=Path, metavar="FILE", default=ROOT / "docs" / "published-pairs.md"
    )
    return parser


def conduct(arguments: argparse.Namespace) -> None:
    from ladder.files import write_text
    from parity_tests.published import PAIRS, published_page, read_verdicts
    from pipeline.session import claimed

    names = tuple(pair.name for pair in PAIRS)
    wanted = chosen(arguments.pairs, names, "--pairs") if arguments.pairs else names
    folder = arguments.output_dir
    with claimed(folder, "published"):
        for pair in PAIRS:
            for repaired in (False, True) if pair.repair else (False,):
                path = folder / f"{pair.name}{'-repaired' if repaired else ''}.json"
                if pair.name not in wanted or (path.is_file() and not arguments.again):
                    continue
                python = arguments.hub_python if pair.from_hub else sys.executable
                packages = (*FRAMEWORKS, *(HUB if pair.from_hub else ("torchvision",)))
                versions = versions_in(python, packages)
                if versions is None:
                    say(
                        f"{path.stem}: needs {' and '.join(packages[-2:])}, which {python} does "
                        "not have; name one that has them with --hub-python"
                    )
                    continue
                check(pair, repaired, path, python, versions)
        write_text(arguments.page, published_page(read_verdicts(folder)))


def versions_in(python: str, packages: tuple[str, ...]) -> dict[str, str] | None:
    """Return the versions of packages in an interpreter; None where it lacks one."""
    from ladder.interpreters import Interpreter, InterpreterError

    try:
        found = Interpreter(python).versions(packages)
    except InterpreterError:
        return None
    versions = {name: version for name, version in found.items() if version is not None}
    return versions if len(versions) == len(packages) else None


def check(
    pair: "Published",
    repaired: bool,
    path: Path,
    python: str,
    versions: dict[str, str],
) -> None:
    """Check one pair in a process of its own, and keep its verdict with what was checked.

    Raises:
        RunError: it could not be checked.
    """
    from ladder.files import write_json
    from pipeline.environment import describe_machine
    from pipeline.errors import RunError

    part = path.with_suffix(".part")
    command = ["-m", "portproof", "check", pair.reference, pair.suspect(repaired)]
    command += [word for text in pair.inputs for word in ("--input", text)]
    command += ["--reference-python", python, "--suspect-python", python, "--json", str(part)]
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1) or not part.is_file():
        lines = done.stderr.strip().splitlines() or ["no verdict"]
        raise RunError(f"{path.stem}: {lines[-1]}")
    machine = describe_machine()
    kept = {
        "commit": machine["commit"],
        "versions": versions,
        "load": os.getloadavg()[0],
        "machine": f"{machine['cpu']}, {machine['cores']} cores",
        "verdict": json.loads(part.read_text()),
        "text": done.stdout,
    }
    write_json(path, kept)
    part.unlink()
    say(f"{path.stem}: {done.stdout.strip().splitlines()[-1]}")


main = main_of("published.py", parser, conduct)

if __name__ == "__main__":
    # This file's folder comes first on the path, where benchmark.py would be taken for the package.
    sys.path[0] = str(ROOT)
    sys.exit(main())
