"""The machine's peak in float32: the fastest of many products of two large matrices, by torch.

A program that is measured; prints JSON.
"""

import json
import sys
import time

import torch

SIZE, REPEATS = 2048, 30


def main() -> int:
    """Multiply, and print the floating-point operations a second of the fastest product."""
    on_gpu = sys.argv[1:] == ["gpu"]
    torch.backends.cuda.matmul.allow_tf32 = False
    size = SIZE * 4 if on_gpu else SIZE
    left, right = (torch.rand(size, size, device="cuda" if on_gpu else "cpu") for _ in range(2))
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        left @ right
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    found = {"flops_per_second": 2 * size**3 / min(seconds), "device": "gpu" if on_gpu else "cpu"}
    json.dump(found, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
