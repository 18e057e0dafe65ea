"""Prove that the two implementations compute the same thing, or say where they part and why."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.command import OneLineParser, main_of
from pipeline.engines import ENGINES
from pipeline.errors import RunError, UsageError
from pipeline.flags import chosen
from pipeline.recipe import VARIANTS
from pipeline.terminal import say

if TYPE_CHECKING:
    from parity_tests.climbs import Attempt, Climber
    from pipeline.datasets import Dataset
    from pipeline.session import Session

ENGINE_NAMES = tuple(name for name in ENGINES if name != "lightning")
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
        "--on",
        metavar="ADDRESS",
        help="with --full: follow the whole trainings on a Ray cluster whose machines share the "
        "output folder: ray://HOST:PORT, HOST:PORT, or local for one of this machine",
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
    from contextlib import ExitStack

    from pipeline.datasets import find_dataset, load_dataset
    from pipeline.session import claimed

    if arguments.seeds < 1:
        raise UsageError(f"`--seeds` must be at least 1; received {arguments.seeds}")
    if arguments.practice and not (arguments.mutants or arguments.full):
        raise UsageError("`--practice` goes with `--mutants`")
    if arguments.on and not arguments.full:
        raise UsageError("`--on` goes with `--full`")
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
    with ExitStack() as stack:
        stack.enter_context(claimed(arguments.output_dir, "proof"))
        if arguments.on:
            from parity_tests.ray_fleet import cluster

            stack.enter_context(cluster(arguments.on))
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
    from pipeline.session import claimed

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
    from pipeline.environment import cpu_name
    from pipeline.memory import return_freed_memory
    from pipeline.origin import code_digest
    from pipeline.session import Session

    identity = {"data": dataset.fingerprint, "cpu": cpu_name(), "code": code_digest(ROOMS)}
    if arguments.device != "cpu":
        identity["device"] = arguments.device
    session = Session(arguments.output_dir / SO_FAR, identity)
    is_all = arguments.full or arguments.short
    return_freed_memory()
    with EngineRoom() as room:
        material = arguments.output_dir / "material"
        climber = new_climber(room, dataset, material, arguments.device)
        proof = Proof(arguments, climber, dataset, session)
        if not (arguments.mutants or arguments.replays):
            proof.climb_ladder(wanted_attempts(arguments, engines, variants, dtypes))
        if arguments.mutants or is_all:
            proof.plant_mutants()
        if arguments.replays or is_all:
            proof.replay()
    if is_all:
        proof.follow_trainings()
    if not proof.lost:  # or the same call tries again what an engine's death has cost, and no more
        session.finish()
    if proof.failures or proof.lost:
        raise RunError("; ".join(dict.fromkeys([*proof.failures, *proof.lost])))


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


class Proof:
    """The parts of a proof, each carried out by a method, and what came of them."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        climber: "Climber",
        dataset: "Dataset",
        session: "Session",
    ) -> None:
        self.arguments, self.climber = arguments, climber
        self.dataset, self.session = dataset, session
        self.failures: list[str] = []  # a line a part that did not hold
        self.lost: list[str] = []  # why something has no verdict

    def climb_ladder(self, attempts: "list[Attempt]") -> None:
        """Climb, and show the tables."""
        from rich.console import Console
        from rich.table import Table

        from parity_tests.ladder_report import matrices
        from parity_tests.standard import LADDER_PAGE, prove_ladder

        output_dir = self.arguments.output_dir
        try:
            verdicts, without = prove_ladder(
                self.climber, self.dataset, output_dir, attempts, say, command(), self.session
            )
        except ValueError as error:
            raise RunError(str(error)) from error
        self.lost += without.values()
        if not verdicts:
            return
        for name, headings, rows in matrices(verdicts):
            table = Table(*headings, title=name, title_justify="left")
            for row in rows:
                table.add_row(*row)
            Console().print(table)
        failed = sum(not verdict.passed for verdict in verdicts)
        self._written(LADDER_PAGE, failed, len(verdicts), "climbs failed")

    def plant_mutants(self) -> None:
        """Plant every mutant whose engine can run here."""
        from parity_tests.catalogue import MUTANTS
        from parity_tests.standard import MUTANTS_PAGE, prove_mutants, short_mutants

        runnable = {name for name, engine in ENGINES.items() if not engine.why_not()}
        mutants = [mutant for mutant in MUTANTS if mutant.engine in runnable]
        if missing := len(MUTANTS) - len(mutants):
            say(f"{missing} mutants are left out: their engines cannot run here")
        if self.arguments.short:
            mutants = short_mutants(mutants)
        if not mutants:
            raise UsageError("no engine that a mutant could be planted in can run here")
        outcomes = prove_mutants(
            self.climber,
            self.dataset,
            self.arguments.output_dir,
            mutants,
            say,
            command(),
            self.session,
            with_practice=self.arguments.practice or self.arguments.full,
        )
        self.lost += [outcome.error for outcome in outcomes if outcome.verdict is None]
        wrong = sum(any(outcome.mistakes()) for outcome in outcomes)
        self._written(MUTANTS_PAGE, wrong, len(outcomes), "mutants not as expected")

    def replay(self) -> None:
        """Replay the reported disagreements."""
        from parity_tests.planting import other_engine
        from parity_tests.replays import REPLAYS
        from parity_tests.standard import REPLAYS_PAGE, prove_replays

        replays = [
            each
            for each in REPLAYS
            if not any(ENGINES[name].why_not() for name in (each.engine, other_engine(each.engine)))
        ]
        if missing := len(REPLAYS) - len(replays):
            say(f"{missing} replays are left out: their engines cannot run here")
        if self.arguments.short:
            replays = [each for each in replays if each.pair == "tutorial"][:SHORT_REPLAYS]
        output_dir = self.arguments.output_dir
        replayed, without = prove_replays(
            self.climber, self.dataset, output_dir, replays, say, command(), self.session
        )
        self.lost += without.values()
        if replayed:
            wrong = sum(any(each.mistakes()) for each in replayed)
            self._written(REPLAYS_PAGE, wrong, len(replayed), "replays not as expected")

    def follow_trainings(self) -> None:
        """Follow whole trainings or, in short, an epoch."""
        from ladder.engines import EngineError
        from parity_tests.full import NUM_SEEDS, prove_one_epoch, prove_training

        arguments = self.arguments
        try:
            if arguments.short:
                self.failures += prove_one_epoch(self.dataset, arguments.output_dir, say)
            else:
                num_seeds = max(arguments.seeds, NUM_SEEDS)
                folder, is_on_cluster = arguments.output_dir.resolve(), bool(arguments.on)
                self.failures += prove_training(
                    self.dataset, folder, num_seeds, say, command(), is_on_cluster
                )
        except EngineError as error:
            self.lost.append(str(error))

    def _written(self, page: str, wrong: int, total: int, what: str) -> None:
        say(f"written: {self.arguments.output_dir / page}")
        if wrong:
            self.failures.append(f"{wrong} of {total} {what}")


def command() -> str:
    """Return the call, as it is written down with results."""
    return " ".join(["python", "scripts/prove.py", *sys.argv[1:]])


main = main_of("prove.py", parser, conduct)

if __name__ == "__main__":
    sys.exit(main())
