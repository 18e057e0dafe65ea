"""What the tests share: the data, and the guard of one framework a process."""

import gzip
import signal
import sys

import pytest

from pipeline.datasets import IDX_FILES, find_dataset, find_file
from pipeline.drawn import draw_dataset

TOGETHER = ("tensorflow", "torch")
# So that an assertion in what several test files share shows its values too.
pytest.register_assert_rewrite("tests.both", "tests.training", "tests.soaking")

# `nohup make test` and a script's `make test &` start it with SIGINT ignored, which every child
# inherits: those that a test interrupts would go on.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def loaded_together(modules):
    """Return what is wrong where one process has loaded both frameworks."""
    if all(name in modules for name in TOGETHER):
        return f"this process has loaded {' and '.join(TOGETHER)}, which crash each other"
    return None


@pytest.fixture(autouse=True)
def one_framework():
    yield
    problem = loaded_together(sys.modules)
    if problem:
        pytest.fail(problem)


def pytest_collection_finish():
    problem = loaded_together(sys.modules)
    if problem:
        pytest.exit(f"collecting the tests: {problem}", returncode=1)


@pytest.fixture(scope="session")
def drawn_data(tmp_path_factory):
    """A folder with 200 training and 60 test images that the project drew."""
    folder = tmp_path_factory.mktemp("drawn") / "shapes"
    draw_dataset(folder, 200, 60)
    return folder


@pytest.fixture(scope="session")
def warm_engines():
    """Engines that stay warm through all files: importing a framework takes seconds."""
    from tests.training import WarmEngines

    engines = WarmEngines()
    yield engines
    engines.close()


@pytest.fixture(scope="session")
def trainings(implementation, drawn_data, tmp_path_factory):
    """Trainings with the engine of the folder's `implementation`."""
    from tests.training import Trainings

    made = Trainings(implementation.ENGINE, tmp_path_factory.mktemp("runs"), drawn_data)
    yield made
    made.server.close()


@pytest.fixture(scope="session")
def real_data():
    """The folder that holds Fashion-MNIST itself; `make data` fetches it."""
    return find_dataset(None)


@pytest.fixture(scope="session")
def packed_data(real_data):
    """Fashion-MNIST's four files as gzip has them, by their names without `.gz`."""
    packed = {}
    for file in IDX_FILES:
        path = find_file(real_data, file)
        assert path is not None
        content = path.read_bytes()
        packed[file.name] = content if path.suffix == ".gz" else gzip.compress(content, 1)
    return packed


@pytest.fixture(scope="session")
def real_mirror(packed_data):
    """A mirror of Fashion-MNIST itself."""
    from tests.mirror import serve

    yield from serve(packed_data)
