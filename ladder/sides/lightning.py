"""A LightningModule as a subject of the ladder.

A program too: `python -m ladder.sides.lightning module:function QUESTION TRACE`, where the
function returns a LightningModule, or one with a dict of Trainer options.
"""

import copy
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric

from ladder.exchange import Array, Arrays, Question, check_shapes, read_question
from ladder.sides.calling import answer_reference, load_reference
from ladder.sides.losses import name_loss
from ladder.subject import Facts, segment

CHUNK = 500
"""Images that are run through the module at once."""


@dataclass(frozen=True)
class Layer:
    """A module without children that a forward pass runs, under its canonical name."""

    name: str
    module: nn.Module
    input_shape: tuple[int, ...] | None
    """Without the batch axis, torch's own order; None where it was never reached."""
    output_shape: tuple[int, ...] | None
    flat_input: tuple[int, int, int] | None
    """(C, H, W) of the map whose flattened values come in; None for anything else."""
    flat_output: tuple[int, int, int] | None


class LightningSubject:
    """A module whose network is made of named modules, in the order in which they run.

    Names are module paths without the part that all share (`network.conv1` is `conv1`), or what
    `names` puts for them. Where the network is an `nn.Sequential`, its own order is the table's,
    also where `forward` takes another one.

    `input_shape` is one input's, (H, W, C) or (F,), without the batch axis. `one_hot` says how
    the step takes labels; None tries classes first.
    """

    def __init__(
        self,
        module: L.LightningModule,
        input_shape: Sequence[int],
        *,
        options: Mapping[str, Any] | None = None,
        names: Mapping[str, str] | None = None,
        one_hot: bool | None = None,
    ) -> None:
        self.module = module
        self.input_shape = tuple(input_shape)
        self.options = dict(options or {})
        self.one_hot = one_hot
        self.run_order = trace_layers(module, module, self._sample(), names or {})
        network = _sequential(module)
        self.layers = self.run_order
        if network is not None:
            self.layers = trace_layers(module, network, self._sample(), names or {})
        self.names = [layer.name for layer in self.layers]
        self._by_name = {layer.name: layer for layer in self.layers}

    def contract(self) -> Facts:
        """Return what a Trainer that is about to take the first step holds."""
        trainer, module = self.started()
        optimizer = trainer.optimizers[0]
        subject = self if module is self.module else self._of(module)
        parameters = list(subject._parameters())
        decays = {
            id(weight): float(group.get("weight_decay", 0.0))
            for group in optimizer.param_groups
            for weight in group["params"]
        }
        own = optimizer_contract(optimizer, trainer)
        if own["weight_decay"]:
            decayed = [name for name, _, weight in parameters if decays.get(id(weight))]
            own["decayed"] = sorted(decayed)
        return {
            "optimizer": own,
            "loss": subject.loss_contract(),
            "metrics": subject.metrics_contract(),
            "dtypes": subject._dtypes(trainer),
            "data_format": "channels_first",
            "initialisers": "set by functions",
            "frozen": sorted(
                name
                for name, _, weight in parameters
                if not weight.requires_grad or id(weight) not in decays
            ),
            "layers": {row["name"]: settings_of(row) for row in self.layer_table()},
        }

    def layer_table(self) -> list[Facts]:
        """Return a row for each layer, read off the built network.

        `name`, `kind`, `output_shape` without the batch axis in H, W, C order, `parameters`, and
        what the kind has: `filters`, `kernel_size`, `strides`, `padding`, `pool_size`,
        `negative_slope`, `rate`, `units`, `use_bias`, ….
        """
        return [layer_row(layer) for layer in self.layers]

    def weights(self) -> dict[str, Array]:
        """Return parameters and moving statistics in canonical form."""
        return {name: _weight_out(layer, tensor).copy() for name, layer, tensor in self._tensors()}

    def load_weights(self, weights: Arrays) -> None:
        """Set parameters and moving statistics.

        Raises:
            ValueError: missing, extra or misshapen entries.
        """
        shapes = {name: array.shape for name, array in self.weights().items()}
        check_shapes(weights, shapes, "canonical weights")
        with torch.no_grad():
            for name, layer, tensor in self._tensors():
                tensor.copy_(_weight_in(layer, weights[name], tuple(tensor.shape)))

    def points(self, images: Array, names: Sequence[str]) -> dict[str, Array]:
        """Return the value once all layers up to each named one have run.

        Raises:
            ValueError: a layer behind a point has run before it was reached.
        """
        ends = {self._end_of(name, names).name: name for name in names}
        found: dict[str, Array] = {}

        def keep(layer: Layer, output: Tensor) -> None:
            if layer.name in ends:
                found[ends[layer.name]] = _out(output, layer.flat_output)

        with self._evaluating(), self._hooked(keep):
            self.module(self._in(images))
        return found

    def forced(self, inputs: Arrays, names: Sequence[str]) -> dict[str, Array]:
        """Return what each segment makes of its own input.

        Raises:
            ValueError: the network is not an `nn.Sequential`.
        """
        if _sequential(self.module) is None:
            raise ValueError("segments of a network that is no nn.Sequential cannot be told apart")
        found = {}
        with self._evaluating():
            for name in [name for name in names if name in inputs]:
                chosen = segment(self.names, names, name)
                layers = [layer for layer in self.run_order if layer.name in chosen]
                values = self._in(inputs[name], layers[0].flat_input)
                for layer in layers:
                    values = layer.module(values)
                found[name] = _out(values, layers[-1].flat_output)
        return found

    def predict(self, images: Array) -> Array:
        """Return the module's outputs, dropout off."""
        with self._evaluating():
            parts = [self.module(part) for part in self._in(images).split(CHUNK)]
        return torch.cat(parts).numpy(force=True)

    def loss(self, images: Array, classes: Array) -> Array:
        """Return what the validation step returns; above 500 images the mean over chunks.

        The training step is called where there is no validation step that returns a loss.
        """
        total = np.float64(0)
        with self._evaluating():
            for start in range(0, len(images), CHUNK):
                batch = images[start : start + CHUNK], classes[start : start + CHUNK]
                loss = self._evaluation_loss(self._in(batch[0]), batch[1])
                total += np.float64(loss.item()) * len(batch[0]) / len(images)
        return np.asarray(total)

    def gradients(
        self, images: Array, classes: Array, training: bool = True
    ) -> tuple[dict[str, Array], Array]:
        """Return each trainable parameter's gradient, the input's, and the loss.

        In training mode, or else in evaluation mode. Moving statistics are left as they were.
        """
        values = self._in(images).requires_grad_()
        chosen = [entry for entry in self._parameters() if entry[2].requires_grad]
        was_training = self.module.training
        kept = [(buffer, buffer.clone()) for buffer in self.module.buffers()]
        self.module.train(training)
        try:
            with _muted(self.module):
                loss = self._step(self.module.training_step, values, classes)
            parameters = [parameter for _, _, parameter in chosen]
            *found, of_input = torch.autograd.grad(loss, [*parameters, values], allow_unused=True)
        finally:
            self.module.train(was_training)
            for buffer, value in kept:
                buffer.copy_(value)
        # Where the graph is cut, nothing comes to the input.
        gradients = {} if of_input is None else {"input": _out(of_input, None)}
        for (name, layer, _), gradient in zip(chosen, found, strict=True):
            if gradient is not None:
                gradients[name] = _weight_out(layer, gradient)
        return gradients, np.asarray(loss.item(), np.float64)

    def steps(
        self, batches: Sequence[tuple[Array, Array]], steps_per_epoch: int | None = None
    ) -> Iterator[dict[str, Array]]:
        """Train with `Trainer.fit` on the batches as given, and yield the state after each step.

        The module is left as it was: it is not copied, for what is bound to it would not follow.
        """
        parts = [(self._in(images), self._labels(classes)) for images, classes in batches]
        size = steps_per_epoch or len(parts)
        after = AfterEachStep(lambda module: self)
        self._fit(_Given(parts, size), after, max_epochs=-(-len(parts) // size))
        yield from after.states

    def started(self) -> tuple[L.Trainer, L.LightningModule]:
        """Return a Trainer that is about to take the first step, and its module."""
        images = np.random.default_rng(0).random((2, *self.input_shape))
        batch = (self._in(images), self._labels(np.arange(2)))
        stop = StopAtStart()
        with suppress(StopAtStart.Reached):
            self._fit(_Given([batch], 1), stop, max_epochs=1)
        assert stop.found is not None
        return stop.found

    def called(self, layer: Layer, count: int, training: bool) -> Array:
        """Return what a layer makes of `count` inputs of ones."""
        assert layer.input_shape is not None
        ones = self._in_place(torch.ones(count, *layer.input_shape))
        was_training = layer.module.training
        layer.module.train(training)
        with torch.no_grad():
            values = layer.module(ones)
        layer.module.train(was_training)
        return _out(values, layer.flat_output)

    def state(self, optimizer: torch.optim.Optimizer) -> dict[str, Array]:
        """Return `weight.<param>` and the optimizer's slots, such as `adam.m.<param>`."""
        weights = {f"weight.{name}": array for name, array in self.weights().items()}
        return {**weights, **self.slots(optimizer)}

    def slots(self, optimizer: torch.optim.Optimizer) -> dict[str, Array]:
        """Return the optimizer's slots as `<kind>.<slot>.<param>`."""
        kind = optimizer_kind(optimizer)
        return {
            f"{kind}.{_SLOTS.get((kind, slot), slot)}.{name}": _weight_out(layer, value).copy()
            for name, layer, parameter in self._parameters()
            for slot, value in optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor) and value.shape == parameter.shape and slot != "step"
        }

    def loss_contract(self) -> Facts:
        """Return which known loss the training step's value on a few random images fits."""
        with self._evaluating(), torch.random.fork_rng(devices=[]):
            images, classes = self._probe()
            torch.manual_seed(0)  # what is random even in evaluation is the same both times
            with _muted(self.module):
                loss = self._step(self.module.training_step, self._in(images), classes)
            torch.manual_seed(0)
            outputs = self.module(self._in(images)).numpy(force=True)
        return name_loss(outputs, classes, loss.item())

    def metrics_contract(self) -> Facts:
        """Return what the training step logs besides the loss, and how it is averaged."""
        with self._evaluating(), _muted(self.module) as logged:
            images, classes = self._probe()
            self._step(self.module.training_step, self._in(images), classes)
        found = {}
        for name, (value, options) in logged.items():
            short = re.sub(r"^train[_/]", "", name)
            if short not in ("loss", "lr"):
                short = {"acc": "accuracy"}.get(short, short)
                found[short] = metric_words(value, options, len(images))
        return found

    def _probe(self) -> tuple[Array, Array]:
        draw = np.random.default_rng(0)
        images = draw.random((5, *self.input_shape))
        return images, draw.integers(max(self._num_classes(), 2), size=5)

    def _num_classes(self) -> int:
        shape = self.run_order[-1].output_shape
        return shape[-1] if shape else 1

    def _evaluation_loss(self, values: Tensor, classes: Array) -> Tensor:
        with _muted(self.module):
            if is_overridden("validation_step", self.module):
                with suppress(NoLossError):
                    return self._step(self.module.validation_step, values, classes)
            return self._step(self.module.training_step, values, classes)

    def _step(self, step: Any, values: Tensor, classes: Array) -> Tensor:
        """Call a step and return its loss; learn how labels are taken where that is open."""
        if self.one_hot is None:
            try:
                loss = _loss_of(step((values, self._labels(classes, one_hot=False)), 0))
            except (RuntimeError, IndexError, ValueError):
                loss = _loss_of(step((values, self._labels(classes, one_hot=True)), 0))
                self.one_hot = True
            else:
                self.one_hot = False
            return loss
        return _loss_of(step((values, self._labels(classes)), 0))

    def _labels(self, classes: Array, one_hot: bool | None = None) -> Tensor:
        if one_hot is None and self.one_hot is None:
            with self._evaluating(), _muted(self.module):  # finds out
                self._step(self.module.training_step, self._in(self._probe()[0]), self._probe()[1])
        width = self._num_classes()
        if width == 1:
            return self._in_place(torch.from_numpy(classes[:, np.newaxis]))
        if self.one_hot if one_hot is None else one_hot:
            return self._in_place(torch.from_numpy(np.eye(width)[classes]))
        return torch.from_numpy(np.asarray(classes)).to(next(self.module.parameters()).device)

    def _fit(self, batches: "_Given", callback: L.Callback, max_epochs: int) -> None:
        calm: dict[str, Any] = {
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "limit_val_batches": 0,
        }
        own = {key: value for key, value in self.options.items() if key != "callbacks"}
        kept = copy.deepcopy(self.module.state_dict())
        was_training = self.module.training
        try:
            with quiet():
                trainer = L.Trainer(
                    **{**calm, **own, "max_epochs": max_epochs},
                    callbacks=[*self.options.get("callbacks", ()), callback],
                )
                trainer.fit(self.module, batches)
        finally:
            self.module.load_state_dict(kept)
            self.module.train(was_training)
            self.module.trainer = None

    def _of(self, module: L.LightningModule) -> "LightningSubject":
        """Return a subject for a module that is built alike."""
        other = copy.copy(self)
        other.module = module
        modules = dict(zip(self.module.modules(), module.modules(), strict=True))
        other.run_order = [_moved(layer, modules) for layer in self.run_order]
        other.layers = [_moved(layer, modules) for layer in self.layers]
        return other

    def _tensors(self) -> Iterator[tuple[str, Layer, Tensor]]:
        """Yield parameters and moving statistics with canonical names."""
        for layer in self.layers:
            yield from (
                (f"{layer.name}.{canonical_name(layer.module, name)}", layer, tensor)
                for name, tensor in [
                    *layer.module.named_parameters(recurse=False),
                    *layer.module.named_buffers(recurse=False),
                ]
                if name != "num_batches_tracked"
            )

    def _parameters(self) -> Iterator[tuple[str, Layer, nn.Parameter]]:
        return (entry for entry in self._tensors() if isinstance(entry[2], nn.Parameter))  # type: ignore[misc]

    def _in_place(self, values: Tensor) -> Tensor:
        """Return values in the dtype and on the device of the module's parameters."""
        return values.to(next(self.module.parameters()))

    def _sample(self) -> Tensor:
        return self._in(np.zeros((1, *self.input_shape)))

    def _in(self, values: Array, flat: tuple[int, int, int] | None = None) -> Tensor:
        """Return canonical values as the module takes them."""
        tensor = self._in_place(torch.from_numpy(np.ascontiguousarray(values)))
        if flat is not None:
            channels, height, width = flat
            tensor = tensor.reshape(-1, height, width, channels).permute(0, 3, 1, 2)
            return tensor.reshape(len(values), -1)
        return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor

    def _end_of(self, point: str, names: Sequence[str]) -> Layer:
        """Return the layer whose output a point is: the last to run of those up to it."""
        segment(self.names, names, point)  # checks the names
        up_to = set(self.names[: self.names.index(point) + 1])
        places = [place for place, layer in enumerate(self.run_order) if layer.name in up_to]
        if places[-1] >= len(up_to):
            early = next(layer.name for layer in self.run_order if layer.name not in up_to)
            raise ValueError(f"`{early}` runs before `{point}` is reached: it is no point here")
        return self.run_order[places[-1]]

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        was_training = self.module.training
        self.module.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.module.train(was_training)

    @contextmanager
    def _hooked(self, keep: Any) -> Iterator[None]:
        handles = [
            layer.module.register_forward_hook(
                lambda module, inputs, output, layer=layer: keep(layer, output)
            )
            for layer in self.run_order
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _dtypes(self, trainer: L.Trainer) -> Facts:
        """Return the dtypes that one image's values really have, and the weights'."""
        names = set()
        with (
            self._evaluating(),
            self._hooked(lambda layer, output: names.add(_dtype_name(output))),
            trainer.precision_plugin.forward_context(),
        ):
            self.module(self._sample())
        weights = {_dtype_name(tensor) for _, _, tensor in self._tensors()}
        return {"compute": "/".join(sorted(names)), "weights": "/".join(sorted(weights))}


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's advice out of an answer."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class NoLossError(ValueError):
    """A step returned no loss."""


class StopAtStart(L.Callback):
    """End a fit before its first step, and keep the Trainer and its module."""

    class Reached(Exception):  # noqa: N818
        """The first step would be next."""

    def __init__(self) -> None:
        self.found: tuple[L.Trainer, L.LightningModule] | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep both, and stop."""
        self.found = trainer, pl_module
        raise self.Reached


class AfterEachStep(L.Callback):
    """Keep the state after each of the first `num_steps` steps, with the step's loss.

    `subject_of` makes a subject of the module that is trained; `stops` ends the fit there, by
    raising `Reached`.
    """

    class Reached(Exception):  # noqa: N818
        """The last step has been taken."""

    def __init__(
        self, subject_of: Any, num_steps: int | None = None, *, stops: bool = False
    ) -> None:
        self.subject_of, self.num_steps, self.stops = subject_of, num_steps, stops
        self.states: list[dict[str, Array]] = []

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Keep a copy of the state."""
        if self.num_steps is not None and len(self.states) >= self.num_steps:
            return
        state = self.subject_of(pl_module).state(trainer.optimizers[0])
        loss = np.asarray(_loss_of(outputs).item())
        self.states.append({**state, "loss": loss})
        if self.stops and len(self.states) == self.num_steps:
            raise self.Reached


@dataclass
class _Given:
    """Batches as they are given, an epoch's worth at a time."""

    batches: Sequence[tuple[Tensor, Tensor]]
    size: int
    epoch: int = field(default=0, init=False)

    def __len__(self) -> int:
        if len(self.batches) % self.size:
            raise TypeError(
                "the last epoch is shorter: Lightning looks ahead where it has no length"
            )
        return self.size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        start = self.epoch * self.size
        return iter(self.batches[start : start + self.size])

    @property
    def sampler(self) -> "_Given":
        """What Lightning tells an epoch's number."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Give the batches of `epoch`."""
        self.epoch = epoch


def trace_layers(
    module: L.LightningModule, called: nn.Module, sample: Tensor, names: Mapping[str, str]
) -> list[Layer]:
    """Run one input through `called`, in `module`, and return the layers that ran, in order.

    Where the pass breaks off, the rest of an `nn.Sequential` follows without shapes.
    """
    leaves = {
        leaf: path
        for path, leaf in module.named_modules()
        if path and not list(leaf.children()) and not isinstance(leaf, Metric)
    }
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    handles = [
        leaf.register_forward_hook(
            lambda leaf, inputs, output: seen.setdefault(leaf, (inputs[0], output)) and None
        )
        for leaf in leaves
    ]
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad(), suppress(Exception):  # a broken network is asked about all the same
            called(sample)
    finally:
        module.train(was_training)
        for handle in handles:
            handle.remove()
    if (network := _sequential(module)) is not None:
        unseen = [leaf for leaf in network.modules() if leaf in leaves and leaf not in seen]
    else:
        unseen = []
    short = _without_shared_part([leaves[leaf] for leaf in [*seen, *unseen]])
    titles = [
        names.get(leaves[leaf], names.get(name, name))
        for leaf, name in zip([*seen, *unseen], short, strict=True)
    ]
    return _described(dict(zip([*seen, *unseen], titles, strict=True)), seen)


def _described(
    titles: Mapping[nn.Module, str], seen: Mapping[nn.Module, tuple[Tensor, Tensor]]
) -> list[Layer]:
    """Return the layers with their shapes, and where a vector is a flattened map."""
    layers: list[Layer] = []
    for module, name in titles.items():
        if module not in seen:
            layers.append(Layer(name, module, None, None, None, None))
            continue
        came, went = (tuple(tensor.shape[1:]) for tensor in seen[module])
        flat_input = _flat_of(layers[-1], came) if layers else None
        flat_output = None
        if len(came) == 3 and went == (int(np.prod(came)),):
            flat_output = came
        elif came == went and not isinstance(module, nn.Linear):
            flat_output = flat_input
        layers.append(Layer(name, module, came, went, flat_input, flat_output))
    return layers


def _flat_of(before: Layer, came: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Return (C, H, W) of the map that `came` is when flattened, in a layer or in `forward`."""
    shape = before.output_shape
    if before.flat_output is not None and came == shape:
        return before.flat_output
    if shape is not None and len(shape) == 3 and came == (int(np.prod(shape)),):
        return shape
    return None


def _sequential(module: nn.Module) -> nn.Sequential | None:
    """Return the network where it is one nn.Sequential, which holds every parameter."""
    own = [child for child in module.children() if not isinstance(child, Metric)]
    with_parameters = [child for child in own if any(True for _ in child.parameters())]
    if len(with_parameters) == 1 and isinstance(with_parameters[0], nn.Sequential):
        return with_parameters[0]
    return None


def _without_shared_part(paths: Sequence[str]) -> list[str]:
    parts = [path.split(".") for path in paths]
    while parts and all(len(part) > 1 and part[0] == parts[0][0] for part in parts):
        parts = [part[1:] for part in parts]
    return [".".join(part) for part in parts]


def _moved(layer: Layer, modules: Mapping[nn.Module, nn.Module]) -> Layer:
    return Layer(
        layer.name,
        modules[layer.module],
        layer.input_shape,
        layer.output_shape,
        layer.flat_input,
        layer.flat_output,
    )


def layer_row(layer: Layer) -> Facts:
    """Return a layer's row of the table; an unknown kind is named by its class."""
    module = layer.module
    shape = layer.output_shape
    if shape is not None and len(shape) == 3:
        shape = (*shape[1:], shape[0])
    row: Facts = {
        "name": layer.name,
        "kind": kind_of(module),
        "output_shape": None if shape is None else list(shape),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
    }
    size = layer.input_shape[1:] if layer.input_shape else ()
    match module:
        case nn.Conv2d():
            row |= {
                "filters": module.out_channels,
                "kernel_size": list(module.kernel_size),
                "strides": list(module.stride),
                "dilation": list(module.dilation),
                "groups": module.groups,
                "padding": _convolution_padding(module, layer.input_shape),
                "use_bias": module.bias is not None,
                "activation": "linear",
            }
        case nn.MaxPool2d() | nn.AvgPool2d():
            row |= {
                "pool_size": _pair(module.kernel_size),
                "strides": _pair(module.stride),
                "padding": _pool_padding(module, size),
            }
        case nn.AdaptiveAvgPool2d():
            is_global = _pair(module.output_size) == [1, 1]
            row |= {"kind": "global_average_pool"} if is_global else {}
        case nn.ZeroPad2d():
            left, right, top, bottom = module.padding
            row |= {"padding": [[top, bottom], [left, right]]}
        case nn.LeakyReLU():
            row |= {"negative_slope": float(module.negative_slope)}
        case nn.Dropout():
            row |= {"rate": float(module.p)}
        case nn.BatchNorm2d() | nn.BatchNorm1d():
            row |= {
                # Keras's momentum is the share that is kept, torch's the share that is new.
                "momentum": None if module.momentum is None else 1 - module.momentum,
                "epsilon": module.eps,
                "moving_variance": _moving_variance(module),
                "scale": module.affine,
                "center": module.affine,
            }
        case nn.Linear():
            row |= {
                "units": module.out_features,
                "use_bias": module.bias is not None,
                "activation": "linear",
            }
    return row


_KINDS: dict[type[nn.Module], str] = {
    nn.Conv2d: "convolution",
    nn.LeakyReLU: "leaky_relu",
    nn.ReLU: "relu",
    nn.Softmax: "softmax",
    nn.MaxPool2d: "max_pool",
    nn.AvgPool2d: "average_pool",
    nn.ZeroPad2d: "zero_padding",
    nn.BatchNorm2d: "batch_norm",
    nn.BatchNorm1d: "batch_norm",
    nn.Dropout: "dropout",
    nn.Flatten: "flatten",
    nn.Linear: "dense",
}


def snake_case(name: str) -> str:
    """Return a class's name in small letters, words apart."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def settings_of(row: Facts) -> Facts:
    """Return what a layer's row says of its settings, not of its shape."""
    return {key: row[key] for key in row if key not in ("name", "output_shape", "parameters")}


def _pair(size: Any) -> list[int]:
    return [size, size] if isinstance(size, int) else list(size)


def kind_of(module: nn.Module) -> str:
    """Return a layer's kind; a subclass is what its parent is, and an unknown one its class."""
    known = [_KINDS[parent] for parent in type(module).__mro__ if parent in _KINDS]
    return known[0] if known else snake_case(type(module).__name__)


def _convolution_padding(layer: nn.Conv2d, shape: tuple[int, ...] | None) -> str:
    """Say what Keras would call a convolution's padding, from what the layer computes.

    Keras's "same" puts the larger half at the right and bottom; torch pads both sides alike, which
    is another convolution where the sum is odd, as with a stride of 2 on an even size.
    """
    if shape is None:
        return f"explicit {layer.padding}"
    draw = torch.Generator().manual_seed(0)
    values = torch.rand(1, *shape, generator=draw, dtype=layer.weight.dtype)
    axes = zip(shape[1:], layer.kernel_size, layer.stride, layer.dilation, strict=True)
    (top, bottom), (left, right) = (same_padding(*axis) for axis in axes)
    candidates = {"same": (left, right, top, bottom), "valid": (0, 0, 0, 0)}
    with torch.no_grad():
        own = layer(values)
        for name, padding in candidates.items():
            padded = functional.pad(values, padding)
            if min(padded.shape[2:]) < max(layer.kernel_size):
                continue
            found = functional.conv2d(
                padded, layer.weight, layer.bias, layer.stride, 0, layer.dilation, layer.groups
            )
            if found.shape == own.shape and torch.allclose(found, own, rtol=1e-4, atol=1e-5):
                return name
    return f"explicit {layer.padding}"


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Return what Keras's "same" puts before and behind an axis of `size` values."""
    reach = dilation * (kernel - 1) + 1
    missing = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return missing // 2, missing - missing // 2


def _pool_padding(layer: nn.MaxPool2d | nn.AvgPool2d, sizes: Sequence[int]) -> str:
    """Say what Keras would call a pool's padding.

    torch pads both sides alike, and with ceil_mode as much behind as the last window needs; an
    average that counts the padding is no pool that Keras has.
    """
    kernel, stride, padding = map(_pair, (layer.kernel_size, layer.stride, layer.padding))
    dilation = _pair(getattr(layer, "dilation", 1))
    explicit = f"explicit {tuple(padding)}"
    if padding == [0, 0] and not layer.ceil_mode:
        return "valid"
    if not sizes or dilation != [1, 1]:
        return explicit
    if any(padding) and getattr(layer, "count_include_pad", False):
        return explicit
    axes = list(zip(sizes, kernel, stride, padding, strict=True))
    if not layer.ceil_mode:
        same = all(
            same_padding(*axis[:3])[0] == axis[3] and outputs(*axis) == -(-axis[0] // axis[2])
            for axis in axes
        )
        return "same" if same else explicit
    return _rounded_up(axes, explicit)


def outputs(size: int, kernel: int, stride: int, padding: int) -> int:
    """Return how many windows torch places on an axis."""
    return (size + 2 * padding - kernel) // stride + 1


def _rounded_up(axes: Sequence[tuple[int, int, int, int]], explicit: str) -> str:
    """Say what Keras would call the padding of a pool with `ceil_mode`; an axis as in `outputs`."""
    counts = [ceil_outputs(*axis[:3]) for axis in axes]
    if not any(padding for *_, padding in axes):
        is_at_end = all(same_padding(*axis[:3])[0] == 0 for axis in axes)
        if is_at_end and counts == [-(-size // stride) for size, _, stride, _ in axes]:
            return "same"
        if counts == [outputs(*axis) for axis in axes]:
            return "valid"
    return f"{explicit}, rounded up"


def ceil_outputs(size: int, kernel: int, stride: int) -> int:
    """Return how many windows torch places with `ceil_mode`: none begins past the axis's end."""
    count = -(-(size - kernel) // stride) + 1
    return count - 1 if (count - 1) * stride >= size else count


def _moving_variance(layer: nn.BatchNorm2d | nn.BatchNorm1d) -> str:
    """Say which variance a BatchNorm moves towards, from what a copy makes of four values."""
    tried = copy.deepcopy(layer).train()
    if tried.momentum is None or tried.running_var is None:
        return "none"
    before = tried.running_var.clone()
    column = torch.arange(4, dtype=before.dtype).unsqueeze(1).expand(4, layer.num_features)
    with torch.no_grad():
        tried(column[:, :, None, None] if isinstance(layer, nn.BatchNorm2d) else column)
        moved = (tried.running_var - (1 - tried.momentum) * before) / tried.momentum
    for name, variance in (("biased", 5 / 4), ("unbiased", 5 / 3)):
        if torch.allclose(moved, torch.full_like(moved, variance), rtol=1e-2):
            return name
    return "other"


def canonical_name(module: nn.Module, name: str) -> str:
    """Return the canonical name of a module's parameter or moving statistic."""
    is_norm = isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d)
    names = {"weight": "gamma", "bias": "beta"} if is_norm else {"weight": "kernel"}
    names |= {"running_mean": "moving_mean", "running_var": "moving_variance"}
    return names.get(name, name)


def _weight_out(layer: Layer, tensor: Tensor) -> Array:
    """Return a tensor of a layer's shape in canonical layout."""
    array = tensor.detach().cpu().numpy()
    if array.ndim == 4:  # (out, in, H, W) in torch, (H, W, in, out) in Keras
        return np.ascontiguousarray(array.transpose(2, 3, 1, 0))
    if layer.flat_input is not None and array.shape[-1] == np.prod(layer.flat_input):
        array = array.reshape(*array.shape[:-1], *layer.flat_input)  # torch flattens C, H, W
        array = np.moveaxis(array, -3, -1).reshape(*array.shape[:-3], -1)
    return np.ascontiguousarray(array.T)  # (out, in) in torch, (in, out) in Keras


def _weight_in(layer: Layer, array: Array, shape: tuple[int, ...]) -> Tensor:
    """Return a canonical array in torch's layout, of `shape`."""
    if array.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
    else:
        array = array.T
        if layer.flat_input is not None and shape[-1] == np.prod(layer.flat_input):
            channels, height, width = layer.flat_input
            array = array.reshape(*array.shape[:-1], height, width, channels)
            array = np.moveaxis(array, -1, -3).reshape(shape)
    return torch.from_numpy(np.ascontiguousarray(array))


def _out(values: Tensor, flat: tuple[int, int, int] | None) -> Array:
    """Return a module's values in canonical layout."""
    if values.ndim == 4:
        values = values.permute(0, 2, 3, 1)
    elif flat is not None:
        values = values.reshape(-1, *flat).permute(0, 2, 3, 1).reshape(len(values), -1)
    return np.ascontiguousarray(values.detach().cpu().numpy())


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def is_overridden(method: str, module: L.LightningModule) -> bool:
    """Say whether a module has a step of its own."""
    return getattr(type(module), method) is not getattr(L.LightningModule, method)


def _loss_of(output: Any) -> Tensor:
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(loss, Tensor):
        raise NoLossError(f"a step must return its loss; received {type(output).__name__}")
    return loss


@contextmanager
def _muted(module: L.LightningModule) -> Iterator[dict[str, tuple[Any, dict[str, Any]]]]:
    """Let a step log without a Trainer, and yield what it logs; metrics forget the step."""
    logged: dict[str, tuple[Any, dict[str, Any]]] = {}

    def log(name: str, value: Any, *arguments: Any, **options: Any) -> None:
        logged[name] = (value, options)

    def log_dict(values: Mapping[str, Any], *arguments: Any, **options: Any) -> None:
        logged.update({name: (value, options) for name, value in values.items()})

    module.log, module.log_dict = log, log_dict  # type: ignore[method-assign,assignment]
    try:
        yield logged
    finally:
        del module.log, module.log_dict
        for metric in module.modules():
            if isinstance(metric, Metric):
                metric.reset()


def metric_words(value: Any, options: Mapping[str, Any], batch_size: int) -> str:
    """Say what a logged value is and how an epoch's value is made of it.

    Keras's metrics are means over an epoch's images; `self.log` in a training step keeps the last
    batch's value unless it is told `on_epoch=True`.
    """
    if isinstance(value, Metric):
        average = getattr(value, "average", "micro")
        if average == "micro":
            return "share of images, weighted by batch size"
        return f"{average} average over the classes"
    if not options.get("on_epoch"):
        return "of the last batch"
    if options.get("batch_size") not in (None, batch_size):
        return f"weighted by batch_size={options['batch_size']}"
    return "share of images, weighted by batch size"


def optimizer_kind(optimizer: torch.optim.Optimizer) -> str:
    """Return `adam`, `sgd`, `rmsprop`, …; AdamW is Adam with a decoupled weight decay."""
    for name in ("Adam", "SGD", "RMSprop"):
        if isinstance(optimizer, getattr(torch.optim, name)):
            return name.lower()
    return {"adamw": "adam"}.get(name := type(optimizer).__name__.lower(), name)


_SLOTS = {
    ("adam", "exp_avg"): "m",
    ("adam", "exp_avg_sq"): "v",
    ("adam", "max_exp_avg_sq"): "v_hat",
    ("sgd", "momentum_buffer"): "momentum",
    ("rmsprop", "square_avg"): "v",
    ("rmsprop", "momentum_buffer"): "momentum",
}


def optimizer_contract(optimizer: torch.optim.Optimizer, trainer: L.Trainer) -> Facts:
    """Return an optimizer's resolved settings, with what its Trainer adds."""
    kind = optimizer_kind(optimizer)
    group = optimizer.param_groups[0]
    decay = max(float(group.get("weight_decay", 0.0)) for group in optimizer.param_groups)
    is_decoupled = group.get("decoupled_weight_decay", type(optimizer).__name__ == "AdamW")
    found: Facts = {
        "kind": kind,
        "learning_rate": float(group["lr"]),
        "weight_decay": decay,
        "weight_decay_kind": ("decoupled" if is_decoupled else "coupled") if decay else "none",
        "clipping": _clipping(trainer),
        "schedule": _schedule(trainer),
        "gradient_accumulation": trainer.accumulate_grad_batches,
    }
    if kind == "adam":
        # An Adam that keeps `epsilon` beside torch's own `eps` places it as Keras does.
        found |= {
            "beta_1": float(group["betas"][0]),
            "beta_2": float(group["betas"][1]),
            "epsilon": float(group.get("epsilon", group["eps"])),
            "epsilon_placement": "outside" if "epsilon" in group else "inside bias correction",
            "amsgrad": group["amsgrad"],
        }
    elif kind == "sgd":
        found |= {
            "momentum": float(group["momentum"]),
            "nesterov": group["nesterov"],
            "learning_rate_in_velocity": False,
        }
    elif kind == "rmsprop":
        found |= {
            "rho": float(group["alpha"]),
            "momentum": float(group["momentum"]),
            "epsilon": float(group["eps"]),
            "epsilon_placement": "outside the root",
            "centered": group["centered"],
        }
    return found


def _clipping(trainer: L.Trainer) -> str:
    if not trainer.gradient_clip_val:
        return "none"
    words = {"value": "value"}.get(str(trainer.gradient_clip_algorithm), "global norm")
    return f"{words}, at most {float(trainer.gradient_clip_val):g}"


def _schedule(trainer: L.Trainer) -> str:
    if not trainer.lr_scheduler_configs:
        return "none"
    return f"each {trainer.lr_scheduler_configs[0].interval}"


def subject_of(made: Any, question: Question) -> LightningSubject:
    """Return the subject of a module, alone or with Trainer options, at the question's precision.

    Settings: `precision`; `names`, canonical names by module path; `one_hot`; `input_shape`, which
    is otherwise taken from the question's images.
    """
    module, options = made if isinstance(made, tuple) else (made, {})
    settings = question.settings
    if str(settings.get("precision", "32")) == "64":
        module.double()
        options = {"precision": "64-true", **options}
    return LightningSubject(
        module,
        settings.get("input_shape") or _input_shape(question, module),
        options=options,
        names=settings.get("names"),
        one_hot=settings.get("one_hot"),
    )


def _input_shape(question: Question, module: L.LightningModule) -> tuple[int, ...]:
    for name, array in question.arrays.items():
        if name == "images" or name.startswith("images.") or name.endswith(".images"):
            return array.shape[1:]
    example = module.example_input_array
    if isinstance(example, Tensor):
        shape = tuple(example.shape[1:])
        return (*shape[1:], shape[0]) if len(shape) == 3 else shape
    raise ValueError("`input_shape` must be given where no images are asked about")


def main(reference: str, question_path: Path, trace_path: Path) -> int:
    """Answer a question about what `module:function` returns; return the exit code."""
    question = read_question(question_path)
    return answer_reference(
        "lightning", question, lambda: subject_of(load_reference(reference)(), question), trace_path
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(Path, sys.argv[2:])))
