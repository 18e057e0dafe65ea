"""Trainings of the Lightning implementation."""

import pytest

from tests.training import Trainings


@pytest.fixture(scope="session")
def trainings(drawn_data, tmp_path_factory):
    made = Trainings("lightning", tmp_path_factory.mktemp("runs"), drawn_data)
    yield made
    made.server.close()
