"""Record and replay any torch module: every function call that owns weights is a call of the graph.

`TorchFunctionMode` sees every function, so that modules, subclasses, functional calls and bare
parameters all look alike.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from portproof.adapter import adapter_of, is_tried
from portproof.graph.calls import Call, note_first_taker
from portproof.record.inferred import Inferred
from portproof.record.model import Sink
from portproof.record.program import Blocks, drops, factors, reorder
from portproof.record.role import Role, role_of
from portproof.record.torch_bare import BARE, cut_into_patches, with_bare_weights
from portproof.record.torch_calls import (
    ATTENTION,
    DROPOUTS,
    ELEMENTWISE_WEIGHTS,
    LOOKING,
    READERS,
    RECURRENT,
    Spec,
    bind,
    signature_of,
)
from portproof.record.torch_composite import attention, recurrent
from portproof.record.torch_drops import Draws, of_samples
from portproof.record.torch_live import (
    HOLE,
    Live,
    cropped,
    cropped_by,
    infer_module,
    is_cut,
    put_channels_first,
    replaced_in,
    strides_of,
    tensors_of,
)
from portproof.record.torch_names import Names
from portproof.record.torch_tags import (
    Tag,
    after,
    cut_off,
    dropout_of,
    function_name,
    id_of,
    in_float64,
    own_tag,
    put_tag,
    tag_of,
)
from portproof.record.torch_variants import variant_of

BIASED = {"dense": "bias", "conv": "bias", "deconv": "bias"}
BY_FEATURE = {"batch_norm", "layer_norm", "rms_norm", "scale", "shift"}
"""What treats each feature alike, whatever its place."""
SCALED = {"batch_norm", "layer_norm", "group_norm", "rms_norm"}


@dataclass
class Replay:
    """What one run does and finds."""

    force: Mapping[str, np.ndarray] = field(default_factory=dict)
    """`out.i` replaces what call i gives; `in.i` is what it is also fed alone."""
    seeds: Mapping[str, Blocks] = field(default_factory=dict)
    """For each call whose output takes part in a sum to differentiate: the seeds of its factors."""
    last: Mapping[int, int] = field(default_factory=dict)
    """For calls of several functions (a product, then a bias): the last one's number."""
    train: bool = False
    any_shape: bool = True
    """Whether numbers of another shape than a call's own replace them too."""
    swaps: Mapping[str, str] = field(default_factory=dict)
    """Functions to compute in another way: the name of a variant by that of a function."""
    alone: bool = True
    """Whether calls are also run alone on `in.i`."""
    found: Sink | None = None
    """Destination of each call's arrays; None where they are not asked for."""
    sums: list[torch.Tensor] = field(default_factory=list)
    leaves: dict[int, torch.Tensor] = field(default_factory=dict)

    def note(self, name: str, array: np.ndarray) -> None:
        """Keep a call's input or output; in training its output alone is asked for."""
        if self.found is not None and (not self.train or name.startswith("out.")):
            self.found[name] = array


class Recorder(TorchFunctionMode):
    """Sees every function of one forward pass."""

    def __init__(self, names: Names, replay: Replay) -> None:
        super().__init__()
        self.names, self.replay = names, replay
        self.calls: list[Call] = []
        self.live: list[Live] = []
        self.raw: list[int] = []
        """For each call, the number of its last function that owns weights."""
        self.number = -1
        self.attention: tuple[int, int] | None = None
        """Within torch's attention: steps and samples, which it folds into one axis."""
        self.inputs: list[torch.Tensor] = []
        self.read: dict[str, torch.Tensor] = {}
        """What weights used by themselves gave, by name."""
        self.uses: dict[str, tuple[str, tuple[int, ...], Role]] = {}
        """How a layer's first call read a parameter: its kind, canonical strides, the role."""
        self.busy = False
        """Within a module that an adapter takes as one call."""
        self.evaluates = False
        """Whether the module is in evaluation mode, where nothing is to drop."""
        self.awake: tuple[str, ...] = ()
        """What would drop in evaluation mode too."""
        self.precision: set[str] = set()
        """Other precisions that the module asks for, and that are not followed."""
        self.unfolded: dict[int, np.ndarray] = {}
        """For dense calls whose features are cut into maps: their places, channels last."""
        self.misfit = False
        """Whether a function took channels from an axis that holds something else."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        func, args, kwargs, asked = in_float64(func, args, kwargs or {})
        self.precision |= asked
        name = function_name(func)
        if self.busy or name in LOOKING:
            return func(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return attention(self, func, args, kwargs)
        rate = 0.0
        if name == "scaled_dot_product_attention":
            kwargs = bind(ATTENTION, args, kwargs)
            args = tuple(kwargs.pop(n) for n in ("query", "key", "value"))
            rate, kwargs["dropout_p"] = float(kwargs.get("dropout_p") or 0.0), 0.0
            self.awake += drops(rate if self.evaluates else 0.0)
        if name in BARE or self.names.opened:
            args, kwargs = with_bare_weights(self, name, args, kwargs)
        tensors = list(tensors_of((args, kwargs)))
        weights = [t for t in tensors if self.names.is_weight(t)]
        xs = [t for t in tensors if not self.names.is_weight(t)]
        if name in RECURRENT and weights:
            return recurrent(self, name, func, args, kwargs)
        if (spec := self._spec(func, args, kwargs, weights, xs)) is not None:
            return self._weighted(spec, func, args, kwargs, xs)
        if name in DROPOUTS and xs:
            p, is_on = dropout_of(args, kwargs)
            self.awake += drops(p * (is_on and self.evaluates), DROPOUTS[name])
            out = xs[0].view_as(xs[0])
            drops_ever = is_on or self.evaluates
            put_tag(out, after(func, args, kwargs, xs, out) if drops_ever else tag_of(xs[0]))
            return out
        before = [(x, tag_of(x)) for x in xs]
        out = self._swapped(name, func)(*args, **kwargs)
        outs = [o for o in tensors_of(out) if tensors and not isinstance(o, nn.Parameter)]
        for x, tag in before:  # an operation in place has given its argument a new meaning
            put_tag(x, tag)
        tags = [after(func, args, kwargs, xs, o) if xs else Tag(weights=True) for o in outs]
        for (x, tag), made in zip(before, tags[:1], strict=False) if len(before) == 1 else ():
            cuts = cut_off(x, [] if self.replay.train else outs, tag) or [None] * len(outs)
            blocks = note_first_taker(self.calls, tag.preds, len(tag.ops), made.ops, cuts)
            tags = [replace(t, preds=b or t.preds) for t, b in zip(tags, blocks, strict=True)]
        for o, tag in zip(outs, tags, strict=True):
            put_tag(o, replace(tag, drops=(*tag.drops, *drops(rate))))
        return out

    def adapted(
        self, module: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Record a module that has an adapter as one call."""
        xs = [x for x in tensors_of((args, kwargs)) if not self.names.is_weight(x)]
        if len(xs) == 1 and not (self.busy or is_tried(module) or self.replay.last):
            with self.quiet():
                infer_module(module, forward, xs[0], args, kwargs)
        adapter = adapter_of(module)
        if adapter is None or self.busy or not xs:
            return forward(*args, **kwargs)
        self.number += 1
        roles = {name: role_of(weight) for name, weight in adapter.roles(module).items()}
        spec = Spec(adapter.kind, roles, adapter.settings(module), "", adapter.channels_first)
        given, named = replaced_in((args, kwargs), xs[0], HOLE)

        def run(t: torch.Tensor, settings: Mapping[str, Any]) -> torch.Tensor:
            if settings and isinstance(adapter, Inferred):
                held = {name: r.value(r.variable.detach().numpy()) for name, r in roles.items()}
                own = run(t, {}).numpy()
                return torch.from_numpy(adapter.varied(t.numpy(), own, held, settings))
            filled = replaced_in((given, named), HOLE, t)
            with self.quiet():
                return forward(*filled[0], **filled[1])

        live = Live(spec, run, None, 0 if spec.channels_first else tag_of(xs[0]).batch or 0)
        index = self.start(spec, live, xs[0], xs, tag_of(xs[0]))
        return self.finish(index, live, run(xs[0], {}))

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """See nothing while the block runs."""
        busy, self.busy = self.busy, True
        try:
            yield
        finally:
            self.busy = busy

    def dropping(self, forward: Any, rate: float, draws: Draws, x: Any, *others: Any) -> Any:
        """Stand in for what a module does that drops samples at a rate, and perhaps adds others."""
        with contextlib.nullcontext() if others else self.quiet():
            made = forward(x, *others)
        put_tag(made, tag_of(made if others else x))
        return made if others else self.dropped(made, rate, draws)

    def dropped(self, x: torch.Tensor, rate: float, draws: Draws) -> torch.Tensor:
        """Return the same numbers, with the rate at which training drops samples noted."""
        if self.busy:  # by a function of a module that is noted by itself
            return x
        with self.quiet():
            out, what = x.view_as(x), of_samples(draws, rate, x.ndim)
        put_tag(out, replace(tag_of(x), drops=(*tag_of(x).drops, *drops(rate, what))))
        return out

    def _swapped(self, name: str, func: Any) -> Any:
        """Return a function, or what is to be computed in its place."""
        key = self.replay.swaps.get(name)
        return func if key is None else variant_of(name, key, func)

    def _spec(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        weights: list[torch.Tensor],
        xs: list[torch.Tensor],
    ) -> Spec | None:
        """Return the kind, settings and roles of a function call that joins data and weights."""
        name = function_name(func)
        if name in READERS:
            bound = bind(signature_of(func), args, kwargs)
            statistics = bound.get("running_mean") is not None
            if weights or statistics:
                spec = READERS[name](bound)
                if spec is not None and any(
                    self.names.is_weight(r.variable) or r.is_statistic for r in spec.roles.values()
                ):
                    spec.roles = self.without_constants(spec.roles)
                    return spec
        if (crop := cropped_by(name, args, kwargs)) is not None:
            spec = Spec("crop", {}, {"crop": crop}, data="")
            return spec if self._absorbs(spec, tag_of(args[0])) is not None else None
        if not weights or not xs or not any(tag_of(x).preds for x in xs):
            return None
        kind = ELEMENTWISE_WEIGHTS.get(name)
        if kind and len(weights) == 1:
            role = {"shift": "beta", "scale": "gamma"}[kind]
            return Spec(kind, {role: self.spread(weights[0])}, data="")
        roles = {f"p{i}": Role(w) for i, w in enumerate(weights)}
        return Spec(f"{name} of parameters", roles, data="")

    def without_constants(self, roles: dict[str, Role]) -> dict[str, Role]:
        """Return the roles that a module holds: zeros given in a bias's place are no weight."""
        return {
            name: role
            for name, role in roles.items()
            if self.names.is_weight(role.variable) or self.names.owner(role.variable) is not None
        }

    def spread(self, weight: torch.Tensor) -> Role:
        """Return the role of a weight that is broadcast, without its axes of size 1."""
        sizes = [1 if s == 0 else n for n, s in zip(weight.shape, weight.stride(), strict=True)]
        core = weight.as_strided(sizes, weight.stride(), weight.storage_offset())
        put_tag(core, tag_of(weight))
        shape = tuple(core.shape)
        return Role(core, lambda a: a.squeeze(), lambda a: a.reshape(shape))

    def _weighted(
        self,
        spec: Spec,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        xs: list[torch.Tensor],
    ) -> Any:
        self.number += 1
        name = function_name(func)
        bound = bind(signature_of(func), args, kwargs) if name in READERS and spec.data else None
        x = bound[spec.data] if bound is not None else next(x for x in xs if tag_of(x).preds)
        tag = tag_of(x)
        joined = self._absorbs(spec, tag)
        if joined is not None:
            return self._absorb(joined, spec, func, args, kwargs, x)
        source = x
        if spec.kind == "conv" and tag.unpadded is not None:  # padding of its own is the call's
            source, more = tag.unpadded
            pads = spec.settings["padding"]
            spec.settings["padding"] = [
                [a + c, b + d] for (a, b), (c, d) in zip(pads, more, strict=True)
            ]
            tag = tag_of(source)
        keeps = spec.kind in BY_FEATURE
        is_last = x.ndim == 2 or not spec.channels_first
        order = tag.order if (keeps or spec.kind == "dense") and is_last else None
        if order is not None:
            for each in spec.roles.values() if keeps else [spec.roles["kernel"]]:
                if not keeps or each.variable.numel() == len(order):  # else it is one for all
                    reorder(each, order)
        for role in ("kernel", "table"):
            if role in spec.roles:
                weight = spec.roles[role].variable
                read = (spec.kind, strides_of(name, weight), spec.roles[role])
                self.uses.setdefault(self.names.owner(weight) or "", read)
        run = self._runner(spec, func, args, kwargs, x)
        put_channels_first(spec, x.ndim, tag.channel)
        if spec.channels_first and x.ndim > 2 and tag.channel not in (None, 1):
            self.misfit = True
        self._unfold(spec, tag)
        batch, rows = tag.batch or 0, tag.rows if x.ndim == 2 else None
        if self.attention is not None and spec.kind == "dense":
            batch, rows = 1, self.attention if x.ndim == 2 else None
        first = 0 if spec.channels_first else batch
        live = Live(spec, run, order, first, rows, keeps and order is not None)
        live.cut, live.grid = cut_into_patches(self, spec, source)
        live.made = self._made(spec)
        taken = [source if o is x else o for o in xs] if spec.data else [x]
        call = self.start(spec, live, source, taken, tag)
        return self.finish(call, live, self._swapped(name, func)(*args, **kwargs))

    def _made(self, spec: Spec) -> np.ndarray | None:
        """Let a dense call make its features in the order of the maps that they are cut into."""
        order = self.names.unfolded.get(len(self.calls))
        if order is not None:
            for role in spec.roles.values():
                reorder(role, order, -1)
        return order

    def _unfold(self, spec: Spec, tag: Tag) -> None:
        """Note which dense call makes the features that were cut into maps (N, C, …), if one."""
        preds = tag.preds if spec.channels_first and tag.cut is not None else frozenset()
        while len(preds) == 1 and isinstance(p := next(iter(preds)), int):
            call = self.calls[p]
            if call.kind == "dense" and len(call.out_shape) == 2 and tag.cut is not None:
                places = np.arange(call.out_shape[1]).reshape(tag.cut)
                self.unfolded[p] = np.moveaxis(places, 0, -1).reshape(-1)
            preds = frozenset(call.preds if call.kind in BY_FEATURE else ())

    def _runner(
        self, spec: Spec, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], x: torch.Tensor
    ) -> Callable[[torch.Tensor, Mapping[str, Any]], torch.Tensor]:
        """Return a function that runs this call on other activations or by other settings."""
        args, kwargs = replaced_in((args, kwargs), x, HOLE)

        def run(t: torch.Tensor, settings: Mapping[str, Any]) -> torch.Tensor:
            if not spec.data:
                replaced = replaced_in((args, kwargs), HOLE, t)
                return func(*replaced[0], **replaced[1])
            t = t.long() if spec.kind == "embedding" else t
            own = bind(signature_of(func), args, kwargs)
            if spec.kind == "conv":
                chosen = {**spec.settings, **settings}
                flat = [p for pair in chosen["padding"][::-1] for p in pair]
                own[spec.data] = F.pad(t, flat) if any(flat) else t
                own |= {"padding": 0, "stride": chosen["strides"], "dilation": chosen["dilation"]}
                return func(**own)
            if spec.kind == "deconv" and settings:
                return cropped(func, {**own, spec.data: t}, {**spec.settings, **settings})
            if "epsilon" in settings:
                return func(**{**own, spec.data: t, "eps": settings["epsilon"]})
            replaced = replaced_in((args, kwargs), HOLE, t)
            return func(*replaced[0], **replaced[1])

        return run

    def _absorbs(self, spec: Spec, tag: Tag) -> int | None:
        """Return the call that a sum, product or slice right behind it belongs to, if one does."""
        if len(tag.preds) != 1 or tag.ops or tag.drops:
            return None
        if not isinstance(before := next(iter(tag.preds)), int):
            return None
        call, is_part = self.calls[before], False
        if spec.kind == "crop":
            is_part = is_cut(call, spec.settings["crop"])
        elif spec.kind in ("shift", "scale"):
            width = (call.roles.get("kernel") or call.out_shape or [0])[-1]
            fits = next(iter(spec.roles.values())).variable.numel() == width
            if spec.kind == "shift" and BIASED.get(call.kind, "beta") not in call.roles:
                is_part = fits and (call.kind in BIASED or call.kind in SCALED)
            elif spec.kind == "scale" and not {"gamma", "beta"} & call.roles.keys():
                is_part = fits and call.kind in SCALED
        return before if is_part else None

    def _absorb(
        self,
        index: int,
        spec: Spec,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        x: torch.Tensor,
    ) -> Any:
        call, live = self.calls[index], self.live[index]
        first, then = live.run, self._runner(spec, func, args, kwargs, x)
        if spec.kind == "crop":
            key, sign = ("crop", 1) if call.kind == "deconv" else ("padding", -1)
            pairs = zip(call.settings[key], spec.settings["crop"], strict=True)
            whole = [[a + sign * c, b + sign * d] for (a, b), (c, d) in pairs]
            live.spec.settings[key] = call.settings[key] = whole
            if call.kind == "deconv":  # by other settings the whole crop is one of them
                live.run = lambda t, settings: (
                    first(t, settings) if settings else then(first(t, {}), {})
                )
            return self.finish(index, live, func(*args, **kwargs))
        name = "gamma" if spec.kind == "scale" else BIASED.get(call.kind, "beta")
        role = next(iter(spec.roles.values()))
        shape = tuple(role.variable.shape)
        role = Role(role.variable, lambda a: a.reshape(-1), lambda a: a.reshape(shape))
        if live.made is not None:
            reorder(role, live.made)
        live.spec.roles[name] = role
        self._describe_role(call, name, role)
        live.run = lambda t, settings: then(first(t, settings), {})
        return self.finish(index, live, func(*args, **kwargs))

    def start(
        self, spec: Spec, live: Live, x: torch.Tensor, xs: list[torch.Tensor], tag: Tag
    ) -> int:
        """Note a call with its roles and what it takes; return its index."""
        index = len(self.calls)
        tags = [tag, *(tag_of(o) for o in xs if o is not x and tag_of(o) is not tag)]
        known = [t for t in tags if t.preds]
        first = live.canonical(x, True)
        call = Call(
            owner="",
            key="",
            kind=spec.kind,
            preds=sorted(frozenset().union(*(t.preds for t in known)) or ["constant"], key=str),
            between=list(known[0].ops) if known else [],
            drops=[d for t in known for d in t.drops],
            settings=dict(spec.settings),
            in_shape=list(first.shape),
            siblings=f"t{id_of(x)}",
        )
        for name, role in spec.roles.items():
            self._describe_role(call, name, role)
        self.replay.note(f"in.{index}", first)
        self.calls.append(call)
        self.live.append(live)
        self.raw.append(self.number)
        return index

    def _describe_role(self, call: Call, name: str, role: Role) -> None:
        place = self.names.place(role.variable)
        call.key += f"{name}={place};"
        call.owner = call.owner or place.partition("[")[0]
        call.roles[name] = list(role.canonical(role.variable.detach().numpy()).shape)
        if not role.is_statistic and not self.names.is_trained(role.variable):
            call.frozen.append(name)

    def finish(self, index: int, live: Live, out: Any) -> Any:
        """Note what a call gives, and hand on what it is told to give instead."""
        replay, call = self.replay, self.calls[index]
        self.raw[index] = self.number
        y = out[0] if isinstance(out, tuple) else out
        channel = 1 if live.spec.channels_first else y.ndim - 1 if y.ndim else None
        tag = own_tag(index, channel, live.batch, live.rows)
        tag = replace(tag, order=live.order if live.keeps_order else live.made)
        if replay.last and replay.last.get(index) != self.number:
            put_tag(y, tag)
            call.out_shape = list(live.canonical(y, False).shape)
            return out
        found = live.canonical(y, False)
        call.out_shape = list(found.shape)
        replay.note(f"out.{index}", found)
        if replay.alone and f"in.{index}" in replay.force and not replay.train:
            x = live.native(replay.force[f"in.{index}"], True)
            # Of an input of another shape its own stretch says so.
            with contextlib.suppress(RuntimeError):
                replay.note(f"alone.{index}", live.canonical(live.run(x, {}), False))
        if str(index) in replay.seeds:
            drawn = live.native(factors(replay.seeds[str(index)], found.shape), False)
            replay.sums.append((y * drawn).sum())
        wanted, new = replay.force.get(f"out.{index}"), y
        # Of another shape too: what follows is to be judged on the reference's numbers.
        if wanted is not None and (wanted.shape == found.shape or replay.any_shape):
            new = live.native(wanted, False).to(y.dtype)
            if replay.train:
                replay.leaves[index] = new.requires_grad_()
                new = new.clone()  # a module in place must not write into a leaf
        put_tag(new, tag)
        return (new, *out[1:]) if isinstance(out, tuple) else new
