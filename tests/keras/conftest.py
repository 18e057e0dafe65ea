"""Trainings with Keras, and the environment that it reads when it is first imported."""

import os

import pytest

from tests.training import Trainings

os.environ.update({"KERAS_BACKEND": "tensorflow", "KERAS_HOME": os.devnull})


@pytest.fixture(scope="session")
def trainings(drawn_data, tmp_path_factory):
    made = Trainings("keras-tensorflow", tmp_path_factory.mktemp("runs"), drawn_data)
    yield made
    made.server.close()
