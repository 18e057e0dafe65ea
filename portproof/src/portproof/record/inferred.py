"""What a layer of one's own computes, inferred from its numbers: a norm, a scale, a dense layer.

Many write RMSNorm, LayerNorm over channels or a scale by hand. Such a layer is fed numbers and
weights of which each matters, small and large; what gives the same each time, to rounding, is what
it is.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from portproof.adapter import Adapter, attach
from portproof.graph.gaps import CALL, gap
from portproof.record.role import Role

NORMS = ("rms_norm", "layer_norm")
KINDS = ("dense", "scale", "shift", *NORMS)
SCALES = (1e-3, 1.0, 30.0)
"""Of the numbers that are fed; among small ones an ε shows best."""
MAX_WEIGHTS = 2
DIGITS = (4, 10)
"""Of an ε, as people write it and as it shows; float32's of the first is tried as well."""
NOTHING = 1e-12
"""An ε of this share of a variance is rounding."""
Arrays = Mapping[str, np.ndarray]


@dataclass
class Inferred(Adapter):
    """What a layer was found to be."""

    kind: str = ""
    names: dict[str, str] = field(default_factory=dict)
    """Its weights by role."""
    found: dict[str, Any] = field(default_factory=dict)
    """Its settings."""
    axis: int = -1
    """Where its features are."""
    added: float = 0.0
    """What it adds to the weight that multiplies."""
    is_turned: bool = False
    """Whether its kernel is (out, in)."""
    weights: Mapping[str, Any] | None = None
    """Its variables by name."""

    @property
    def channels_first(self) -> bool:  # type: ignore[override]
        """Whether its features are behind the samples."""
        return self.axis == 1

    def roles(self, layer: Any) -> dict[str, Any]:
        """Return variables by role, with what makes vectors and (in, out) of them, and back."""
        assert self.weights is not None
        return {role: self._role(role, self.weights[name]) for role, name in self.names.items()}

    def _role(self, role: str, weight: Any) -> Role:
        shape = tuple(weight.shape)
        if role == "kernel":
            turned = self.is_turned
            return Role(weight, lambda a: a.T if turned else a, lambda a: a.T if turned else a)
        if role == "bias":
            return Role(weight, lambda a: a.reshape(-1), lambda a: a.reshape(shape))
        added = self.added if role == "gamma" else 0.0
        return Role(weight, lambda a: a.squeeze(), lambda a: a.reshape(shape), added)

    def by_role(self, weights: Arrays) -> dict[str, np.ndarray]:
        """Return weights by role, canonical, of those by name."""
        roles = {role: self._role(role, weights[name]) for role, name in self.names.items()}
        return {role: held.value(held.variable) for role, held in roles.items()}

    def settings(self, layer: Any) -> dict[str, Any]:
        """Return its settings."""
        return dict(self.found)

    def varied(
        self, x: np.ndarray, own: np.ndarray, by_role: Arrays, changed: Mapping[str, Any]
    ) -> np.ndarray:
        """Compute it with settings changed, where its own numbers are its formula's.

        Raises:
            RuntimeError: it does more with these numbers, which would be put down to the settings.
        """
        if not gap(own, self.compute(x, by_role, {})).within(CALL):
            raise RuntimeError("it does more than its formula")
        return self.compute(x, by_role, changed)

    def compute(self, x: np.ndarray, by_role: Arrays, changed: Mapping[str, Any]) -> np.ndarray:
        """Compute it by formula, with settings changed.

        Args:
            x: in the layer's own layout.
            by_role: weights, canonical.
            changed: settings that replace its own.
        """
        y = _formula(self.kind, np.moveaxis(x, self.axis, -1), by_role, {**self.found, **changed})
        return np.moveaxis(y, -1, self.axis)


def infer(
    layer: Any,
    run: Callable[[np.ndarray, dict[str, np.ndarray]], np.ndarray],
    shape: tuple[int, ...],
    weights: Mapping[str, Any],
    kinds: tuple[str, ...] = KINDS,
) -> None:
    """Find out what a layer is, and let it be recorded as that; leave it as it is if in doubt.

    Args:
        layer: a layer or module.
        run: computes it for numbers of this shape and for weights by name.
        shape: of what it takes.
        weights: its variables by name, one or two vectors, or one matrix and perhaps a vector.
        kinds: what it may be.
    """
    attach(layer, None)
    rng = np.random.default_rng(0)
    shapes = {name: tuple(w.shape) for name, w in weights.items()}
    seen = []
    for scale in SCALES:
        x = rng.normal(0, scale, shape)
        drawn = {n: rng.uniform(0.5, 1.5, s) * rng.choice([-1, 1], s) for n, s in shapes.items()}
        try:
            y = run(x, drawn)
        except Exception:  # its own error comes again, and is said, when it is called
            return
        if y.dtype.kind != "f":
            return
        seen.append((x, drawn, y))
    for inferred in _candidates(shape, shapes, seen):
        if inferred.kind in kinds and all(_fits(inferred, *sample) for sample in seen):
            inferred.weights = weights
            attach(layer, inferred)
            return


def may_be_inferred(weights: Mapping[str, Any]) -> bool:
    """Return whether these may be the weights of something that `infer` knows."""
    cores = [len(_core(tuple(w.shape))) for w in weights.values()]
    return 0 < len(cores) <= MAX_WEIGHTS and max(cores) <= 2 and cores.count(2) <= 1


def _candidates(
    shape: tuple[int, ...],
    shapes: Mapping[str, tuple[int, ...]],
    seen: list[tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]],
) -> Iterator[Inferred]:
    vectors = [name for name, s in shapes.items() if len(_core(s)) < 2]
    for matrix in (name for name, s in shapes.items() if len(s) == 2):
        others = [name for name in shapes if name != matrix]
        names = {"kernel": matrix, **({"bias": others[0]} if others else {})}
        yield from (Inferred("dense", names, is_turned=turned) for turned in (False, True))
    if len(vectors) < len(shapes):
        return
    for axis in (-1, 1) if len(shape) > 2 else (-1,):
        if len(vectors) == 1:
            yield Inferred("scale", {"gamma": vectors[0]}, axis=axis)
            yield Inferred("shift", {"beta": vectors[0]}, axis=axis)
        for ordered, added in itertools.product(itertools.permutations(vectors), (0.0, 1.0)):
            names = dict(zip(("gamma", "beta"), ordered, strict=False))
            yield from _norms(names, axis, added, seen[0])


def _norms(
    names: dict[str, str],
    axis: int,
    added: float,
    sample: tuple[np.ndarray, dict[str, np.ndarray], np.ndarray],
) -> Iterator[Inferred]:
    """Yield norms of each kind, with the ε that a sample shows."""
    x, weights, y = sample
    if y.shape != x.shape:
        return
    kinds = NORMS[1:] if "beta" in names else NORMS
    for kind, of_sample, is_beside in itertools.product(kinds, (False, True), (False, True)):
        settings: dict[str, Any] = {"axes": 1} if kind == "layer_norm" else {}
        settings |= {"variance": "over n − 1"} if of_sample else {}
        settings |= {"ε": "beside the root"} if is_beside else {}
        inferred = Inferred(kind, names, settings, axis, added)
        by_role = inferred.by_role(weights)
        if any(w.size != x.shape[axis] for w in by_role.values()):
            continue
        center, spread = _centred(kind, np.moveaxis(x, axis, -1), settings)
        normal = (np.moveaxis(y, axis, -1) - by_role.get("beta", 0.0)) / by_role["gamma"]
        with np.errstate(all="ignore"):
            divisor = np.abs(center / normal)
            whole, to = (divisor, np.sqrt(spread)) if is_beside else (divisor**2, spread)
            found = np.median(whole - to)
        if not np.isfinite(found):
            continue
        written, exact = (float(f"{found:.{digits}g}") for digits in DIGITS)
        is_there = found > NOTHING * np.median(to)
        for epsilon in (written, float(np.float32(written)), exact) if is_there else (0.0,):
            yield replace(inferred, found={**settings, "epsilon": epsilon})


def _fits(inferred: Inferred, x: np.ndarray, weights: Arrays, y: np.ndarray) -> bool:
    by_role = inferred.by_role(weights)
    try:
        made = inferred.compute(x, by_role, {})
    except ValueError:  # of other sizes
        return False
    return made.shape == y.shape and gap(y, made).within(CALL)


def _formula(kind: str, x: np.ndarray, by_role: Arrays, settings: Mapping[str, Any]) -> np.ndarray:
    if kind == "dense":
        return x @ by_role["kernel"] + by_role.get("bias", 0.0)
    if kind == "scale":
        return x * by_role["gamma"]
    if kind == "shift":
        return x + by_role["beta"]
    center, spread = _centred(kind, x, settings)
    epsilon = settings["epsilon"]
    is_beside = settings.get("ε") is not None
    divisor = np.sqrt(spread) + epsilon if is_beside else np.sqrt(spread + epsilon)
    return center / divisor * by_role["gamma"] + by_role.get("beta", 0.0)


def _centred(
    kind: str, x: np.ndarray, settings: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the centred input of a norm and the variance that it is divided by the root of."""
    center = x - x.mean(-1, keepdims=True) if kind == "layer_norm" else x
    n = x.shape[-1] - (settings.get("variance") is not None)
    return center, (center**2).sum(-1, keepdims=True) / max(n, 1)


def _core(shape: tuple[int, ...]) -> list[int]:
    return [size for size in shape if size != 1]
