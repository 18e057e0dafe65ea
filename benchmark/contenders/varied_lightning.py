"""Our Lightning trainer with one setting another way, for a GPU to decide which is faster.

A program that is measured: `varied_lightning.py ALTERNATIVE`, then the flags of
`scripts/train_lightning.py`.
"""

import json
import sys

import torch

from lightning_impl import captured, model, train
from pipeline.command import trainer_main
from pipeline.journal import Journal


def nchw() -> None:
    """Keep feature maps as (N, C, H, W), in which cuDNN may be faster in float32."""
    channels_last = model.make_fast

    def make_fast(network: torch.nn.Sequential) -> list[torch.nn.Module]:
        layers = channels_last(network)
        network.to(memory_format=torch.contiguous_format)
        return layers

    model.make_fast = make_fast


def autotune() -> None:
    """Let cuDNN try its algorithms on the first batches and take the fastest."""
    torch.backends.cudnn.benchmark = True


def eager() -> None:
    """Launch each kernel of each step, instead of replaying a CUDA graph."""
    captured.replayed = lambda work, device: work


def events() -> None:
    """Put CUDA events around each epoch, and print what they measured as JSON at the end."""
    begin, end = Journal.begin_epoch, Journal.end_epoch

    def begin_epoch(self: Journal) -> None:
        begin(self)
        pairs.append([torch.cuda.Event(enable_timing=True) for _ in range(2)])
        pairs[-1][0].record()

    def end_epoch(self: Journal, *args: object, **options: object) -> None:
        pairs[-1][1].record()
        end(self, *args, **options)  # type: ignore[arg-type]

    Journal.begin_epoch, Journal.end_epoch = begin_epoch, end_epoch  # type: ignore[method-assign]


ALTERNATIVES = {each.__name__: each for each in (nchw, autotune, eager, events)}
pairs: list[list[torch.cuda.Event]] = []


def main() -> int:
    """Train."""
    alternative, *arguments = sys.argv[1:]
    ALTERNATIVES[alternative]()
    code = trainer_main("lightning", lambda: train, arguments)
    if pairs and not code:
        torch.cuda.synchronize()
        seconds = [first.elapsed_time(last) / 1000 for first, last in pairs]
        print(json.dumps({"epoch_device_seconds": seconds}))
    return code


if __name__ == "__main__":
    sys.exit(main())
