"""What `scripts/benchmark.py` does: its flags, the rounds, and what is written."""

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.command import OneLineParser, main_of
from pipeline.errors import RunError, UsageError
from pipeline.flags import chosen
from pipeline.terminal import say

if TYPE_CHECKING:
    from benchmark.runner import Conditions, Contender, Measured
    from pipeline.session import Session

ENGINE_NAMES = ("lightning", "keras-tensorflow", "keras-jax", "keras-torch")
TRACKS = ("stock", "ours", "raw")
PRECISIONS = ("32", "bf16", "tf32")
DEVICES = ("auto", "cpu", "gpu")
ROOMS = ("benchmark", "pipeline", "ladder", "keras_impl", "lightning_impl", "scripts")
"""Where the code is that is measured."""
USUAL = {"rounds": 4, "epochs": 3, "images": 15_000}
SO_FAR = "measurements-so-far.json"
RESULTS = Path(__file__).parents[1] / "results"


def parser() -> argparse.ArgumentParser:
    """Return the flags."""
    parser = OneLineParser(
        description="Measure contenders in fresh processes, interleaved, and write benchmark.json, "
        "benchmark.md and benchmark.png. Leave the machine alone meanwhile.",
        epilog="Exit codes: 0 done, 1 a contender failed or was thrown out, 2 wrong call, "
        "130 interrupted, 143 terminated.",
    )
    parser.add_argument("--engines", metavar="A,B", default=",".join(ENGINE_NAMES), help="(all)")
    parser.add_argument("--tracks", metavar="A,B", default=",".join(TRACKS), help="(all three)")
    parser.add_argument("--rounds", type=int, metavar="N", help="(4; on a GPU 10)")
    parser.add_argument("--epochs", type=int, metavar="N", help="a process (3; on a GPU 31)")
    parser.add_argument(
        "--images", type=int, metavar="N", help="of the training files (15000; on a GPU all)"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", default=64, help="(64)")
    parser.add_argument(
        "--precision", metavar="A,B", default="32", help="32, bf16, on a GPU also tf32 (32)"
    )
    parser.add_argument(
        "--alternatives", action="store_true", help="also ours with single settings another way"
    )
    parser.add_argument(
        "--accuracy", type=float, metavar="X", default=0.85, help="validation's, timed to (0.85)"
    )
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="auto",
        help="auto is a GPU if every engine here sees one, else the CPU for all (auto)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="cores of a process (all)")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="F",
        help="an older benchmark.json, to say how this run differs (the committed one)",
    )
    parser.add_argument("--output-dir", type=Path, metavar="D", default=Path("runs/benchmark"))
    parser.add_argument("--data-dir", type=Path, metavar="D", help="folder of the four IDX files")
    return parser


def conduct(arguments: argparse.Namespace) -> None:
    """Check the call, prepare the data and measure.

    Raises:
        UsageError: the call cannot be carried out.
        RunError: a contender failed, or its training is another.
    """
    from benchmark.difference import read_older
    from benchmark.runner import Conditions, contenders_of
    from pipeline.datasets import find_dataset, load_dataset
    from pipeline.drawn import write_first_images
    from pipeline.environment import usable_cores
    from pipeline.session import claimed

    for name, minimum in (("rounds", 1), ("epochs", 2), ("images", 1000), ("batch_size", 1)):
        value = getattr(arguments, name)
        if value is not None and value < minimum:
            flag = name.replace("_", "-")
            raise UsageError(f"`--{flag}` must be at least {minimum}; received {value}")
    if arguments.threads is not None and not 1 <= arguments.threads <= usable_cores():
        raise UsageError(
            f"`--threads` must be between 1 and {usable_cores()}; received {arguments.threads}"
        )
    if not 0 < arguments.accuracy < 1:
        raise UsageError(f"`--accuracy` must be in (0, 1); received {arguments.accuracy}")
    precisions = chosen(arguments.precision, PRECISIONS, "--precision")
    engines = chosen(arguments.engines, ENGINE_NAMES, "--engines")
    tracks = chosen(arguments.tracks, TRACKS, "--tracks")
    arguments.device, uuid = settle_device(arguments.device, engines)
    fill_in(arguments)
    if "tf32" in precisions and arguments.device != "gpu":
        raise UsageError("`--precision tf32` needs `--device gpu`")
    committed = RESULTS / f"benchmark-{arguments.device}" / "benchmark.json"
    if arguments.against is None and committed.exists():
        arguments.against = committed
    older = read_older(arguments.against) if arguments.against else None
    dataset = load_dataset(find_dataset(arguments.data_dir))
    if arguments.images is None:
        arguments.images = len(dataset.train_labels)
    contenders, left_out = contenders_of(engines, tracks, precisions, arguments.alternatives)
    for name, reason in left_out.items():
        say(f"{name} cannot run here: {reason}; left out")
    with (
        claimed(arguments.output_dir, "benchmark"),
        tempfile.TemporaryDirectory(prefix="benchmark-") as folder,
    ):
        write_first_images(dataset, Path(folder), arguments.images, arguments.images // 6)
        conditions = Conditions(
            Path(folder),
            arguments.epochs,
            arguments.batch_size,
            arguments.threads,
            arguments.device,
            uuid,
        )
        measure_all(arguments, contenders, conditions, left_out, dataset.fingerprint, older)


def settle_device(wanted: str, engines: Sequence[str]) -> tuple[str, str]:
    """Return the device that all contenders run on, `cpu` or `gpu`, and the GPU's UUID.

    Raises:
        UsageError: `wanted` is `gpu`, and there is none that can be measured.
    """
    from benchmark.nvidia import require_gpu
    from pipeline.devices import common_device
    from pipeline.engines import ENGINES

    if wanted == "auto":
        installed = [name for name in engines if ENGINES[name].why_not() is None]
        devices = common_device(installed or engines)
        if devices.note:
            say(devices.note)
        if devices.device == "cpu":
            return "cpu", ""
    try:
        return ("cpu", "") if wanted == "cpu" else ("gpu", require_gpu())
    except UsageError as error:
        if wanted == "gpu":
            raise UsageError(f"`--device gpu`: {error}") from error
        say(f"all run on the CPU: {error}")
        return "cpu", ""


def fill_in(arguments: argparse.Namespace) -> None:
    """Set what depends on the device: an epoch takes seconds on a CPU, tens of ms on a GPU."""
    usual = {"rounds": 10, "epochs": 31} if arguments.device == "gpu" else USUAL
    for name, value in usual.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)


def measure_all(
    arguments: argparse.Namespace,
    contenders: list["Contender"],
    conditions: "Conditions",
    left_out: dict[str, str],
    fingerprint: str,
    older: dict[str, Any] | None,
) -> None:
    """Measure in rounds, every other one in reverse order, and write what was found.

    A contender that fails costs its own rows; one that was stopped goes on where it was.

    Raises:
        RunError: a contender failed, or its training is another.
    """
    from benchmark import report
    from benchmark.difference import differences
    from benchmark.nvidia import idle_watts
    from benchmark.runner import reference_history
    from ladder.files import finite, write_json, write_text
    from pipeline.origin import code_digest, cpu_mhz
    from pipeline.session import Session

    described = describe(arguments, contenders, conditions)
    session = Session(
        arguments.output_dir / SO_FAR,
        {
            **described,
            "arms": [contender.name for contender in contenders],
            "data": fingerprint,
            "code": code_digest(ROOMS),
        },
    )
    if session.num_kept:
        say(f"going on: {session.num_kept} measurements are there")
    idle = None
    if conditions.device == "gpu":
        idle = session.part("idle", lambda: idle_watts(conditions.gpu_uuid))
    reference = session.part("reference", lambda: reference_history(conditions))
    cold = measure_cold(contenders, conditions, session) if conditions.device == "gpu" else {}
    found_contenders, failed = measure_rounds(arguments.rounds, contenders, conditions, session)
    if not found_contenders:
        raise RunError(f"failed: {', '.join(failed)}")
    contenders = list(found_contenders)
    measurements = {contender.name: runs for contender, runs in found_contenders.items()}
    images = tuple(described["conditions"][f"{part}_images"] for part in ("train", "validation"))
    peak = session.part("peak", lambda: peak_flops(conditions))
    found: dict[str, Any] = {
        "command": " ".join(["python", "scripts/benchmark.py", *sys.argv[1:]]),
        "rounds": arguments.rounds,
        **described,
        "environment": {**described["environment"], "cpu_mhz": cpu_mhz()},
        "peak_flops": peak,
        "idle_watts": idle,
        "cold_first_step_seconds": cold,
        "left_out": left_out | {name: f"failed: {reason}" for name, reason in failed.items()},
        "reference": reference,
        "arms": report.summarize(
            contenders, measurements, reference, images, peak, arguments.accuracy, idle
        ),
        "measurements": measurements,
    }
    write_json(arguments.output_dir / "benchmark.json", finite(found))
    write_text(arguments.output_dir / "benchmark.md", "\n".join([*report.markdown(found), ""]))
    report.draw(arguments.output_dir / "benchmark.png", measurements)
    for line in report.table_lines(found):
        say(line)
    if older is not None:
        say(f"against {arguments.against}:")
        for line in differences(older, found):
            say(f"- {line}")
    say(f"written: {arguments.output_dir / 'benchmark.md'}")
    if not failed:  # or the same call tries again what failed, and that alone
        session.finish()
    thrown = [row["arm"] for row in found["arms"] if row["thrown_out"]]
    problems = [f"failed: {', '.join(failed)}"] * bool(failed)
    problems += [f"thrown out: {', '.join(thrown)}"] * bool(thrown)
    if problems:
        raise RunError("; ".join(problems))


def describe(
    arguments: argparse.Namespace, contenders: list["Contender"], conditions: "Conditions"
) -> dict[str, Any]:
    """Describe the benchmark: its contenders, settings, versions, machine and GPU."""
    from benchmark.nvidia import describe_gpu
    from pipeline.environment import describe_machine
    from pipeline.origin import versions_in_use

    gpu = {"gpu": describe_gpu(conditions.gpu_uuid)} if conditions.device == "gpu" else {}
    num_validation = -(-arguments.images // 5)
    return {
        "conditions": {
            "train_images": arguments.images - num_validation,
            "validation_images": num_validation,
            "num_epochs": conditions.num_epochs,
            "batch_size": conditions.batch_size,
            "precisions": list(dict.fromkeys(contender.precision for contender in contenders)),
            "num_threads": conditions.num_threads,
            "device": conditions.device,
            "tf32": any(contender.precision == "tf32" for contender in contenders),
            "deterministic": False,
            "accuracy": arguments.accuracy,
        },
        "environment": {**describe_machine(), **gpu, "packages": versions_in_use()},
    }


def measure_cold(
    contenders: list["Contender"], conditions: "Conditions", session: "Session"
) -> dict[str, float | None]:
    """Return the seconds until each arm's first step when it runs for the first time.

    What is compiled is in caches from then on, and the GPU's clocks are up.
    """
    from benchmark.runner import measure

    shortest = dataclasses.replace(conditions, num_epochs=2)

    def first(contender: "Contender") -> float | None:
        try:
            found = measure(contender, shortest)
        except RunError:
            return None  # as it will be found, and said, in the rounds
        return float(found["startup_seconds"] + found["first_step_seconds"])

    cold = {}
    for contender in contenders:
        cold[contender.name] = session.part(f"{contender.name}, cold", partial(first, contender))
        words = (
            "failed"
            if cold[contender.name] is None
            else f"{cold[contender.name]:.1f} s to its first step"
        )
        say(f"first time  {contender.name}: {words}")
    return cold


def measure_rounds(
    num_rounds: int, contenders: list["Contender"], conditions: "Conditions", session: "Session"
) -> tuple[dict["Contender", list["Measured"]], dict[str, str]]:
    """Return by name the contenders' measurements, and why some have none."""
    from benchmark.runner import in_words, measure, steady_seconds, with_best_workers

    tuned: dict[str, Contender] = {}
    measurements: dict[str, list[Measured]] = {contender.name: [] for contender in contenders}
    failed: dict[str, str] = {}
    for number in range(1, num_rounds + 1):
        for contender in contenders if number % 2 else contenders[::-1]:
            if contender.name in failed:
                continue
            try:
                if contender.name not in tuned:
                    tuned[contender.name] = with_best_workers(contender, conditions, session.part)
                work = partial(measure, tuned[contender.name], conditions)
                measured = session.part(f"{contender.name}, round {number}", work)
            except RunError as error:
                say(str(error))
                failed[contender.name] = in_a_line(error)
                continue
            measurements[contender.name].append(measured)
            words = in_words(steady_seconds(measured))
            say(f"round {number}  {contender.name:24} {words:>9} an epoch")
    return {
        tuned[contender.name]: measurements[contender.name]
        for contender in contenders
        if contender.name not in failed
    }, failed


def in_a_line(error: RunError) -> str:
    """Return how a contender failed: its exit and the last thing that it said."""
    first, *rest = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{first} {rest[-1]}" if rest else first


def peak_flops(conditions: "Conditions") -> float | None:
    """Return the machine's measured peak in float32; None where torch is not installed."""
    from benchmark.runner import Contender, measure, why_not

    if why_not(Contender("raw torch", "raw", "torch")):
        return None
    return float(measure(Contender("peak torch", "peak", "torch"), conditions)["flops_per_second"])


main = main_of("benchmark.py", parser, conduct, told=True)
