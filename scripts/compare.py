"""Train engines and variants one after the other and write their results side by side."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.command import OneLineParser, execution_of, guarded
from pipeline.engines import DEFAULT_ENGINES, ENGINES
from pipeline.errors import RunError, UsageError
from pipeline.execution import Execution
from pipeline.flags import add_flags, as_words, chosen, given
from pipeline.recipe import VARIANTS, Recipe, preset
from pipeline.terminal import say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.forecast import Forecast
    from pipeline.launch import Job, Outcome
    from pipeline.session import Session

NUM_EPOCHS = 5
SO_FAR = "comparison-so-far.json"
"""There until every run is complete: the same call goes on with what lies in the folder."""
ROOMS = ("pipeline", "ladder", "keras_impl", "lightning_impl")


def parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        description="Train engines and variants one after the other and compare the results.",
        epilog="Exit codes: 0 done, 1 a run failed or an accuracy is out of range, 2 wrong call, "
        "130 interrupted, 143 terminated.",
    )
    parser.add_argument("--engines", metavar="A,B", help=f"of {', '.join(ENGINES)} (the first two)")
    parser.add_argument("--variants", metavar="A,B", default=",".join(VARIANTS), help="(both)")
    parser.add_argument("--output-dir", type=Path, metavar="D", default=Path("runs/compare"))
    parser.add_argument(
        "--reuse",
        action="store_true",
        help="keep earlier runs of the same call, also where that was not stopped",
    )
    parser.add_argument("--data-dir", type=Path, metavar="D", help="folder of the four IDX files")
    parser.add_argument(
        "--on",
        metavar="ADDRESS",
        help="a Ray cluster, a machine or `--threads` of one a run: ray://HOST:PORT, HOST:PORT, or "
        "local for one of this machine",
    )
    recipe = parser.add_argument_group("what is computed")
    add_flags(recipe, Recipe, without=("variant",), num_epochs=NUM_EPOCHS)
    machine = parser.add_argument_group("how it runs")
    add_flags(machine, Execution, without=("devices",))  # each run has one
    return parser


def chosen_engines(text: str | None) -> list[str]:
    """Return the engines to run; of those not asked for by name, the ones that can run here.

    Raises:
        UsageError: an unknown engine, one that was asked for, or given a Python of its own, and
            can't run, or none is left.
    """
    names = list(DEFAULT_ENGINES) if text is None else chosen(text, tuple(ENGINES), "--engines")
    reasons = {name: reason for name in names if (reason := ENGINES[name].why_not())}
    lines = [f"{name} cannot run here: {reason}" for name, reason in reasons.items()]
    is_asked_for = text is not None or any(ENGINES[name].find_python().named_by for name in reasons)
    if lines and (is_asked_for or len(reasons) == len(names)):
        raise UsageError("; ".join(lines))
    for line in lines:
        say(f"{line}; left out")
    return [name for name in names if name not in reasons]


def planned(arguments: argparse.Namespace) -> "list[Job]":
    """Return the runs that are wanted, each found possible as far as can be said beforehand.

    All get the same device, which is settled here.
    """
    from pipeline.devices import common_device
    from pipeline.launch import Job
    from pipeline.tracking import require_loggers

    fields, settings = given(arguments, Recipe), given(arguments, Execution)
    require_loggers(execution_of(arguments).loggers)
    engines = chosen_engines(arguments.engines)
    variants = chosen(arguments.variants, VARIANTS, "--variants")
    recipes = {variant: preset(variant, **fields) for variant in variants}
    gpus: Mapping[str, str | None] = {}  # those of a cluster are named in the records
    if arguments.on:
        from parity_tests.ray_fleet import device_of

        settings["device"] = device_of(arguments.device or "auto")
        arguments.output_dir = arguments.output_dir.resolve()
        arguments.data_dir = arguments.data_dir and arguments.data_dir.resolve()
    else:
        devices = common_device(engines, arguments.device or "auto")
        if devices.note:
            say(devices.note)
        settings["device"], gpus = devices.device, devices.gpus
    execution = dataclasses.replace(execution_of(arguments), device=settings["device"])
    flags = as_words(fields, Recipe) + as_words(settings, Execution)
    if arguments.data_dir:
        flags += ["--data-dir", str(arguments.data_dir)]
    return [
        Job(
            engine=engine,
            recipe=recipes[variant],
            execution=execution,
            flags=tuple(flags),
            run_dir=arguments.output_dir / f"{engine}-{variant}",
            gpu=gpus.get(engine),
        )
        for engine in engines
        for variant in variants
    ]


def check_data(
    arguments: argparse.Namespace, jobs: "list[Job]"
) -> "tuple[list[Job], dict[str, Any]]":
    """Read data and first weights as the trainers will.

    Return the jobs, for as many classes as the data have, and what a record says of the data.

    Raises:
        UsageError: they can't be used.
    """
    from pipeline.datasets import find_dataset, load_dataset
    from pipeline.network import first_weights
    from pipeline.preprocess import fitted, prepare

    dataset = load_dataset(find_dataset(arguments.data_dir))
    jobs = [dataclasses.replace(job, recipe=fitted(job.recipe, dataset)) for job in jobs]
    data = prepare(dataset, jobs[0].recipe)
    first_weights(jobs[0].recipe)
    return jobs, data.described()


def settings_of(jobs: "list[Job]") -> dict[str, Any]:
    """Return what all runs share and a reader wants to know."""
    recipe, execution = jobs[0].recipe, jobs[0].execution
    return {
        "epochs": recipe.num_epochs,
        "batch size": recipe.batch_size,
        "learning rate": float(f"{recipe.learning_rate:.7g}"),
        "seed": recipe.seed,
        "init": recipe.init,
        "precision": recipe.precision,
        "device": jobs[0].gpu or execution.device,
        "threads": execution.num_threads or "the framework's own",
        "path": "plain" if execution.plain else "fast",
        "deterministic": execution.deterministic,
        "tf32": execution.tf32,
    }


def session_of(folder: Path, jobs: "list[Job]", dataset: dict[str, Any]) -> "Session":
    """Return what tells a call whether it goes on with one that was stopped."""
    from pipeline.environment import cpu_name
    from pipeline.origin import code_digest
    from pipeline.session import Session

    identity = {
        "runs": [[job.name, job.gpu, *job.flags] for job in jobs],
        "data": dataset["fingerprint"],
        "cpu": cpu_name(),
        "code": code_digest(ROOMS),
    }
    return Session(folder / SO_FAR, identity)


def earlier_runs(
    jobs: "list[Job]", dataset: dict[str, Any], goes_on: bool
) -> tuple[set[str], set[str]]:
    """Return the names of the jobs whose earlier runs stand, and of those whose runs go on.

    Raises:
        UsageError: a folder that would be written to holds something else, or is in use.
    """
    from pipeline.launch import can_go_on, check_replaceable, reusable_record

    kept, begun = set(), set()
    for job in jobs:
        if goes_on and reusable_record(job, dataset["fingerprint"]):
            kept.add(job.name)
            continue
        check_replaceable(job.run_dir)
        if goes_on and can_go_on(job, dataset["fingerprint"]):
            begun.add(job.name)
    return kept, begun


def say_plan(jobs: "list[Job]", kept: set[str], begun: set[str]) -> "Forecast":
    """Say what will be done and, as far as it was measured here, how long it takes."""
    from pipeline.forecast import Forecast
    from pipeline.recorded import read_record

    forecast = Forecast(jobs)
    for job in jobs:
        if job.name in kept | begun:
            forecast.keep(job, read_record(job.run_dir).history)
    engines = ", ".join(dict.fromkeys(job.engine for job in jobs))
    variants = ", ".join(dict.fromkeys(job.recipe.variant for job in jobs))
    say(f"trainings, one after the other: {len(jobs)} ({engines}; {variants}), then their report")
    if kept or begun:
        say(f"of an earlier call {len(kept)} stand and {len(begun)} go on")
    unknown = "" if forecast.seconds_left is not None else "; after the first one: how long"
    say(f"{forecast}{unknown}")
    return forecast


def conduct(arguments: argparse.Namespace, scripts_dir: Path) -> None:
    from contextlib import ExitStack

    from pipeline.session import claimed

    with ExitStack() as stack:
        if arguments.on:
            from parity_tests.ray_fleet import cluster

            stack.enter_context(cluster(arguments.on))
        jobs, dataset = check_data(arguments, planned(arguments))
        stack.enter_context(claimed(arguments.output_dir, "comparison"))
        train_and_compare(arguments, jobs, dataset, scripts_dir)


def train_and_compare(
    arguments: argparse.Namespace, jobs: "list[Job]", dataset: dict[str, Any], scripts_dir: Path
) -> None:
    """Train what is not there yet, and write and show the comparison.

    Raises:
        RunError: a run failed, or an accuracy is out of range.
    """
    from rich.console import Console

    from pipeline.forecast import last_line
    from pipeline.launch import run_jobs
    from pipeline.origin import versions_in_use
    from reporting.comparison import compare, problems
    from reporting.comparison_page import tables, write_comparison

    session = session_of(arguments.output_dir, jobs, dataset)
    kept, begun = earlier_runs(jobs, dataset, arguments.reuse or session.was_begun)
    session.begin()
    if arguments.on:
        outcomes = train_on_cluster(jobs, scripts_dir, dataset["fingerprint"], kept)
    else:
        forecast = say_plan(jobs, kept, begun)
        with last_line(lambda: str(forecast)) as say_above:
            outcomes = run_jobs(jobs, scripts_dir, say_above, forecast, kept, begun)
    comparison = compare(
        outcomes,
        command=["python", "scripts/compare.py", *sys.argv[1:]],
        settings=settings_of(jobs),
        dataset=dataset,
        environment={
            **machine_of(outcomes),
            "packages": versions_in_use(job.engine for job in jobs),
        },
    )
    page = write_comparison(arguments.output_dir, comparison, outcomes)
    for table in tables(comparison):
        Console().print(table)
    say(f"written: {page}")
    found = problems(comparison)
    try:
        write_report(arguments, jobs, outcomes)
    except (RunError, UsageError) as error:
        found.append(f"there is no page: {error}")
    if all(outcome.record for outcome in outcomes):  # or the same call tries again what failed
        session.finish()
    if found:
        raise RunError("\n  ".join(["not as it should be:", *found]))


def train_on_cluster(
    jobs: "list[Job]", scripts_dir: Path, fingerprint: str, kept: set[str]
) -> "list[Outcome]":
    """Train on the cluster: each run has the threads it asks for, or a machine to itself."""
    from parity_tests.fleet import run_jobs_in
    from parity_tests.ray_fleet import ClusterPool, cores

    num_cpus = jobs[0].execution.num_threads or cores(of_smallest_machine=True)
    say(f"trainings: {len(jobs)}, of which {len(kept)} stand; processors of each: {num_cpus}")
    pool = ClusterPool(num_cpus, jobs[0].execution.device)
    return run_jobs_in(pool, jobs, scripts_dir, fingerprint, say, kept)


def machine_of(outcomes: "list[Outcome]") -> dict[str, Any]:
    """Describe the machine of the runs, the first of several, with the processors of all."""
    from pipeline.environment import describe_machine

    here = describe_machine()
    found = [outcome.record.environment for outcome in outcomes if outcome.record]
    if not found:
        return here
    cpus = ", ".join(dict.fromkeys(each["cpu"] for each in found))
    return here | {name: found[0][name] for name in here if name in found[0]} | {"cpu": cpus}


def write_report(
    arguments: argparse.Namespace, jobs: "list[Job]", outcomes: "list[Outcome]"
) -> None:
    """Write the page of the runs, with the proof and the benchmark of this machine or the project.

    Raises:
        RunError: a file that the page is made from is broken, or the page cannot be written.
        UsageError: the data set is gone.
    """
    from pipeline.record import RECORD
    from reporting.defaults import PAGE, sources
    from reporting.evidence import gather, read_runs
    from reporting.write import write_page

    output = arguments.output_dir / PAGE
    there = [job.run_dir for job in jobs if (job.run_dir / RECORD).exists()]
    lost = [
        (job.name, outcome.reason or "")
        for job, outcome in zip(jobs, outcomes, strict=True)
        if job.run_dir not in there
    ]
    evidence = gather(read_runs(there), sources(), arguments.data_dir, lost)
    write_page(output, evidence, ["python", "scripts/compare.py", *sys.argv[1:]])
    say(f"the page: {output}")


def main(argv: list[str] | None = None, scripts_dir: Path | None = None) -> int:
    arguments = parser().parse_args(argv)
    folder = scripts_dir or Path(__file__).resolve().parent
    return guarded("compare.py", lambda: conduct(arguments, folder), told=True)


if __name__ == "__main__":
    sys.exit(main())
