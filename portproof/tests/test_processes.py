"""A suspect that trains on several processes against one: right ones pass, mutants are named."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from portproof.__main__ import main
from portproof.checking import CheckError, check
from portproof.graph.ranks import cause_of_gradients
from portproof.graph.verdict import Verdict

FILE = f"{Path(__file__).parent / 'pairs' / 'ranks_torch.py'}:"
KERAS = f"{Path(__file__).parent / 'pairs' / 'in_keras.py'}:"
slow = pytest.mark.slow


def drawn(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{"a": random.normal(size=(3, 4)), "b": random.normal(size=2)} for _ in range(count)]


def mixed(shares: list[dict[str, np.ndarray]], *weights: float) -> dict[str, np.ndarray]:
    return {n: sum(w * s[n] for w, s in zip(weights, shares, strict=True)) for n in shares[0]}


@pytest.mark.parametrize(
    ("reference", "suspect", "expected"),
    [
        ([1, 1], [[0.5, 0.5]] * 2, "the loss is a sum over samples; the mean over 2 processes"),
        ([0.6, 0.4], [[0.5, 0.5]] * 2, "unequal shares are averaged alike: 3 and 2 rows"),
        ([0.6, 0.4], [[1, 1]] * 2, "gradients are summed over 2 processes"),
        ([0.6, 0.4], [[1.2, 0.8]] * 2, "gradients are summed over 2 processes"),
        ([0.6, 0.4], [[1, 0], [0, 1]], "gradients are not synchronised"),
        ([0.6, 0.4], [[0, 0.5]] * 2, "the share of process 1 alone counts"),
        ([0.6, 0.4], [[0.5, 0.4]] * 2, None),
        ([0.6, 0.4], [[0.6, 0.4], [0.5, 0.5]], None),
        ([0.5, 0.5], [[0.6, 0.4]] * 2, None),
        ([0.6, 0.4], [[0.6, 0.4]] * 2, None),
    ],
)
def test_a_cause_is_named_where_a_formula_gives_both_sides(reference, suspect, expected) -> None:
    shares = drawn(2)
    processes = [mixed(shares, *weights) for weights in suspect]
    whole = mixed(shares, *reference)
    cause = cause_of_gradients(whole, shares, [3, 2], processes, True, lambda: [whole] * 2)
    assert cause is None if expected is None else str(cause).startswith(expected)


@pytest.mark.parametrize(
    ("reference", "suspect", "expected"),
    [
        ([1, 1], [0.5, 0.5], "gradients are 1/2 of the batch's sum"),
        ([0.6, 0.4], [1.2, 0.8], "gradients are 2 times the mean"),
        ([0.6, 0.4], [1, 1], "gradients are 2 times the mean"),
    ],
)
def test_what_one_process_does_too_is_no_sum_over_processes(reference, suspect, expected) -> None:
    shares = drawn(2)
    whole, made = mixed(shares, *reference), mixed(shares, *suspect)
    for alone in ([], [whole, made], [made, made], [{}, {}]):
        cause = cause_of_gradients(whole, shares, [3, 2], [made] * 2, True, lambda a=alone: a)
        assert cause == expected


def test_shares_that_are_alike_and_processes_that_stay_alike_name_nothing() -> None:
    shares = drawn(2)
    processes = [mixed(shares, 1, 0), mixed(shares, 0, 1)]
    assert (
        cause_of_gradients(mixed(shares, 0.6, 0.4), shares, [3, 2], processes, False, list) is None
    )
    same = [shares[0], shares[0]]
    whole = mixed(same, 0.5, 0.5)
    assert cause_of_gradients(whole, same, [3, 3], [mixed(same, 1, 1)] * 2, True, list) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--suspect-processes", "0"], "`suspect_processes` must be at least 2; received 0"),
        (["--suspect-processes", "1"], "`suspect_processes` must be at least 2; received 1"),
        (["--suspect-processes", "-2"], "--suspect-processes takes a number; received -2"),
        (["--suspect-processes", "two"], "--suspect-processes takes a number; received two"),
        (["--suspect-processes", "2", "--upto", "forward"], "give it without --upto"),
    ],
)
def test_a_number_of_processes_that_is_none_is_one_line(options, message, capsys) -> None:
    call = ["check", f"{FILE}right", f"{FILE}right", "--batches", f"{FILE}batches", *options]
    assert main(call) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert len(said.err.splitlines()) == 1
    assert said.out == ""


def test_processes_without_batches_are_refused() -> None:
    with pytest.raises(CheckError, match="--suspect-processes trains on --batches"):
        check(f"{FILE}right", f"{FILE}right", ["6"], suspect_processes=2)


def checked(name: str, batches: str = "batches", **options: object) -> Verdict:
    options = {"suspect_processes": 2, "timeout": 240.0, **options}
    return check(FILE + name, FILE + name, [], batches=FILE + batches, **options)


@slow
@pytest.mark.parametrize(
    ("name", "batches", "shares"),
    [
        ("right", "batches", "4 + 4, 2 + 2"),
        ("right_in_two_batches", "batches", "4 + 4, 2 + 2"),
        ("right_with_norm", "batches", "4 + 4, 2 + 2"),
        ("unequal_weighted", "unequal", "4 + 4, 3 + 2"),
        ("same_starts", "batches", "4 + 4, 2 + 2"),
        ("right_that_joins", "batches", "4 + 4, 2 + 2"),
    ],
)
def test_a_right_module_passes_on_two_processes(name: str, batches: str, shares: str) -> None:
    verdict = checked(name, batches)
    assert verdict.passed, str(verdict)
    assert verdict.asked == ["forward", "gradients", "steps"]
    assert f"trained on 2 processes; rows of their shares of a batch: {shares};" in str(verdict)


NORM = "each process's BatchNorm takes the statistics of its own share"
MUTANTS = [
    ("sum_for_mean", "batches", [("loss", "step 1", "the loss is a sum over samples")]),
    ("right", "unequal", [("loss", "step 2", "unequal shares are averaged alike: 3 and 2")]),
    ("norm_of_a_share", "batches", [("loss", "step 1", NORM)]),
    ("norm_of_a_share", "unequal", [("loss", "step 1", NORM), ("loss", "step 2", None)]),
    ("other_starts", "batches", [("loss", "step 1", "the processes start from different")]),
    (
        "other_starts_with_norm", "batches",
        [("loss", "step 1", f"the processes start from different weights; and {NORM}")],
    ),
    ("first_alone", "batches", [("loss", "step 1", "the share of process 0 alone counts")]),
    ("summed", "batches", [("loss", "step 1", "gradients are summed over 2 processes")]),
    ("meeting", "batches", [("loss", "step 1", "gradients are summed over 2 processes")]),
    ("scaled_by_environment", "batches", [("loss", "step 1", "gradients are 2 times the mean")]),
    ("raises_later", "batches", [("loss", "step 1", "gradients are 2 times the mean")]),
    ("ends_later", "batches", [("loss", "step 1", "gradients are 2 times the mean")]),
    ("other_starts_in_one_row", "batches", [("loss", "step 1", "the processes start from diff")]),
    ("not_synchronised", "batches", [("update", "network.0", "gradients are not synchronised")]),
    ("clipped_first", "batches", [("update", "network.0", None)]),
    ("own_metric", "batches", [("metric", "epoch's end", "logged for each process's share")]),
    ("other_rate", "batches", [("update", "network.0", "learning rate 0.25 | 0.5: each")]),
]  # fmt: skip


@slow
@pytest.mark.parametrize(("name", "batches", "expected"), MUTANTS)
def test_a_mutant_is_caught_and_named_by_what_makes_it_right(name, batches, expected) -> None:
    verdict = checked(name, batches)
    found = [(d.what, d.places[0].left, d.cause) for d in verdict.failures]
    assert [f[:2] for f in found] == [e[:2] for e in expected], str(verdict)
    for (*_, cause), (*_, start) in zip(found, expected, strict=True):
        assert cause is None if start is None else str(cause).startswith(start)


@slow
@pytest.mark.parametrize(
    ("reference", "suspect", "batches", "expected"),
    [
        ("right_once", "doubled", "batches", "gradients are 2 times the mean"),
        ("sum_for_mean", "right_once", "pairs", "gradients are 1/2 of the batch's sum"),
    ],
)
def test_another_loss_on_one_process_too_is_no_mistake_of_several(
    reference, suspect, batches, expected
) -> None:
    verdict = check(FILE + reference, FILE + suspect, [], batches=FILE + batches,
                    suspect_processes=2, timeout=240.0)  # fmt: skip
    assert [(d.what, d.cause) for d in verdict.failures] == [("loss", expected)], str(verdict)


@slow
def test_processes_train_on_what_their_own_loader_deals() -> None:
    verdict = checked("right", suspect_batches=f"{FILE}dealt")
    assert verdict.passed, str(verdict)
    verdict = checked("right", suspect_batches=f"{FILE}dealt_twice")
    assert [(d.what, d.cause) for d in verdict.failures] == [("loss", None)], str(verdict)
    assert checked("right", suspect_batches=f"{FILE}batches").passed  # each has them whole


@slow
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("raises", {}, "suspect, process 1 .*: ValueError: no such label"),
        ("ends", {}, "suspect, process 1 .*: its program ended by exit code 7"),
        ("hangs", {"timeout": 30.0}, "no answer within 30 s; --timeout allows more"),
        ("plain", {}, "the module is no LightningModule"),
        ("starts_by_itself", {}, "its strategy does not join 2 processes"),
        ("right", {"batches": "single"}, "batch 2 has 1 rows, too few for 2 processes"),
        ("right", {"suspect_batches": f"{FILE}fewer"}, r"processes \[3, 2\] batches"),
    ],
)
def test_processes_that_do_not_end_are_no_verdict(name, options, message) -> None:
    with pytest.raises(CheckError, match=message):
        checked(name, **options)


@slow
@pytest.mark.parametrize(("batches", "expected"), [("even_batches", []), ("batches", ["step 3"])])
def test_a_reference_in_keras_is_trained_on_one_process(batches: str, expected: list[str]) -> None:
    port = KERAS.replace("in_keras", "in_torch")
    verdict = check(f"{KERAS}regression", f"{port}regression", [], batches=KERAS + batches,
                    suspect_processes=2)  # fmt: skip
    assert [d.places[0].left for d in verdict.failures] == expected, str(verdict)
    assert all(d.cause is None for d in verdict.failures)


@slow
def test_a_suspect_in_keras_is_refused() -> None:
    with pytest.raises(CheckError, match="must be a LightningModule; received a model of keras"):
        check(f"{FILE}right", f"{KERAS}regression", [], batches=f"{FILE}batches",
              suspect_processes=2)  # fmt: skip


def test_the_programs_are_gone_when_portproof_is_killed(tmp_path: Path) -> None:
    source = (
        "import os, time\ndef f():\n open('pid', 'a').write(f'{os.getpid()} ')\n time.sleep(60)"
    )
    (tmp_path / "models.py").write_text(source)
    call = [
        sys.executable,
        "-m",
        "portproof",
        "check",
        "models.py:f",
        "models.py:f",
        "--input",
        "3",
    ]
    process, pids, ends = subprocess.Popen(call, cwd=tmp_path), [], time.monotonic() + 60
    while len(pids) < 2 and time.monotonic() < ends:
        time.sleep(0.1)
        pids = (tmp_path / "pid").read_text().split() if (tmp_path / "pid").exists() else []
    process.send_signal(signal.SIGKILL)
    process.wait()
    while any(map(_is_there, pids)) and time.monotonic() < ends:
        time.sleep(0.1)
    assert len(pids) == 2
    assert not any(map(_is_there, pids))


LEAVING = """
import os, subprocess, time

def leaves_a_worker():
    worker = subprocess.Popen(["sleep", "60"])
    open("pid", "w").write(str(worker.pid))
    os._exit(3)

def closes_its_output():
    open("pid", "w").write(str(os.getpid()))
    os.closerange(3, 64)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("name", "how"), [("leaves_a_worker", "exit code 3"), ("closes_its_output", "signal 9")]
)
def test_a_program_that_ends_by_itself_leaves_nothing_behind(
    name, how, tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "models.py").write_text(LEAVING)
    monkeypatch.chdir(tmp_path)
    began = time.monotonic()
    with pytest.raises(CheckError, match=f"its program ended by {how}"):
        check(f"models.py:{name}", f"models.py:{name}", ["3"])
    assert time.monotonic() - began < 45
    ends, pid = time.monotonic() + 5, (tmp_path / "pid").read_text()
    while _is_there(pid) and time.monotonic() < ends:
        time.sleep(0.1)
    assert not _is_there(pid)


def _is_there(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
