"""The table of rooms in docs/architecture.md, enforced."""

import ast
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.programs import run_python

ROOT = Path(__file__).parents[1]
PORTPROOF = "portproof/src/portproof"
ROOMS = (
    "portproof",
    "ladder",
    "pipeline",
    "keras_impl",
    "lightning_impl",
    "trained",
    "reporting",
    "benchmark",
    "tutorial",
    "parity_tests",
    "scripts",
    "tests",
)
FOLDERS = {"portproof": "portproof/src"}
"""Of rooms that hold more than what is imported."""
NEVER_IMPORTED = {"scripts", "tests"}
# Programs that are run and imported by nobody; each may load one framework.
PROGRAMS = ("benchmark/contenders", "parity_tests/mutants", "parity_tests/pairs")
# The modules of portproof and ladder that load a framework, for their programs alone.
SIDES = {
    path.relative_to(ROOT).as_posix(): impl
    for folder in (f"{PORTPROOF}/record", "ladder/adapters")
    for impl, name in (
        ("keras_impl", "keras*"), ("lightning_impl", "torch*"), ("lightning_impl", "lightning*")
    )
    for path in (ROOT / folder).glob(f"{name}.py")
}  # fmt: skip
# The program that finds out which of them a user's model needs.
RECORDING = f"{PORTPROOF}/record/__main__.py"

TORCH = {"torch", "torchvision", "torchmetrics", "lightning", "pytorch_lightning"}
BACKENDS = {"tensorflow", "jax", "torch"}
FRAMEWORKS = TORCH | BACKENDS | {"keras", "jaxlib", "tf_keras"}
# All that these rooms may import; frameworks are reported by the rule of their own.
PACKAGES = {
    "portproof": {"numpy", "scipy", "safetensors", "pytest"},  # pytest in its plugin
    "ladder": {"numpy", "scipy", "safetensors"},
}

BELOW = {"pipeline", "ladder"}
NEIGHBOURS = {
    "portproof": set(),
    "ladder": set(),
    "pipeline": {"ladder"},
    "keras_impl": BELOW,
    "lightning_impl": BELOW,
    "trained": BELOW,
    "reporting": BELOW,
    "benchmark": BELOW | {"reporting"},
    "tutorial": BELOW,
    "parity_tests": BELOW | {"reporting", "portproof"},
    "scripts": set(ROOMS) - {"portproof", "tests"},
    "tests": set(ROOMS) - {"portproof", "scripts"},
}
OWN_FRAMEWORKS = {"keras_impl": {"keras"}, "lightning_impl": TORCH}


@dataclass(frozen=True)
class Import:
    """One import of an absolute module name."""

    module: str
    line: int
    is_late: bool
    """Inside a function, or for the type checker only."""

    @property
    def top(self):
        return self.module.partition(".")[0]


def imports_of(path):
    """Return what a file imports, late imports and `import_module("…")` included."""
    return list(_walk(ast.parse(path.read_text(), str(path)), is_late=False))


def _walk(node, is_late):
    is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    is_typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    is_late = is_late or is_function or is_typing
    for module in _named(node):
        yield Import(module, node.lineno, is_late)
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, is_late)


def _named(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args:
        name = ast.unparse(node.func).rpartition(".")[2]
        target = node.args[0]
        if name in {"import_module", "__import__"} and isinstance(target, ast.Constant):
            return [str(target.value)]
    return []


def violations(root):
    """Return what breaks the table under `root`: file, line, and the import."""
    return [
        f"{path.relative_to(root)}:{found.line} {found.module}: {problem}"
        for room in ROOMS
        for path in sorted((root / FOLDERS.get(room, room)).rglob("*.py"))
        for found, problem in problems_of(path.relative_to(root).as_posix(), imports_of(path))
    ]


def problems_of(path, imports):
    room = path.partition("/")[0]
    is_program = path.startswith(PROGRAMS)
    for found in imports:
        yield from _room_problems(path, is_program, found)
        if not is_program:
            yield from _framework_problems(SIDES.get(path, room), found)
    if is_program or room == "scripts":
        yield from _mixture_problems(imports)


def _room_problems(path, is_program, found):
    room, folder = path.partition("/")[0], path.rpartition("/")[0]
    programs = [program.replace("/", ".") for program in PROGRAMS if program != folder]
    if folder == "parity_tests/pairs":  # the tutorial's pair plants the mutants
        programs.remove("parity_tests.mutants")
    sides = tuple(
        side.removeprefix("portproof/src/").removesuffix(".py").replace("/", ".") for side in SIDES
    )
    loads_sides = is_program or path in {*SIDES, RECORDING}
    loads_sides = loads_sides or room in {"keras_impl", "lightning_impl", "tests"}
    if found.module.startswith((*programs, "parity_tests.test_")):
        yield found, "programs and tests are run, never imported"
    elif found.module.startswith(sides) and not loads_sides:
        yield found, "engines' programs alone load the sides"
    elif found.top in ROOMS and found.top != room:
        allowed = NEIGHBOURS[room] | ({"keras_impl", "lightning_impl"} if is_program else set())
        if found.top in NEVER_IMPORTED:
            yield found, f"nothing imports {found.top}"
        elif found.top not in allowed:
            yield found, f"{room} must not import {found.top}"
    elif room in PACKAGES:
        known = PACKAGES[room] | FRAMEWORKS | {room} | sys.stdlib_module_names
        if found.top not in known:
            yield found, f"{room} may import {', '.join(sorted(PACKAGES[room]))} only"


def _framework_problems(room, found):
    impls = {"keras_impl", "lightning_impl"}
    if room == "scripts" and found.top in FRAMEWORKS | impls and not found.is_late:
        yield found, "scripts load frameworks inside functions, so that --help loads none"
    if found.top not in FRAMEWORKS or room in {"scripts", "tests"}:
        return
    if room == "keras_impl" and found.top in BACKENDS:
        if not found.is_late:
            yield found, "keras_impl imports the framework behind the backend inside functions only"
    elif found.top not in OWN_FRAMEWORKS.get(room, set()):
        yield found, f"{room} must not import {found.top}"


def _mixture_problems(imports):
    """A program or a script loads one framework; Keras may stand on any one backend."""
    sides = dict.fromkeys(TORCH, "torch") | {"lightning_impl": "torch"}
    sides |= {"tensorflow": "tensorflow", "jax": "jax", "keras_impl": "keras", "keras": "keras"}
    loaded = [found for found in imports if found.top in sides]
    present = {sides[found.top] for found in loaded}
    if len(present - {"keras"}) > 1 or {"lightning_impl", "keras_impl"} <= {f.top for f in loaded}:
        yield loaded[-1], "one process, one framework"


def test_the_rooms_keep_to_the_table():
    assert violations(ROOT) == []
    for room in (PORTPROOF, *ROOMS[1:5]):
        assert list((ROOT / room).glob("*.py")), f"{room} has moved: nothing was checked"


# A line for each rule and each kind of room, in files that are there where the rule asks for that.
PLANTED = {
    f"{PORTPROOF}/a.py": ("import pandas", "portproof may import"),
    f"{PORTPROOF}/b.py": ("def f():\n    from pipeline import recipe", "must not import pipeline"),
    f"{PORTPROOF}/graph/a.py": ("import keras", "portproof must not import keras"),
    f"{PORTPROOF}/record/program.py": ("import torch", "portproof must not import torch"),
    f"{PORTPROOF}/record/keras_layers.py": ("import torch", "inside functions only"),
    f"{PORTPROOF}/record/torch_calls.py": ("import keras", "must not import keras"),
    "ladder/d.py": ("from ladder.adapters import keras", "engines' programs alone"),
    "ladder/adapters/lightning.py": ("import keras", "must not import keras"),
    "pipeline/a.py": ("def f():\n    import torch", "pipeline must not import torch"),
    "pipeline/b.py": ("from keras_impl.model import build_model", "must not import keras_impl"),
    "pipeline/c.py": ("import importlib\nimportlib.import_module('keras')", "must not import"),
    "pipeline/d.py": ("import scripts.compare", "nothing imports scripts"),
    "keras_impl/b.py": ("class A:\n    import torch", "inside functions only"),
    "keras_impl/c.py": ("def f():\n    import lightning", "must not import lightning"),
    "lightning_impl/b.py": ("def f():\n    import tensorflow", "must not import tensorflow"),
    "parity_tests/c.py": ("from parity_tests.mutants import in_keras", "never imported"),
    "parity_tests/d.py": ("from ladder.adapters.lightning import X", "engines' programs alone"),
    "reporting/a.py": ("from parity_tests import climbs", "must not import parity_tests"),
    "benchmark/contenders/b.py": ("import keras\nimport torch\nimport jax", "one process"),
    "scripts/a.py": ("import keras", "scripts load frameworks inside functions"),
    "scripts/c.py": (
        "def f():\n    import keras_impl.train\n    import lightning_impl.train",
        "one process, one framework",
    ),
    "tests/a.py": ("from parity_tests.test_data import X", "never imported"),
}


@pytest.mark.parametrize("path", PLANTED)
def test_a_planted_violation_is_seen(path, tmp_path):
    code, message = PLANTED[path]
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(code)
    found = violations(tmp_path)
    assert len(found) == 1
    assert found[0].startswith(f"{path}:")
    assert message in found[0]


def test_what_the_table_allows_is_let_through(tmp_path):
    allowed = {
        "ladder/a.py": "import json\nimport numpy\nfrom ladder.files import write_text",
        "pipeline/a.py": "import rich\nfrom ladder.files import write_text",
        "keras_impl/a.py": "import keras\ndef f():\n    import tensorflow\n    import torch",
        "lightning_impl/a.py": "import torch\nimport lightning\nfrom pipeline import recipe",
        "benchmark/contenders/a.py": "import keras\nimport jax\nfrom keras_impl import model",
        "parity_tests/mutants/a.py": "import torch\nfrom lightning_impl import model",
        "parity_tests/pairs/a.py": "import keras\nfrom parity_tests.pairs.b import build",
        "ladder/adapters/keras.py": "import keras\ndef f():\n    import jax",
        "ladder/adapters/lightning.py": "import torch\nimport lightning",
        f"{PORTPROOF}/record/__main__.py": "def f():\n    from portproof.record import keras",
        f"{PORTPROOF}/record/keras_gradients.py": "import keras\ndef f():\n    import jax",
        "reporting/a.py": "from pipeline import recipe\nfrom ladder import rungs",
        "parity_tests/a.py": "from parity_tests.terms import X\nfrom ladder import files",
        "scripts/a.py": "def f():\n    from keras_impl import train",
    }
    for path, code in allowed.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(code)
    assert violations(tmp_path) == []


def test_shared_modules_load_no_framework():
    modules = [
        f"{room.removeprefix('portproof/src/').replace('/', '.')}.{path.stem}"
        for room in (
            *(PORTPROOF, f"{PORTPROOF}/graph"),
            *("ladder", "pipeline", "trained", "reporting", "parity_tests"),
        )
        for path in sorted((ROOT / room).glob("*.py"))
        if path.stem not in {"__init__", "conftest"} and not path.stem.startswith("test_")
    ]
    done = run_python(
        "-c", f"import sys, {', '.join(modules)}\nprint(sorted({FRAMEWORKS!r} & set(sys.modules)))"
    )
    assert done.stdout == "[]\n", done.stderr


# The guard of tests/conftest.py, in a session that has loaded stand-ins for both.
PRETEND = """
import sys, types
for name in {names!r}:
    sys.modules[name] = types.ModuleType(name)
"""


@pytest.mark.parametrize(
    ("where", "names", "fails"),
    [
        ("inside a test", ["torch"], False),
        ("inside a test", ["tensorflow", "torch"], True),
        ("on import", ["tensorflow", "torch"], True),
    ],
)
def test_a_session_with_both_frameworks_fails(where, names, fails, tmp_path):
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    load = PRETEND.format(names=names)
    body = textwrap.indent(load, "    ") if where == "inside a test" else "    pass"
    top = "" if where == "inside a test" else load
    (tmp_path / "test_one.py").write_text(f"{top}\ndef test_one():\n{body}\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == (1 if fails else 0), done.stdout
    assert ("which crash each other" in done.stdout) == fails
