"""The machine's peak in float32: the fastest of many products of two large matrices, by torch.

A leaf program that is measured; prints JSON.
"""

import json
import sys
import time

import torch

SIZE, REPEATS = 2048, 30


def main() -> int:
    """Multiply, and print the floating-point operations a second of the fastest product."""
    left, right = torch.rand(SIZE, SIZE), torch.rand(SIZE, SIZE)
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - began)
    json.dump({"flops_per_second": 2 * SIZE**3 / min(seconds)}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
