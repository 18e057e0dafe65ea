"""Look the locked packages up among the known vulnerabilities, with pip-audit."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.command import OneLineParser, guarded
from pipeline.errors import RunError
from pipeline.terminal import say

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("dev.txt", "gpu-keras-jax.txt", "gpu-keras-tensorflow.txt", "uv.txt")
"""Of `requirements/`."""
TIMEOUT_SECONDS = 600


def audited(lock: Path, program: Sequence[str]) -> list[dict[str, Any]]:
    """Return what pip-audit says of each package of a lock: `name`, `version`, `vulns`.

    Raises:
        RunError: its service can't be reached, or it has not looked up every package; pip-audit
            itself ends with 0 where it has looked up none.
    """
    flags = ["--require-hashes", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    try:
        done = subprocess.run(
            [*program, "--requirement", str(lock), *flags],
            capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS,
        )  # fmt: skip
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired as error:
        raise RunError(f"{lock.name} is not audited: no answer in {error.timeout:g} s") from error
    except (ValueError, KeyError, TypeError) as error:
        words = (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
        raise RunError(f"{lock.name} is not audited: {words}") from error
    skipped = [package for package in packages if "skip_reason" in package]
    if skipped or not packages:
        reason = f" ({skipped[0]['skip_reason']})" if skipped else ""
        raise RunError(
            f"{lock.name} is not audited: the service knows nothing of {len(skipped)} of "
            f"{len(packages)} packages{reason}"
        )
    return packages


def audit(locks: Sequence[Path], program: Sequence[str]) -> None:
    """Say how many packages have no known vulnerability.

    Raises:
        RunError: one has, or not all could be looked up, which is no pass.
    """
    found = []
    for lock in locks:
        packages = audited(lock, program)
        found += [
            f"{package['name']} {package['version']}: {flaw['id']}, mended in "
            f"{', '.join(flaw['fix_versions']) or 'no release'}"
            for package in packages
            for flaw in package["vulns"]
        ]
        say(f"{lock.name}: {len(packages)} packages looked up")
    if found:
        raise RunError("\n  ".join(["known vulnerabilities:", *found]))
    say("no known vulnerability")


def main(argv: list[str] | None = None) -> int:
    parser = OneLineParser(
        description="Look the locked packages up among the known vulnerabilities.",
        epilog="Exit codes: 0 all looked up and none has a known one, 1 otherwise, 2 wrong call.",
    )
    parser.parse_args(argv)
    locks = [ROOT / "requirements" / name for name in LOCKS]
    return guarded("audit.py", lambda: audit(locks, [sys.executable, "-m", "pip_audit"]))


if __name__ == "__main__":
    sys.exit(main())
