"""The long proof's stages and what is read off their results."""

import copy
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ladder.engines import EngineError
from ladder.exchange import Question, Trace, read_question, write_trace
from ladder.following import state_path
from parity_tests import full, kept
from parity_tests.full import (
    EVERY,
    JAX_EXPLAINED,
    MOVED,
    NUM_SEEDS,
    STEPS_PER_EPOCH,
    SYNCHRONISED,
    forget_states,
    full_stages,
    horizon_shares,
    horizons,
    largest_gap,
    missed_targets,
    question_of,
)
from pipeline.answers import blank_data, followed_run
from pipeline.recipe import preset


def rows(*gaps):
    """Return what a follower saw, a look every 75 steps."""
    return {str((n + 1) * EVERY): {"weight": gap} for n, gap in enumerate(gaps)}


def results(between=400, own=400, num_seeds=NUM_SEEDS):
    """Return results that reach every target; the horizons are in looks."""
    quiet = [1e-15] * 200
    stages = dict.fromkeys(("base-0-keras-tensorflow", "dropout-0-keras-tensorflow"), quiet)
    stages |= {SYNCHRONISED: quiet, f"{JAX_EXPLAINED}-keras-jax": quiet[:16]}
    stages["base-0-keras-tensorflow"] = [1e-15] * 50 + [0.0] * 349 + [1e-5]
    for kind, seed in product(("base", "small"), range(num_seeds)):
        parted = {"base": (400, 400), "small": (between, own)}[kind]
        for who, looks in zip(("keras-tensorflow", MOVED), parted, strict=True):
            stages.setdefault(f"{kind}-{seed}-{who}", [0.0] * (looks - 1) + [1e-5])
    epochs = [{"epoch": n + 1, "other_labels": 0} for n in range(20)]
    return {
        "stages": {name: {"steps": rows(*gaps)} for name, gaps in stages.items()},
        "test_images_after_each_epoch": {"of": SYNCHRONISED, "epochs": epochs},
    }


def test_a_stage_follows_one_that_stands_before_it():
    names = []
    for stage in full_stages(NUM_SEEDS):
        assert stage.follows is None or stage.follows in names
        names.append(stage.name)
    assert len(set(names)) == len(names)


def test_each_horizon_is_measured_for_every_seed():
    starts = horizons({stage.name: {"steps": rows(0.0)} for stage in full_stages(NUM_SEEDS)})
    for kind in ("base", "small"):
        assert sum(start.startswith(kind) for start in starts) == NUM_SEEDS


def test_one_that_is_followed_ends_with_its_followers(tmp_path):
    stage = full_stages(1)[0]
    settings = question_of(stage, Path("data"), tmp_path, ["one"]).settings
    assert settings["ends_with"] == [str(tmp_path / "one" / "result.json")]
    assert "ends_with" not in question_of(stage, Path("data"), tmp_path).settings


def test_only_states_of_whole_epochs_are_kept(tmp_path):
    for step in (EVERY, STEPS_PER_EPOCH, STEPS_PER_EPOCH + EVERY):
        state_path(tmp_path, step).touch()
    forget_states(tmp_path)
    assert list(tmp_path.iterdir()) == [state_path(tmp_path, STEPS_PER_EPOCH)]


def test_the_largest_gap_counts_every_look_up_to_a_step():
    stage = {"steps": rows(1.0, 3.0, 2.0, 9.0)}
    assert largest_gap(stage, 3 * EVERY) == 3.0
    assert largest_gap(stage, 4 * EVERY - 1) == 3.0
    assert largest_gap(stage, 5 * EVERY) is None


def test_reached_targets_are_not_missed():
    assert list(missed_targets(results())) == []
    shares = horizon_shares(results(200, 400)["stages"])
    assert shares == {"base": [1.0] * NUM_SEEDS, "small": [0.5] * NUM_SEEDS}


@pytest.mark.parametrize("gap", [1e-13, float("nan")])
@pytest.mark.parametrize("name", ["base-0-keras-tensorflow", "dropout-0-keras-tensorflow"])
def test_a_free_run_that_parts_is_a_miss(name, gap):
    found = results()
    found["stages"][name]["steps"][str(STEPS_PER_EPOCH)]["weight"] = gap
    assert any(words.startswith(name) for words in missed_targets(found))


def test_a_run_that_ended_early_or_has_no_horizon_is_a_miss():
    found = results()
    found["stages"][f"{JAX_EXPLAINED}-keras-jax"]["steps"] = rows(1e-15)
    assert list(missed_targets(found)) == ["JAX is None apart on images without flat ground"]
    found = results()
    found["stages"][f"small-3-{MOVED}"]["steps"] = rows(*[0.0] * 400)
    assert list(missed_targets(found)) == ["small: 4 seeds have both horizons, target 5"]


def test_a_gap_that_jax_has_for_another_reason_is_a_miss():
    found = results()
    found["stages"][f"{JAX_EXPLAINED}-keras-jax"]["steps"][str(EVERY)]["weight"] = 1e-9
    (words,) = missed_targets(found)
    assert words.startswith("JAX is 1e-09 apart")


def test_pieces_labels_and_horizons_are_targets_too():
    broken = copy.deepcopy(results())
    broken["stages"][SYNCHRONISED]["steps"].popitem()
    assert "199 pieces" in next(missed_targets(broken))
    broken = copy.deepcopy(results())
    broken["test_images_after_each_epoch"]["epochs"][3]["other_labels"] = 1
    assert list(missed_targets(broken)) == ["the implementations label test images differently"]
    assert list(missed_targets(results(200, 400))) == [
        "small: the median horizon is 0.50 of the engine's own"
    ]


@pytest.fixture
def answered(monkeypatch, tmp_path):
    """Let a stage be answered at once, by the facts that the test puts in; count the answers."""
    facts, asked = {"steps": {}}, []

    def answer(engine, question, trace, **_):
        asked.append(engine.name)
        identity = read_question(question).identity
        write_trace(trace, Trace(engine.name, identity, facts, {"one": np.ones(1)}))

    monkeypatch.setattr(kept, "answer", answer)
    stage = full_stages(1)[0]
    return SimpleNamespace(
        facts=facts, asked=asked, run=lambda: full.run_stage(stage, tmp_path, tmp_path)
    )


def test_a_finished_stage_is_kept_for_the_same_sources_only(answered, monkeypatch, tmp_path):
    assert answered.run() == answered.run()
    assert len(answered.asked) == 1
    left = next(tmp_path.iterdir()) / "steps.json"
    left.touch()
    monkeypatch.setattr(kept, "code_digest", lambda rooms: "other sources")
    answered.run()
    assert len(answered.asked) == 2
    assert not left.exists()


def test_a_failed_stage_is_not_kept(answered):
    answered.facts["failed"] = {"follow": "ValueError: the disk is full"}
    for _ in range(2):
        with pytest.raises(EngineError, match="small-0-lightning failed: ValueError: the disk"):
            answered.run()
    assert len(answered.asked) == 2


def test_a_followed_training_goes_on_by_the_record_that_it_left(tmp_path):
    recipe = preset("base", image_size=8)
    question = Question(("follow",), {"run_dir": str(tmp_path), "every": 1}, {})
    first, _ = followed_run(question, recipe, blank_data(recipe))
    first.begin_training([])
    again, _ = followed_run(question, recipe, blank_data(recipe))
    assert again.record == first.record
