"""Several processes: who is which, their shares, and starting and ending them here."""

import os
from pathlib import Path

import numpy as np
import pytest

from parity_tests import processes as proved
from pipeline import ranks
from pipeline.batches import Batches, dropout_seed
from pipeline.command import WRONG_CALL, trainer_main
from pipeline.datasets import load_dataset
from pipeline.errors import UsageError
from pipeline.preprocess import LabeledImages
from pipeline.processes import Ranks, ranks_of, sharers, this_process
from tests.programs import run_python

ROOT = Path(__file__).parents[1]
PROGRAM = """
import os, signal, sys, time
from pipeline import local_ranks, processes
local_ranks.GRACE_SECONDS = 1.0
ranks, how = processes.this_process(), sys.argv[1]
if ranks.size == 1:
    sys.exit(local_ranks.run_ranks(3))
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


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({0: "", 2: "no space left"}, "rank 2 of 4 failed: no space left"),
        ({0: "", 2: ""}, "rank 3 of 4 died or hung: the others end"),
        ({0: ""}, "rank 2 and 3 of 4 died or hung: the others end"),
        ({0: "", 2: "", 3: ""}, "the connection between the ranks was lost"),
        (None, "rank 0 of 4, or what started it, has ended"),
    ],
)
def test_a_rank_that_lost_others_says_which(words, why, monkeypatch):
    monkeypatch.setattr(ranks, "WORD_SECONDS", 0.2)

    def heard(rank):
        if words is None:
            raise RuntimeError("connection refused")
        return words.get(rank)

    said = []
    assert ranks.why_lost(Ranks(1, 4, 1, 4), said.append, heard) == why
    assert said == [""]  # none waits for this one


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("RANK", "one", "`RANK` must be a number, as a launcher sets it; received 'one'"),
        ("WORLD_SIZE", "", "`WORLD_SIZE` must be a number"),
        ("LOCAL_RANK", "-1", "`LOCAL_RANK` must be a number"),
        ("RANK", "2", "contradict each other: rank 2 of 2, here 0 of 2"),
        ("LOCAL_WORLD_SIZE", "0", "contradict each other: rank 0 of 2, here 0 of 0"),
    ],
)
def test_what_a_launcher_cannot_have_set_is_said_in_a_line(name, value, words, monkeypatch, capsys):
    for variable, usual in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", name: value}.items():
        monkeypatch.setenv(variable, value if variable == name else usual)
    this_process.cache_clear()
    try:
        assert trainer_main("lightning", lambda: None, []) == WRONG_CALL
    finally:
        this_process.cache_clear()
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_a_slurm_step_without_numbers_is_refused():
    with pytest.raises(UsageError, match="`SLURM_PROCID` must be a number"):
        ranks_of({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2"})


def test_ranks_share_a_machines_cores_unless_slurm_has_bound_them():
    assert sharers(Ranks(), {}, 8) == 1
    assert sharers(Ranks(0, 2, 0, 2, "torchrun"), {}, 8) == 2
    slurm = Ranks(0, 4, 0, 2, "slurm")
    assert sharers(slurm, {"SLURM_CPUS_ON_NODE": "8"}, 8) == 2
    assert sharers(slurm, {"SLURM_CPUS_ON_NODE": "8"}, 4) == 1
    assert sharers(slurm, {}, 4) == 2


@pytest.mark.parametrize(
    ("backend", "words"),
    [("tensorflow", "in one process, and local has started 2"), ("torch", "trains on one device")],
)
def test_torchrun_of_keras_is_refused(backend, words, monkeypatch, capsys):
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    this_process.cache_clear()
    try:
        assert trainer_main("keras", lambda: None, ["--backend", backend]) == WRONG_CALL
    finally:
        this_process.cache_clear()
    assert words in capsys.readouterr().err


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
    ("impl", "flags", "words"),
    [
        ("keras", ["--backend", "torch", "--devices", "2"], "Keras on torch trains on one device"),
        ("keras", ["--devices", "3", "--batch-size", "2"], "received batch_size=2"),
        ("lightning", ["--devices", "3", "--batch-size", "2"], "received batch_size=2"),
        ("lightning", ["--devices", "0"], "received devices=0"),
    ],
)
def test_a_wrong_number_of_devices_is_said_in_a_line(impl, flags, words, capsys):
    assert trainer_main(impl, lambda: None, flags) == WRONG_CALL
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
    done = run_python(program, how, timeout=50, env={"PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout, done.stderr) == (code, "rank 0\n", words)


@pytest.fixture
def answers(monkeypatch, tmp_path, drawn_data):
    """Let engines answer at once: by number of devices, the gap of weights and the accuracy."""
    found = {1: (0.0, 0.5), 2: (1e-15, 0.5)}

    def answer(engine, question, run_dir, precision):
        gap, accuracy = found[question.settings.get("devices", 1)]
        metrics = {"loss": 1.0, "val_loss": 1.0, "accuracy": accuracy, "val_accuracy": 0.5}
        row = {"weight": gap, "adam.m": 0.0, "adam.v": 0.0}
        return {"steps": {"25": row}, "history": [{**metrics, "seconds": 1.0}]}

    dataset = load_dataset(drawn_data)
    monkeypatch.setattr(proved, "kept_answer", answer)
    return found, lambda: proved.prove_processes(
        dataset, tmp_path, ["lightning"], ["base"], [1, 2], lambda line: None, ""
    )


def test_a_training_that_parts_from_one_device_is_named(answers):
    found, prove_two = answers
    assert prove_two() == []
    for other in ((2e-13, 0.5), (1.0, 0.5), (1e-15, 0.5 + 2e-16)):
        found[2] = other
        first, _ = prove_two()
        assert first.startswith("parted: lightning base on 2, every-step: weight")
