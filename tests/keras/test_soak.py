"""Keras trainings that are killed at random moments; see tests/soaking.py."""

import io
import zipfile

import h5py
import numpy as np
import pytest

from tests.soaking import NUM_KILLS, soak
from tests.training import Trainings


def state_of(run):
    """Return what `--resume` goes on from, and what the best model was saved with."""
    folder, saved = run.folder / "checkpoints", {}

    def keep(name, item):
        if isinstance(item, h5py.Dataset):
            saved[name] = np.asarray(item).tobytes()

    with zipfile.ZipFile(folder / "best.keras") as archive:
        weights = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(weights) as file:
        file.visititems(keep)
    assert len(saved) > 10
    return (folder / "training-state.safetensors").read_bytes(), saved


@pytest.fixture
def engine_trainings(request, drawn_data, tmp_path):
    """Trainings of an engine; TensorFlow's are loaded anyway."""
    if request.param == "keras-tensorflow":
        yield request.getfixturevalue("trainings")
        return
    made = Trainings(request.param, tmp_path, drawn_data)
    yield made
    made.server.close()


@pytest.mark.slow
@pytest.mark.timeout(3600)  # as many restarts as the kills make
@pytest.mark.parametrize(
    ("engine_trainings", "flags"),
    [
        ("keras-tensorflow", ("--variant", "dropout")),
        ("keras-tensorflow", ("--variant", "base", "--plain")),
        ("keras-torch", ("--variant", "dropout")),
        ("keras-jax", ("--variant", "dropout")),
    ],
    indirect=["engine_trainings"],
)
def test_a_run_killed_at_any_moment_ends_with_the_same_bits(engine_trainings, capsys, flags):
    found = soak(engine_trainings, state_of, *flags)
    assert found.kills.total() >= NUM_KILLS
    with capsys.disabled():
        print(f"\n{found}")
