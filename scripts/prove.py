"""Prove that the two implementations compute the same thing, or say where they part and why."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.command import OneLineParser, guarded
from pipeline.errors import RunError, UsageError
from pipeline.flags import chosen

if TYPE_CHECKING:
    from parity_tests.climbs import Attempt, Climber
    from pipeline.datasets import Dataset
    from pipeline.session import Session

ENGINE_NAMES = ("keras-tensorflow", "keras-jax", "keras-torch")
VARIANTS = ("base", "dropout")
DTYPES = ("float64", "float32")
SHORT_REPLAYS = 4
ROOMS = ("pipeline", "ladder", "keras_impl", "lightning_impl", "parity_tests", "portproof/src")
SO_FAR = "proof-so-far.json"
"""There until every part has a verdict: the same call goes on with it."""


def parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        description="Climb the parity ladder: compare Lightning with Keras rung by "
        "rung, from the data to whole trainings, and name the cause where they part.",
        epilog="Exit codes: 0 proved, 1 a rung failed or an engine died, 2 wrong call, "
        "130 interrupted, 143 terminated.",
    )
    parser.add_argument(
        "--engines", metavar="A,B", help=f"to compare with lightning: {', '.join(ENGINE_NAMES)}"
    )
    parser.add_argument("--variants", metavar="A,B", default=",".join(VARIANTS), help="(both)")
    parser.add_argument(
        "--dtypes", "--lanes", metavar="A,B", default=",".join(DTYPES), help="(both)"
    )
    parser.add_argument("--seeds", type=int, metavar="N", default=1, help="repeat for N seeds (1)")
    parser.add_argument(
        "--device",
        choices=("cpu", "gpu"),
        default="cpu",
        help="the ladder's and --processes' alone (cpu)",
    )
    work = parser.add_mutually_exclusive_group()
    work.add_argument(
        "--short", action="store_true", help="a little of all that `--full` does: a few minutes"
    )
    work.add_argument(
        "--mutants",
        "--faults",
        action="store_true",
        help="plant each porting mistake of the catalogue instead",
    )
    work.add_argument(
        "--replays", action="store_true", help="replay reported disagreements instead"
    )
    work.add_argument(
        "--full", action="store_true", help="all of it, and whole trainings followed: hours"
    )
    work.add_argument(
        "--processes",
        metavar="N,M",
        help="follow trainings on so many devices or processes against one instead, in float64",
    )
    parser.add_argument(
        "--practice",
        action="store_true",
        help="with --mutants: also what usual checks see of each, an epoch of training a mutant",
    )
    parser.add_argument(
        "--output-dir", type=Path, metavar="D", help="(runs/proof; with --short runs/proof-short)"
    )
    parser.add_argument("--data-dir", type=Path, metavar="D", help="folder of the four IDX files")
    return parser


def takes_all(arguments: argparse.Namespace) -> bool:
    """Return whether variants, precisions and seeds are the defaults."""
    usual = parser().parse_args([])
    return all(
        getattr(arguments, name) == getattr(usual, name) for name in ("variants", "dtypes", "seeds")
    )


def conduct(arguments: argparse.Namespace) -> None:
    from pipeline.datasets import find_dataset, load_dataset
    from pipeline.session import claimed

    if arguments.seeds < 1:
        raise UsageError(f"`--seeds` must be at least 1; received {arguments.seeds}")
    if arguments.practice and not (arguments.mutants or arguments.full):
        raise UsageError("`--practice` goes with `--mutants`")
    if arguments.short and not takes_all(arguments):
        raise UsageError("`--short` has its own variants, precisions and seed")
    if arguments.device != "cpu" and (
        arguments.short or arguments.mutants or arguments.replays or arguments.full
    ):
        raise UsageError(
            "`--device gpu` is for the ladder and `--processes`, without `--short`, `--mutants`, "
            "`--replays` or `--full`"
        )
    if arguments.processes is not None:
        prove_devices(arguments)
        return
    engines = None
    if arguments.engines is not None:
        engines = chosen(arguments.engines, ENGINE_NAMES, "--engines")
    if (arguments.mutants or arguments.replays) and not (
        takes_all(arguments) and arguments.engines is None
    ):
        raise UsageError(
            "`--mutants` and `--replays` have their own engines, variants, precisions and seeds"
        )
    if arguments.full and arguments.engines is not None:
        raise UsageError("`--full` takes every engine that can run here; leave `--engines` out")
    variants = chosen(arguments.variants, VARIANTS, "--variants")
    dtypes = chosen(arguments.dtypes, DTYPES, "--dtypes")
    if arguments.output_dir is None:
        arguments.output_dir = Path("runs/proof-short" if arguments.short else "runs/proof")
    dataset = load_dataset(find_dataset(arguments.data_dir))
    with claimed(arguments.output_dir, "proof"):
        prove(arguments, dataset, engines, variants, dtypes)


def prove_devices(arguments: argparse.Namespace) -> None:
    """Follow trainings on several devices.

    Raises:
        UsageError: a number of devices or an engine is none.
        RunError: a training parted from that on one device, or an engine died.
    """
    from ladder.engines import EngineError
    from parity_tests.processes import PROCESSES_JSON, prove_processes, require_engines
    from pipeline.datasets import find_dataset, load_dataset
    from pipeline.engines import ENGINES
    from pipeline.session import claimed
    from pipeline.terminal import say

    words = arguments.processes.split(",")
    if not all(word.isascii() and word.isdecimal() and 1 <= int(word) <= 16 for word in words):
        raise UsageError(f"`--processes` takes numbers from 1 to 16; received {words}")
    engines = arguments.engines and chosen(arguments.engines, tuple(ENGINES), "--engines")
    try:
        names = require_engines(engines)
    except ValueError as error:
        raise UsageError(str(error)) from error
    variants = chosen(arguments.variants, VARIANTS, "--variants")
    folder = arguments.output_dir or Path("runs/proof-processes")
    dataset = load_dataset(find_dataset(arguments.data_dir))
    counts = list(dict.fromkeys(map(int, words)))
    with claimed(folder, "proof"):
        try:
            failures = prove_processes(
                dataset, folder, names, variants, counts, say, command(), arguments.device
            )
        except EngineError as error:
            raise RunError(str(error)) from error
    say(f"written: {folder / PROCESSES_JSON}")
    if failures:
        raise RunError("; ".join(failures))


def prove(
    arguments: argparse.Namespace,
    dataset: "Dataset",
    engines: list[str] | None,
    variants: list[str],
    dtypes: list[str],
) -> None:
    """Carry out what is asked for, going on with what an earlier call has left unfinished.

    Raises:
        RunError: something did not hold, or an engine died.
    """
    from parity_tests.climbs import new_climber
    from parity_tests.engine_room import EngineRoom
    from pipeline.environment import code_digest, cpu_name
    from pipeline.memory import return_freed_memory
    from pipeline.session import Session

    identity = {"data": dataset.fingerprint, "cpu": cpu_name(), "code": code_digest(ROOMS)}
    if arguments.device != "cpu":
        identity["device"] = arguments.device
    session = Session(arguments.output_dir / SO_FAR, identity)
    is_all = arguments.full or arguments.short
    return_freed_memory()
    failures: list[str] = []
    lost: list[str] = []
    with EngineRoom() as room:
        material = arguments.output_dir / "material"
        climber = new_climber(room, dataset, material, arguments.device)
        if not (arguments.mutants or arguments.replays):
            attempts = wanted_attempts(arguments, engines, variants, dtypes)
            failures += climb_ladder(arguments, climber, dataset, attempts, session, lost)
        if arguments.mutants or is_all:
            failures += plant_mutants(arguments, climber, dataset, session, lost)
        if arguments.replays or is_all:
            failures += replay(arguments, climber, dataset, session, lost)
    if is_all:
        failures += follow_trainings(arguments, dataset, lost)
    if not lost:  # or the same call tries again what an engine's death has cost, and that alone
        session.finish()
    if failures or lost:
        raise RunError("; ".join(dict.fromkeys([*failures, *lost])))


def wanted_attempts(
    arguments: argparse.Namespace,
    engines: list[str] | None,
    variants: list[str],
    dtypes: list[str],
) -> "list[Attempt]":
    """Return the climbs that are asked for.

    Raises:
        UsageError: an engine that is needed cannot run here.
    """
    from parity_tests.standard import runnable, short_attempts, standard_attempts
    from pipeline.terminal import say

    try:
        names = runnable(engines, say)
    except ValueError as error:
        raise UsageError(str(error)) from error
    attempts = list(
        short_attempts(names)
        if arguments.short
        else standard_attempts(names, variants, dtypes, arguments.seeds)
    )
    if not attempts:
        raise UsageError("no engine that could be compared with lightning can run here")
    return attempts


def climb_ladder(
    arguments: argparse.Namespace,
    climber: "Climber",
    dataset: "Dataset",
    attempts: "list[Attempt]",
    session: "Session",
    lost: list[str],
) -> list[str]:
    """Climb, show the tables, and return what failed; `lost` gets why a climb has no verdict."""
    from rich.console import Console
    from rich.table import Table

    from parity_tests.ladder_report import matrices
    from parity_tests.standard import LADDER_PAGE, prove_ladder
    from pipeline.terminal import say

    try:
        verdicts, without = prove_ladder(
            climber, dataset, arguments.output_dir, attempts, say, command(), session
        )
    except ValueError as error:
        raise RunError(str(error)) from error
    lost += without.values()
    if not verdicts:
        return []
    for name, headings, rows in matrices(verdicts):
        table = Table(*headings, title=name, title_justify="left")
        for row in rows:
            table.add_row(*row)
        Console().print(table)
    say(f"written: {arguments.output_dir / LADDER_PAGE}")
    failed = [verdict for verdict in verdicts if not verdict.passed]
    return [f"{len(failed)} of {len(verdicts)} climbs failed"] if failed else []


def plant_mutants(
    arguments: argparse.Namespace,
    climber: "Climber",
    dataset: "Dataset",
    session: "Session",
    lost: list[str],
) -> list[str]:
    """Plant every mutant whose engine can run here, and return what was not as expected."""
    from parity_tests.catalogue import MUTANTS
    from parity_tests.standard import MUTANTS_PAGE, prove_mutants, short_mutants
    from pipeline.engines import ENGINES
    from pipeline.terminal import say

    runnable = {name for name, engine in ENGINES.items() if not engine.why_not()}
    mutants = [mutant for mutant in MUTANTS if mutant.engine in runnable]
    if missing := len(MUTANTS) - len(mutants):
        say(f"{missing} mutants are left out: their engines cannot run here")
    if arguments.short:
        mutants = short_mutants(mutants)
    if not mutants:
        raise UsageError("no engine that a mutant could be planted in can run here")
    outcomes = prove_mutants(
        climber,
        dataset,
        arguments.output_dir,
        mutants,
        say,
        command(),
        session,
        with_practice=arguments.practice or arguments.full,
    )
    say(f"written: {arguments.output_dir / MUTANTS_PAGE}")
    lost += [outcome.error for outcome in outcomes if outcome.verdict is None]
    wrong = [outcome for outcome in outcomes if list(outcome.mistakes())]
    return [f"{len(wrong)} of {len(outcomes)} mutants not as expected"] if wrong else []


def replay(
    arguments: argparse.Namespace,
    climber: "Climber",
    dataset: "Dataset",
    session: "Session",
    lost: list[str],
) -> list[str]:
    """Replay the reported disagreements, and return what was not as expected."""
    from parity_tests.planting import other_engine
    from parity_tests.replays import REPLAYS
    from parity_tests.standard import REPLAYS_PAGE, prove_replays
    from pipeline.engines import ENGINES
    from pipeline.terminal import say

    replays = [
        each
        for each in REPLAYS
        if not any(ENGINES[name].why_not() for name in (each.engine, other_engine(each.engine)))
    ]
    if missing := len(REPLAYS) - len(replays):
        say(f"{missing} replays are left out: their engines cannot run here")
    if arguments.short:
        replays = [each for each in replays if each.pair == "tutorial"][:SHORT_REPLAYS]
    replayed, without = prove_replays(
        climber,
        dataset,
        arguments.output_dir,
        replays,
        say,
        command(),
        session,
    )
    lost += without.values()
    if not replayed:
        return []
    say(f"written: {arguments.output_dir / REPLAYS_PAGE}")
    wrong = [each for each in replayed if list(each.mistakes())]
    return [f"{len(wrong)} of {len(replayed)} replays not as expected"] if wrong else []


def follow_trainings(
    arguments: argparse.Namespace, dataset: "Dataset", lost: list[str]
) -> list[str]:
    """Follow whole trainings or, in short, an epoch, and return which targets were missed."""
    from ladder.engines import EngineError
    from parity_tests.full import NUM_SEEDS, prove_one_epoch, prove_training
    from pipeline.terminal import say

    try:
        if arguments.short:
            return prove_one_epoch(dataset, arguments.output_dir, say)
        return prove_training(
            dataset, arguments.output_dir, max(arguments.seeds, NUM_SEEDS), say, command()
        )
    except EngineError as error:
        lost.append(str(error))
        return []


def command() -> str:
    """Return the call, as it is written down with results."""
    return " ".join(["python", "scripts/prove.py", *sys.argv[1:]])


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    return guarded("prove.py", lambda: conduct(arguments))


if __name__ == "__main__":
    sys.exit(main())
