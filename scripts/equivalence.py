"""Show over many seeds whether the implementations learn equally well, or say that they do not."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.command import OneLineParser, main_of
from pipeline.errors import RunError, UsageError
from pipeline.execution import DEVICES
from pipeline.flags import chosen
from pipeline.terminal import say

if TYPE_CHECKING:
    from collections.abc import Iterable

    from parity_tests.fleet import Result
    from parity_tests.seeds import Design, Plan, Rows

ROWS, CERTIFICATE, PAGE, PICTURE = "runs.sqlite", "certificate.json", "certificate.md", "seeds.png"


def parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        description="Train both implementations over many seeds and judge by the margins that "
        "parity_tests/equivalence.yaml declared whether they learn equally well. The same call "
        "goes on with the runs that are missing.",
        epilog="Exit codes: 0 every design ended as it must, 1 one did not, 2 wrong call, "
        "130 interrupted, 143 terminated.",
    )
    parser.add_argument("--designs", metavar="A,B", help="of the plan's (all)")
    parser.add_argument("--seeds", type=int, metavar="N", help="the first N of each design (all)")
    parser.add_argument(
        "--judge", action="store_true", help="train nothing: judge the runs that are there"
    )
    parser.add_argument(
        "--merge", type=Path, nargs="+", metavar="F", help="take the rows of other machines' files"
    )
    parser.add_argument("--output-dir", type=Path, metavar="D", default=Path("runs/equivalence"))
    parser.add_argument("--data-dir", type=Path, metavar="D", help="folder of the four IDX files")
    machine = parser.add_argument_group("where it runs")
    machine.add_argument("--device", choices=DEVICES, default="auto")
    machine.add_argument("--threads", type=int, metavar="N", default=1, help="of each run (1)")
    machine.add_argument(
        "--at-once", type=int, metavar="N", help="runs side by side (what cores and memory allow)"
    )
    machine.add_argument(
        "--on",
        metavar="ADDRESS",
        help="a Ray cluster: ray://HOST:PORT, HOST:PORT, or local for one of this machine",
    )
    return parser


def conduct(arguments: argparse.Namespace) -> None:
    from parity_tests.seeds import Rows, read_plan
    from pipeline.session import claimed

    for name in ("seeds", "threads", "at_once"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UsageError(f"`--{name.replace('_', '-')}` must be at least 1; received {value}")
    plan = read_plan()
    names = tuple(plan.designs)
    designs = [
        plan.designs[name]
        for name in (chosen(arguments.designs, names, "--designs") if arguments.designs else names)
    ]
    with claimed(arguments.output_dir, "certificate"):
        rows = Rows(arguments.output_dir / ROWS)
        for path in arguments.merge or ():
            merge(rows, path)
        if not arguments.judge:
            train(arguments, plan, designs, rows)
        judge(arguments, plan, designs, rows)


def merge(rows: "Rows", path: Path) -> None:
    from parity_tests.seeds import Rows

    if not path.is_file():
        raise UsageError(f"{path} is not a file of runs")
    found = Rows(path).read()
    say(f"{path}: {len(found)} rows, {rows.add(found)} of them new")


def train(
    arguments: argparse.Namespace, plan: "Plan", designs: "list[Design]", rows: "Rows"
) -> None:
    """Carry out the runs that have no row yet; a lost one is said and stays missing."""
    from contextlib import ExitStack

    from parity_tests.fleet import Work, places, run_tasks
    from parity_tests.ray_fleet import ClusterPool, cluster
    from parity_tests.seeds import missing_tasks, tasks_of
    from pipeline.datasets import find_dataset, load_dataset
    from pipeline.workers import end_children, workers

    data_dir = find_dataset(arguments.data_dir)
    fingerprint = load_dataset(data_dir).fingerprint
    wanted = tasks_of(plan, designs, arguments.seeds)
    with ExitStack() as stack:
        if arguments.on:
            stack.enter_context(cluster(arguments.on))
        device, machine = place(arguments, {task.engine for task in wanted}, fingerprint)
        tasks = missing_tasks(plan, designs, rows.read(), machine, arguments.seeds)
        say(f"{len(wanted)} runs are wanted, {len(tasks)} of them are still to be trained")
        work = Work(
            plan=plan,
            runs_dir=(arguments.output_dir / "under-way").resolve(),
            data_dir=arguments.data_dir and data_dir.resolve(),
            fingerprint=fingerprint,
            num_threads=arguments.threads,
            device=device,
        )
        if tasks and arguments.on:
            say(f"on {arguments.on}; threads of each: {arguments.threads}")
            cluster_pool = ClusterPool(arguments.threads, device)
            keep(rows, run_tasks(cluster_pool, work, tasks), len(tasks))
        elif tasks:
            # Runs on one GPU would take each other's time and memory.
            at_once = arguments.at_once or (1 if device == "gpu" else places(arguments.threads))
            say(f"{at_once} at once; threads of each: {arguments.threads}")
            pool = stack.enter_context(workers(at_once, end_children))
            keep(rows, run_tasks(pool, work, tasks), len(tasks))


def place(arguments: argparse.Namespace, engines: set[str], fingerprint: str) -> tuple[str, str]:
    """Return the device of the runs, and what rows of this machine call it.

    Rows of a cluster are of its machines, whichever they are: none is taken for this one.
    """
    from parity_tests.ray_fleet import device_of
    from parity_tests.seeds import machine_of
    from pipeline.devices import common_device
    from pipeline.environment import cpu_name

    if arguments.on:
        return device_of(arguments.device), ""
    devices = common_device(engines, arguments.device)
    if devices.note:
        say(devices.note)
    gpu = next(filter(None, devices.gpus.values()), None)
    return devices.device, machine_of(fingerprint, gpu or cpu_name(), arguments.threads)


def keep(rows: "Rows", results: "Iterable[Result]", num_tasks: int) -> None:
    """Keep each row as it comes, and say how long the rest will take at this pace."""
    import time

    begun = time.monotonic()
    for number, (task, result) in enumerate(results, start=1):
        left = (time.monotonic() - begun) / number * (num_tasks - number)
        if isinstance(result, RunError):
            said = f"lost: {result}"
        else:
            rows.add([result])
            said = result.reason or f"test accuracy {result.metrics['accuracy']:.4f}"
        say(f"[{number}/{num_tasks}] {task.name}: {said}; about {left / 60:.0f} min left")


def judge(
    arguments: argparse.Namespace, plan: "Plan", designs: "list[Design]", rows: "Rows"
) -> None:
    """Write certificate.json, its page and its picture, and say each design's sentence.

    Raises:
        RunError: a design did not end as it must.
    """
    from ladder.files import finite, write_bytes, write_json, write_text
    from parity_tests.certificate import certify, to_dict
    from parity_tests.certificate_page import certificate_markdown, certificate_picture
    from pipeline.environment import describe_machine

    found = rows.read()
    certificates = [certify(plan, design, found) for design in designs]
    command = " ".join(["scripts/equivalence.py", *sys.argv[1:]])
    origin = f"Plan {plan.sha256[:12]}, {len(found)} runs, `{command}`."
    fields = {
        "plan": plan.sha256,
        "command": command,
        "machine": describe_machine(),
        "certificates": [to_dict(item) for item in certificates],
    }
    write_json(arguments.output_dir / CERTIFICATE, finite(fields))
    write_text(arguments.output_dir / PAGE, certificate_markdown(certificates, origin))
    write_bytes(arguments.output_dir / PICTURE, certificate_picture(certificates))
    for item in certificates:
        say(f"{item.design}: {item.sentence}")
    say(f"written: {arguments.output_dir / PAGE}")
    wrong = [item.design for item in certificates if not item.holds]
    if wrong:
        raise RunError(f"not as it must be: {', '.join(wrong)}")


main = main_of("equivalence.py", parser, conduct, told=True)

if __name__ == "__main__":
    sys.exit(main())
