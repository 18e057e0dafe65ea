"""Several processes: who is which, their shares, and starting and ending them here."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.batches import Batches, dropout_seed
from pipeline.command import WRONG_CALL, trainer_main
from pipeline.preprocess import LabeledImages
from pipeline.processes import Ranks, ranks_of

ROOT = Path(__file__).parents[1]
PROGRAM = """
import os, signal, sys, time
from pipeline import processes
processes.GRACE_SECONDS = 1.0
ranks, how = processes.this_process(), sys.argv[1]
if ranks.size == 1:
    sys.exit(processes.run_ranks(3))
print(f"rank {ranks.rank}", flush=True)
if how == "kill" and ranks.rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
if how == "say" and ranks.rank:
    print(f"said by {ranks.rank}", file=sys.stderr)
    sys.exit(ranks.rank + 1)
if how != "well":
    time.sleep(60)
"""


def test_a_launcher_says_which_process_this_is():
    assert ranks_of({}) == Ranks()
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert ranks_of({**torchrun, "TORCHELASTIC_RUN_ID": "x"}) == Ranks(3, 4, 1, 2, "torchrun")
    slurm = {"SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}
    assert ranks_of({**slurm, "SLURM_STEP_ID": "0"}) == Ranks(3, 4, 1, 2, "slurm")
    assert ranks_of(slurm) == Ranks()  # the job's script itself, not a step of it


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5])
def test_shares_are_the_batch_in_its_order(num_ranks):
    data = LabeledImages(np.zeros((22, 2, 2, 1), np.uint8), np.zeros(22, np.int64))
    whole = Batches(data, 7, 10, "float64", seed=1)
    shares = [
        Batches(data, 7, 10, "float64", seed=1, rank=rank, num_ranks=num_ranks)
        for rank in range(num_ranks)
    ]
    for epoch in (0, 1):
        for batches in (whole, *shares):
            batches.set_epoch(epoch)
        for index in range(len(whole)):
            parts = [share.positions(index) for share in shares]
            assert np.concatenate(parts).tolist() == whole.positions(index).tolist()
            sizes = [len(part) for part in parts]
            assert max(sizes) - min(sizes) <= 1
            assert sum(sizes) == whole.size(index)


def test_each_rank_drops_by_a_seed_of_its_own():
    assert len({dropout_seed(0, epoch, rank) for epoch in range(5) for rank in range(5)}) == 25
    assert dropout_seed(0, 1, 0) == dropout_seed(0, 1)


@pytest.mark.parametrize(
    ("half", "flags", "words"),
    [
        ("keras", ["--backend", "torch", "--devices", "2"], "Keras on torch trains on one device"),
        ("keras", ["--devices", "3", "--batch-size", "2"], "received batch_size=2"),
        ("lightning", ["--devices", "3", "--batch-size", "2"], "received batch_size=2"),
        ("lightning", ["--devices", "0"], "received devices=0"),
    ],
)
def test_a_wrong_number_of_devices_is_said_in_a_line(half, flags, words, capsys):
    assert trainer_main(half, lambda: None, flags) == WRONG_CALL
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals as on Linux and macOS")
@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        ("well", 0, ""),
        ("kill", 1, "program.py: rank 1 of 3 was ended by SIGKILL\n"),
        ("say", 2, "said by 1\n"),
    ],
)
def test_ranks_end_together_and_one_speaks(tmp_path, how, code, words):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program), how],
        capture_output=True, text=True, check=False, timeout=50,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (code, "rank 0\n", words)
