"""Train a LightningModule on given batches by `Trainer.fit`; note its weights after each step."""

import copy
import importlib
import inspect
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextlib import ExitStack
from functools import partial
from itertools import product
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import distributed as dist
from torch import nn
from torch.overrides import TorchFunctionMode

from portproof.graph.steps import SWITCHES
from portproof.record.model import Arrays, Batch
from portproof.record.program import SetUpError, metrics
from portproof.record.torch_calls import DROPOUTS, RATES
from portproof.record.torch_losses import REDUCED, smoothed, variants_of
from portproof.record.torch_rules import keep_rate_in_velocity, place_epsilon, spare_decay
from portproof.record.torch_tags import function_name, in_float64
from portproof.record.torch_variants import variant_of

_NOT_A_TRAINERS = {
    "val_dataloaders", "clipping", "exact_clipping", "options", "placed_epsilon", "velocity",
    "swaps", "smoothing", "optimizer", "all weights", "single", "still", "spared", "decay",
}  # fmt: skip
_HOOKS = (
    "on_train_batch_end", "on_train_epoch_end", "on_before_optimizer_step",
    "on_after_batch_transfer",
)  # fmt: skip
"""Of the module: what is noted is noted behind its own."""


class NothingDropped(TorchFunctionMode):
    """Lets every dropout function give what it takes, and others that drop numbers drop none.

    Args:
        swaps: functions that are computed in another way: the name of a variant by that of one.
        smoothing: of the labels of a cross-entropy, in place of its own.
    """

    def __init__(self, swaps: Mapping[str, str], smoothing: float | None = None) -> None:
        super().__init__()
        self.swaps, self.smoothing = swaps, smoothing
        self.losses: set[str] = set()
        """Loss functions that were called, each with a variant, `cross_entropy/unweighted`."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        func, args, kwargs, _ = in_float64(func, args, kwargs or {})
        name = function_name(func)
        if name in DROPOUTS:
            return args[0] if args else kwargs["input"]
        if name in RATES:
            names = RATES[name].split()
            args = tuple(0.0 if n.startswith("dropout") else a
                         for n, a in zip(names, args, strict=False))  # fmt: skip
            kwargs = {k: 0.0 if k.startswith("dropout") else v for k, v in kwargs.items()}
        if name in REDUCED and torch.is_grad_enabled():
            self.losses |= {f"{name}/{key}" for key in variants_of(name, func, args, kwargs)}
        if name in self.swaps:
            func = variant_of(name, self.swaps[name], func)
        if name == "cross_entropy" and self.smoothing is not None:
            func = partial(smoothed(self.smoothing), func)
        return func(*args, **kwargs)


def train(
    module: nn.Module,
    options: dict[str, Any],
    batches: list[Batch],
    weights: Callable[[], Arrays],
    gradients: Callable[[], Arrays],
    tensors: Callable[[list[np.ndarray]], list[torch.Tensor]],
    swaps: Mapping[str, str],
) -> Arrays:
    """Train on the batches in order with the module's own step and optimizer.

    Args:
        module: a LightningModule.
        options: the user's own for the Trainer, and `val_dataloaders` for its `fit`; `clipping`, a
            rule of Keras's and its limit, instead of the module's own; `exact_clipping`: by their
            norm, as torch clips but for its 1e-6; `options` of its optimizers by Keras's names;
            `placed_epsilon`, arguments of `place_epsilon`: ε stands where Keras has it;
            `velocity`: SGD's holds the learning rate, as Keras's does; `optimizer`, the name of one
            of torch's, which takes the place of the module's, with `options`; `all weights`: its
            optimizer gets those that it was not given; `single`, options of each group that are
            rounded to float32; `still`, parameters that no step moves, and `spared`, those that no
            `decay` of weights does; `swaps`, more of them, and `smoothing`.
        batches: inputs, targets and weights, as the user's function gave them.
        weights: returns canonical weights by `key|role`.
        gradients: returns those to them.
        tensors: gives inputs the layout and structure that the module's step takes.
        swaps: functions that are computed in another way.

    Returns:
        `step.k|key|role` after step k, from 0, and, behind the last one, when all has ended;
        `grad.k|key|role` that its optimizer got before a Trainer's clipping, `losses` (steps,),
        which of them are `unsaid`, the loss functions `called` with variants of each, and learning
        `rates`; `metrics` (epochs, names) and their `names`.

    Raises:
        SetUpError: it is no LightningModule, or its strategy does not join the other processes.
    """
    if not hasattr(module, "training_step"):
        raise SetUpError("the module is no LightningModule, so that it has no step to train with")
    lightning = importlib.import_module(_package(module))
    found: Arrays = {}
    losses: list[float] = []
    unsaid: list[bool] = []
    epochs: list[dict[str, float]] = []
    rates: dict[int, float] = {}

    user: Any = module
    # The module's own hooks come behind those of callbacks: they may move weights, or log metrics.
    own = {name: getattr(user, name) for name in _HOOKS}

    def stepped(outputs: Any, *args: Any) -> None:
        own["on_train_batch_end"](outputs, *args)
        found.update({f"step.{len(losses)}|{key}": a for key, a in weights().items()})
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if loss is None and user.automatic_optimization:
            raise SetUpError("training_step returned no loss")
        # Lightning hands on the loss over the number of batches that make a step. Where the
        # module steps by itself, it may return none.
        losses.append(float(0.0 if loss is None else loss) * user.trainer.accumulate_grad_batches)
        unsaid.append(loss is None)

    def ended() -> None:
        own["on_train_epoch_end"]()
        epochs.append({k: float(v) for k, v in user.trainer.callback_metrics.items()})

    def stepping(optimizer: Any) -> None:
        own["on_before_optimizer_step"](optimizer)
        _hold_still(options.get("still", ()))
        rates.setdefault(len(losses), float(optimizer.param_groups[0]["lr"]))
        found.update({f"grad.{len(losses)}|{key}": a.copy() for key, a in gradients().items()})

    def taken(batch: Any, index: int) -> Any:
        return _double(own["on_after_batch_transfer"](batch, index))

    data: Any = _Given([tensors(list(xs)), *(_tensors(part) for part in (y, *more))]
                       for xs, y, more in batches)  # fmt: skip
    callbacks = [*_kept(lightning, options), _setting(lightning, options)]
    asked = {k: v for k, v in options.items() if k not in _NOT_A_TRAINERS} | {
        "callbacks": callbacks
    }
    usual = {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "num_sanity_val_steps": 0}
    quiet = {"logger": lightning.loggers.logger.DummyLogger(), "enable_checkpointing": False,
             "enable_progress_bar": False, "enable_model_summary": False}  # fmt: skip
    count = asked["devices"] if isinstance(asked.get("devices"), int) else 1
    if count > 1:  # a strategy takes no second Trainer
        asked["strategy"] = copy.copy(asked.get("strategy", "ddp"))
    mode = NothingDropped({**swaps, **options.get("swaps", {})}, options.get("smoothing"))
    with mode, ExitStack() as stack:
        _as_asked(stack, user, options)
        for name, hook in zip(_HOOKS, (stepped, ended, stepping, taken), strict=True):
            stack.enter_context(mock.patch.object(user, name, hook))
        trainer = lightning.Trainer(**{**usual, **quiet, **asked})
        starts = type(trainer.strategy.launcher).__name__ == "_MultiProcessingLauncher"
        if count > 1 and (starts or trainer.world_size != count):
            raise SetUpError(f"its strategy does not join {count} processes that are there, "
                             "as strategy='ddp' does")  # fmt: skip
        trainer.fit(module, data, options.get("val_dataloaders"))
    found.update({f"step.{len(losses)}|{key}": a for key, a in weights().items()})
    found |= {"losses": np.array(losses), "unsaid": np.array(unsaid)}
    found["called"] = np.array(sorted(mode.losses), dtype=np.str_)
    found["rates"] = np.array([rates.get(k, np.nan) for k in range(len(losses))])
    return found | metrics(epochs)


def _kept(lightning: Any, options: Mapping[str, Any]) -> list[Any]:
    """Return the user's callbacks without those that write checkpoints, unless these are on."""
    unwanted = () if options.get("enable_checkpointing") else lightning.callbacks.Checkpoint
    return [c for c in options.get("callbacks", []) if not isinstance(c, unwanted)]


def _setting(lightning: Any, options: Mapping[str, Any]) -> Any:
    """Return a callback that sets the options of optimizers once they are there."""

    class Setting(lightning.Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            for optimizer in trainer.optimizers:
                _set_options(optimizer, options.get("options", {}))
                for group, name in product(optimizer.param_groups, options.get("single", ())):
                    if isinstance(group.get(name), float):
                        group[name] = float(np.float32(group[name]))

    return Setting()


def _as_asked(stack: ExitStack, module: Any, options: Mapping[str, Any]) -> None:
    """Let the module train quietly, on several CPUs too, by the rules of Keras in `options`."""
    stack.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore")
    stack.enter_context(mock.patch.dict(os.environ))  # Lightning takes WORLD_SIZE away
    for name in ("lightning.pytorch", "pytorch_lightning", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    parallel = nn.parallel.DistributedDataParallel
    stack.enter_context(mock.patch.object(nn.SyncBatchNorm, "forward", _synchronised))
    # That one refuses what the first makes possible.
    stack.enter_context(mock.patch.object(parallel, "_passing_sync_batchnorm_handle"))
    if (rule := options.get("clipping")) is not None:
        clip = partial(_clip, rule)
        stack.enter_context(mock.patch.object(module, "configure_gradient_clipping", clip))
    if options.get("exact_clipping"):
        stack.enter_context(mock.patch.object(nn.utils, "clip_grad_norm_", _clipped))
    if "spared" in options:
        spare_decay(stack, options["spared"], options["decay"])
    if options.get("velocity"):
        keep_rate_in_velocity(stack)
    if how := options.get("placed_epsilon"):
        place_epsilon(stack, **how, is_rate_kept=bool(options.get("velocity")))
    if (rule := options.get("optimizer")) or options.get("all weights"):
        told = options.get("options", {})
        configure = partial(_made_anew, module, rule, told) if rule else _with_all(module)
        stack.enter_context(mock.patch.object(module, "configure_optimizers", configure))


_CLIP = nn.utils.clip_grad_norm_


def _clip(rule: list[Any], optimizer: Any, *_: Any, **__: Any) -> None:
    """Clip gradients as Keras does by a rule and its limit; not at all where there is none."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    grads = [p.grad for p in parameters if p.grad is not None]
    name, limit = rule or ("", 0.0)
    if name == "global_clipnorm":
        _clipped(parameters, limit)
    for g in grads:
        if name == "clipvalue":
            g.clamp_(-limit, limit)
        elif name == "clipnorm":
            g.mul_((limit / torch.linalg.vector_norm(g)).clamp(max=1.0))


def _clipped(
    parameters: Any, max_norm: float, norm_type: float = 2.0, *_: Any, **__: Any
) -> torch.Tensor:
    """Scale gradients so that their norm is at most `max_norm`, and return what it was."""
    if norm_type != 2.0:
        return _CLIP(parameters, max_norm, norm_type)
    parts = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
    grads = [p.grad for p in parts if p.grad is not None]
    norms = [torch.linalg.vector_norm(g) for g in grads]
    norm = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())
    for g in grads:
        g.mul_((max_norm / norm).clamp(max=1.0))
    return norm


def _made_anew(module: Any, name: str, told: Mapping[str, float]) -> torch.optim.Optimizer:
    """Return an optimizer of torch's for all weights, by Keras's name and options."""
    decay = told.get("weight_decay") and name == "Adam" and told.get("decoupled", True)
    kind = getattr(torch.optim, "AdamW" if decay else {"Nadam": "NAdam"}.get(name, name), None)
    if kind is None:
        raise SetUpError(f"torch has no optimizer {name}")
    known = inspect.signature(kind).parameters
    given = {_NAMES.get(key, key): value for key, value in told.items()}
    options: dict[str, Any] = {k: v for k, v in {**told, **given}.items() if k in known}
    if "betas" in known:
        options["betas"] = tuple(told[f"beta_{n}"] for n in (1, 2))
    if "epsilon" in told and "eps" in known:
        options["eps"] = told["epsilon"]
    options = {key: bool(v) if key in SWITCHES else v for key, v in options.items()}
    made: torch.optim.Optimizer = kind(_trained(module), **options)
    return made


def _with_all(module: Any) -> Callable[[], Any]:
    configure = module.configure_optimizers

    def configured() -> Any:
        made = configure()
        (optimizer,) = _optimizers(made)[0]
        optimizer.add_param_group({"params": _left_out(module, optimizer)})
        return made

    return configured


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]


def _left_out(module: nn.Module, optimizer: Any) -> list[nn.Parameter]:
    """Return the weights that are trained, and that the optimizer was not given."""
    given = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [p for p in _trained(module) if id(p) not in given]


START = "initial_accumulator_value"
"""Of Adagrad: what its sum of squares starts from."""
_NAMES = {"learning_rate": "lr", "rho": "alpha", "decoupled": "decoupled_weight_decay"}
"""Options of torch's optimizers by Keras's names; most have the same."""


def _set_options(optimizer: Any, options: Mapping[str, Any]) -> None:
    """Set options of an optimizer by Keras's names; parameters that are spared decay stay so."""
    decays = any(group.get("weight_decay") for group in optimizer.param_groups)
    for group in optimizer.param_groups:
        for name, value in options.items():
            key = name if name in group else _NAMES.get(name, name)
            if name in ("beta_1", "beta_2") and "betas" in group:
                betas = list(group["betas"])
                betas[int(name[-1]) - 1] = value
                group["betas"] = tuple(betas)
            elif name == "epsilon":  # one of its own beside torch's is a user's, who sets the other
                group.update({k: value for k in ("eps", "epsilon") if k in group})
                optimizer.defaults["eps"] = value
            elif key in group and (name != "weight_decay" or group[key] or not decays):
                group[key] = bool(value) if key in SWITCHES else value
                if key == START:  # which Adagrad has put in place when it was made
                    for p in group["params"]:
                        optimizer.state[p]["sum"].fill_(value)


class _Given(list[Any]):
    """Batches in memory: no DataLoader, which a sampler deals out, and no list, of loaders."""


def _hold_still(parameters: Iterable[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None


class _Summed(torch.autograd.Function):
    """The sum over all processes of a group."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group, x = group, x.clone()
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return _Summed.apply(grads[0], ctx.group), None


_ON_ONE = nn.SyncBatchNorm.forward


def _synchronised(self: nn.SyncBatchNorm, x: torch.Tensor) -> torch.Tensor:
    """Compute `SyncBatchNorm` on CPUs, which torch leaves to GPUs."""
    if not (self.training and dist.is_initialized()):
        return _ON_ONE(self, x)
    axes, shape = [0, *range(2, x.ndim)], (1, -1, *[1] * (x.ndim - 2))
    parts = torch.cat([x.sum(axes), x.new_tensor([x.numel() / x.shape[1]])])
    sums = _Summed.apply(parts, self.process_group)
    count = sums[-1].detach()
    mean = sums[:-1] / count
    apart = x - mean.view(shape)
    variance = _Summed.apply((apart**2).sum(axes), self.process_group) / count
    if self.running_mean is not None and self.running_var is not None:
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        count_so_far = float(self.num_batches_tracked)
        share = 1 / count_so_far if self.momentum is None else self.momentum
        with torch.no_grad():
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance * count / (count - 1), share)
    y = apart / (variance + self.eps).sqrt().view(shape)
    return y if self.weight is None else y * self.weight.view(shape) + self.bias.view(shape)


def _tensors(value: Any) -> Any:
    """Return targets or weights as tensors, several in the structure that they have."""
    if isinstance(value, dict):
        return {name: _tensors(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_tensors(part) for part in value]
    return torch.from_numpy(np.ascontiguousarray(value))


def _double(value: Any) -> Any:
    """Return a batch with its numbers in float64, as the module's are: of a user's own loader."""
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, MutableMapping):
        made = copy.copy(value)
        made.update({name: _double(part) for name, part in value.items()})
        return made
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_double, value))
    return type(value)(map(_double, value)) if type(value) in (list, tuple) else value


def _package(module: nn.Module) -> str:
    for cls in type(module).__mro__:
        if cls.__module__.startswith("pytorch_lightning"):
            return "pytorch_lightning"
    return "lightning.pytorch"


_OF_THE_MACHINE = {
    "foreach", "fused", "capturable", "differentiable", "initial_lr", "decoupled_weight_decay",
}  # fmt: skip
"""Options of torch's optimizers that say how they compute, not what."""


def described(module: nn.Module, trainers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the optimizer in a few words, and schedules; the loss is what the step computes.

    Args:
        module: that trains.
        trainers: the user's options for the Trainer.

    Returns:
        `options` of the optimizer and `clipping` too, by Keras's names, its `rule`, batches that
        make a step (`accumulated`), and weights that it was not given (`left out`).
    """
    configure: Any = getattr(module, "configure_optimizers", None)
    if configure is None:
        return {}
    unknown = "none"
    try:
        made = configure()
    except Exception:  # where it asks its Trainer for something; `fit` shows what is wrong
        made, unknown = None, "known to its Trainer alone"
    optimizers, schedules = _optimizers(made)
    optimizer = optimizers[0] if optimizers else None
    if optimizer is None:
        clipping = _clipping(module, trainers)
        return {"loss": "training_step", "optimizer": unknown, "clipping": clipping}
    by_epoch = [s.get("scheduler") if isinstance(s, dict) else s for s in schedules
                if not isinstance(s, dict) or s.get("interval", "epoch") == "epoch"]  # fmt: skip
    every = list(map(_words, optimizers))
    return {
        "loss": "training_step",
        "optimizer": ", ".join(every),
        "optimizers": every,
        "schedules": ", ".join(type(s).__name__ for s in by_epoch if s is not None),
        "rule": type(optimizer).__name__,
        "options": _options(optimizer),
        "clipping": _clipping(module, trainers),
        "accumulated": trainers.get("accumulate_grad_batches", 1),
        "left out": _names(module, _left_out(module, optimizer)) if len(optimizers) == 1 else [],
    }


def _words(optimizer: Any) -> str:
    groups = getattr(optimizer, "param_groups", None) or [{}]
    told = {k: list(dict.fromkeys(str(group.get(k)) for group in groups))
            for k in getattr(optimizer, "defaults", {}) if k not in _OF_THE_MACHINE}  # fmt: skip
    words = [f"{k}={' or '.join(values)}" for k, values in told.items()
             if values not in (["0"], ["0.0"], ["False"], ["None"])]  # fmt: skip
    return f"{type(optimizer).__name__}({', '.join(words)})"


def _optimizers(made: Any) -> tuple[list[Any], list[Any]]:
    """Return optimizers and schedules of what `configure_optimizers` returned."""
    schedules: list[Any] = []
    if isinstance(made, tuple | list) and len(made) == 2 and isinstance(made[0], tuple | list):
        made, schedules = made
    listed = made if isinstance(made, tuple | list) else [] if made is None else [made]
    schedules = [*schedules, *(m.get("lr_scheduler") for m in listed if isinstance(m, dict))]
    return [m.get("optimizer") if isinstance(m, dict) else m for m in listed], schedules


def _names(module: nn.Module, parameters: list[nn.Parameter]) -> list[str]:
    wanted = {id(p) for p in parameters}
    return [name for name, p in module.named_parameters() if id(p) in wanted]


def _options(optimizer: Any) -> dict[str, float]:
    groups = getattr(optimizer, "param_groups", [{}])
    first, found = groups[0], {}
    for name in ("learning_rate", "momentum", "momentum_decay", "rho", START, *SWITCHES):
        found[name] = first.get(_NAMES.get(name, name), first.get(name))
    for name, value in zip(("beta_1", "beta_2"), first.get("betas") or (), strict=False):
        found[name] = value
    found["epsilon"] = first.get("epsilon", first.get("eps"))
    decays = [group.get("weight_decay") for group in groups]
    found["weight_decay"] = max((d for d in decays if isinstance(d, int | float)), default=0.0)
    kind = type(optimizer).__name__
    found["decoupled"] = first.get("decoupled_weight_decay", kind == "AdamW")
    return {k: float(v) for k, v in found.items() if isinstance(v, int | float)}


def _clipping(module: nn.Module, trainers: Mapping[str, Any]) -> list[Any]:
    """Return the rule and the limit; a rule `own` where the module clips by itself."""
    for cls in type(module).__mro__:
        if "configure_gradient_clipping" in vars(cls):
            if not cls.__module__.startswith(("lightning.", "pytorch_lightning.")):
                return ["own", 0.0]
            break
    limit = trainers.get("gradient_clip_val")
    rule = "clipvalue" if trainers.get("gradient_clip_algorithm") == "value" else "global_clipnorm"
    return [rule, float(limit)] if limit else []
