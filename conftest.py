"""No GPU unless its tests are asked for: `make test` then says the same on every machine."""

import os

import pytest

WITHOUT_GPU = {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}


def asks_for_gpu(config: pytest.Config) -> bool:
    """Return whether this is `pytest -m gpu`, or a worker of it."""
    return config.getoption("markexpr", "") == "gpu"


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs before any framework is loaded, from programs that tests start too."""
    if not asks_for_gpu(config):
        os.environ |= WITHOUT_GPU


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU; where it is asked for, it fails without one."""
    if item.get_closest_marker("gpu") and not asks_for_gpu(item.config):
        pytest.skip("needs an NVIDIA GPU: make test-gpu")
