"""The evidence of a page."""

import pytest

from tests.page import paged


@pytest.fixture
def made(tmp_path):
    return paged.Evidence(tmp_path)
