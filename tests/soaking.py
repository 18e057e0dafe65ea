"""Killing trainings at random moments, and going on until they end with the same bits."""

import os
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from pipeline.record import BEST_WEIGHTS, RECORD
from pipeline.recorded import read_record

NUM_KILLS = int(os.environ.get("SOAK_KILLS", "2"))
"""Kills of each kind of run; `make soak` asks for more."""


@dataclass
class Soak:
    """What was done to the runs of one kind."""

    name: str
    kills: Counter = field(default_factory=Counter)
    """Kills by the whole epochs in the record; -1 where there was none yet."""
    runs: int = 0

    def __str__(self):
        moments = ", ".join(
            f"{count} {'before the record' if epochs < 0 else f'after {epochs} epochs'}"
            for epochs, count in sorted(self.kills.items())
        )
        return f"{self.name}: {self.kills.total()} kills in {self.runs} runs: {moments}"


def soak(trainings, state_of, *flags):
    """Kill runs until `NUM_KILLS` of them have been; each goes on and ends as the whole one did.

    `state_of(run)` is what `--resume` goes on from, as something that compares by its bits.
    """
    whole = trainings.once(*flags)
    began = time.perf_counter()
    again = trainings.forked(f"timed{''.join(flags)}", *flags)
    seconds = time.perf_counter() - began
    assert signature(again, state_of) == signature(whole, state_of)
    draw = np.random.default_rng()  # other moments each time: a kill is not repeatable anyway
    found = Soak(" ".join([trainings.engine, *flags]))
    while found.kills.total() < NUM_KILLS:
        run = killed_until_done(trainings, found, draw, seconds, flags)
        found.runs += 1
        assert (run.code, run.err) == (0, ""), run.err
        assert signature(run, state_of) == signature(whole, state_of)
        shutil.rmtree(run.folder)
    return found


def killed_until_done(trainings, found, draw, seconds, flags):
    """Start a run, kill it, and go on with it until it is done."""
    name, resume = f"soak{''.join(flags)}-{found.runs}", ()
    while True:
        fault = f"kill-after {draw.uniform(0, seconds):.4f}"
        run = trainings.forked(name, *flags, *resume, fault=fault)
        if run.code is not None:
            return run
        has_record = (run.folder / RECORD).exists()
        found.kills[len(read_record(run.folder).history) if has_record else -1] += 1
        resume = ("--resume",) if has_record else ()
        if not has_record:  # there is nothing yet to go on from
            shutil.rmtree(run.folder, ignore_errors=True)


def signature(run, state_of):
    """Return everything of a run that must not depend on where it was killed."""
    best = (run.folder / BEST_WEIGHTS).read_bytes()
    return run.metrics, run.record.test, run.bits, best, state_of(run)
