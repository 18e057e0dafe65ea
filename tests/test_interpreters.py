"""Which interpreter an engine runs under, with interpreters that are made up."""

import json
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ladder import probe
from ladder.engines import answer
from ladder.exchange import Question, read_trace, write_question
from ladder.interpreters import STARTED_AS, Engine, Interpreter, InterpreterError
from pipeline import engines
from pipeline.engines import ENGINES, interpreter_of, python_variable
from pipeline.environment import PACKAGES, package_versions
from pipeline.errors import UsageError
from pipeline.origin import engine_versions, versions_in_use
from tests.programs import run_python

ROOT = Path(__file__).parents[1]
# Answers the probe as told, and runs any other program as the real interpreter does.
FAKE = """#!{python}
import json, os, sys
if "find_spec" in " ".join(sys.argv):
    modules, packages = json.loads(sys.argv[-1])
    print(json.dumps({{
        "python": {version!r},
        "missing": [name for name in modules if name in {missing!r}],
        "versions": {{name: {versions!r}.get(name) for name in packages}},
    }}))
else:
    os.environ["FAKE_PYTHON"] = sys.argv[0]
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
"""


@pytest.fixture(autouse=True)
def nothing_named(tmp_path, monkeypatch):
    """Neither variables, nor a file, nor GPU environments of this machine."""
    for name in ENGINES:
        monkeypatch.delenv(python_variable(name), raising=False)
    monkeypatch.setattr(engines, "INTERPRETERS", tmp_path / "engines.toml")
    monkeypatch.setattr(engines, "GPU_ENVIRONMENTS", tmp_path / ".venv-gpu")


@pytest.fixture
def fake(tmp_path):
    """Return a function that makes an interpreter."""

    def make(name="python", version=(3, 12, 1), missing=(), versions=None):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = FAKE.format(
            python=sys.executable, version=version, missing=missing, versions=versions or {}
        )
        return executable(path, text)

    return make


def executable(path, text):
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_the_variable_comes_first_then_the_file_then_the_gpu_environment(
    fake, tmp_path, monkeypatch
):
    made = fake(".venv-gpu/keras-jax/bin/python")
    assert interpreter_of("keras-jax").is_this  # not whole yet
    (tmp_path / ".venv-gpu/keras-jax/.set-up").touch()
    assert interpreter_of("keras-jax").path == str(made)
    assert interpreter_of("keras-torch").is_this
    in_file = fake("in-file")
    (tmp_path / "engines.toml").write_text('keras-jax = "./in-file"\n')
    assert interpreter_of("keras-jax").path == str(in_file)
    by_variable = fake("by-variable")
    monkeypatch.setenv("KERAS_JAX_PYTHON", str(by_variable))
    assert interpreter_of("keras-jax").path == str(by_variable)
    assert interpreter_of("keras-tensorflow").is_this
    monkeypatch.setenv("KERAS_JAX_PYTHON", "")
    assert interpreter_of("keras-jax").path == str(in_file)


@pytest.mark.parametrize(
    ("named", "expected"),
    [("python", "{bin}/python"), ("bin/python", "{bin}/python"), ("~/python", "{bin}/python")],
)
def test_a_path_may_be_relative_a_name_or_in_the_home(fake, tmp_path, monkeypatch, named, expected):
    fake("bin/python")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HOME", str(tmp_path / "bin"))
    monkeypatch.setenv("LIGHTNING_PYTHON", named)
    assert interpreter_of("lightning").path == expected.format(bin=tmp_path / "bin")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("keras-jax = ", "cannot read"),
        ('kerasjax = "python"', "received kerasjax = 'python'"),
        ("keras-jax = 3", "received keras-jax = 3"),
        ('[keras-jax]\npython = "x"', "received keras-jax = {'python': 'x'}"),
    ],
)
def test_a_wrong_file_is_a_wrong_call(tmp_path, text, message):
    (tmp_path / "engines.toml").write_text(text)
    with pytest.raises(UsageError, match=message) as raised:
        ENGINES["lightning"].why_not()
    assert len(str(raised.value).splitlines()) == 1


def test_what_an_interpreter_holds_is_asked_of_it_not_of_this_process(fake, monkeypatch):
    versions = {"keras": "3.99", "jax": "0.99", "numpy": "9.9"}
    monkeypatch.setenv("KERAS_JAX_PYTHON", str(fake(versions=versions)))
    assert ENGINES["keras-jax"].why_not() is None
    assert engine_versions("keras-jax") == dict.fromkeys(PACKAGES) | versions
    here = package_versions()
    assert versions_in_use(["lightning"]) == here
    both = versions_in_use(["keras-torch", "keras-jax"])
    assert both["jax"] == "0.99"
    assert both["torch"] == here["torch"]
    assert both["keras"] == f"{here['keras']} and 3.99"


def test_a_probe_imports_no_framework_and_is_made_once(tmp_path, monkeypatch):
    count = tmp_path / "count"
    shim = executable(
        tmp_path / "shim",
        f'#!/bin/sh\necho x >> {count}\nexec "{sys.executable}" -X importtime "$@"\n',
    )
    python = Interpreter(str(shim), "shim")
    assert python.why_not(("keras", "torch", "numpy")) is None
    assert python.why_not(("keras", "torch", "numpy")) is None
    assert count.read_text() == "x\n"
    done = subprocess.run(
        [shim, "-c", probe.PROBE, json.dumps([["keras", "torch", "tensorflow"], []])],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "json" in imported
    assert not imported & {"keras", "torch", "tensorflow", "numpy"}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"^KERAS_JAX_PYTHON=\S+ cannot be started \(No such file or directory\); name"),
        ("folder", r"^KERAS_JAX_PYTHON=\S+ cannot be started \(Permission denied\); name another"),
        ("other program", r"^KERAS_JAX_PYTHON=\S+ is not a working Python 3; name another Python"),
        ("crashing", r"^KERAS_JAX_PYTHON=\S+ is not a working Python 3; name another Python"),
        ("old", r"^KERAS_JAX_PYTHON=\S+ is Python 3\.9\.2, older than 3\.11; name another Python"),
        ("bare", r"^KERAS_JAX_PYTHON=\S+ lacks jax, yaml: \S+ -m pip install jax pyyaml$"),
    ],
)
def test_a_bad_interpreter_is_a_line_that_says_what_to_do(
    fake, tmp_path, monkeypatch, kind, message
):
    path = tmp_path / "python"
    if kind == "folder":
        path.mkdir()
    elif kind == "other program":
        executable(path, "#!/bin/sh\necho hello\n")
    elif kind == "crashing":
        executable(path, "#!/bin/sh\nkill -SEGV $$\n")
    elif kind != "missing":
        fake(version=(3, 9, 2) if kind == "old" else (3, 12, 1), missing=("jax", "yaml"))
    monkeypatch.setenv("KERAS_JAX_PYTHON", str(path))
    reason = ENGINES["keras-jax"].why_not()
    assert re.search(message, str(reason)), reason
    assert len(reason.splitlines()) == 1
    if kind != "bare":
        with pytest.raises(InterpreterError):
            engine_versions("keras-jax")
    assert versions_in_use(["keras-jax"]) == package_versions()  # passed over


def test_a_broken_gpu_environment_says_how_it_is_made_anew(fake, tmp_path):
    fake(".venv-gpu/keras-jax/bin/python", missing=("jax",))
    (tmp_path / ".venv-gpu/keras-jax/.set-up").touch()
    reason = ENGINES["keras-jax"].why_not()
    assert reason.endswith(f"remove {tmp_path / '.venv-gpu/keras-jax'} and run make setup")


PROGRAM = """
import os, sys
from pathlib import Path
from ladder.exchange import Trace, read_question, write_trace
question = read_question(Path(sys.argv[1]))
facts = {"python": os.environ.get("FAKE_PYTHON"), "path": sys.path}
write_trace(Path(sys.argv[2]), Trace("toy", question.identity, facts, {}))
"""


def test_an_engine_answers_under_its_interpreter_which_finds_the_project(fake, tmp_path):
    (tmp_path / "toy.py").write_text(PROGRAM)
    python = Interpreter(str(fake()), "fake")
    toy = Engine("toy", (str(tmp_path / "toy.py"),), ("json",), find_python=lambda: python)
    question = Question(("all",), {"seed": 1})
    write_question(tmp_path / "q", question)
    answer(toy, tmp_path / "q", tmp_path / "t", precision="32", timeout_seconds=60)
    facts = read_trace(tmp_path / "t", question).facts
    assert facts["python"] == python.path
    assert str(ROOT) in facts["path"]


def train(engine, *flags, **variables):
    script, *first = engines.trainer_arguments(engine)
    return run_python(ROOT / "scripts" / script, *first, *flags, env=variables)


def test_a_trainer_goes_to_its_interpreter_once(tmp_path):
    """Its wrapper is another program than `sys.executable` says, as with a pyenv shim."""
    log = tmp_path / "log"
    shim = executable(
        tmp_path / "shim",
        f'#!/bin/sh\ncase "$*" in *find_spec*) ;; *) echo "$*" >> {log} ;; esac\n'
        f'exec "{sys.executable}" "$@"\n',
    )
    done = train("keras-jax", "--epochs", "0", KERAS_JAX_PYTHON=str(shim))
    assert done.returncode == 2
    assert "num_epochs=0" in done.stderr  # the trainer itself has looked at the call
    script = ROOT / "scripts" / "train_keras.py"
    assert log.read_text() == f"{script} --backend jax --epochs 0\n"
    log.unlink()
    assert "num_epochs=0" in train("lightning", "--epochs", "0", KERAS_JAX_PYTHON=str(shim)).stderr
    assert not log.exists()


def test_a_trainer_says_plainly_that_its_interpreter_is_of_no_use(tmp_path):
    gone = str(tmp_path / "gone")
    done = train("keras-jax", "--run-dir", str(tmp_path / "run"), KERAS_JAX_PYTHON=gone)
    assert (done.returncode, done.stderr) == (
        2,
        f"train_keras.py: error: keras-jax cannot run here: KERAS_JAX_PYTHON={gone} cannot be "
        "started (No such file or directory); name another Python, or none\n",
    )
    assert not (tmp_path / "run").exists()


def test_a_process_knows_that_it_runs_under_a_wrapper(monkeypatch):
    python = Interpreter("/opt/wrapper", "file")
    assert not python.is_this
    assert python.environment()[STARTED_AS] == "/opt/wrapper"
    monkeypatch.setenv(STARTED_AS, "/opt/wrapper")
    assert python.is_this
    assert python.environment() == {}
