"""The command line that both trainers share: the same flags, checks and exit codes."""

import argparse
import difflib
import errno
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

from pipeline.errors import RunError, Terminated, UsageError
from pipeline.execution import LOGGERS, Execution, execution_from_dict
from pipeline.flags import add_flags, given
from pipeline.processes import this_process
from pipeline.recipe import Recipe, overridden, recipe_from_dict
from pipeline.terminal import open_missing_streams

DONE, FAILED, WRONG_CALL, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
KERAS_BACKENDS = ("tensorflow", "jax", "torch")


# As argparse words them, Python 3.11 to 3.13.
UNKNOWN_FLAG = re.compile(r"unrecognized arguments: (--[\w-]+)")
UNKNOWN_CHOICE = re.compile(r"argument (--[\w-]+): invalid choice: '([^']*)'")
SYNONYMS = {"--lr": "--learning-rate", "--bs": "--batch-size", "--out": "--output-dir",
            "--num-epochs": "--epochs", "cuda": "gpu", "cuda:0": "gpu", "float32": "32",
            "float64": "64", "bfloat16": "bf16", "tf": "tensorflow",
            "pytorch": "torch"}  # fmt: skip
"""What other programs call it."""


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with a call in one line and leaves with 2."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Print `message`, what was probably meant, and where help is."""
        meant = self._meant(message)
        hint = f"did you mean {meant}? " if meant else ""
        self.exit(WRONG_CALL, f"{self.prog}: error: {message} ({hint}see --help)\n")

    def _meant(self, message: str) -> str | None:
        """Return the flag or the choice nearest to the one that `message` refuses."""
        if found := UNKNOWN_FLAG.search(message):
            known = [flag for action in self._actions for flag in action.option_strings]
            return _nearest(found[1].replace("_", "-"), known)
        if found := UNKNOWN_CHOICE.search(message):
            known = [str(c) for a in self._actions if found[1] in a.option_strings and a.choices
                     for c in a.choices]  # fmt: skip
            return _nearest(found[2], known)
        return None


def _nearest(word: str, known: Sequence[str]) -> str | None:
    if SYNONYMS.get(word.lower()) in known:
        return SYNONYMS[word.lower()]
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.7)), None)


def trainer_parser(impl: str) -> argparse.ArgumentParser:
    """Return the parser of a trainer; `impl` is `keras` or `lightning`."""
    parser = OneLineParser(
        description=f"Train the Fashion-MNIST CNN with {impl.capitalize()} and evaluate it.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong call, 130 interrupted, 143 terminated.",
    )
    recipe = parser.add_argument_group("what is computed")
    add_flags(recipe, Recipe)
    recipe.add_argument("--config", type=Path, metavar="F", help="YAML recipe; flags override it")
    files = parser.add_argument_group("files")
    files.add_argument("--data-dir", type=Path, metavar="D", help="folder of the four IDX files")
    files.add_argument(
        "--run-dir", type=Path, metavar="D", help="the run's folder (runs/ENGINE-VARIANT-TIME)"
    )
    files.add_argument(
        "--resume",
        action="store_true",
        help="go on in --run-dir, by its record; with --epochs, to another number",
    )
    machine = parser.add_argument_group("how it runs")
    add_flags(machine, Execution)
    if impl == "keras":
        machine.add_argument("--backend", choices=KERAS_BACKENDS, help="(tensorflow)")
    return parser


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """Return the recipe of a call: its `--config` (or, resuming, the run's), then its flags.

    Raises:
        UsageError: a value is out of range, or a resumed run is called with another recipe.
    """
    flags, fields = given(arguments, Recipe), {}
    if arguments.config:
        from pipeline.recipe_file import read_recipe_fields

        fields = read_recipe_fields(arguments.config)
    if arguments.resume:
        from pipeline.resume import with_other_epochs

        return with_other_epochs(arguments.run_dir, {**fields, **flags})
    return recipe_from_dict(overridden(fields, flags))


def execution_of(
    arguments: argparse.Namespace, recorded: dict[str, Any] | None = None
) -> Execution:
    """Return how a call wants to be carried out; progress bars only on a terminal.

    What it does not say is as `recorded`, in the record of the run that it resumes.
    """
    said = given(arguments, Execution)
    if asked := said.get("loggers"):
        said["loggers"] = tuple(name for name in LOGGERS if name == "csv" or name in asked)
    said["show_progress"] = sys.stdout is not None and sys.stdout.isatty()
    return execution_from_dict({**(recorded or {}), **said})


def engine_of(impl: str, arguments: argparse.Namespace) -> str:
    """Return the engine that a call of a trainer asks for; resuming, the run's own.

    Raises:
        UsageError: there is no run to resume, or it is the other implementation's.
    """
    backend = None if impl == "lightning" else arguments.backend
    if arguments.resume and backend is None:
        from pipeline.resume import engine_of_run

        return engine_of_run(impl, arguments.run_dir)
    return impl if impl == "lightning" else f"keras-{backend or KERAS_BACKENDS[0]}"


def trainer_main(
    impl: str, load_implementation: Callable[[], Any], argv: list[str] | None = None
) -> int:
    """Run one trainer: parse, train, evaluate, write the run folder; return the exit code.

    `load_implementation` imports its `train` module, and with it the framework, once the call has
    been found right.
    """
    parser = trainer_parser(impl)
    arguments = parser.parse_args(argv)

    def work() -> None:
        engine = engine_of(impl, arguments)
        if argv is None:  # or the process is not this trainer's alone
            _go_to_interpreter(engine)
        _train(engine, arguments, load_implementation)

    return guarded(parser.prog, work, told=True)


def main_of(
    prog: str,
    parser: Callable[[], argparse.ArgumentParser],
    work: Callable[[argparse.Namespace], None],
    *,
    told: bool = False,
) -> Callable[..., int]:
    """Return a script's `main`: it parses the arguments given, or the process's, and does `work`.

    It returns the exit code; `told` is as in `guarded`.
    """

    def main(argv: list[str] | None = None) -> int:
        arguments = parser().parse_args(argv)
        return guarded(prog, lambda: work(arguments), told=told)

    return main


def guarded(prog: str, work: Callable[[], None], *, told: bool = False) -> int:
    """Do `work` and turn what it raises into an exit code and a line on stderr.

    With `told`, SIGTERM raises Terminated in it; without, it ends the process there and then.
    """
    open_missing_streams()
    try:
        with _told_by_sigterm() if told else nullcontext():
            work()
    except UsageError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return WRONG_CALL
    except (RunError, MemoryError) as error:
        print(f"{prog}: {str(error) or 'not enough memory'}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt as error:
        how = "terminated" if isinstance(error, Terminated) else "interrupted"
        print("; ".join([f"{prog}: {how}", *map(str, error.args)]), file=sys.stderr)
        return TERMINATED if isinstance(error, Terminated) else INTERRUPTED
    except OSError as error:
        return _output_lost(prog, error)
    except Exception:
        traceback.print_exc()
        return FAILED
    return DONE


@contextmanager
def _told_by_sigterm() -> Iterator[None]:
    """Raise Terminated on the first SIGTERM, unless somebody sees to that signal already.

    `timeout` sends two, to the process and to its group; another must not stop the cleaning up.
    """
    is_default = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not is_default or threading.current_thread() is not threading.main_thread():
        yield
        return

    is_told = False

    def end(*_: object) -> None:
        nonlocal is_told
        if not is_told:
            is_told = True
            raise Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if not is_told:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _output_lost(prog: str, error: OSError) -> int:
    """Say why stdout failed; anything else that the system refuses is a bug here."""
    if error.filename is not None or error.errno not in (errno.EPIPE, errno.ENOSPC):
        traceback.print_exc()
        return FAILED
    if error.errno == errno.ENOSPC:
        print(f"{prog}: cannot write what is to be printed: {error.strerror}", file=sys.stderr)
    # As with `| head`: what is still buffered must not fail again at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED


def _go_to_interpreter(engine: str) -> None:
    """Run this command under the engine's interpreter, unless this is it.

    Raises:
        UsageError: the engine cannot run there.
    """
    from pipeline.engines import ENGINES

    python = ENGINES[engine].find_python()
    if python.is_this:
        return
    if reason := ENGINES[engine].why_not():
        raise UsageError(f"{engine} cannot run here: {reason}")
    command = [python.path, *sys.orig_argv[1:]]
    os.execve(python.path, command, {**os.environ, **python.environment()})


def _train(
    engine: str, arguments: argparse.Namespace, load_implementation: Callable[[], Any]
) -> None:
    recorded = None
    if arguments.resume:
        from pipeline.resume import record_to_resume

        recorded = record_to_resume(arguments.run_dir).execution
    recipe = recipe_of(arguments)
    execution = execution_of(arguments, recorded)
    ranks = this_process()
    if ranks.launcher or execution.devices > 1:
        from pipeline.ranks import with_ranks

        execution = with_ranks(execution, engine, recipe, arguments.devices)
    if execution.devices > 1 and ranks.size == 1 and engine == "lightning":
        from pipeline.local_ranks import run_ranks

        raise SystemExit(run_ranks(execution.devices))

    from pipeline.run import run_training

    run_training(
        engine=engine,
        load_implementation=load_implementation,
        recipe=recipe,
        execution=execution,
        data_dir=arguments.data_dir,
        run_dir=arguments.run_dir,
        resume=arguments.resume,
    )
