"""See every call of a Keras layer that owns weights, and what runs between, on any backend."""

import itertools
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np
from keras import layers as L
from keras import ops

from portproof.adapter import attach, is_tried
from portproof.graph.calls import Call, Op, Pred, call_of, note_first_taker
from portproof.graph.gaps import CALL, gap
from portproof.record import keras_layers as kinds
from portproof.record.inferred import infer
from portproof.record.keras_composite import recurrent, separable, time_distributed
from portproof.record.keras_live import Live, Tag, layout, numbers, tensors
from portproof.record.model import Arrays, Sink
from portproof.record.program import Blocks, SetUpError, cuts_of, factors, reorder
from portproof.record.role import Role

MAX_OPS = 40
"""Operations kept of a stretch: the last ones."""
RECURRENT = ("lstm", "gru", "rnn")


@dataclass
class Replay:
    """What one run does and finds."""

    force: Mapping[str, np.ndarray] = field(default_factory=dict)
    seeds: Mapping[str, Blocks] = field(default_factory=dict)
    train: bool = False
    any_shape: bool = True
    """Whether numbers of another shape than a call's own replace them too."""
    leaves: dict[int, Any] = field(default_factory=dict)
    """In training: backend tensors that replace what calls give."""
    found: Sink | None = None
    """Destination of each call's arrays in evaluation; None where they are not asked for."""
    given: dict[str, Any] = field(default_factory=dict)
    """In training: backend tensors that calls give, by `out.i`."""
    sums: list[Any] = field(default_factory=list)


class Recorder:
    """Records one forward pass."""

    def __init__(self, replay: Replay, inputs: list[Any], bare: Mapping[int, Any]) -> None:
        self.replay = replay
        self._bare = dict(bare)
        """Weights that no layer's call covers, by their ids."""
        self._read: dict[int, Any] = {}
        self._roles: dict[int, Role] = {}
        """What weights are to the layers that were called, by their ids."""
        self.expected: list[Call] | None = None
        """In training mode, the calls of evaluation, by whose numbers it is forced and seeded."""
        self.awake: tuple[str, ...] = ()
        """What would drop in evaluation mode too."""
        self.calls: list[Call] = []
        self.live: list[Live] = []
        self.native_shapes: list[tuple[int, ...]] = []
        """What each call gives, in the layer's own layout."""
        self.busy = 0
        self._tags: dict[int, Tag] = {}
        self._numbers: dict[int, tuple[int, Any]] = {}
        self._counter = itertools.count()
        self._inputs = {tuple(x.shape): f"input{i}" for i, x in reversed(list(enumerate(inputs)))}
        self._used: set[int] = set()
        for i, x in enumerate(inputs):
            self.put(x, Tag(frozenset([f"input{i}"])))

    def tag(self, tensor: Any) -> Tag:
        """Return where a tensor comes from; where that was not seen, what is still open."""
        found = self._tags.get(id(tensor))
        if found is not None:
            return found
        name = self._inputs.get(tuple(tensor.shape))
        open_ends: list[Pred] = [i for i in range(len(self.calls)) if i not in self._used]
        if name is not None and (not open_ends or not self.calls):
            return Tag(frozenset([name]))
        if keras.backend.backend() == "tensorflow":  # whose every operation is seen
            return Tag(frozenset(["constant"]))
        return Tag(frozenset(open_ends or ["?"]), (Op("?", "?"),))

    def put(self, tensor: Any, tag: Tag) -> None:
        """Note where a tensor comes from."""
        self._number(tensor)
        self._tags[id(tensor)] = replace(tag, ops=tag.ops[-MAX_OPS:])

    def _number(self, tensor: Any) -> int:
        """Return a number of a tensor's own; an id is that only while the tensor lives."""
        key = id(tensor)

        def forget(_: Any) -> None:
            self._tags.pop(key, None)
            self._numbers.pop(key, None)

        if key not in self._numbers:
            self._numbers[key] = (next(self._counter), weakref.ref(tensor, forget))
        return self._numbers[key][0]

    def _joined(self, tensors: list[Any]) -> Tag:
        tags = [self.tag(t) for t in tensors]
        seen: dict[int, Op] = {id(op): op for tag in tags for op in tag.ops}
        return Tag(
            frozenset().union(*(t.preds for t in tags)),
            tuple(seen.values()),
            tuple(d for t in tags for d in t.drops),
        )

    def layer(self, layer: Any, original: Any, args: Any, kwargs: Any) -> Any:
        """Stand in for `Layer.__call__`."""
        if self.busy or isinstance(layer, keras.Model):
            return original(layer, *args, **kwargs)
        given = tensors((args, kwargs))
        if not given or any(isinstance(t, keras.KerasTensor) for t in given):
            return original(layer, *args, **kwargs)
        if not self.replay.train:
            with self.quiet():
                kinds.look_closer(layer, original, args, kwargs)
        if not self.replay.train and len(given) == 1:
            self._infer(layer, original, given[0], args, kwargs)
        kind = kinds.kind_of(layer)
        if (
            kind == "embedding"
            and (
                self.tag(given[0]).preds == {"constant"}  # rows of fixed places
                or True in (kwargs.get("reverse"), *args[1:2])  # read as a head, by keras-hub's
            )
        ):
            self._bare |= {id(v): v for v in kinds.own_variables(layer)}
            kind = None
        if kind is not None and kind.endswith("(unknown)"):
            self._bare |= {id(v): v for v in layer._trainable_variables if v.dtype[:5] == "float"}
            kind = None
        if kind is None:
            return self.plain(layer, original, args, kwargs)
        if kind == "separable":
            return separable(self, layer, given[0])
        if kind in RECURRENT:
            return recurrent(self, layer, kind, original, args, kwargs)
        x = given[0]
        padded = self.tag(x).padding if kind == "conv" else None
        has_own = kind in ("conv", "deconv", "dense") or is_tried(layer)
        own = _activation(layer) if has_own else None
        source = padded[0] if padded else x

        def whole(t: Any) -> Any:
            t = ops.pad(t, [[0, 0], *padded[1], [0, 0]]) if padded else t
            replaced = keras.tree.map_structure(lambda v: t if v is x else v, (args, kwargs))
            with self.quiet(), _linear(layer, own):
                return original(layer, *replaced[0], **replaced[1])

        is_first = kinds.is_channels_first(layer, kind, len(source.shape))
        shape = tuple(source.shape)
        shape = (shape[0], *shape[2:], shape[1]) if is_first else shape
        settings = kinds.settings_of(layer, kind, shape, padded[1] if padded else None)
        dense = kind == "dense"
        live = Live(
            kinds.roles_of(layer, kind),
            lambda t: tensors(whole(t))[0],
            kinds.contracted(layer) if dense else 1,
            kinds.produced(layer) if dense else 1,
            is_first,
            order=self.tag(x).order if dense else None,
        )
        if live.order is not None:
            reorder(live.roles["kernel"], live.order)
        made = whole(source)
        y = tensors(made)[0]
        out = self.call(layer.path or layer.name, kind, settings, live, source, given, y)
        if own is not None and own is not keras.activations.linear:
            out = self._activated(own, out)
        return out if made is y else self._handed_on(made, y, out)

    def _activated(self, own: Any, x: Any) -> Any:
        """Apply a layer's activation to `x`; one that has weights is noted as a call of its own."""
        if isinstance(own, L.Layer) and own.weights:
            return own(x)
        with self.quiet():
            out = own(x)
        self.put(out, replace(self.tag(x), ops=(kinds.activation(own),)))
        self.calls[-1].then = kinds.activation(own).name
        mask = keras.src.backend.get_keras_mask(x)
        if mask is not None:
            keras.src.backend.set_keras_mask(out, mask)
        return out

    def _infer(self, layer: Any, original: Any, x: Any, args: Any, kwargs: Any) -> None:
        """Find out what a layer of the user's own is, by feeding it numbers and weights."""
        weights = kinds.inferable_weights(layer)
        if (
            not weights
            or len(x.shape) < 2
            or "float" not in keras.backend.standardize_dtype(x.dtype)
        ):
            return
        own = _activation(layer)  # as of a dense layer, and told apart from it

        def call(t: Any) -> Any:
            replaced = keras.tree.map_structure(lambda v: t if v is x else v, (args, kwargs))
            return tensors(original(layer, *replaced[0], **replaced[1]))[0]

        def run(fed: np.ndarray, drawn: Arrays) -> np.ndarray:
            for name, value in drawn.items():
                weights[name].assign(value)
            return numbers(call(ops.convert_to_tensor(fed, dtype=x.dtype)))

        with self.quiet():
            kept = {name: numbers(v) for name, v in weights.items()}
            whole = numbers(call(x))
            with _linear(layer, own):
                try:
                    infer(layer, run, tuple(x.shape), weights)
                finally:
                    for name, value in kept.items():
                        weights[name].assign(value)
                made = call(x)
            made = numbers(own(made) if own else made)
        if made.shape != whole.shape or not gap(whole, made).within(CALL):
            attach(layer, None)  # its activation is not the last thing that it does
        if kinds.kind_of(layer) is not None:
            for v in weights.values():
                self._bare.pop(id(v), None)

    def _handed_on(self, made: Any, y: Any, out: Any) -> Any:
        """Return the outputs of a layer, `out` in place of `y`, the first."""
        for other in tensors(made)[1:]:
            self.put(other, self.tag(out))
        return keras.tree.map_structure(lambda v: out if v is y else v, made)

    def weight(self, variable: Any, value: Any) -> Any:
        """Note a weight that is used by itself as a call of its own; return what it gives."""
        role = self._roles.get(id(variable))
        if self.busy or (id(variable) not in self._bare and role is None):
            return value
        role = role or Role(variable, np.squeeze)
        if id(variable) not in self._read:
            with self.quiet():
                x = ops.convert_to_tensor(value)
                x = self._copy(x) if x is value else x
            self.put(x, Tag(frozenset(["constant"])))
            live = Live({"value": role}, lambda t: t, is_weight=True)
            self._read[id(variable)] = x  # for noting the call reads it too
            self._read[id(variable)] = self.call(variable.path, "weight", {}, live, x, [x], x)
        return self._read[id(variable)]

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """See nothing while the block runs."""
        self.busy += 1
        try:
            yield
        finally:
            self.busy -= 1

    def call(
        self,
        owner: str,
        kind: str,
        settings: dict[str, Any],
        live: Live,
        x: Any,
        others: list[Any],
        y: Any,
    ) -> Any:
        """Note a call and what it gives; return what is handed on in its place."""
        index, replay = len(self.calls), self.replay
        tag = self._joined([x, *(t for t in others if t is not x)])
        self._used |= {i for p in tag.preds if (i := call_of(p)) is not None}
        first = self.tag(x)
        call = Call(owner, "", kind, preds=sorted(tag.preds, key=str), settings=settings)
        call.between, call.drops = list(first.ops), list(tag.drops)
        call.siblings = f"t{self._number(x)}"
        for name, role in live.roles.items():
            path = role.variable.path
            part = "" if role.part is None else f"[{role.part}]"
            call.key += f"{name}={path}#{id(role.variable)}{part};"
            call.roles[name] = _shape(role)
            self._roles.setdefault(id(role.variable), role)
            if not role.is_statistic and not role.variable.trainable:
                call.frozen.append(name)
        if self.expected is not None and [c.key for c in self.expected[index:][:1]] != [call.key]:
            raise SetUpError(f"in training mode {owner} makes calls that evaluation does not; "
                             "add --upto forward")  # fmt: skip
        self.calls.append(call)
        self.live.append(live)
        self.native_shapes.append(tuple(y.shape))
        call.in_shape = list(_merged(x.shape, live, True))
        call.out_shape = list(_merged(y.shape, live, False))
        if replay.train:
            replay.given[f"out.{index}"] = y
        elif replay.found is not None:
            replay.found[f"in.{index}"] = live.canonical(numbers(x), True)
            replay.found[f"out.{index}"] = live.canonical(numbers(y), False)
            self._alone(index, live, x, replay.found)
        live.run = _is_over  # it holds what the call took
        if str(index) in replay.seeds:
            drawn = live.native(factors(replay.seeds[str(index)], call.out_shape), y, False)
            replay.sums.append(ops.sum(y * ops.convert_to_tensor(drawn)))
        new = self._forced(index, live, y)
        channel = 1 if live.is_channels_first and len(y.shape) > 2 else None
        self.put(new, Tag(frozenset([index]), channel=channel))
        return new

    def _forced(self, index: int, live: Live, y: Any) -> Any:
        replay = self.replay
        new = replay.leaves.get(index)
        wanted = replay.force.get(f"out.{index}") if new is None else None
        if wanted is not None:
            is_own = list(wanted.shape) == self.calls[index].out_shape
            native = live.native(wanted, y, False) if is_own or replay.any_shape else None
            new = None if native is None else ops.convert_to_tensor(native, dtype=y.dtype)
        if new is None:
            return y
        mask = keras.src.backend.get_keras_mask(y)
        if mask is not None:
            keras.src.backend.set_keras_mask(new, mask)
        return new

    def _alone(self, index: int, live: Live, x: Any, found: Sink) -> None:
        wanted = self.replay.force.get(f"in.{index}")
        given = None if wanted is None else live.native(wanted, x, True)
        if given is not None:
            y = live.run(ops.convert_to_tensor(given, dtype=x.dtype))
            found[f"alone.{index}"] = live.canonical(numbers(y), False)

    def plain(self, op: Any, original: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation or a layer that owns no weights; note it for what comes behind."""
        if self.busy:
            return original(op, *args, **kwargs)
        xs = tensors((args, kwargs))
        if any(isinstance(t, keras.KerasTensor) for t in xs):
            return original(op, *args, **kwargs)
        if isinstance(op, L.TimeDistributed) and self._folds(op, original, args, kwargs):
            return time_distributed(self, op, xs[0])
        is_made_of_parts = isinstance(op, L.Layer) and (
            kinds.has_parts(op) or any(id(v) in self._bare for v in kinds.own_variables(op))
        )
        with nullcontext() if is_made_of_parts else self.quiet(), _each_direction(op):
            out = original(op, *args, **kwargs)
        with self.quiet():
            drops = kinds.drops_of(op, xs)
        is_dropping = drops is not None
        if drops and kwargs.get("training") is True and self.expected is None:
            self.awake += drops
        if is_dropping and xs and out is xs[0]:
            out = self._copy(out)  # it has a dropout behind it, and what else reads it has not
        outs = tensors(out)
        if not xs or (is_made_of_parts and all(id(o) in self._tags for o in outs)):
            return out
        tag = self._joined(xs)
        label: tuple[Op, ...] = ()
        dropped = tag.drops
        if is_dropping:
            dropped += drops or ()
        elif not isinstance(op, L.InputLayer) and not any(o is x for o in outs for x in xs):
            label = (kinds.describe(op),)
        all_preds = self._first_taken(tag, xs, label, outs)
        pads = kinds.zero_padding(op)
        for o, preds in zip(outs, all_preds, strict=True):
            if any(o is x for x in xs):
                continue
            if is_made_of_parts:
                self.put(o, self.tag(o))
                continue
            is_permuted = isinstance(op, L.Permute) and not kinds.is_users(op)
            turned = [0, *op.dims] if is_permuted else None
            found = layout(self.tag(xs[0]), xs[0], o, turned)
            padding = (xs[0], pads) if pads else None
            self.put(o, Tag(preds, tag.ops + label, dropped, padding, *found))
        return out

    def _folds(self, layer: Any, original: Any, args: Any, kwargs: Any) -> bool:
        """Return whether what is done at each step can be done with all steps at once."""
        if not kinds.is_the_same_at_each_step(layer, args, kwargs):
            return False
        if layer not in kinds.HOLDS:
            with self.quiet():
                whole = numbers(original(layer, *args, **{**kwargs, "training": False}))
                folded = numbers(time_distributed(self, layer, tensors((args, kwargs))[0]))
            kinds.HOLDS[layer] = gap(whole, folded).within(CALL)
        return kinds.HOLDS[layer]

    def _copy(self, tensor: Any) -> Any:
        """Return the same numbers as another tensor, under the same mask."""
        with self.quiet():
            new = ops.copy(tensor)
        mask = keras.src.backend.get_keras_mask(tensor)
        if mask is not None:
            keras.src.backend.set_keras_mask(new, mask)
        return new

    def _first_taken(
        self, tag: Tag, xs: list[Any], label: Any, outs: list[Any]
    ) -> list[frozenset[Pred]]:
        """Note an operation that takes first what a call gives; return what its results are of."""
        if len(xs) != 1 or self.replay.train or tag.ops or not label:
            return [tag.preds] * len(outs)
        x, channel = xs[0], self.tag(xs[0]).channel
        # Numbers are copied: only of what may be a part.
        may_be = any(len(o.shape) == len(x.shape) and o.shape != x.shape for o in outs)
        axis = -1 if channel is None else channel
        cuts = (
            cuts_of(numbers(x), [numbers(o) for o in outs], axis) if may_be else [None] * len(outs)
        )
        blocks = note_first_taker(self.calls, tag.preds, 0, label, cuts)
        return [block or tag.preds for block in blocks]

    def raw(self, name: str, inputs: list[Any], outputs: list[Any]) -> None:
        """Note an operation of the backend that no layer wraps."""
        if self.busy:
            return
        known = [t for t in inputs if id(t) in self._tags]
        if not known:
            for o in outputs if not inputs else ():
                self.put(o, Tag(frozenset(["constant"])))
            return
        tag = self._joined(known)
        quiet = name in ("Identity", "Cast", "StopGradient", "Shape", "convert_to_tensor", "cast")
        label = () if quiet else (kinds.raw_operation(name),)
        all_preds = self._first_taken(tag, known, label, outputs)
        turned = numbers(inputs[1]).tolist() if name == "Transpose" else None  # TensorFlow's
        for o, preds in zip(outputs, all_preds, strict=True):
            if id(o) not in self._tags:
                found = layout(self.tag(known[0]), known[0], o, turned)
                self.put(o, Tag(preds, tag.ops + label, tag.drops, None, *found))


def _activation(layer: Any) -> Any:
    """Return the activation that a layer holds, by name or not, and would do without; or None."""
    own = getattr(layer, "activation", None)
    if isinstance(own, str):
        own = getattr(keras.activations, own, None)
    is_fixed = isinstance(getattr(type(layer), "activation", None), property)
    return own if callable(own) and not is_fixed else None


@contextmanager
def _linear(layer: Any, activation: Any) -> Iterator[None]:
    """Take a layer's activation, if it has one, away from it while the block runs."""
    if activation is None:
        yield
        return
    kept, layer.activation = layer.activation, keras.activations.linear
    try:
        yield
    finally:
        layer.activation = kept


@contextmanager
def _each_direction(op: Any) -> Iterator[None]:
    """Keep Keras from running both directions of a layer in one call, which would hide each."""
    fused = [name for name in ("_can_attempt_fused_lstm", "_can_attempt_fused_gru")
             if isinstance(op, L.Bidirectional) and hasattr(op, name)]  # fmt: skip
    vars(op).update(dict.fromkeys(fused, lambda *_: False))
    try:
        yield
    finally:
        for name in fused:
            del vars(op)[name]


def _is_over(_: Any) -> Any:
    raise AssertionError("a call of Keras is run alone while it is noted, and not later")


def _shape(role: Role) -> list[int]:
    """Return the canonical shape of a weight, whose numbers a gradient's trace does not show."""
    a = np.empty(tuple(role.variable.shape), np.bool_)
    return list(role.canonical(a if role.part is None else a[role.part]).shape)


def _merged(shape: Any, live: Live, is_input: bool) -> tuple[int, ...]:
    return live.canonical(np.empty(tuple(shape), np.bool_), is_input).shape
