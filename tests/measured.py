"""Contenders of the benchmark, and what one might have measured."""

from benchmark.runner import Contender

ENGINES = ("lightning", "keras-tensorflow", "keras-jax", "keras-torch")


def measured(*losses, val_accuracy=0.8, seconds=1.0):
    history = [
        {"loss": loss, "val_loss": loss, "accuracy": 0.8, "val_accuracy": val_accuracy}
        for loss in losses
    ]
    return {
        "epoch_seconds": [seconds] * len(losses),
        "history": history,
        "startup_seconds": 1.0,
        "first_step_seconds": 1.0,
        "wall_seconds": 9.0,
        "test_accuracy": val_accuracy,
        "peak_memory_bytes": 2**30,
    }


REFERENCE = [{"loss": 0.5, "val_loss": 0.5}]
OURS, RAW = Contender("ours lightning", "ours", "lightning"), Contender("raw torch", "raw", "torch")
STOCK = Contender("stock lightning", "stock", "lightning")
NARROW = Contender("ours lightning bf16", "ours", "lightning", "bf16")
