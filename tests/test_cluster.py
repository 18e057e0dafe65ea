"""Runs, a comparison and followed trainings on Ray clusters that the tests start."""

import json
from pathlib import Path

import pytest

from pipeline.drawn import draw_dataset
from tests.fabricated import write_trainers
from tests.programs import run_python

ROOT = Path(__file__).parents[1]
# Two machines of one processor each; one is lost once both are at work.
CLUSTER = """
import dataclasses, runpy, sys, threading, time
from pathlib import Path
from ray.cluster_utils import Cluster
from parity_tests import fleet, full, ray_fleet
from parity_tests.seeds import Rows, read_plan, tasks_of
from pipeline.datasets import load_dataset
from pipeline.errors import UsageError

root = Path(sys.argv[1])
made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [made.add_node(num_cpus=1) for _ in range(2)]

def lose_one(folder, num_begun):
    while len(list(folder.glob("* *"))) < num_begun:
        time.sleep(0.05)
    made.remove_node(nodes.pop(), allow_graceful=False)
"""
SEEDS = """
plan = read_plan()
data, runs = root / "data", root / "runs"
fingerprint = load_dataset(data).fingerprint
work = fleet.Work(plan, runs, data, fingerprint, 1, "cpu", root / "scripts")
with ray_fleet.cluster(made.address):
    assert ray_fleet.device_of("auto") == "cpu"
    try:
        ray_fleet.device_of("gpu")
    except UsageError as error:
        assert "no machine of the cluster has a GPU" in str(error)
    else:
        raise AssertionError
    assert (ray_fleet.cores(), ray_fleet.cores(of_smallest_machine=True)) == (2, 1)
    threading.Thread(target=lose_one, args=(runs, 2)).start()
    tasks = tasks_of(plan, [plan.designs["shared-base"]], num_seeds=2)
    results = dict(fleet.run_tasks(ray_fleet.ClusterPool(num_cpus=1), work, tasks))
    print(Rows(root / "runs.sqlite").add(results.values()), len(tasks))
made.shutdown()
"""
COMPARISON = """
threading.Thread(target=lose_one, args=(root / "out", 2)).start()
flags = ["--epochs", "3", "--data-dir", str(root / "data"), "--output-dir", str(root / "out")]
main = runpy.run_path("scripts/compare.py")["main"]
print("exit code", main([*flags, "--on", made.address], root / "scripts"))
made.shutdown()
"""
FOLLOWING = """
stages = [
    dataclasses.replace(stage, recipe=dataclasses.replace(stage.recipe, num_epochs=1))
    for stage in full.small_stages(0)[:2]
]
dataset = load_dataset(root / "data")
full.write_smaller_sets(dataset, root / "training")
with ray_fleet.cluster(made.address):
    results = full.run_stages(stages, root / "data", root / "training", print, True)
    try:
        full.run_stages(stages, root / "data", root / "elsewhere", print, True)
    except full.EngineError as error:
        print("refused", "is not here: the cluster's machines must share it" in str(error))
print("steps", *sorted(results[stages[1].name]["steps"], key=int))
made.shutdown()
"""


@pytest.fixture
def on_cluster(tmp_path):
    """Run a program beside a cluster; return what it printed, as lines, and all of it."""
    write_trainers(tmp_path / "scripts")

    def run(program):
        done = run_python("-c", CLUSTER + program, tmp_path, cwd=ROOT, env={"FAKE_TRAINER": "slow"})
        # Ray's own lines about the lost machine come when they come, behind ours as well.
        return done.stdout.splitlines(), done.stdout + done.stderr

    return run


def begun_in(folder):
    """Return the names of the runs that a made-up trainer has begun in `folder`."""
    return [path.name.rpartition(" ")[0] for path in folder.glob("* *")]


@pytest.mark.slow
def test_a_cluster_that_loses_a_machine_ends_with_all_rows(on_cluster, tmp_path):
    draw_dataset(tmp_path / "data", 60, 20)
    lines, said = on_cluster(SEEDS)
    assert "4 4" in lines, said
    begun = begun_in(tmp_path / "runs")
    assert len(begun) > len(set(begun)) == 4  # one was lost and begun again


@pytest.mark.slow
def test_a_comparison_on_a_cluster_survives_the_loss_of_a_machine(on_cluster, tmp_path):
    draw_dataset(tmp_path / "data", 200, 20)
    lines, said = on_cluster(COMPARISON)
    assert "exit code 0" in lines, said
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert len(found["runs"]) == 4
    assert all(run["test_accuracy"] for run in found["runs"])
    begun = begun_in(tmp_path / "out")
    assert len(begun) > len(set(begun)) == 4


@pytest.mark.slow
def test_trainings_are_followed_on_a_cluster(on_cluster, tmp_path):
    draw_dataset(tmp_path / "data", 5000, 100)
    lines, said = on_cluster(FOLLOWING)
    assert "refused True" in lines, said
    assert "steps 75 150 225" in lines, said
