"""Record and replay any torch module, whose functions that own weights are its calls."""

import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

from portproof.adapter import adapter_of, detach
from portproof.graph.calls import CHANNELS, Graph, Output, order_of
from portproof.record import torch_drops, torch_steps
from portproof.record.model import Arrays, Batch, Model, Sink
from portproof.record.program import NOTHING_REAL, SetUpError, not_taken
from portproof.record.role import Role
from portproof.record.torch_live import is_inferable, outputs_of
from portproof.record.torch_names import Names, differentiate, gradients, name_calls
from portproof.record.torch_recorder import Recorder, Replay
from portproof.record.torch_tags import Tag, axes_of, put_tag, tag_of
from portproof.record.torch_variants import described

"""What a module may raise that is handed on numbers of another shape."""
IN_ORDER, BY_NAME, IN_ONE = "in order", "by name", "in one dictionary"
OUTPUT_SEED = 10**6
"""Seeds of the factors of the outputs' sum, beyond those of any call."""


def use_float64() -> None:
    """Let what is built from here on compute in float64, and nothing be compiled."""
    torch.set_default_dtype(torch.float64)
    torch.compiler.set_stance("force_eager")


def open_model(
    module: nn.Module, options: dict[str, Any] | None = None
) -> tuple["TorchModel", dict[str, Any]]:
    """Wrap a module in float64.

    Raises:
        SetUpError: it holds lazy parameters that no call has made yet, or none at all, or
            functions that cannot be seen.
    """
    scripted = [m for m in module.modules() if isinstance(m, torch.jit.ScriptModule)]
    if any(True for m in scripted for _ in m.parameters()):
        raise SetUpError("what TorchScript runs cannot be seen; return the module it was made of")
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in module.parameters()):
        raise SetUpError("the module has lazy parameters; run it once before returning it")
    if not any(p.numel() for p in module.parameters()):
        raise SetUpError("the module has no weights: there is nothing to compare")
    return TorchModel(module, options), {"framework": f"torch {torch.__version__}"}


class TorchModel(Model):
    """A module that describes itself and replays."""

    fails_by = (RuntimeError, IndexError, ValueError)

    def __init__(self, module: nn.Module, options: dict[str, Any] | None = None) -> None:
        super().__init__(options)
        kinds = {str(p.dtype).removeprefix("torch.") for p in module.parameters()}
        self.precision = kinds - {"float32", "float64"}
        """What is not followed: all is computed in float64."""
        for m in module.modules():
            # By itself ε is that of the numbers' kind, which is float64 from here on.
            if isinstance(m, nn.RMSNorm) and m.eps is None and m.weight is not None:
                m.eps = torch.finfo(m.weight.dtype).eps
        # What was built in evaluation mode stays so in `Trainer.fit`; other loops call `train()`.
        is_fitted = hasattr(module, "training_step") and module.training
        self.still = [m for m in module.modules() if is_fitted and not m.training]
        self.module = module.double().eval()
        asked = str(self.options.pop("precision", None) or "32")
        if asked.removesuffix("-true") not in ("32", "64"):
            self.precision.add(f"precision={asked}")
        self.names = Names(module)
        self.layout: tuple[str, ...] = ()
        """For each input, one of `CHANNELS`."""
        self.axes: list[list[int]] = []
        """For each output, its axes in canonical order."""
        self.fed = IN_ORDER
        """How a call is given inputs that have names."""
        self.last: dict[int, int] = {}
        self.recorder: Recorder

    def describe(
        self,
        inputs: list[np.ndarray],
        opened: Mapping[str, Sequence[int]] = MappingProxyType({}),
        unfold: bool = False,
    ) -> dict[str, Any]:
        """Return the graph of calls, as `Graph.to_dict` gives it."""
        self.example, self.names.opened = inputs, opened
        self.names.maps, self.names.unreadable, self.names.unfolded = {}, set(), {}
        self.layout = self._find_layout(inputs)
        for m in self.module.modules():
            detach(m)  # a sample alone tells less of a module than several
        recorder, outs, _ = self._run(inputs, Replay())
        unfolded = recorder.unfolded
        if unfold:
            self.names.unfolded = unfolded
            recorder, outs, _ = self._run(inputs, Replay())
        keys = self.keys
        with torch.no_grad():
            plain = [
                o.numpy()
                for o in outputs_of(
                    self._called([self._tensor(x, i) for i, x in enumerate(inputs)])
                )
            ]
        self.recorder, self.last = recorder, dict(enumerate(recorder.raw))
        self.axes = [list(axes_of(o)) for o in outs]
        tensors = self._weights(recorder)
        computed = [k for k, t in tensors.items() if self.names.owner(t) is None]
        if computed:
            self._learn_maps(inputs, computed)
        name_calls(recorder.calls)
        outputs = [self._output(o) for o in outs]
        self._note_rates(inputs, recorder, outputs)
        uncovered = self.names.uncovered(tensors)
        parameters = sum(p.numel() for p in self.names.parameters.values())
        statistics = {
            self.names.place(role.variable): role.variable.numel()
            for live in recorder.live
            for role in live.roles.values()
            if role.is_statistic
        }
        return Graph(
            recorder.calls,
            outputs,
            parameters - sum(size for _, size in uncovered),
            parameters,
            sum(statistics.values()),
            uncovered,
            sorted(self.names.unreadable),
            {
                "inputs": list(self.layout),
                "axes": self.axes,
                "keys": keys,
                "unfolds": [recorder.calls[i].owner for i in unfolded],
                "unseen": self.unseen(plain, [o.detach().numpy() for o in outs]),
                "drops in evaluation": list(recorder.awake),
                "precision": ", ".join(sorted(self.precision | recorder.precision)),
                "sum(p.numel())": parameters,
                "variants": described(),
                "training": torch_steps.described(self.module, self.options),
            },
        ).to_dict()

    def _note_rates(
        self, inputs: list[np.ndarray], recorder: Recorder, outputs: list[Output]
    ) -> None:
        """Note the dropout rates that functions are told in training mode alone."""
        torch_drops.put_to_training(self.module, self.still)
        try:
            with _unmoved(self.module):
                trained, outs, _ = self._run(inputs, Replay())
        except Exception:  # training mode is asked for, and judged, later on
            return
        finally:
            self.module.eval()
        if [c.key for c in trained.calls] != [c.key for c in recorder.calls]:
            return
        for call, other in zip(recorder.calls, trained.calls, strict=True):
            call.drops = other.drops
        if len(outs) == len(outputs):
            for output, out in zip(outputs, outs, strict=True):
                output.drops = list(tag_of(out).drops)

    def _read(self, key: str, role: Role) -> np.ndarray:
        return role.value(self.names.read(key, role.variable)).copy()

    def native(self) -> Arrays:
        """Return weights as torch has them, by name."""
        return {name: t.detach().numpy() for name, t in self.module.state_dict().items()}

    def convert(self, function: Any, weights: Arrays) -> None:
        """Let a user's function fill the module; one that returns a state dict has it loaded."""
        with torch.no_grad():
            made = function(weights, self.module)
            if isinstance(made, Mapping):
                self.module.load_state_dict({k: torch.as_tensor(v) for k, v in made.items()})

    def fill(self, weights: Mapping[str, np.ndarray]) -> list[str]:
        """Put canonical weights in place, and return those that a call then does not get."""
        for key, role in self.roles(self.recorder).items():
            if key in weights:
                native = role.stored(weights[key]).reshape(tuple(role.variable.shape))
                self.names.write(key, role.variable, native)
        recorder, _, _ = self._run(self.example, Replay(last=self.last))
        self.recorder = recorder
        return [
            key
            for key, role in self.roles(recorder).items()
            if key in weights
            and not np.array_equal(role.value(role.variable.detach().numpy()), weights[key])
        ]

    def _replay(
        self,
        inputs: list[np.ndarray],
        how: Mapping[str, Any],
        given: Mapping[str, np.ndarray],
        found: Sink,
        any_shape: bool,
    ) -> None:
        replay = Replay(
            given,
            how.get("seeds", {}),
            self.last,
            bool(how.get("train")),
            any_shape,
            how.get("swaps", {}),
            how.get("alone", True),
        )
        if replay.train:
            replay.found = found
            with _unmoved(self.module):
                self._train(inputs, replay, found)
            return
        outputs_only = how.get("outputs_only")  # on other rows than those of single calls
        replay.found = None if outputs_only else found
        recorder, outs, _ = self._run(inputs, replay)
        for i, out in enumerate(outs):
            found[f"final.{i}"] = self._final(out)
        if not outputs_only:
            self.recorder = recorder

    def train(
        self, batches: list[Batch], swaps: Mapping[str, str], overrides: Mapping[str, Any]
    ) -> Arrays:
        """Train with the module's own step and optimizer, dropout at 0; return weights by step.

        Gradients, too.
        """

        def tensors(xs: list[np.ndarray]) -> Any:
            made = [self._tensor(x, i) for i, x in enumerate(xs)]
            if self.named:
                return dict(zip(self.named, made, strict=True))
            return made[0] if len(made) == 1 else made

        weights = self._weights(self.recorder)
        told = {**self.options, **overrides}
        for option in ("still", "spared"):
            names = {self.names.owner(weights[key]) for key in told.get(option, ())}
            found = [p for name, p in self.names.parameters.items() if name in names]
            told |= {option: found} if option in told else {}
        with torch_drops.nothing_dropped(self.module, self.still):
            return torch_steps.train(
                self.module,
                told,
                [(xs, self._laid_out(targets), given) for xs, targets, given in batches],
                self.weights,
                self._gradients,
                tensors,
                swaps,
            )

    def _gradients(self) -> Arrays:
        trained = self._trained(self.recorder)
        return {key: a.copy() for key, a in gradients(trained, self.names)}

    def _trained(self, recorder: Recorder) -> dict[str, Role]:
        return {
            key: role
            for key, role in self.roles(recorder).items()
            if not role.is_statistic and self.names.is_trained(role.variable)
        }

    def vary(self, trials: list[dict[str, Any]], given: Mapping[str, np.ndarray]) -> Arrays:
        """Run single calls on `in.i` with other settings; those that cannot are left out."""
        found: Arrays = {}
        for number, trial in enumerate(trials):
            live = self.recorder.live[trial["call"]]
            x = live.native(given[f"in.{trial['call']}"], True)
            try:
                with torch.no_grad():
                    y = live.run(x, trial["settings"])
            except (RuntimeError, TypeError):
                continue
            found[f"alone.{number}"] = live.canonical(y, False)
        return found

    def _find_layout(self, inputs: list[np.ndarray]) -> tuple[str, ...]:
        """Return where inputs take their channels, by running each way."""
        # Maps have their channels behind the samples; so may pictures in a row, or behind the row.
        num_ways = [
            1 if x.ndim <= (2 if x.dtype.kind == "f" else 3) else 2 if x.ndim < 5 else 3
            for x in inputs
        ]
        choices = [tuple(CHANNELS)[:ways] for ways in num_ways]
        problem: Exception | None = None
        misfits = []
        for fed, *layout in itertools.product(self._ways(), *choices):
            self.fed, self.layout = fed, tuple(layout)
            for m in self.module.modules():
                detach(m)
            try:
                recorder, _, _ = self._run([x[:2] for x in inputs], Replay())  # one broadcasts
            except SetUpError:
                raise
            except Exception as error:
                if problem is None or "channels first" in layout:
                    problem = error
                continue
            if not recorder.misfit:
                return self.layout
            misfits.append((self.fed, self.layout))
        if misfits:
            self.fed, found = misfits[0]
            return found
        assert problem is not None
        hint = ", channels last or first" if max(num_ways) > 1 else ""
        raise not_taken("module", inputs, hint, problem)

    def _ways(self) -> list[str]:
        """Return how inputs may be given: by name if the module has these, in one dictionary."""
        if not self.named:
            return [IN_ORDER]
        takes = inspect.signature(self.module.forward).parameters
        if any(p.kind is p.VAR_KEYWORD for p in takes.values()) or set(self.named) <= set(takes):
            return [BY_NAME]
        return [IN_ONE, IN_ORDER]

    def _run(
        self, inputs: list[np.ndarray], replay: Replay
    ) -> tuple[Recorder, list[torch.Tensor], Replay]:
        xs = [self._tensor(x, i) for i, x in enumerate(inputs)]
        return self._forward(xs, replay)

    def _forward(
        self, xs: list[torch.Tensor], replay: Replay
    ) -> tuple[Recorder, list[torch.Tensor], Replay]:
        recorder = Recorder(self.names, replay)
        recorder.inputs, recorder.evaluates = xs, not self.module.training
        for i, x in enumerate(xs):
            channel = CHANNELS[self.layout[i]] or x.ndim - 1
            put_tag(x, Tag(frozenset([f"input{i}"]), channel=channel))
        with torch.set_grad_enabled(replay.train), _wrapped(self.module, recorder), recorder:
            out = self._called(xs)
        outs = outputs_of(out)
        for i in self.turned:
            put_tag(outs[i], replace(tag_of(outs[i]), channel=1))
        self.keys = sorted(map(str, out)) if isinstance(out, Mapping) else []
        if not outs:
            raise SetUpError(f"the module returned {type(out).__name__}, which holds no tensor")
        return recorder, outs, replay

    def _called(self, xs: list[torch.Tensor]) -> Any:
        named = dict(zip(self.named, xs, strict=False))
        ways: Any = {IN_ORDER: (xs, {}), BY_NAME: ([], named), IN_ONE: ([named], {})}
        args, kwargs = ways[self.fed]
        return self.module(*args, **kwargs)

    def _laid_out(self, targets: Any) -> Any:
        """Return the reference's targets with the axes of maps in the order of the outputs'."""
        if isinstance(targets, Mapping):
            return {name: self._laid_out(part) for name, part in targets.items()}
        if isinstance(targets, list):
            return [self._laid_out(part) for part in targets]
        axes = order_of(targets, self.axes)
        return targets if axes is None else targets.transpose(np.argsort(axes))

    def _tensor(self, x: np.ndarray, index: int) -> torch.Tensor:
        t = torch.from_numpy(np.array(x))
        if axis := CHANNELS[self.layout[index]]:
            t = t.movedim(-1, axis).contiguous()
        return t if t.is_floating_point() else t.long()

    def _final(self, t: torch.Tensor) -> np.ndarray:
        """Return an output with samples first and channels last."""
        return t.detach().permute(axes_of(t)).numpy().copy()

    def _output(self, t: torch.Tensor) -> Output:
        tag = tag_of(t)
        preds = sorted(tag.preds, key=str) or ["?"]
        return Output(preds, list(tag.ops), list(tag.drops), list(self._final(t).shape))

    def _weights(self, recorder: Recorder) -> dict[str, torch.Tensor]:
        return {key: role.variable for key, role in self.roles(recorder).items()}

    def _learn_maps(self, inputs: list[np.ndarray], computed: list[str]) -> None:
        """Find where computed weights come from: each parameter's numbers are their own places."""
        kept = {name: p.detach().clone() for name, p in self.names.parameters.items()}
        self.names.fill_ids()
        try:
            recorder, _, _ = self._run([x[:1] for x in inputs], Replay())
        finally:
            with torch.no_grad():
                for name, p in self.names.parameters.items():
                    p.copy_(kept[name])
        for key, tensor in self._weights(recorder).items():
            if key in computed:
                self.names.learn(key, tensor.detach().numpy())

    def _train(self, inputs: list[np.ndarray], replay: Replay, found: Sink) -> None:
        """Run one training pass; put gradients of the sums and moved statistics into `found`."""
        xs = [self._tensor(x, i) for i, x in enumerate(inputs)]
        xs = [x.requires_grad_() if x.is_floating_point() else x for x in xs]
        before = {n: b.clone() for n, b in self.module.named_buffers() if b.is_floating_point()}
        self.module.zero_grad(set_to_none=True)
        with torch_drops.nothing_dropped(self.module, self.still):
            recorder, outs, _ = self._forward([x.view_as(x) for x in xs], replay)
            for i, out in enumerate(outs):
                if not out.is_floating_point():
                    continue
                canonical = self._final(out)
                factors = np.random.default_rng(OUTPUT_SEED + i).normal(size=canonical.shape)
                replay.sums.append((out * self._like(factors, out)).sum())
            if not replay.sums:
                raise SetUpError(NOTHING_REAL)
            for i, out in enumerate(outs):
                found[f"final.{i}"] = self._final(out)
            total = torch.stack(replay.sums).sum()
            differentiate(total, self._trained(recorder), self.names, found)
        for i, leaf in replay.leaves.items():
            grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            found[f"leaf.{i}"] = recorder.live[i].canonical(grad, False)
            leaf.grad = None
        for i, x in enumerate(xs):
            if x.requires_grad:  # none reaches an input that is detached: zeros, as Keras has it
                grad = torch.zeros_like(x) if x.grad is None else x.grad
                found[f"input.{i}"] = grad.movedim(CHANNELS[self.layout[i]] or -1, -1).numpy()
        # Those of evaluation: in training a module may move its own outside the call.
        for key, role in (self.roles(self.recorder) | self.roles(recorder)).items():
            if role.is_statistic:
                found[f"moved|{key}"] = role.canonical(role.variable.detach().numpy().copy())
        if names := self._moved(before, inputs):
            found["buffers"] = np.array(names, "U")

    def _moved(self, before: Mapping[str, torch.Tensor], inputs: list[np.ndarray]) -> list[str]:
        """Return the buffers, but for statistics of calls, that training moved with an effect."""
        known = {r.variable.data_ptr() for r in self.roles(self.recorder).values()}
        moved = {n: b for n, b in self.module.named_buffers()
                 if n in before and b.data_ptr() not in known
                 and not torch.equal(b, before[n])}  # fmt: skip
        if not moved:
            return []
        xs = [self._tensor(x, i) for i, x in enumerate(inputs)]
        with torch.no_grad():
            after = outputs_of(self._called(xs))
            for name, b in moved.items():
                b.copy_(before[name])
            outs = outputs_of(self._called(xs))
        is_same = all(torch.equal(a, b) for a, b in zip(after, outs, strict=True))
        return [] if is_same else sorted(moved)

    def _like(self, canonical: np.ndarray, out: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(canonical).permute(tuple(np.argsort(axes_of(out))))


@contextmanager
def _wrapped(module: nn.Module, recorder: Recorder) -> Iterator[None]:
    """Let modules that have an adapter be calls, and those that drop samples be seen.

    The latter return what they take in evaluation, and run no function that could be seen.
    """
    own = [m for m in module.modules() if adapter_of(m) is not None or is_inferable(m)]
    dropping = [(m, name) for m, name in torch_drops.probabilities(module) if m not in own]
    for m in own:
        forward = m.forward
        m.forward = lambda *args, m=m, f=forward, **kwargs: recorder.adapted(m, f, args, kwargs)
    for m, name in dropping:
        rate = float(getattr(m, name) or 0.0)
        m.forward = partial(recorder.dropping, m.forward, rate, partial(torch_drops.awake, m))
    try:
        with torch_drops.replaced(module, recorder.dropped):
            yield
    finally:
        for m in own + [m for m, _ in dropping]:
            del m.forward


@contextmanager
def _unmoved(module: nn.Module) -> Iterator[None]:
    """Put a module's buffers back behind a block, however it ends."""
    kept = {name: b.detach().clone() for name, b in module.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, b in module.named_buffers():
                b.copy_(kept[name])
