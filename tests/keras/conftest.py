"""The environment that Keras reads when it is first imported, and the implementation."""

import os

import pytest

os.environ.update({"KERAS_BACKEND": "tensorflow", "KERAS_HOME": os.devnull})


@pytest.fixture(scope="session")
def implementation():
    from tests.keras import implementation

    return implementation
