"""An engine whose framework is imported once: each call is a forked process, as in ladder.serve.

A file `*.call` holds the arguments of a training as JSON; its answer file, exit code, stdout and
stderr. Any other is a question, answered as the engine's own program does. A fault,
"interrupt 2 1", "terminate 2 1" or "kill 2 1", ends the call in that epoch and step, both from 0,
or after the steps among which that one is; there, "file-limit 2 1 1000" lets no file grow beyond
so many bytes, and "move 2 1 DIR" moves that folder away. "kill-after 0.5" ends the call after so
many seconds, wherever it is.
"""

import importlib
import json
import os
import resource
import signal
import sys
from pathlib import Path

import sklearn.metrics  # noqa: F401

import pipeline.run  # noqa: F401
from ladder.serve import serve
from pipeline import run_report
from pipeline.command import trainer_main
from pipeline.journal import Journal
from tests.training import CALL

HALF = sys.argv[1]
TRAIN = importlib.import_module(f"{HALF}_impl.train")
TRACE = importlib.import_module(f"{HALF}_impl.trace")

# Drawing takes longer than these trainings, and the trainings by script do draw.
for picture in ("plot_curves", "plot_confusion", "plot_classified"):
    setattr(run_report, picture, lambda *_, **__: None)


def limit_files(num_bytes):
    """Let no file grow beyond `num_bytes`; Python ignores the signal that comes with the error."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(num_bytes), resource.RLIM_INFINITY))


def move_away(folder):
    if Path(folder).exists():
        os.rename(folder, f"{folder}.away")


FAULTS = {
    "interrupt": lambda: os.kill(os.getpid(), signal.SIGINT),
    "terminate": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "file-limit": limit_files,
    "move": move_away,
}


def plant(fault):
    how, *place = fault.split(maxsplit=3)
    if how == "kill-after":
        # Nobody handles SIGALRM, so the kernel ends the process there and then, as kill -9 does.
        signal.setitimer(signal.ITIMER_REAL, float(place[0]))
        return
    last_epoch, last_step = map(int, place[:2])
    end_step = Journal.end_step

    def end_early(self, epoch, step, loss):
        if epoch == last_epoch and step >= last_step:
            FAULTS[how](*place[2:])
        end_step(self, epoch, step, loss)

    Journal.end_step = end_early


def answer(question, trace):
    return train(question, trace) if question.suffix == CALL else TRACE.main(question, trace)


def train(question, trace):
    arguments = json.loads(question.read_text())
    sys.argv = [f"train_{HALF}.py", *arguments]
    streams = [Path(f"{trace}.{number}") for number in (1, 2)]
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    code = trainer_main(HALF, lambda: TRAIN, arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    trace.write_text(json.dumps([code, *(path.read_text() for path in streams)]))
    return 0


serve(plant, answer)
