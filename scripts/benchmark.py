"""Measure both implementations against what a newcomer writes and against hand-written loops."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # This file's folder comes first on the path, where it would be taken for the package.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from benchmark.command import main

    sys.exit(main())
