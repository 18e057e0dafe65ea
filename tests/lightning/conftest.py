"""The Lightning implementation."""

import pytest


@pytest.fixture(scope="session")
def implementation():
    from tests.lightning import implementation

    return implementation
