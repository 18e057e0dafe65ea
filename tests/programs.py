"""Programs in processes of their own."""

import os
import subprocess
import sys


def run_python(*arguments, env=None, check=False, **options):
    """Run Python with `arguments`; return its exit code, stdout and stderr.

    `env` adds to the variables of this process; `options` are those of `subprocess.run`.
    """
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True, text=True, check=check, env={**os.environ, **(env or {})}, **options,
    )  # fmt: skip
