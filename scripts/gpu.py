"""Try and measure all there is on an NVIDIA GPU, stage by stage."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # This file's folder comes first on the path, where it would be taken for the package.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    try:
        from benchmark.gpu_day import main
    except ModuleNotFoundError as error:  # a machine where only the frameworks are
        print(f"gpu.py: error: not installed: {error.name}", file=sys.stderr)
        sys.exit(2)
    sys.exit(main())
