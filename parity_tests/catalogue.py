"""The mutants: porting mistakes, where the ladder must catch each, and by what name.

Each is a function in `parity_tests/mutants`, which plants it.
"""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladder.rungs import RUNGS
from parity_tests import differences
from pipeline.engines import ENGINES
from pipeline.recipe import VARIANTS

RUNG_NAMES = tuple(rung.name for rung in RUNGS)
UNKNOWN = "unknown"
"""The cause of a mistake that the ladder must place, and for which it must name no cause."""


@dataclass(frozen=True)
class Mutant:
    """One mistake, planted in one engine's process.

    Raises:
        ValueError: an unknown engine, variant or rung, or expectations that do not go together.
    """

    name: str
    """What the engine's program calls it."""
    engine: str
    rung: str = ""
    """Where the ladder must catch it first; empty for a harmless one."""
    where: str = ""
    """Start of the path of the first finding: a layer, a parameter; empty for any."""
    cause: str = ""
    """What the cause that is named first must hold, or `UNKNOWN`: none may be named."""
    mistake: str = ""
    """What was done wrong, in a few words."""
    variant: str = "base"
    difference: str = ""
    """The difference between the frameworks that invites it; empty where none does."""
    quick: bool = True
    """Whether `prove.py --short` may plant it."""
    is_harmless: bool = False
    """It must change nothing: the ladder must pass."""
    is_explained: bool = False
    """Its gap must vanish without the cause: the ladder must explain it."""

    def __post_init__(self) -> None:
        """Check the fields against each other."""
        for field, choices in (("engine", tuple(ENGINES)), ("variant", VARIANTS)):
            if getattr(self, field) not in choices:
                raise ValueError(
                    f"`{field}` must be one of {', '.join(choices)}; "
                    f"received {field}={getattr(self, field)!r}"
                )
        if self.is_harmless and (self.rung or self.cause or self.is_explained):
            raise ValueError(f"`{self.name}` is harmless: it has no rung, cause or explanation")
        if not self.is_harmless and not (self.rung in RUNG_NAMES and self.cause):
            raise ValueError(
                f"`{self.name}` must have a cause and one of the rungs {', '.join(RUNG_NAMES)}; "
                f"received rung={self.rung!r}, cause={self.cause!r}"
            )


LIGHTNING, TENSORFLOW, JAX, TORCH = "lightning", "keras-tensorflow", "keras-jax", "keras-torch"

FLOAT64_ONLY = frozenset(
    {
        "double-slope",
        "double-beta",
        "float32-promotion",
        "float32-layer",
        "float32-loss",
        "float32-gradient",
        "rescaled-in-float32",
        "no-x64",
    }
)
"""Mutants that are none in float32."""

MODULES = {
    f"{implementation}_{part}.py": engine
    for implementation, engine in (("lightning", LIGHTNING), ("keras", TENSORFLOW))
    for part in ("forward", "training")
}
"""The modules in `mutants/`, and the engine that each plants its mutants in by default."""
PLANTERS: dict[str, Callable[[], None]] = {}
"""In a program: what plants each mutant, by its name."""


def mutant(*_: object, **__: object) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Plant a mutant by the function below, whose docstring is the mistake.

    The arguments are `Mutant`'s from `rung` on, with `engine` by name; `MUTANTS` reads them from
    the source, because no process may load both frameworks.
    """

    def register(plant: Callable[[], None]) -> Callable[[], None]:
        PLANTERS[plant.__name__.replace("_", "-")] = plant
        return plant

    return register


def _read(module: str) -> Iterator[Mutant]:
    path = Path(__file__).parent / "mutants" / module
    functions = (n for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef))
    for node in functions:
        for call in node.decorator_list:
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "mutant":
                given = {str(word.arg): _value(word.value) for word in call.keywords}
                names = ("rung", "where", "cause")
                given |= zip(names, map(_value, call.args), strict=False)
                mistake = str(ast.get_docstring(node)).removesuffix(".")
                yield Mutant(
                    **{"engine": MODULES[module], **given},
                    name=node.name.replace("_", "-"),
                    mistake=mistake,
                )


def _value(node: ast.expr) -> Any:
    """Return a literal, one of this module's names, or one of `differences`."""
    if isinstance(node, ast.Name):
        return globals()[node.id]
    if isinstance(node, ast.Attribute):
        return getattr(differences, node.attr)
    return ast.literal_eval(node)


MUTANTS: tuple[Mutant, ...] = tuple(
    sorted(
        (each for module in MODULES for each in _read(module)),
        key=lambda each: (each.is_harmless, (*RUNG_NAMES, "").index(each.rung)),
    )
)
"""All that are planted, in the ladder's order, the harmless ones last."""
