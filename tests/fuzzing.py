"""Feed each parser bytes that a coverage-guided fuzzer makes up: `python -m tests.fuzzing`.

A process for each parser: libFuzzer, by way of atheris, changes the valid files of
tests/parsers.py, keeps what reaches new lines of the project, and stops at the first input that is
neither read as the second reader reads it nor refused with a clear error.
"""

import argparse
import base64
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline.terminal import say

ROOT = Path(__file__).parents[1]
WITH_TORCH = "checkpoint"
ROOMS = ["pipeline", "ladder", "benchmark", "lightning_impl"]
MAX_BYTES = 1 << 15
MEMORY_MEGABYTES = 2048
HANG_SECONDS = 60


def fuzz(name, corpus, seconds, findings):
    """Fuzz one parser in this process, which ends with it."""
    import atheris

    with atheris.instrument_imports(include=ROOMS):
        from tests.parsers import PARSERS, tried

        if name == WITH_TORCH:
            from tests.lightning.checkpoint_parser import CHECKPOINT

            PARSERS[name] = CHECKPOINT
    parser = PARSERS[name]
    for number, content in enumerate(parser.seeds):
        (corpus / f"seed-{number}").write_bytes(content)
    with tempfile.TemporaryDirectory() as folder:
        options = [
            f"-max_total_time={seconds}",
            f"-max_len={MAX_BYTES}",
            f"-rss_limit_mb={MEMORY_MEGABYTES}",
            f"-timeout={HANG_SECONDS}",
            f"-artifact_prefix={findings}/",
            "-print_final_stats=1",
        ]
        atheris.Setup(
            [sys.argv[0], *options, str(corpus)],
            lambda content: tried(parser, content, Path(folder)) and None,
        )
        atheris.Fuzz()


def fuzzed(name, seconds, kept):
    """Fuzz one parser in a process of its own; return how many inputs it tried, and what it found.

    What was found is written to `kept`, to be made a test that stays.
    """
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        corpus, findings = Path(scratch) / "corpus", Path(scratch) / "findings"
        corpus.mkdir()
        findings.mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzzing", "--in-process", name, str(corpus),
             str(findings), "--seconds", str(seconds)],
            cwd=ROOT, env={**os.environ, "TMPDIR": scratch}, capture_output=True, text=True,
            errors="replace", check=False,
        )  # fmt: skip
        counted = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
        tried_inputs = int(counted[1]) if counted else 0
        found = []
        for artifact in sorted(findings.iterdir()):
            path = kept / f"{name}.{artifact.name[:24]}.txt"
            path.write_text(base64.encodebytes(artifact.read_bytes()).decode())
            found.append(path)
        if (done.returncode or not counted) and not found:
            raise SystemExit(f"fuzzing {name} failed:\n{done.stderr[-3000:]}")
        for path in found:
            say(f"{path}\n{done.stderr[-1500:]}")
        return tried_inputs, found


def main():
    """Fuzz the parsers that were asked for; return 1 where something was found."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("parsers", nargs="*", metavar="PARSER", help="all of them")
    arguments.add_argument("--seconds", type=int, default=30, metavar="N", help="for each (30)")
    arguments.add_argument("--in-process", nargs=3, help=argparse.SUPPRESS)
    arguments.add_argument("--kept", type=Path, default=ROOT / "tests" / "fuzz", metavar="FOLDER")
    given = arguments.parse_args()
    if given.in_process:
        name, corpus, findings = given.in_process
        fuzz(name, Path(corpus), given.seconds, Path(findings))
        return 0
    from tests.parsers import PARSERS  # after --in-process, which reads it instrumented

    names = [*PARSERS, WITH_TORCH]
    for name in given.parsers:
        if name not in names:
            arguments.error(f"no parser {name!r}; there are {', '.join(names)}")
    try:
        import atheris  # noqa: F401
    except ImportError:
        say("`make fuzz` needs atheris, of which there are builds for Linux only")
        return 2
    given.kept.mkdir(exist_ok=True)
    total, all_found = 0, []
    for name in given.parsers or names:
        tried_inputs, found = fuzzed(name, given.seconds, given.kept)
        total, all_found = total + tried_inputs, [*all_found, *found]
        say(f"{name}: {tried_inputs:,} inputs tried, {len(found)} found")
    say(f"in all: {total:,} inputs tried, {len(all_found)} found")
    return 1 if all_found else 0


if __name__ == "__main__":
    sys.exit(main())
