"""Check published Keras models against torchvision's, and write docs/published-pairs.md."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.command import OneLineParser, chosen, guarded

if TYPE_CHECKING:
    from proof.published import Published

ROOT = Path(__file__).resolve().parent.parent


def parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        description="Check published Keras models against torchvision's, as they are and repaired "
        "by what was found, and write docs/published-pairs.md. Verdicts that are there are kept.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong call, 130 interrupted, 143 terminated.",
    )
    parser.add_argument("--pairs", metavar="A,B", help="check these only: ResNet50,VGG16 (all)")
    parser.add_argument("--again", action="store_true", help="check these anew")
    parser.add_argument(
        "--output-dir", type=Path, metavar="D", default=ROOT / "runs" / "published",
        help="the verdicts (runs/published)",
    )  # fmt: skip
    parser.add_argument(
        "--page", type=Path, metavar="FILE", default=ROOT / "docs" / "published-pairs.md"
    )
    return parser


def conduct(arguments: argparse.Namespace) -> None:
    from benchmark.gpu_day import commit
    from pipeline.session import claimed
    from portproof.files import write_text
    from proof.published import PAIRS, published_page, read_verdicts

    names = tuple(pair.name for pair in PAIRS)
    wanted = chosen(arguments.pairs, names, "--pairs") if arguments.pairs else names
    folder = arguments.output_dir
    with claimed(folder, "published"):
        for pair in PAIRS:
            for repaired in (False, True) if pair.repair else (False,):
                path = folder / f"{pair.name}{'-repaired' if repaired else ''}.json"
                if pair.name in wanted and (arguments.again or not path.is_file()):
                    check(pair, repaired, path, commit())
        write_text(arguments.page, published_page(read_verdicts(folder)))


def check(pair: "Published", repaired: bool, path: Path, commit: str) -> None:
    """Check one pair in a process of its own, and keep its verdict with the commit checked.

    Raises:
        RunError: it could not be checked.
    """
    from pipeline.environment import describe_machine, package_versions
    from pipeline.errors import RunError
    from pipeline.terminal import say
    from portproof.files import write_json

    part = path.with_suffix(".part")
    command = ["-m", "portproof", "check", pair.reference, pair.suspect(repaired)]
    command += ["--input", f"{pair.size},{pair.size},3", "--json", str(part)]
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1) or not part.is_file():
        lines = done.stderr.strip().splitlines() or ["no verdict"]
        raise RunError(f"{path.stem}: {lines[-1]}")
    machine = describe_machine()
    kept = {
        "commit": commit,
        "versions": package_versions(("keras", "tensorflow", "torch", "torchvision", "numpy")),
        "load": os.getloadavg()[0],
        "machine": f"{machine['cpu']}, {machine['cores']} cores",
        "verdict": json.loads(part.read_text()),
        "text": done.stdout,
    }
    write_json(path, kept)
    part.unlink()
    say(f"{path.stem}: {done.stdout.strip().splitlines()[-1]}")


def main() -> int:
    arguments = parser().parse_args()
    return guarded("published.py", lambda: conduct(arguments))


if __name__ == "__main__":
    # This file's folder comes first on the path, where benchmark.py would be taken for the package.
    sys.path[0] = str(ROOT)
    sys.exit(main())
