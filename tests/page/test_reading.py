"""The evidence that a page is made of: what is found, and what is refused."""

import dataclasses
import json
import os
from pathlib import Path
from random import Random

import pytest

from pipeline.errors import RunError, UsageError
from reporting import defaults
from reporting.evidence import (
    Benchmark,
    Certificates,
    Faults,
    Ladder,
    Sources,
    find_runs,
    gather,
    latest_comparison,
    read_as,
    read_runs,
)
from reporting.sections import benchmark, parity, summary
from reporting.sections import made as made_section
from tests.page import paged


def test_the_data_of_the_runs_are_found_by_their_record(made, monkeypatch):
    monkeypatch.setenv("FASHION_MNIST_DIR", str(made.folder / "nowhere"))
    run = made.add_run()
    fields = json.loads((run / "record.json").read_text())
    for folder, is_found in ((str(made.folder / "gone"), False), (str(made.data_dir), True)):
        fields["dataset"]["folder"] = folder
        (run / "record.json").write_text(json.dumps(fields))
        assert (gather(read_runs([run]), Sources(), None).dataset is not None) == is_found


@pytest.mark.parametrize(
    ("path", "text", "reason"),
    [
        ("proof/ladder.json", "{", "cannot read .*ladder.json"),
        ("proof/ladder.json", '{"origin": {}, "climbs": []}', "origin.command is missing"),
        ("proof/ladder.json", "[]", "must be a JSON object"),
        ("proof/faults.json", '{"command": 5}', "command has a wrong type"),
        ("benchmark/benchmark.json", "\xff", "cannot read"),
        ("runs/lightning-base/record.json", "{}", "record.json"),
        ("runs/lightning-base/layers.json", "{}", "layers.json"),
        ("runs/lightning-base/predictions.npz", "no", "predictions.npz"),
    ],
)
def test_a_broken_file_is_named(made, path, text, reason):
    made.add_all()
    (made.folder / path).write_text(text, encoding="latin-1")
    with pytest.raises(RunError, match=reason):
        made.read()


def test_runs_of_other_data_do_not_share_a_page(made):
    made.add_run("keras-tensorflow")
    record = paged.make_record()
    made.add_run("lightning", dataset={**record.dataset, "fingerprint": "other", "test": 200})
    with pytest.raises(RunError, match="was tested on other images"):
        made.read()


def test_runs_are_found_in_folders_and_wrong_ones_refused(made, monkeypatch):
    run = made.add_run()
    assert find_runs([run]) == find_runs([run.parent]) == find_runs([run, run.parent]) == [run]
    with pytest.raises(UsageError, match="holds no run"):
        find_runs([made.data_dir])
    with pytest.raises(UsageError, match="is not a folder"):
        find_runs([made.folder / "nowhere"])
    monkeypatch.setattr("reporting.evidence.MAX_RUNS", 1)
    made.add_run(name="another")
    with pytest.raises(UsageError, match="2 runs are too many for one page; name at most 1"):
        find_runs([run.parent])


def test_the_last_comparison_is_taken(made):
    runs = made.folder / "runs"
    assert latest_comparison(runs) is None
    inside = made.add_run(name="one/lightning-base")
    (inside.parent / "comparison.json").write_text("{}")
    assert latest_comparison(runs) == inside.parent


def test_committed_results_can_be_read():
    ladder = read_as(Ladder, defaults.RESULTS / "proof" / "ladder.json")
    layers = [rung for climb in ladder.climbs for rung in climb.rungs if rung.name == "layers"]
    assert any(rung.status != "skipped" for rung in layers)
    assert all(rung.gaps for rung in layers if rung.status != "skipped")
    assert read_as(Faults, defaults.RESULTS / "proof" / "faults.json").faults
    assert read_as(Certificates, defaults.RESULTS / "equivalence" / "certificate.json").certificates
    for path in defaults.RESULTS.glob("benchmark-*/benchmark.json"):
        assert read_as(Benchmark, path).arms


def test_runs_are_ordered_by_variant_and_engine(made):
    for engine in ("keras-torch", "lightning", "keras-tensorflow"):
        made.add_run(engine, "dropout")
        made.add_run(engine, "base")
    runs = read_runs(find_runs([made.folder / "runs"]))
    assert [run.variant for run in runs] == ["base"] * 3 + ["dropout"] * 3
    assert [run.engine for run in runs[:3]] == ["keras-tensorflow", "lightning", "keras-torch"]


def mutated(value, random):
    """Return JSON's `value` with one of its leaves replaced by something odd."""
    odd = [0, -1, 1e308, 1e-308, 10**30, None, "", "x", True, [], {}]
    if isinstance(value, dict) and value:
        key = random.choice(sorted(value))
        return {**value, key: mutated(value[key], random)}
    if isinstance(value, list) and value:
        place = random.randrange(len(value))
        return [*value[:place], mutated(value[place], random), *value[place + 1 :]]
    return random.choice(odd)


@pytest.mark.parametrize(
    ("part", "kind", "section"),
    [
        ("proof/ladder.json", Ladder, parity.parity),
        ("proof/faults.json", Faults, parity.faults),
        ("benchmark/benchmark.json", Benchmark, benchmark.benchmark),
    ],
)
def test_odd_values_are_shown_or_refused(made, part, kind, section):
    path = made.add_all().folder / part
    whole = json.loads(path.read_text())
    random = Random(0)
    refused = 0
    evidence = made.read()
    for _ in range(150):
        path.write_text(json.dumps(mutated(whole, random)))
        try:
            found = read_as(kind, path)
        except RunError:
            refused += 1
            continue
        section(found)
        changed = dataclasses.replace(evidence, **{path.stem: found})
        summary.summary(changed)
        made_section.made(changed)
    assert 20 < refused < 150


def test_the_last_proof_of_this_machine_is_taken(made, monkeypatch):
    monkeypatch.chdir(made.folder)
    for place, name in enumerate(("proof", "proof-short")):
        paged.write(Path("runs") / name / "ladder.json", paged.ladder())
        os.utime(Path("runs") / name / "ladder.json", (place, place))
    assert defaults.sources().proof.folder == Path("runs/proof-short")
    os.utime("runs/proof/ladder.json", (9, 9))
    assert defaults.sources().proof.folder == Path("runs/proof")
