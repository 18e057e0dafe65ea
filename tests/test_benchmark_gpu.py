"""The benchmark on a GPU: which one, what it says of itself, and contenders that ran elsewhere."""

import os
import sys
import time

import pytest

from benchmark import nvidia, report, runner
from benchmark.command import parser, settle_device
from benchmark.runner import Conditions, Contender, measure
from pipeline import devices
from pipeline.errors import RunError, UsageError
from tests.fake_gpu import FakeGpu
from tests.golden import check_page
from tests.measured import ENGINES, OURS, REFERENCE, STOCK, measured

VARIED = Contender("ours lightning, nchw", "ours", "lightning", alternative="nchw")


@pytest.mark.parametrize("counts", [True, False])
def test_a_gauge_tells_energy_and_memory_of_what_ran(monkeypatch, counts):
    fake = FakeGpu()
    if not counts:
        fake.energy = fake.used = None
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    gauge = nvidia.Gauge("GPU-a")
    with gauge.running():
        time.sleep(0.5)
    found = gauge.found([])
    assert found["peak_device_memory_bytes"] == (1500 if counts else None)
    assert (found["energy_joules"] is not None) == counts
    assert found["epoch_joules"] is None  # no epochs
    gpu = nvidia.describe_gpu("GPU-a")
    assert (gpu["name"], gpu["uuid"], gpu["driver"]) == ("Card", "GPU-a", "1.2")
    assert (gpu["driver_cuda"], gpu["sm_mhz_max"], gpu["ecc"], gpu["mig"]) == ("13.1", 1000, 1, 0)
    assert gpu["power_limit_watts"] is None
    assert gpu["memory_bytes"] == (8 * 2**30 if counts else None)
    assert nvidia.idle_watts("GPU-a", 0.2) == 70
    with pytest.raises(ZeroDivisionError), gauge.running():
        raise ZeroDivisionError
    assert fake.sessions == 0
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(UsageError, match=r"through nvidia-ml-py: .*\[energy\]"):
        nvidia.require_gpu()


def test_energy_is_that_between_the_first_epochs_end_and_the_lasts():
    """A program that imports at 50 W for 10 s, then trains at 300 W from 10 to 16 s."""
    gauge = nvidia.Gauge("GPU-a")
    for tenths in range(200):
        at = tenths / 10
        joules = 50 * min(at, 10) + 300 * max(0, min(at, 16) - 10) + 50 * max(0, at - 16)
        trains = 11 <= at <= 15
        gauge.looks.append(
            nvidia.Look(at, joules, 300 if trains else 50, 1500 if trains else 300, 60, 0, None)
        )
    found = gauge.found([11.05, 12.55, 14.05])
    assert found["epoch_joules"] == pytest.approx(300 * 1.5)
    assert found["window_seconds"] == pytest.approx(3.0)
    assert (found["sm_mhz"], found["sm_mhz_min"], found["watts"]) == (1500, 1500, 300)
    assert found["slowed_by"] == []
    run = {**measured(0.5, 0.4, 0.3), **found}
    assert report.above_idle(run, 50) == pytest.approx(250 * 1.5)
    assert report.above_idle(run, None) is None
    assert gauge.found([11.0, 11.5])["epoch_joules"] is None  # too short for the counter
    hot = [nvidia.Look(at, None, None, None, None, 0x44, None) for at in (1.0, 2.0)]
    gauge.looks = hot
    found = gauge.found([0.5, 2.5])
    assert (found["slowed_by"], found["power_capped"]) == (["heat (hardware)"], True)
    assert found["epoch_joules"] is None
    stray = report.why_thrown_out(OURS, [{**measured(0.5, 0.3), **found}], REFERENCE, 0.8)
    assert stray == "the GPU was slowed down in round 1: heat (hardware)"


@pytest.mark.parametrize(
    ("variables", "count", "expected"),
    [
        ({}, 2, "GPU-a"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-b"}, 2, "GPU-b"),
        ({"CUDA_VISIBLE_DEVICES": "0"}, 1, "GPU-a"),
        ({"CUDA_VISIBLE_DEVICES": "1,0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, 2, "GPU-b"),
        ({"CUDA_VISIBLE_DEVICES": "1"}, 2, "does not say which GPU that is; give the UUID"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-x"}, 2, "hides every GPU, or names none"),
        ({"CUDA_VISIBLE_DEVICES": ""}, 2, "hides every GPU, or names none"),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, 2, "hides every GPU, or names none"),
        ({"CUDA_VISIBLE_DEVICES": "MIG-c"}, 2, r"a part of a GPU \(MIG\)"),
        ({}, 0, "hides every GPU, or names none"),
    ],
)
def test_the_gpu_that_is_asked_is_the_one_that_computes(monkeypatch, variables, count, expected):
    monkeypatch.setitem(sys.modules, "pynvml", FakeGpu(count=count))
    if expected.startswith("GPU-"):
        assert nvidia.require_gpu(variables) == expected
    else:
        with pytest.raises(UsageError, match=expected):
            nvidia.require_gpu(variables)


def test_what_a_gpu_gave_is_a_table_of_its_own():
    taken = {
        "peak_device_memory_bytes": 3 * 2**29, "epoch_joules": 12.0, "window_seconds": 0.1,
        "sm_mhz": 1980.0, "watts": 300.0, "celsius_max": 61.0, "power_capped": True,
        "epoch_device_seconds": [0.9, 0.099], "first_call_steps": 250,
        "notes": ["no CUDA graph could be captured"],
    }  # fmt: skip
    ours = {**measured(0.5, 0.4, seconds=0.1), **taken}
    runs = {
        OURS.name: [ours] * 2,
        STOCK.name: [measured(0.5, 0.4, seconds=0.4)] * 2,
        VARIED.name: [measured(0.5, 0.4, seconds=0.05)] * 2,
    }
    rows = report.summarize(
        [OURS, STOCK, VARIED], runs, REFERENCE, (12_000, 3_000), None, 0.85, 50.0
    )
    found = {
        "arms": rows, "environment": {"cpu": "C", "cores": 2, "packages": {},
                                      "gpu": {"name": "Card", "driver": "1.2"}},
        "conditions": {
            "train_images": 12_000, "validation_images": 3_000, "batch_size": 64,
            "precisions": ["32"], "num_epochs": 2, "accuracy": 0.85, "device": "gpu",
        },
        "command": "x", "rounds": 2, "peak_flops": None, "left_out": {}, "idle_watts": 50.0,
        "cold_first_step_seconds": {"ours lightning": 12.34, "stock lightning": None},
    }  # fmt: skip
    check_page("benchmark-gpu.md", "\n".join(report.markdown(found)))


def device_program(told):
    return f"""
import json, os, time
for _ in range(3):
    print("epoch", flush=True)
    time.sleep(0.6)
print(json.dumps({{**os.environ, "device": {told!r}, "epoch_seconds": [1, 1, 1]}}))
"""


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_an_contender_sees_the_device_it_is_measured_on(monkeypatch, tmp_path, device):
    (tmp_path / "raw_torch.py").write_text(device_program(device))
    monkeypatch.setattr(runner, "PROGRAMS", tmp_path)
    monkeypatch.setitem(sys.modules, "pynvml", FakeGpu())
    conditions = Conditions(tmp_path, num_threads=1, device=device, gpu_uuid="GPU-a")
    cores = os.sched_getaffinity(0)
    found = measure(Contender("raw torch", "raw", "torch"), conditions)
    assert os.sched_getaffinity(0) == cores
    assert found.get("NVIDIA_TF32_OVERRIDE") == ("0" if device == "gpu" else None)
    assert found["JAX_PLATFORMS"] == ("cuda" if device == "gpu" else "cpu")
    assert found["CUDA_VISIBLE_DEVICES"] == ("GPU-a" if device == "gpu" else "-1")
    assert ("peak_device_memory_bytes" in found) == (device == "gpu")
    if device == "gpu":
        assert found["window_seconds"] == pytest.approx(1.2, abs=0.5)
        assert found["epoch_joules"] > 0
        found = measure(Contender("raw torch tf32", "raw", "torch", "tf32"), conditions)
        assert "NVIDIA_TF32_OVERRIDE" not in found


@pytest.mark.parametrize("told", ["cpu", "mps", None])
def test_an_contender_that_ran_elsewhere_does_not_count(monkeypatch, tmp_path, told):
    (tmp_path / "raw_torch.py").write_text(device_program(told))
    monkeypatch.setattr(runner, "PROGRAMS", tmp_path)
    monkeypatch.setitem(sys.modules, "pynvml", FakeGpu())
    conditions = Conditions(tmp_path, device="gpu", gpu_uuid="GPU-a")
    with pytest.raises(RunError, match=f"raw torch ran on {told}, not on gpu"):
        measure(Contender("raw torch", "raw", "torch"), conditions)


def test_a_program_is_bound_to_its_cores(monkeypatch, tmp_path):
    program = (
        "import json, os; print(json.dumps({'device': 'cpu', 'n': len(os.sched_getaffinity(0))}))"
    )
    (tmp_path / "raw_torch.py").write_text(program)
    monkeypatch.setattr(runner, "PROGRAMS", tmp_path)
    assert (
        measure(Contender("raw torch", "raw", "torch"), Conditions(tmp_path, num_threads=1))["n"]
        == 1
    )


@pytest.mark.parametrize(
    ("wanted", "mig", "seeing", "expected"),
    [
        ("auto", 0, ENGINES, ("gpu", "GPU-a")),
        ("auto", 0, ENGINES[:1], ("cpu", "")),
        ("auto", 0, (), ("cpu", "")),
        ("auto", 1, ENGINES, ("cpu", "")),
        ("cpu", 0, ENGINES, ("cpu", "")),
        ("gpu", 0, (), ("gpu", "GPU-a")),
    ],
)
def test_auto_is_the_gpu_where_every_engine_sees_one(
    monkeypatch, capsys, wanted, mig, seeing, expected
):
    monkeypatch.setitem(sys.modules, "pynvml", FakeGpu(mig=mig))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "has_gpu_driver", lambda: True)

    def examine(engine):
        return {"problem": None, "gpus": ["Card"] if engine.name in seeing else []}

    monkeypatch.setattr(devices, "examine_engine", examine)
    assert settle_device(wanted, ENGINES) == expected
    said = capsys.readouterr().out
    if mig:
        assert said.startswith("all run on the CPU: MIG is on")
        with pytest.raises(UsageError, match="`--device gpu`: MIG is on"):
            settle_device("gpu", ENGINES)
    elif wanted == "auto" and len(seeing) == 1:
        assert said.startswith("all run on the CPU, as keras-tensorflow sees no GPU; ")
    else:
        assert said == ""


def test_auto_without_a_gpu_is_the_cpu_and_asks_nobody(monkeypatch):
    monkeypatch.setattr(devices, "has_gpu_driver", lambda: False)
    monkeypatch.setattr(devices, "examine_engine", None)
    assert settle_device(parser().parse_args([]).device, ENGINES) == ("cpu", "")
