"""The certificate over seeds: what it says of numbers whose truth is known, and of runs."""

import dataclasses
import runpy
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from parity_tests import fleet, seeds
from parity_tests.certificate import certify, seeds_for_power, simulated_rate
from parity_tests.certificate_page import certificate_markdown, certificate_picture
from parity_tests.equivalence import (
    DIFFERENT,
    EQUIVALENT,
    UNDECIDED,
    calibration_error,
    churn,
    judge,
    judge_churn,
    judge_spreads,
    rejection_rate,
)
from parity_tests.seeds import (
    FAILED,
    Row,
    Rows,
    Task,
    machine_of,
    missing_tasks,
    read_plan,
    row_of,
    tasks_of,
)
from pipeline.datasets import load_dataset
from pipeline.drawn import draw_dataset
from pipeline.errors import RunError, UsageError
from pipeline.recipe import recipe_to_dict
from pipeline.workers import end_children, workers
from tests.fabricated import TEST_LABELS, make_record, write_run, write_trainers
from tests.programs import run_python

SCRIPT = Path(__file__).parents[1] / "scripts" / "equivalence.py"


@pytest.fixture(scope="module")
def plan():
    return read_plan()


def made_row(plan, design, side, seed, *, accuracy=0.9, machine="m", versions="1", **changes):
    engine = (plan.reference, design.suspect)[side]
    recipe = (design.reference_recipe, design.suspect_recipe)[side]
    random = np.random.default_rng([seed, side])
    # Thirty seeds have the same values on both sides, in another order.
    scatter = 0.001 * norm.ppf(((7 * seed + 11 * side) % 30 + 0.5) / 30)
    fields = {
        "plan": plan.sha256,
        "engine": engine,
        "recipe": recipe_to_dict(dataclasses.replace(recipe, seed=seed)),
        "machine": machine,
        "versions": versions,
        "status": "complete",
        "metrics": {
            "accuracy": accuracy + scatter,
            "loss": 0.3 + 0.001 * random.normal(),
            "calibration_error": 0.02,
            "recall a": 0.8 + 0.01 * random.normal(),
        },
        "predicted": (random.random(5_000) < 0.05).astype(np.uint8),
    }
    return Row(**{**fields, **changes})


def made_rows(plan, design, num_seeds, shift=0.0, **changes):
    return [
        made_row(plan, design, side, seed, accuracy=0.9 + shift * side, **changes)
        for seed in range(num_seeds)
        for side in (0, 1)
    ]


@pytest.mark.parametrize("is_paired", [True, False])
@pytest.mark.parametrize("n", [22, 30])
def test_the_size_is_at_most_the_level_and_the_power_what_a_pilot_asks_for(plan, is_paired, n):
    margin = plan.margins["accuracy"]
    for deviation in (0.0015, 0.003):
        size = simulated_rate(plan, margin, deviation, n, is_paired=is_paired)
        assert size <= plan.level + 0.011  # three standard errors of 4,000 trials
    needed = seeds_for_power(plan, 0.0025, is_paired=is_paired)
    assert simulated_rate(plan, 0.0, 0.0025, needed, is_paired=is_paired) >= plan.power
    assert simulated_rate(plan, 0.0, 0.0025, needed - 2, is_paired=is_paired) < plan.power
    assert seeds_for_power(plan, 0.5, is_paired=is_paired) is None


def test_equal_different_and_too_few_are_told_apart():
    random = np.random.default_rng(0)
    first = 0.9 + 0.002 * random.normal(size=30)
    noise = 0.002 * random.normal(size=30)
    options = {"margin": 0.002, "level": 0.05, "is_paired": True}
    assert judge("accuracy", first, first + noise, **options).verdict == EQUIVALENT
    assert judge("accuracy", first, first + noise + 0.01, **options).verdict == DIFFERENT
    assert judge("accuracy", first, first + noise - 0.01, **options).verdict == DIFFERENT
    few = judge("accuracy", first[:3], (first + noise)[:3], **options)
    assert few.verdict == UNDECIDED
    equal = judge("accuracy", first, first + noise, **options)
    assert equal.interval == pytest.approx(equal.bootstrap, abs=2e-4)
    assert equal.interval[0] < equal.difference < equal.interval[1]
    still = judge("accuracy", [1, 1, 1], [1, 1, 1], margin=0.1, level=0.05, is_paired=False)
    moved = judge("accuracy", [1, 1, 1], [2, 2, 2], margin=0.1, level=0.05, is_paired=True)
    assert (still.verdict, moved.verdict) == (EQUIVALENT, DIFFERENT)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ([0.9, 0.9], [0.9, 0.9], "at least 3 seeds"),
        ([0.9, 0.8, 0.7], [0.9, 0.8, 0.7, 0.6], "no pairs"),
        ([0.9, 0.8, np.nan], [0.9, 0.8, 0.7], "not finite"),
    ],
)
def test_what_cannot_be_judged_is_refused(first, second, words):
    with pytest.raises(ValueError, match=words):
        judge("accuracy", first, second, margin=0.1, level=0.05, is_paired=True)


def test_spreads_and_churn_are_judged():
    random = np.random.default_rng(1)
    first, second = random.normal(size=(2, 60))
    options = {"factor": 2.0, "level": 0.05}
    assert judge_spreads("spread", first, second, **options).verdict == EQUIVALENT
    assert judge_spreads("spread", first, 5 * second, **options).verdict == DIFFERENT
    assert judge_spreads("spread", first[:5], second[:5], **options).verdict == UNDECIDED
    with pytest.raises(ValueError, match="all the same"):
        judge_spreads("spread", [1, 1, 1], [1, 2, 3], **options)
    within = 0.08 + 0.002 * random.normal(size=30)
    options = {"margin": 0.005, "level": 0.05}
    assert judge_churn(within[:15], within[15:], **options).verdict == EQUIVALENT
    assert judge_churn(within[:15] - 0.05, within[15:], **options).verdict == EQUIVALENT
    assert judge_churn(within[:15] + 0.05, within[15:], **options).verdict == DIFFERENT
    assert churn(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])) == 0.25


def test_calibration_error_of_known_cases():
    sure = np.eye(10)[TEST_LABELS]
    assert calibration_error(sure, TEST_LABELS) == 0
    assert calibration_error(sure, (TEST_LABELS + 1) % 10) == 1
    half = np.tile([0.75, 0.25], (8, 1))
    assert calibration_error(half, np.array([0, 0, 0, 1] * 2)) == 0
    assert calibration_error(half, np.array([0, 1] * 4)) == pytest.approx(0.25)


def test_a_certificate_says_yes_no_and_neither(plan):
    design = plan.designs["shared-base"]
    equal = certify(plan, design, made_rows(plan, design, 30))
    assert (equal.verdict, equal.holds, equal.missing) == (EQUIVALENT, True, 0)
    assert "equivalent within 0.2 points (difference" in equal.sentence
    assert "90 % interval" in equal.sentence
    assert "30 seeds" in equal.sentence
    assert equal.power > plan.power
    other = certify(plan, design, made_rows(plan, design, 30, shift=0.01))
    assert (other.verdict, other.holds) == (DIFFERENT, False)
    few = certify(plan, design, made_rows(plan, design, 4))
    assert (few.verdict, few.missing, few.holds) == (UNDECIDED, 26, False)
    early = certify(plan, design, made_rows(plan, design, 29))
    assert (early.verdict, early.missing) == (UNDECIDED, 1)
    assert early.sentence.startswith("undecided: 29 of 30 seeds; so far equivalent within 0.2")
    none = certify(plan, design, [])
    assert none.sentence == "undecided: at least 3 seeds of each are needed"
    mutant = plan.designs["planted-learning-rate"]
    missed = certify(plan, mutant, made_rows(plan, mutant, 22))
    seen = certify(plan, mutant, made_rows(plan, mutant, 22, shift=-0.01))
    assert (missed.verdict, missed.holds) == (EQUIVALENT, False)
    assert (seen.verdict, seen.holds) == (DIFFERENT, True)


def test_failed_runs_count_and_foreign_rows_are_kept_apart(plan):
    design = plan.designs["shared-base"]
    rows = made_rows(plan, design, 30)
    failed = made_row(plan, design, 1, 3, status=FAILED, reason="the loss became nan", metrics={})
    with_failed = certify(plan, design, [row for row in rows if row.seed != 3] + [rows[6], failed])
    assert with_failed.verdict == DIFFERENT
    assert "1 of the runs failed (lightning, seed 3: the loss became nan)" in with_failed.sentence
    older = [dataclasses.replace(row, plan="another") for row in rows]
    assert certify(plan, design, older).verdict == UNDECIDED
    apart = made_rows(plan, design, 30, shift=0.05, versions="2")[:10]
    alone = [made_row(plan, design, 0, 7, machine="elsewhere")]
    found = certify(plan, design, [*rows, *apart, *alone])
    assert (found.verdict, found.apart, found.versions) == (EQUIVALENT, 11, ("1", "1"))
    beyond = made_row(plan, design, 0, design.seeds, accuracy=0.1)
    assert certify(plan, design, [*rows, beyond]).values == found.values


def test_two_halves_of_one_implementation_are_called_equivalent_as_often_as_they_should(plan):
    values = 0.9 + 0.0025 * np.random.default_rng(2).normal(size=60)
    deviation = float(np.std(values, ddof=1))
    shuffled = np.random.default_rng(0).permuted(np.tile(values, (4_000, 1)), axis=1)
    first, second = shuffled[:, :30], shuffled[:, 30:]
    margin = plan.margins["accuracy"]
    rate = rejection_rate(first, second, margin=margin, level=plan.level, is_paired=False)
    power = simulated_rate(plan, 0.0, deviation, 30, is_paired=False)
    assert rate == pytest.approx(power, abs=0.08)


def test_rows_are_kept_once_and_merged_and_a_damaged_file_is_refused(plan, tmp_path):
    design = plan.designs["shared-base"]
    rows = made_rows(plan, design, 3)
    kept = Rows(tmp_path / "a.sqlite")
    assert kept.read() == []
    assert (kept.add(rows[:4]), kept.add(rows)) == (4, 2)
    found = {row.key: row for row in kept.read()}
    assert set(found) == {row.key for row in rows}
    np.testing.assert_array_equal(found[rows[0].key].predicted, rows[0].predicted)
    assert found[rows[0].key].metrics == rows[0].metrics
    changed = dataclasses.replace(rows[0], metrics={**rows[0].metrics, "accuracy": 0.1})
    with pytest.raises(RunError, match="another result of keras-tensorflow, seed 0"):
        kept.add([changed])
    assert len(kept.read()) == 6
    for content in (b"", b"not a database" * 100):
        (tmp_path / "b.sqlite").write_bytes(content)
        with pytest.raises(RunError, match=r"as a file of runs|damaged"):
            Rows(tmp_path / "b.sqlite").read()
    with closing(sqlite3.connect(kept.path)) as database, database:
        database.execute("update runs set metrics = replace(metrics, '0.9', '0.8')")
        database.execute("update runs set engine = 'lightning' where seed = 1")
    with pytest.raises(RunError, match="damaged"):
        kept.read()


def test_a_plan_that_is_wrong_is_refused(tmp_path):
    text = seeds.PLAN.read_text()
    wrong = tmp_path / "plan.yaml"
    for before, after in (
        ("level: 0.05", "level: 0.7"),
        ("margin: 0.002", "margin: 0"),
        ("suspect: lightning", "suspect: nobody"),
        ("paired: true}", "paird: true}"),
        ("metrics:", "measures:"),
        ("level: 0.05", "level: ["),
    ):
        assert before in text
        wrong.write_text(text.replace(before, after, 1))
        with pytest.raises(UsageError, match=r"plan\.yaml"):
            read_plan(wrong)


def test_runs_are_wanted_once_and_the_first_seeds_first(plan):
    tasks = tasks_of(plan, plan.designs.values())
    assert len({task.name for task in tasks}) == len(tasks)
    assert [task.recipe.seed for task in tasks] == sorted(task.recipe.seed for task in tasks)
    base = [plan.designs["shared-base"], plan.designs["planted-learning-rate"]]
    assert len(tasks_of(plan, base)) == 30 + 30 + 22  # the reference's runs serve both
    half = [made_row(plan, base[0], 0, 0)]
    assert len(missing_tasks(plan, base, half, "m")) == 81
    assert len(missing_tasks(plan, base, half, "another")) == 82  # half a pair from elsewhere
    pair = [*half, made_row(plan, base[0], 1, 0)]
    # The mutant's partner stays on the machine of its own.
    names = [[t.name for t in missing_tasks(plan, base, pair, where)] for where in ("m", "another")]
    assert [len(each) for each in names] == [80, 81]
    assert len(missing_tasks(plan, base[:1], pair, "another")) == 58


@pytest.fixture
def work(plan, tmp_path):
    draw_dataset(tmp_path / "data", 60, 20)
    scripts = write_trainers(tmp_path / "scripts")
    fingerprint = load_dataset(tmp_path / "data").fingerprint
    return fleet.Work(plan, tmp_path / "runs", tmp_path / "data", fingerprint, 1, "cpu", scripts)


def run_here(work, tasks):
    with workers(2, end_children) as pool:
        yield from fleet.run_tasks(pool, work, tasks)


def test_runs_end_as_rows_and_leave_nothing(work, plan):
    tasks = tasks_of(plan, [plan.designs["shared-base"]], num_seeds=2)
    results = dict(run_here(work, tasks))
    assert {task.name for task in results} == {task.name for task in tasks}
    assert {row.seed: row.metrics["accuracy"] for row in results.values()} == {0: 1.0, 1: 0.995}
    (machine,) = {row.machine for row in results.values()}
    design = plan.designs["shared-base"]
    assert missing_tasks(plan, [design], results.values(), machine, num_seeds=2) == []
    assert machine == machine_of(work.fingerprint, make_record().environment["cpu"], 1)
    assert list(work.runs_dir.iterdir()) == []


def test_a_killed_run_goes_on_a_failed_one_counts_and_a_refused_one_is_lost(
    work, plan, monkeypatch
):
    task = Task("lightning", plan.designs["shared-base"].suspect_recipe)
    monkeypatch.setenv("FAKE_TRAINER", "killed once")
    assert fleet.run_task(work, task).status == "complete"
    monkeypatch.setenv("FAKE_TRAINER", "nan")
    row = fleet.run_task(work, task)
    assert (row.status, row.reason) == (FAILED, "the loss became nan in epoch 1, step 7")
    monkeypatch.setenv("FAKE_TRAINER", "refused")
    ((lost, error),) = run_here(work, [task])
    assert lost == task
    assert "exit code 2: " in str(error)
    assert str(error).endswith("no such thing")


@pytest.mark.slow
def test_a_cluster_that_the_command_starts_ends_with_it(tmp_path):
    draw_dataset(tmp_path / "data", 160, 20)
    flags = ("--on", "local", "--designs", "shared-base", "--seeds", "1")
    places = ("--data-dir", tmp_path / "data", "--output-dir", tmp_path / "out")
    done = run_python(SCRIPT, *flags, *places)
    assert done.returncode == 1
    assert "[2/2]" in done.stdout
    assert "undecided: at least 3 seeds of each are needed" in done.stdout
    assert len(Rows(tmp_path / "out" / "runs.sqlite").read()) == 2


def test_a_folder_of_another_run_and_one_under_way_give_no_row(plan, tmp_path):
    task = Task("lightning", plan.designs["shared-base"].suspect_recipe)
    write_run(tmp_path / "other", make_record())
    with pytest.raises(RunError, match="another run's folder"):
        row_of(plan, task, tmp_path / "other")
    write_run(
        tmp_path / "running", make_record(recipe=recipe_to_dict(task.recipe), status="running")
    )
    with pytest.raises(RunError, match="has not ended: running"):
        row_of(plan, task, tmp_path / "running")


def test_the_page_says_what_was_found_and_the_picture_is_drawn(plan):
    designs = list(plan.designs.values())[:2]
    rows = [row for design in designs for row in made_rows(plan, design, 30)]
    certificates = [certify(plan, design, rows) for design in designs]
    page = certificate_markdown(certificates, "made up")
    assert certificates[0].sentence in page
    assert "| accuracy | 90.0" in page
    assert certificate_picture(certificates).startswith(b"\x89PNG")
    assert certificate_picture([certify(plan, designs[0], [])]).startswith(b"\x89PNG")


def test_a_certificate_that_is_not_as_it_must_be_is_named(tmp_path, monkeypatch, capfd):
    flags = ["--judge", "--designs", "shared-base", "--output-dir", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *flags])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert ended.value.code == 1
    assert "not as it must be: shared-base" in capfd.readouterr().err


def test_a_cluster_that_is_not_there_is_said_in_a_line(tmp_path):
    flags = ("--output-dir", str(tmp_path / "out"), "--on", "ray://localhost:1")
    done = run_python(SCRIPT, *flags)
    assert done.returncode == 2
    assert "no Ray cluster at ray://localhost:1: " in done.stderr
    assert "Traceback" not in done.stderr
