"""Lightning trainings that are killed at random moments; see tests/soaking.py."""

import pytest
import torch

from tests.soaking import NUM_KILLS, soak


def state_of(run):
    """Return what the last checkpoint holds, tensors as bytes."""
    checkpoint = torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)
    parts = ("epoch", "global_step", "state_dict", "optimizer_states")
    return [flat(checkpoint[part]) for part in parts]


def flat(value):
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: flat(item) for key, item in value.items()}
    return [flat(item) for item in value] if isinstance(value, list | tuple) else value


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ("--variant", "dropout"),
        ("--variant", "dropout", "--plain"),
        ("--variant", "base", "--batch-size", "4"),
    ],
    ids=" ".join,
)
def test_a_run_killed_at_any_moment_ends_with_the_same_bits(trainings, capsys, flags):
    found = soak(trainings, state_of, *flags)
    assert found.kills.total() >= NUM_KILLS
    with capsys.disabled():
        print(f"\n{found}")
