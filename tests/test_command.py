import io
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from pipeline import command
from pipeline.command import execution_of, guarded, recipe_of, trainer_main, trainer_parser
from pipeline.errors import RunError, Terminated, UsageError
from pipeline.recipe import preset, write_recipe
from tests.programs import run_python

SCRIPTS = Path(__file__).parents[1] / "scripts"
FRAMEWORKS = {"torch", "lightning", "tensorflow", "keras", "jax", "torchmetrics"}
HELP_SECONDS = 0.5


def recipe(*flags, impl="keras"):
    return recipe_of(trainer_parser(impl).parse_args(list(flags)))


def config(folder, **fields):
    path = folder / "config ü.yaml"
    path.write_text(yaml.safe_dump(fields))
    return str(path)


@pytest.mark.parametrize("impl", ["keras", "lightning"])
def test_a_bare_call_is_the_tutorials_base_recipe(impl):
    assert recipe(impl=impl) == preset("base")
    execution = execution_of(trainer_parser(impl).parse_args([]))
    assert (execution.device, execution.num_threads, execution.plain) == ("auto", None, False)


def test_each_recipe_flag_reaches_its_field():
    flags = ["--variant", "dropout", "--epochs", "3", "--batch-size", "8", "--learning-rate", "0.5",
             "--seed", "9", "--init", "own", "--precision", "64"]  # fmt: skip
    assert recipe(*flags) == preset(
        "dropout", num_epochs=3, batch_size=8, learning_rate=0.5, seed=9, init="own", precision="64"
    )


def test_each_execution_flag_reaches_its_field():
    flags = ["--device", "cpu", "--threads", "2", "--deterministic", "--tf32", "--plain",
             "--logger", "tensorboard"]  # fmt: skip
    execution = execution_of(trainer_parser("lightning").parse_args(flags))
    assert (execution.device, execution.num_threads) == ("cpu", 2)
    assert execution.loggers == ("csv", "tensorboard")
    assert (execution.deterministic, execution.tf32, execution.plain) == (True, True, True)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], ("csv",)),
        (["--logger", "csv"], ("csv",)),
        (["--logger", "mlflow"], ("csv", "mlflow")),
        (["--logger", "mlflow, tensorboard"], ("csv", "tensorboard", "mlflow")),
        (
            ["--logger", "mlflow", "--logger", "tensorboard,mlflow"],
            ("csv", "tensorboard", "mlflow"),
        ),
    ],
)
def test_loggers_are_given_with_commas_or_one_by_one(flags, expected):
    for impl in ("keras", "lightning"):
        assert execution_of(trainer_parser(impl).parse_args(flags)).loggers == expected


def test_flags_override_the_config_which_overrides_the_defaults(tmp_path):
    path = config(tmp_path, num_epochs=7, batch_size=8, variant="dropout")
    assert recipe("--config", path, "--epochs", "3") == preset(
        "dropout", num_epochs=3, batch_size=8
    )


@pytest.mark.parametrize("variant", ["base", "dropout"])
@pytest.mark.parametrize("before", ["base", "dropout"])
def test_another_variant_than_the_configs_brings_its_own_rates(before, variant, tmp_path):
    write_recipe(tmp_path / "saved.yaml", preset(before, seed=5))
    received = recipe("--config", str(tmp_path / "saved.yaml"), "--variant", variant)
    assert received == preset(variant, seed=5)


def test_a_configs_own_rates_stand(tmp_path):
    rates = [0.5, 0.5, 0.5, 0.5]
    path = config(tmp_path, variant="dropout", dropout_rates=rates)
    for flags in ([], ["--variant", "dropout"], ["--seed", "1"]):
        assert recipe("--config", path, *flags).dropout_rates == tuple(rates)
    path = config(tmp_path, dropout_rates=rates)
    assert recipe("--config", path, "--variant", "dropout").dropout_rates == tuple(rates)
    with pytest.raises(UsageError, match="must be zero in the base variant"):
        recipe("--config", path)


def test_a_wrong_config_is_a_wrong_call(tmp_path):
    with pytest.raises(UsageError, match="a recipe has no field `epochs`"):
        recipe("--config", config(tmp_path, epochs=3))


WRONG_CALLS = [
    (["--unknown"], "unrecognized arguments: --unknown"),
    (["--epoch", "3"], "unrecognized arguments: --epoch 3"),  # no abbreviations
    (["stray"], "unrecognized arguments: stray"),
    (["--epochs", "three"], "argument --epochs: invalid int value: 'three'"),
    (["--epochs", "1e9"], "argument --epochs: invalid int value: '1e9'"),
    (["--epochs"], "argument --epochs: expected one argument"),
    (["--variant", "wide"], "argument --variant: invalid choice: 'wide'"),
    (["--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
    (["--logger", "wandb"], "`--logger` takes csv, tensorboard, mlflow; received 'wandb'"),
    (["--logger", "csv,"], "`--logger` takes csv, tensorboard, mlflow; received ''"),
    (["--precision", "16"], "argument --precision: invalid choice: '16'"),
    (["--epochs", "0"], "`num_epochs` must be an integer of at least 1; received num_epochs=0"),
    (["--learning-rate", "nan"], "`learning_rate` must be above 0; received learning_rate=nan"),
    (["--seed", "-1"], "`seed` must be an integer of at least 0; received seed=-1"),
    (["--init", ""], "`init` must be shared, own or a weights file; received init=''"),
    (["--init", "/nonexistent"], "cannot read /nonexistent as safetensors"),
    (["--init", "/"], "cannot read / as safetensors"),
    (["--threads", "0"], "`num_threads` must be an integer of at least 1; received num_threads=0"),
    (["--config", "/nonexistent"], "cannot read the recipe /nonexistent"),
    (["--config", "/"], "cannot read the recipe /"),
    (["--data-dir", "/nonexistent"], "the data folder /nonexistent (--data-dir) does not exist"),
    (["--resume"], "`--resume` needs the `--run-dir` to go on in"),
    (["--batch-size", "161"], "`batch_size` must be at most the 160 training images"),
]


def call(argv, impl="lightning"):
    """Return the exit code of a trainer that must not come to load its framework."""

    def load_implementation():
        raise AssertionError("the framework was loaded")

    try:
        return trainer_main(impl, load_implementation, argv)
    except SystemExit as error:
        return error.code


@pytest.mark.parametrize("impl", ["keras", "lightning"])
@pytest.mark.parametrize(("flags", "message"), WRONG_CALLS)
def test_a_wrong_call_gives_2_and_one_line(flags, message, impl, tmp_path, drawn_data, capsys):
    argv = ["--data-dir", str(drawn_data), "--run-dir", str(tmp_path / "a" / "run")]
    if flags == ["--resume"]:
        argv = argv[:2]
    assert call([*argv, *flags], impl) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_right_call_comes_to_load_its_framework(tmp_path, drawn_data, capsys):
    assert call(["--data-dir", str(drawn_data), "--run-dir", str(tmp_path / "run")]) == 1
    assert "AssertionError: the framework was loaded" in capsys.readouterr().err


def test_a_backend_is_kerass_alone(capsys):
    assert call(["--backend", "jax"], "lightning") == 2
    assert "unrecognized arguments: --backend jax" in capsys.readouterr().err
    assert call(["--backend", "mxnet"], "keras") == 2
    assert "invalid choice: 'mxnet'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("wrong"), 2, "prog: error: wrong\n"),
        (RunError("failed"), 1, "prog: failed\n"),
        (MemoryError("cannot allocate 1 TiB"), 1, "prog: cannot allocate 1 TiB\n"),
        (MemoryError(), 1, "prog: not enough memory\n"),
        (KeyboardInterrupt(), 130, "prog: interrupted\n"),
        (KeyboardInterrupt("to go on: x"), 130, "prog: interrupted; to go on: x\n"),
        (Terminated("to go on: x"), 143, "prog: terminated; to go on: x\n"),
        (None, 0, ""),
    ],
)
def test_what_is_raised_becomes_an_exit_code_and_a_line(error, code, line, capsys):
    def work():
        if error is not None:
            raise error

    assert guarded("prog", work) == code
    assert capsys.readouterr() == ("", line)


TOLD = """
import os, signal, sys, threading
from pipeline.command import guarded

def work():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)  # as `timeout` does, to the group
        print("cleaned up", flush=True)

def call():
    sys.exit(guarded("prog", work, told={told}))

{start}
"""


def told_to_end(told=True, start="call()"):
    code = TOLD.format(told=told, start=start)
    done = run_python("-c", code)
    return done.returncode, done.stdout, done.stderr


def test_a_process_that_is_told_to_end_cleans_up_and_says_so():
    assert told_to_end() == (143, "cleaned up\n", "prog: terminated\n")
    # The twins: without a handler, as where there can be none, it ends there and then.
    assert told_to_end(told=False) == (-signal.SIGTERM, "", "")
    thread = "threading.Thread(target=call).start()"
    assert told_to_end(start=thread) == (-signal.SIGTERM, "", "")


def test_what_is_not_told_leaves_the_signal_as_it_was():
    assert guarded("prog", lambda: None, told=True) == 0
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_who_sees_to_sigterm_already_goes_on_doing_so(capsys):
    seen = []
    signal.signal(signal.SIGTERM, lambda *_: seen.append("told"))
    try:
        work = lambda: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
        assert guarded("prog", work, told=True) == 0
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert (seen, capsys.readouterr().err) == (["told"], "")


def test_only_a_bug_has_a_traceback(capsys):
    assert guarded("prog", lambda: 1 / 0) == 1
    assert "Traceback" in capsys.readouterr().err


def test_progress_bars_are_drawn_on_a_terminal_only(monkeypatch):
    arguments = trainer_parser("keras").parse_args([])
    for stdout, expected in [
        (SimpleNamespace(isatty=lambda: True), True),
        (io.StringIO(), False),
        (None, False),
    ]:
        monkeypatch.setattr(command.sys, "stdout", stdout)
        assert execution_of(arguments).show_progress is expected


def help_of(script):
    """Return how much `--help` computes at best, in seconds, and which frameworks it loads.

    Of processor time: other tests run beside this one.
    """
    times, modules = [], set()
    for options in (["-X", "importtime"], [], []):
        before = os.times()
        done = run_python(*options, script, "--help", check=True)
        after = os.times()
        spent = after.children_user + after.children_system
        times.append(spent - before.children_user - before.children_system)
        assert "usage:" in done.stdout
        modules |= {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    return min(times), modules & FRAMEWORKS


@pytest.mark.parametrize(
    "name", ["train_keras", "train_lightning", "compare", "explore", "fetch_data", "doctor"]
)
def test_help_is_quick_and_loads_no_framework(name):
    seconds, frameworks = help_of(SCRIPTS / f"{name}.py")
    assert frameworks == set()
    assert seconds < HELP_SECONDS


def test_a_framework_loaded_for_help_would_be_seen(tmp_path):
    slow = tmp_path / "slow.py"
    slow.write_text("import time, keras\nwhile time.process_time() < 0.7: pass\nprint('usage:')")
    (tmp_path / "keras.py").write_text("")
    seconds, frameworks = help_of(slow)
    assert frameworks == {"keras"}
    assert seconds > HELP_SECONDS


@pytest.mark.parametrize(
    ("flags", "meant"),
    [
        ("--lr 0.1", "--learning-rate"),
        ("--batch_size 8", "--batch-size"),
        ("--epoch 3", "--epochs"),
        ("--device cuda", "gpu"),
        ("--backend pytorch", "torch"),
        ("--variant dropuot", "dropout"),
        ("--nonsense", None),
        ("--device nonsense", None),
        ("--epochs many", None),
    ],
)
def test_what_was_probably_meant_is_named(capsys, flags, meant):
    with pytest.raises(SystemExit) as ended:
        trainer_parser("keras").parse_args(flags.split())
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.count("\n") == 1
    assert ("did you mean" in said) == (meant is not None)
    assert meant is None or f"did you mean {meant}?" in said
