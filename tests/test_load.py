"""Many processes at once on one data cache, which the first of them fills."""

import gzip
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.datasets import IDX_FILES, find_file, load_dataset

FIND = """
import sys
from pathlib import Path
from pipeline import datasets, fetch
from pipeline.datasets import find_dataset, load_dataset
from pipeline.fetch import ensure_dataset
datasets.DEBIAN_DIR = fetch.DEBIAN_DIR = Path("nowhere")
ensure_dataset(None, mirrors=[sys.argv[1]])
print("fingerprint", load_dataset(find_dataset(None)).fingerprint)
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def mirror(real_data, tmp_path_factory):
    """The address of a server of the packed files."""
    folder = tmp_path_factory.mktemp("mirror")
    for file in IDX_FILES:
        path = find_file(real_data, file)
        content = path.read_bytes()
        packed = content if path.suffix == ".gz" else gzip.compress(content, 1)
        (folder / f"{file.name}.gz").write_bytes(packed)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("num_processes", [2, pytest.param(32, marks=pytest.mark.slow)])
def test_all_get_whole_data_where_one_fills_the_cache(mirror, real_data, tmp_path, num_processes):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[1]), "no_proxy": "127.0.0.1"}
    environment.pop("FASHION_MNIST_DIR", None)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", FIND, mirror], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(num_processes)
    ]  # fmt: skip
    found = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0] * num_processes, found
    fingerprint = load_dataset(real_data).fingerprint
    assert [out.splitlines()[-1] for out, _ in found] == [f"fingerprint {fingerprint}"] * len(found)
    # One alone has fetched the files.
    assert sum(out.count("from http") for out, _ in found) == len(IDX_FILES)
    assert not list(tmp_path.rglob("*.part"))
