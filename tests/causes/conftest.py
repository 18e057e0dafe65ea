import pytest

from ladder.causes import UnexaminableError, registry


@pytest.fixture(autouse=True)
def bugs_show(monkeypatch):
    """What a detector raises by mistake fails the test."""
    monkeypatch.setattr(registry, "UNEXAMINABLE", (UnexaminableError,))
