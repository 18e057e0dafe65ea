"""Run what `make test` runs, as many parts at a time as there are cores; each prints when it ends.

`python -m tests.parts [PYTEST OPTION …]`. TensorFlow and torch crash when one process loads both,
so the tests of each implementation have a process of their own.
"""

import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

PYTEST = (sys.executable, "-m", "pytest", "-q")
ROOMS = ("tests/causes", "tests/page", "tests/run", "tests/trained")
OTHERS = ("tests/keras", "tests/lightning", *ROOMS)
# In the order in which two at a time end together.
PARTS = {
    "tests": (*PYTEST, "tests", *(f"--ignore={folder}" for folder in OTHERS)),
    "keras": (*PYTEST, "tests/keras", "portproof/tests/keras"),
    "rooms": (
        *(*PYTEST, *ROOMS, "portproof/tests"),
        *("--ignore=portproof/tests/keras", "--ignore=portproof/tests/torch"),
    ),
    "parity": (*PYTEST, "parity_tests"),
    "lightning": (*PYTEST, "tests/lightning", "portproof/tests/torch"),
    "types": (sys.executable, "-m", "mypy"),
    "lint": (sys.executable, "-m", "ruff", "check", "."),
    "format": (sys.executable, "-m", "ruff", "format", "--check", "."),
}
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",  # each part keeps a core busy as it is
    "PYTHONDONTWRITEBYTECODE": "",  # hundreds of processes would compile our sources anew
}


def run(name: str, options: list[str]) -> tuple[str, int, float]:
    """Run a part and print what it said; return its name, exit code and seconds."""
    command, began = PARTS[name], time.monotonic()
    done = subprocess.run(
        [*command, *(options if "pytest" in command else [])],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", check=False,
    )  # fmt: skip
    seconds = time.monotonic() - began
    print(f"{name}:\n{done.stdout.rstrip()}\n", flush=True)
    return name, done.returncode, seconds


def main(options: list[str]) -> int:
    num_at_once = max(1, os.cpu_count() or 1)
    print(f"{', '.join(PARTS)}, {num_at_once} at a time; each prints when it ends", flush=True)
    with ThreadPoolExecutor(num_at_once) as pool:
        ended = list(pool.map(lambda name: run(name, options), PARTS))
    for name, code, seconds in ended:
        print(f"{name}: {f'FAILED with {code}' if code else 'passed'}, {seconds:.0f} s")
    print(f"with Python {platform.python_version()}")
    return int(any(code for _, code, _ in ended))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:  # which the parts have got too, and ended
        sys.exit("make test: interrupted")
