"""Record and replay any Keras 3 model, on the backend that Keras runs on."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
from keras import ops

from portproof.graph.calls import Graph, Output
from portproof.record import keras_layers as kinds
from portproof.record import keras_steps
from portproof.record.keras_gradients import differentiate
from portproof.record.keras_live import numbers
from portproof.record.keras_recorder import Recorder, Replay
from portproof.record.keras_watch import recording
from portproof.record.model import Arrays, Batch, Model, Sink
from portproof.record.program import NOTHING_REAL, SetUpError, not_taken
from portproof.record.role import Role

OUTPUT_SEED = 10**6
"""Seeds of the factors of the outputs' sum, beyond those of any call."""
_RATES = ("rate", "drop_path_rate", "drop_prob", "stddev", "dropout", "recurrent_dropout")


_ASKED: list[str] = []
"""Policies that the user's module chose on import and that are not followed."""


def use_float64() -> None:
    """Let what is built from here on compute in float64."""
    if (policy := keras.config.dtype_policy().name) not in ("float32", "float64"):
        _ASKED.append(policy)
    from portproof.record.keras_exact import use_wide_casts

    use_wide_casts()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    from keras.src.backend.common import dtypes

    # Else means are taken in float32 on every backend but TensorFlow, on torch products too.
    dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"
    if keras.backend.backend() == "tensorflow":
        from portproof.record.keras_exact import use_exact_constants

        use_exact_constants()
    elif keras.backend.backend() == "jax":
        from portproof.record.keras_exact import use_exact_attention

        use_exact_attention()
    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)


def open_model(
    model: Any, options: dict[str, Any] | None = None
) -> tuple["KerasModel", dict[str, Any]]:
    """Wrap a model; `options` are the user's own for `fit`.

    Raises:
        SetUpError: a layer computes in another precision than float64 by its own will.
    """
    for layer in model._flatten_layers():
        if layer.compute_dtype in ("float16", "bfloat16", "float32"):
            raise SetUpError(
                f"{layer.name} computes in {layer.compute_dtype}; leave its dtype to Keras's own "
                "policy"
            )
    run_as_written(model)
    backend = keras.backend.backend()
    return KerasModel(model, options), {"framework": f"keras {keras.__version__} on {backend}"}


def run_as_written(model: Any) -> None:
    """Let functional models run in the order in which they were written, not by depths.

    Of calls that look alike the order tells which is which. It is read from the numbers in the
    names of Keras's symbolic tensors. Depths remain where these give no order, and where a layer
    that is used twice has a state: moving statistics depend on the order.
    """
    for each in model._flatten_layers():
        nodes = [n for same in getattr(each, "_nodes_by_depth", {}).values() for n in same]
        names = {id(n): re.fullmatch(r"keras_tensor(?:_(\d+))?", n.outputs[0].name)
                 for n in nodes if not n.is_input}  # fmt: skip
        numbers = {key: int(name[1] or 0) for key, name in names.items() if name}
        uses = Counter(id(n.operation) for n in nodes)
        is_stateful = any(
            uses[id(n.operation)] > 1 and getattr(n.operation, "non_trainable_variables", ())
            for n in nodes
        )
        nodes.sort(key=lambda n: numbers.get(id(n), -1))
        if len(numbers) == len(names) and not is_stateful and _is_computable(nodes):
            each._nodes_by_depth = {len(nodes) - n: [node] for n, node in enumerate(nodes)}


def _is_computable(nodes: Sequence[Any]) -> bool:
    """Return whether each node takes what those before it give."""
    made: set[int] = set()
    for node in nodes:
        if not node.is_input and not {id(x) for x in node.input_tensors} <= made:
            return False
        made |= {id(x) for x in node.outputs}
    return bool(nodes)


class KerasModel(Model):
    """A model that describes itself and replays."""

    fails_by = (Exception,)

    def __init__(self, model: Any, options: dict[str, Any] | None = None) -> None:
        super().__init__(options)
        self.model = model
        self.recorder: Recorder
        self.kept: set[int] = set()
        """Layers, by `id`, whose rate is of no dropout."""
        self._optimizers: dict[str, Any] | None = None
        """Of the model before its first training, by attribute."""

    def describe(
        self,
        inputs: list[np.ndarray],
        opened: Mapping[str, Sequence[int]] = MappingProxyType({}),
        unfold: bool = False,
    ) -> dict[str, Any]:
        """Return the graph of calls, as `Graph.to_dict` gives it."""
        self.example = inputs
        try:
            # A model of the user's own is called built as soon as its `build` was called.
            if not all(layer.built for layer in self.model._flatten_layers()):
                self._call([ops.convert_to_tensor(x[:1]) for x in inputs], False)
            recorder, outs = self._run(inputs, Replay())
        except SetUpError:
            raise
        except Exception as error:
            wanted = getattr(self.model, "input_shape", None)
            hint = f"; it takes {wanted}" if wanted else ""
            raise not_taken("model", inputs, hint, error) from error
        if not self.model.weights:
            raise SetUpError("the model has no weights: there is nothing to compare")
        plain = self._plain(inputs)
        self.kept = _no_dropout(self.model, partial(self._plain, inputs), plain)
        self.recorder = recorder
        covered = {id(r.variable): r for live in recorder.live for r in live.roles.values()}
        constants = {
            id(v)
            for layer in self.model._flatten_layers()
            if isinstance(layer, keras.layers.Normalization)
            for v in layer.weights
        }
        weights = {id(v): v for v in self.model.weights}
        size = {key: int(np.prod(v.shape)) for key, v in weights.items()}
        known = covered.keys() | constants
        uncovered = [(v.path, size[key]) for key, v in weights.items() if key not in known]
        statistics = [
            k for k in size if k in constants or (k in covered and covered[k].is_statistic)
        ]
        total = int(self.model.count_params())
        return Graph(
            recorder.calls,
            [self._output(recorder, o) for o in outs],
            sum(size.values()) - sum(n for _, n in uncovered),
            total,
            sum(size[k] for k in statistics),
            uncovered,
            [],
            {
                "inputs": ["as given"] * len(inputs),
                "count_params()": total,
                "keys": self.keys,
                "regularised": kinds.regularised(self.model._flatten_layers()),
                "unseen": self.unseen(plain, [numbers(o) for o in outs]),
                "drops in evaluation": list(recorder.awake),
                "precision": ", ".join(_ASKED),
                "training": keras_steps.described(self.model) | self._decaying(),
            },
        ).to_dict()

    def _decaying(self) -> dict[str, Any]:
        """Return the weights that weight decay leaves out, if there is one, and those with L2.

        The latter with how many times themselves it adds to their gradients.
        """
        optimizer: Any = getattr(self.model, "optimizer", None)
        weights = {key: role.variable for key, role in self.roles(self.recorder).items()
                   if not role.is_statistic}  # fmt: skip
        found: dict[str, Any] = {
            "squared": {key: 2 * float(v.regularizer.l2) for key, v in weights.items()
                        if getattr(v.regularizer, "l2", 0) and not getattr(v.regularizer, "l1", 0)}
        }  # fmt: skip
        if getattr(optimizer, "weight_decay", None):
            found["spared"] = [k for k, v in weights.items() if not optimizer._use_weight_decay(v)]
        return found

    def _read(self, key: str, role: Role) -> np.ndarray:
        a = numbers(role.variable)
        return role.value(a if role.part is None else a[role.part])

    def native(self) -> Arrays:
        """Return weights as Keras has them, by path."""
        return {v.path: numbers(v) for v in self.model.weights}

    def convert(self, function: Any, weights: Arrays) -> None:
        """Refuse: a port to Keras fills its model otherwise."""
        raise SetUpError("--convert fills a module of torch with the weights of a Keras model")

    def fill(self, weights: Mapping[str, np.ndarray]) -> list[str]:
        """Put canonical weights in place, and return those that did not stay."""
        roles = self.roles(self.recorder)
        for key, role in roles.items():
            if key not in weights:
                continue
            shape = tuple(role.variable.shape)
            if role.part is None:
                role.variable.assign(role.stored(weights[key]).reshape(shape))
            else:
                whole = numbers(role.variable)
                whole[role.part] = weights[key]
                role.variable.assign(whole)
        return [
            key
            for key, role in roles.items()
            if key in weights and not np.array_equal(self._read(key, role), weights[key])
        ]

    def _replay(
        self,
        inputs: list[np.ndarray],
        how: Mapping[str, Any],
        given: Mapping[str, np.ndarray],
        found: Sink,
        any_shape: bool,
    ) -> None:
        replay = Replay(given, how.get("seeds", {}), bool(how.get("train")), any_shape)
        if replay.train:
            self._train(inputs, replay, found)
            return
        outputs_only = how.get("outputs_only")  # on other rows than those of single calls
        replay.found = None if outputs_only else found
        recorder, outs = self._run(inputs, replay)
        for i, out in enumerate(outs):
            found[f"final.{i}"] = numbers(out)
        if not outputs_only:
            self.recorder = recorder

    def train(
        self, batches: list[Batch], swaps: Mapping[str, str], overrides: Mapping[str, Any]
    ) -> Arrays:
        """Train with the compiled loss and optimizer, dropout at 0; return weights by step.

        `overrides`: `dense`, whether optimizers get the gradients of tables as whole arrays.
        """
        dense = keras_steps.dense_gradients() if overrides.get("dense") else nullcontext()
        if self._optimizers is None:
            self._optimizers = keras_steps.optimizers(self.model)
        else:
            keras_steps.start_anew(self.model, self._optimizers)
        with _nothing_dropped(self.model, self.kept), dense:
            return keras_steps.train(
                self.model, self.options, batches, self.weights, self._structured
            )

    def vary(self, trials: list[dict[str, Any]], given: Mapping[str, np.ndarray]) -> Arrays:
        """Return nothing: single calls are varied in torch, whose functions take settings."""
        return {}

    def _run(self, inputs: list[np.ndarray], replay: Replay) -> tuple[Recorder, list[Any]]:
        return self._forward([ops.convert_to_tensor(x) for x in inputs], replay)

    def _forward(self, xs: list[Any], replay: Replay) -> tuple[Recorder, list[Any]]:
        layers = self.model._flatten_layers()
        bare = {id(v): v for layer in layers for v in kinds.bare_variables(layer)}
        recorder = Recorder(replay, xs, bare)
        recorder.expected = self.recorder.calls if replay.train else None
        with recording(recorder):
            out = self._call(xs, replay.train)
        outs = [t for t in keras.tree.flatten(out) if ops.is_tensor(t)]
        self.keys = sorted(map(str, out)) if isinstance(out, Mapping) else []
        if not outs:
            raise SetUpError(f"the model returned {type(out).__name__}, which holds no tensor")
        return recorder, outs

    def _call(self, xs: list[Any], training: bool) -> Any:
        return self.model(self._structured(xs), training=training)

    def _plain(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        out = self._call([ops.convert_to_tensor(x) for x in inputs], False)
        return [numbers(t) for t in keras.tree.flatten(out) if ops.is_tensor(t)]

    def _structured(self, xs: list[Any]) -> Any:
        """Return inputs in the structure that the model takes."""
        if self.named:
            return dict(zip(self.named, xs, strict=True))
        structure = getattr(self.model, "input", None)
        if isinstance(structure, dict):
            if len(structure) != len(xs):
                raise SetUpError(f"the model takes {len(structure)} inputs; received {len(xs)}")
            return dict(zip(structure, xs, strict=True))
        return xs if len(xs) > 1 else xs[0]

    def _output(self, recorder: Recorder, t: Any) -> Output:
        tag = recorder.tag(t)
        return Output(sorted(tag.preds, key=str), list(tag.ops), list(tag.drops), list(t.shape))

    def _train(self, inputs: list[np.ndarray], replay: Replay, found: Sink) -> None:
        """Run one training pass; put gradients of the sums and moved statistics into `found`."""
        for i, (call, live) in enumerate(zip(self.recorder.calls, self.recorder.live, strict=True)):
            wanted = replay.force.get(f"out.{i}")
            if wanted is None or len(wanted.shape) != len(call.out_shape):
                continue
            if not replay.any_shape and list(wanted.shape[1:]) != call.out_shape[1:]:
                continue
            like = np.empty(self._native_shape(i, wanted), np.bool_)
            native = live.native(wanted, like, False)
            if native is not None:
                replay.leaves[i] = ops.convert_to_tensor(native)
        kept = [numbers(v) for v in self.model.non_trainable_variables]
        roles = self.roles(self.recorder)
        trained = {id(r.variable): r.variable for r in roles.values() if r.variable.trainable}
        boxes: list[Recorder] = []

        def total(leaves: dict[int, Any], xs: list[Any]) -> tuple[Any, dict[str, Any]]:
            replay.leaves, replay.sums, replay.given = leaves, [], {}
            recorder, outs = self._forward(xs, replay)
            boxes.append(recorder)
            for i, out in enumerate(outs):
                if not keras.backend.is_float_dtype(out.dtype):
                    continue
                factors = np.random.default_rng(OUTPUT_SEED + i).normal(size=tuple(out.shape))
                replay.sums.append(ops.sum(out * ops.convert_to_tensor(factors)))
            if not replay.sums:
                raise SetUpError(NOTHING_REAL)
            seen = {**replay.given, **{f"final.{i}": o for i, o in enumerate(outs)}}
            return sum(replay.sums[1:], replay.sums[0]), seen

        try:
            with _nothing_dropped(self.model, self.kept):
                grads, leaf_grads, input_grads, seen, moved = differentiate(
                    total,
                    list(trained.values()),
                    replay.leaves,
                    [ops.convert_to_tensor(x) for x in inputs],
                    self.model.non_trainable_variables,
                )
        finally:  # a second try starts from these, too
            for v, a in zip(self.model.non_trainable_variables, kept, strict=True):
                v.assign(a)
        lives = boxes[-1].live
        for name, value in seen.items():
            kind, _, index = name.partition(".")
            a = numbers(value)
            found[name] = lives[int(index)].canonical(a, False) if kind == "out" else a
        for i, g in leaf_grads.items():
            found[f"leaf.{i}"] = lives[i].canonical(g, False)
        for i, g in input_grads.items():
            found[f"input.{i}"] = g
        by_id = dict(zip(trained, grads, strict=True))
        for key, role in roles.items():
            if role.is_statistic:
                found[f"moved|{key}"] = role.canonical(moved[id(role.variable)])
            elif id(role.variable) in by_id:
                g = by_id[id(role.variable)]
                found[f"grad|{key}"] = role.canonical(g if role.part is None else g[role.part])

    def _native_shape(self, index: int, wanted: np.ndarray) -> tuple[int, ...]:
        own = self.recorder.native_shapes[index]
        return own if self.recorder.live[index].is_weight else (len(wanted), *own[1:])


def _no_dropout(
    model: Any, run: Callable[[], list[np.ndarray]], outs: list[np.ndarray]
) -> set[int]:
    """Return the user's own layers whose rate evaluation, too, goes by: it is no dropout's."""
    held = {(layer, name): value for layer in model._flatten_layers() if kinds.is_users(layer)
            for name in _RATES
            if isinstance(value := vars(layer).get(name), int | float)}  # fmt: skip

    def changes(chosen: list[Any]) -> bool:
        for layer, name in chosen:
            setattr(layer, name, 0.0)
        try:
            return any(not np.array_equal(a, b) for a, b in zip(run(), outs, strict=True))
        except Exception:  # it cannot do without
            return True
        finally:
            for layer, name in chosen:
                setattr(layer, name, held[layer, name])

    if not held or not changes(list(held)):
        return set()
    return {id(layer) for layer, name in held if changes([(layer, name)])}


@contextmanager
def _nothing_dropped(model: Any, kept_as_is: set[int]) -> Iterator[None]:
    """Put every dropout rate to 0 and let augmentations be as in evaluation; undo it behind.

    Args:
        model: whose.
        kept_as_is: layers, by `id`, whose rate is none of dropout.
    """
    kept, augmenting = [], []
    for layer in model._flatten_layers():
        if kinds.augments(layer):
            own = layer.call
            vars(layer)["call"] = lambda *a, own=own, **k: own(*a, **{**k, "training": False})
            augmenting.append(layer)
        is_known = type(layer).__module__.partition(".")[0] in ("keras", "keras_hub", "keras_cv")
        is_known = is_known or bool(re.search("drop|depth|noise", type(layer).__name__.lower()))
        for name in _RATES:
            if id(layer) in kept_as_is or (name in ("rate", "stddev") and not is_known):
                continue  # it may be anything
            if isinstance(getattr(type(layer), name, None), property):
                continue  # an attention's rate is that of a Dropout layer within it
            value = getattr(layer, name, None)
            if isinstance(value, int | float) and not isinstance(value, bool) and value:
                kept.append((layer, name, value))
                setattr(layer, name, 0.0)
    try:
        yield
    finally:
        for layer in augmenting:
            del vars(layer)["call"]
        for layer, name, value in kept:
            setattr(layer, name, value)
