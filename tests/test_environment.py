"""What a process finds out about itself."""

import subprocess
import sys
import time

from pipeline import environment

AGE = """
import time
time.sleep(0.3)
from pipeline.environment import seconds_since_process_start
print(seconds_since_process_start())
"""


def test_a_process_knows_its_age():
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", AGE], capture_output=True, text=True, check=True)
    most = time.perf_counter() - began
    assert 0.3 <= float(done.stdout) <= most + 0.02  # Linux counts in hundredths


def test_without_proc_it_asks_psutil(monkeypatch):
    known = environment.seconds_since_process_start()
    monkeypatch.setattr(environment, "Path", lambda path: Missing())
    assert abs(environment.seconds_since_process_start() - known) < 2


class Missing:
    def read_text(self):
        raise FileNotFoundError
