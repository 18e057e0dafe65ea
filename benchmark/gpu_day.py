"""All that is worth knowing of a GPU, in stages: what `scripts/gpu.py` does.

Each stage is a command of its own, says what it will cost and has cost, and is kept once it is
done: the same call goes on with what is missing. What is not installed is skipped by name.
"""

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.nvidia import describe_gpu, require_gpu, visible_gpus
from ladder.engines import leashed
from ladder.files import write_json, write_text
from ladder.reading import read_json
from pipeline.command import OneLineParser, main_of
from pipeline.engines import ENGINES
from pipeline.environment import ROOT, describe_machine
from pipeline.errors import RunError, UsageError
from pipeline.flags import chosen
from pipeline.origin import code_digest, told_commit, versions_in_use
from pipeline.session import claimed
from pipeline.terminal import say
from reporting.markdown import table

ROOMS = (
    "benchmark", "pipeline", "ladder", "portproof/src", "reporting", "parity_tests", "keras_impl",
    "lightning_impl", "scripts", "tests",
)  # fmt: skip
RECORD, PAGE = "gpu-day.json", "gpu-day.md"
MAX_BYTES = 16 * 1024 * 1024
RESULT_SUFFIXES = (".json", ".md", ".png")
GRACE_SECONDS = 20.0
"""How long a stage may take to end once it is told to."""
DONE, FAILED, STOPPED, SKIPPED = "done", "failed", "stopped", "skipped"


@dataclass(frozen=True)
class Stage:
    """One command, or several one after the other."""

    name: str
    purpose: str
    minutes: float
    """What it is expected to take; a guess until a record says what it took."""
    commands: tuple[tuple[str, ...], ...] = ()
    """Arguments of Python, from the repository's root; none where there is nothing to do."""
    lacks: str = ""
    """Why it is skipped; empty where it is not."""
    good: tuple[int, ...] = (0,)
    """Exit codes with which the stage is done."""
    work: Path | None = None
    """The folder that the commands write to, checkpoints and all; its results are copied."""
    gpus: tuple[str, ...] = ()
    """The GPUs that the commands see; none: the one that the day is about."""

    @property
    def log(self) -> str:
        """The name of the file that holds what it has printed."""
        return f"{self.name}.log"


def parser() -> argparse.ArgumentParser:
    """Return the flags."""
    parser = OneLineParser(
        description="Try and measure all there is on an NVIDIA GPU, stage by stage; the same call "
        "goes on where it was. Leave the machine alone meanwhile.",
        epilog="Exit codes: 0 every stage is done or skipped, 1 a stage failed or was stopped, "
        "2 wrong call or no GPU, 130 interrupted, 143 terminated.",
    )
    parser.add_argument("--short", action="store_true", help="less of each, in about 17 minutes")
    parser.add_argument("--minutes", type=float, metavar="N", help="most that a stage may take")
    parser.add_argument("--stages", metavar="A,B", help="only these (all)")
    parser.add_argument(
        "--output-dir", type=Path, metavar="D", help="(results/gpu- and the GPU's name)"
    )
    parser.add_argument("--data-dir", type=Path, metavar="D", help="folder of the four IDX files")
    return parser


def plan(
    work: Path,
    findings: Mapping[str, Any],
    *,
    short: bool,
    data: Sequence[str] = (),
    gpus: Sequence[str] = (),
) -> list[Stage]:
    """Return the stages after the doctor's, the most telling first; they write to `work`.

    `findings` are the doctor's: an engine that does not see the GPU has no part in them. `gpus` are
    all there are.
    """
    engines = findings["engines"]
    on_gpu = [
        name for name in ENGINES if engines[name]["problem"] is None and engines[name]["gpus"]
    ]
    keras = [name for name in on_gpu if name != "lightning"]
    # An engine that is not installed may have a loop by hand whose framework is.
    seeing = [name for name in ENGINES if name in on_gpu or engines[name]["problem"] is not None]
    no_keras = "" if keras and "lightning" in on_gpu else _why_none(engines)
    tests = [
        ("-m", "pytest", "-m", "gpu", f"tests/{impl}", "-q", "-p", "no:cacheprovider")
        for impl, names in (("lightning", {"lightning"}), ("keras", set(keras)))
        if names & set(on_gpu)
    ]
    rounds, epochs = ("3", "11") if short else ("10", "31")
    tracks = "ours,raw" if short else "stock,ours,raw"
    precisions = "32" if short else "32,tf32,bf16"
    dtypes = "float64" if short else "float64,float32"
    return [
        Stage(
            "tests", "the tests marked `gpu`: CUDA graphs, scans, gathering on the device",
            2.0, tuple(tests), _missing("pytest") or (not tests and _why_none(engines)) or "",
        ),
        Stage(
            "benchmark", "epoch times, energy, clocks, heat and memory of every contender, and "
            "each setting that only a GPU can decide on, both ways",
            8.0 if short else 90.0,
            (("scripts/benchmark.py", "--device", "gpu", "--alternatives", "--rounds", rounds,
              "--epochs", epochs, "--tracks", tracks, "--precision", precisions,
              "--engines", ",".join(seeing), "--output-dir", str(work / "benchmark"), *data),),
            _missing("scipy") or ("" if seeing else _why_none(engines)),
            work=work / "benchmark",
        ),
        Stage(
            "ladder", "the parity ladder with every engine on the GPU",
            4.0 if short else 15.0,
            (("scripts/prove.py", "--device", "gpu", "--engines", ",".join(keras),
              "--dtypes", dtypes, "--variants", "base" if short else "base,dropout",
              "--output-dir", str(work / "ladder"), *data),),
            _missing("scipy", "rich") or no_keras,
            work=work / "ladder",
        ),
        Stage(
            "compare", "both variants trained and compared",
            2.0 if short else 15.0,
            (("scripts/compare.py", "--device", "gpu", "--epochs", "2" if short else "20",
              "--engines", ",".join(on_gpu), "--output-dir", str(work / "compare"), *data),),
            _missing("sklearn", "matplotlib") or ("" if on_gpu else _why_none(engines)),
            work=work / "compare",
        ),
        # Keras on torch trains on one device.
        _several(work, [name for name in on_gpu if name != "keras-torch"], gpus, short, data),
    ]  # fmt: skip


def _several(
    work: Path, engines: Sequence[str], gpus: Sequence[str], short: bool, data: Sequence[str]
) -> Stage:
    """Return the stage on several GPUs, which its log times: epochs on one, and on all."""
    count, all_of = str(len(gpus)), ("--device", "gpu", *data)
    lacks = "fewer than two GPUs" if len(gpus) < 2 else "" if engines else "no engine sees a GPU"
    timed = [
        (*(("scripts/train_lightning.py",) if engine == "lightning" else
           ("scripts/train_keras.py", "--backend", engine.removeprefix("keras-"))),
         "--devices", number, "--epochs", "3" if short else "10",
         "--run-dir", str(work / "several" / f"{engine}-{number}"), *all_of)
        for engine in engines for number in ("1", count)
    ]  # fmt: skip
    proof = ("scripts/prove.py", "--processes", f"1,{count}", "--engines", ",".join(engines),
             "--variants", "base" if short else "base,dropout",
             "--output-dir", str(work / "several"), *all_of)  # fmt: skip
    return Stage(
        "several", f"training on {count} GPUs: the same in float64, and how long an epoch takes",
        5.0 if short else 20.0, (proof, *timed), lacks, work=work / "several", gpus=tuple(gpus),
    )  # fmt: skip


def _why_none(engines: Mapping[str, Any]) -> str:
    reasons = (
        f"{name}: {engines[name]['problem'] or 'sees no GPU'}"
        for name in ENGINES
        if engines[name]["problem"] or not engines[name]["gpus"]
    )
    return "; ".join(reasons) or "nothing to run"


def _missing(*packages: str) -> str:
    """Return which of these packages are not installed, in words; empty where all are."""
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


def doctor_stage(data: Sequence[str] = ()) -> Stage:
    """Return the stage whose findings decide on the others."""
    return Stage(
        "doctor", "which engines see the GPU", 1.0, (("scripts/doctor.py", "--json", *data),),
        good=(0, 1),  # 1 where a default engine is not installed, which is then skipped
    )  # fmt: skip


def read_findings(log: Path) -> dict[str, Any]:
    """Parse the JSON that the doctor printed into its log.

    Raises:
        RunError: there is none.
    """
    try:
        text = log.read_text(errors="replace")
        return dict(json.loads(text[text.index("{") : text.rindex("}") + 1]))
    except (OSError, ValueError) as error:
        raise RunError(f"the doctor left no findings in {log}: {error}") from error


class Day:
    """The stages' outcomes, in a file that is written after each.

    `identity` is what makes a stage worth doing again: the code and packages, the GPU, the data.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], record: Mapping[str, Any]
    ) -> None:
        self.folder = folder
        self.identity = json.loads(json.dumps(identity))
        self.record = dict(record)
        self.outcomes: dict[str, dict[str, Any]] = {}
        try:
            kept = read_json(folder / RECORD, MAX_BYTES)["stages"]
            self.outcomes = {name: dict(each) for name, each in kept.items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            pass  # none, or of no use

    def is_done(self, stage: Stage) -> bool:
        """Return whether a stage is done, as it would be done now."""
        kept = self.outcomes.get(stage.name, {})
        return kept.get("status") == DONE and kept.get("identity") == self._identity_of(stage)

    def carry_out(self, stage: Stage, minutes: float | None = None) -> str:
        """Do a stage unless it is done; return its status.

        Raises:
            KeyboardInterrupt: interrupted; the stage's command has ended.
        """
        if stage.lacks:
            say(f"{stage.name}: skipped: {stage.lacks}")
            return self._keep(stage, SKIPPED, reason=stage.lacks)
        if self.is_done(stage):
            say(f"{stage.name}: kept from an earlier call, {self._cost(stage)}")
            return DONE
        say(f"{stage.name}: {stage.purpose}; {self._cost(stage) or f'about {stage.minutes:g} min'}")
        began = time.monotonic()
        limit = None if minutes is None else began + 60 * minutes
        codes, status = [], DONE
        with (self.folder / stage.log).open("w") as log:
            for command in stage.commands:
                seen = {"CUDA_VISIBLE_DEVICES": ",".join(stage.gpus)} if stage.gpus else {}
                code = run_until(command, limit, lambda line: _tell(line, log), seen)
                codes.append(code)
                if code is None:
                    status = STOPPED
                    break
                if code not in stage.good:
                    status = FAILED
        seconds = time.monotonic() - began
        if stage.work and stage.work.is_dir():
            copy_results(stage.work, self.folder / stage.name)
        reason = {STOPPED: f"after {minutes} min", FAILED: f"exit codes {codes}"}.get(status, "")
        say(f"{stage.name}: {' '.join([status, reason]).strip()}; took {seconds / 60:.1f} min")
        return self._keep(stage, status, seconds=seconds, reason=reason)

    def _identity_of(self, stage: Stage) -> Any:
        return json.loads(json.dumps({**self.identity, "commands": stage.commands}))

    def _cost(self, stage: Stage) -> str:
        seconds = self.outcomes.get(stage.name, {}).get("seconds")
        return "" if seconds is None else f"took {seconds / 60:.1f} min"

    def _keep(self, stage: Stage, status: str, **more: Any) -> str:
        self.outcomes[stage.name] = {
            "status": status,
            "purpose": stage.purpose,
            "identity": self._identity_of(stage),
            **more,
        }
        write_json(self.folder / RECORD, {**self.record, "stages": self.outcomes})
        write_text(self.folder / PAGE, "\n".join([*self.lines(), ""]))
        return status

    def lines(self) -> list[str]:
        """Return the page: the GPU, the stages, and where their results are."""
        gpu = self.record["gpu"]
        told = [f"{name.replace('_', ' ')} {value}" for name, value in gpu.items() if value]
        machine = self.record["machine"]
        rows = [
            [
                name,
                each["purpose"],
                each["status"],
                f"{each.get('seconds', 0) / 60:.1f}",
                each.get("reason", "") or "–",
            ]
            for name, each in self.outcomes.items()
        ]
        return [
            f"# {gpu['name']}", "", f"{', '.join(told)}. {machine['cpu']}, {machine['cores']} "
            f"cores{told_commit(self.record)}.", "",
            *table(("stage", "what", "status", "minutes", "reason"), rows, numbers=[3]),
        ]  # fmt: skip


def copy_results(work: Path, folder: Path) -> None:
    """Copy the results that lie directly in `work`, without what goes on or can be made again."""
    folder.mkdir(exist_ok=True)
    for path in work.iterdir():
        if path.suffix in RESULT_SUFFIXES and "so-far" not in path.name:
            shutil.copyfile(path, folder / path.name)


def run_until(
    command: Sequence[str],
    limit: float | None,
    tell: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
) -> int | None:
    """Run Python with `command`; return its exit code, None where `limit` (monotonic) was passed.

    Its lines go to `tell`. Told to end, it gets 20 seconds to keep what it has.

    Raises:
        KeyboardInterrupt: interrupted; it has ended.
    """
    late = threading.Event()
    with subprocess.Popen(
        leashed([sys.executable, *command]),
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as child:
        assert child.stdout is not None

        def end() -> None:
            late.set()
            child.send_signal(signal.SIGINT)
            try:
                child.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()

        seconds = None if limit is None else max(0.0, limit - time.monotonic())
        timer = None if seconds is None else threading.Timer(seconds, end)
        if timer:
            timer.daemon = True
            timer.start()
        try:
            for line in child.stdout:
                tell(line)
            code = child.wait()
        except BaseException:
            end()
            raise
        finally:
            if timer:
                timer.cancel()
    return None if late.is_set() else code


def _tell(line: str, log: Any) -> None:
    log.write(line)
    log.flush()
    say(f"  {line.rstrip()}")


def slug(name: str) -> str:
    """Return a GPU's name as part of a folder's: `NVIDIA H200` as `nvidia-h200`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unnamed"


def conduct(arguments: argparse.Namespace) -> None:
    """Do every stage that is not done.

    Raises:
        UsageError: there is no GPU, or no such stage.
        RunError: a stage failed or was stopped.
    """
    if arguments.minutes is not None and not arguments.minutes > 0:
        raise UsageError(f"`--minutes` must be above 0; received {arguments.minutes:g}")
    uuid, gpus = require_gpu(), visible_gpus()
    gpu = describe_gpu(uuid)
    os.environ["CUDA_VISIBLE_DEVICES"] = uuid
    folder = arguments.output_dir or ROOT / "results" / f"gpu-{slug(gpu['name'])}"
    data = ["--data-dir", str(arguments.data_dir.resolve())] if arguments.data_dir else []
    code, machine = code_digest(ROOMS), describe_machine()
    record = {
        "command": ["scripts/gpu.py", *sys.argv[1:]],
        "commit": machine.pop("commit"),
        "code": code,
        "gpu": gpu,
        "machine": machine,
        "packages": versions_in_use(),
    }
    identity = {name: record[name] for name in ("code", "gpu", "machine", "packages")}
    with claimed(folder, "GPU day"):
        day = Day(folder.resolve(), identity, record)
        doctor = doctor_stage(data)
        if day.carry_out(doctor, arguments.minutes) != DONE:
            raise RunError("the doctor gave no findings, on which the other stages rest")
        findings = read_findings(day.folder / doctor.log)
        work = ROOT / "runs" / folder.resolve().name
        stages = plan(work, findings, short=arguments.short, data=data, gpus=gpus)
        carry_out_all(day, chosen_of(stages, arguments.stages), arguments.minutes)
        say(f"written: {folder / PAGE}")


def chosen_of(stages: Sequence[Stage], names: str | None) -> list[Stage]:
    """Return the stages that are named in a list with commas; all without one.

    Raises:
        UsageError: there is none of a name.
    """
    if names is None:
        return list(stages)
    wanted = chosen(names, tuple(stage.name for stage in stages), "--stages")
    return [stage for stage in stages if stage.name in wanted]


def carry_out_all(day: Day, stages: Sequence[Stage], minutes: float | None) -> None:
    """Do the stages one after the other; one that fails costs no other.

    Raises:
        RunError: one failed or was stopped.
    """
    statuses = {stage.name: day.carry_out(stage, minutes) for stage in stages}
    problems = [
        f"{name}: {status}" for name, status in statuses.items() if status in (FAILED, STOPPED)
    ]
    if problems:
        raise RunError(f"{'; '.join(problems)}; the same call tries again")


main = main_of("gpu.py", parser, conduct, told=True)
