"""Runs that are finished, and engines that stay warm to be asked about them."""

import pytest

from tests.training import Trainings


@pytest.fixture
def asked_warm(warm_engines, monkeypatch):
    monkeypatch.setattr("trained.run_folder.answer", warm_engines.answer)


@pytest.fixture(scope="session")
def runs(tmp_path_factory, drawn_data, warm_engines):
    """A run of each implementation after one epoch, by engine, in a folder with an odd name."""
    folder = tmp_path_factory.mktemp("it's a run")
    found = {}
    for engine in ("lightning", "keras-tensorflow"):
        trainings = Trainings(engine, folder, drawn_data, warm_engines.server(engine))
        found[engine] = trainings.forked(engine, "--epochs", "1")
    assert [(run.code, run.err) for run in found.values()] == [(0, "")] * 2
    return {engine: run.folder for engine, run in found.items()}
