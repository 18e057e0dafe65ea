"""Torch functions that are several calls in one: recurrent layers and attention.

Each direction of each recurrent layer, and each matrix of an attention, is a call of the graph, as
Keras has them.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from portproof.record.program import SetUpError, drops, reorder
from portproof.record.role import Role
from portproof.record.torch_calls import (
    MULTI_HEAD_ATTENTION,
    RATES,
    RECURRENT,
    Spec,
    bind,
    recurrent_roles,
)
from portproof.record.torch_live import Live
from portproof.record.torch_tags import after, put_tag, tag_of

if TYPE_CHECKING:
    from portproof.record.torch_recorder import Recorder


def recurrent(
    recorder: "Recorder", name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Run a recurrent function layer by layer and direction by direction, as Keras does."""
    bound = bind(RATES[name], args, kwargs)
    if not isinstance(bound["params"], tuple | list):
        raise SetUpError(
            "packed sequences (pack_padded_sequence) are not supported yet; "
            "a port may take the state at each row's last step instead"
        )
    kind, x = RECURRENT[name], bound["input"]
    directions = 2 if bound["bidirectional"] else 1
    each = 4 if bound["has_biases"] else 2
    first = bool(bound["batch_first"])
    if recorder.replay.swaps.get(name) == "exchanged":
        first = not first
        samples = x.shape[0 if first else 1]
        zeros = [h[:, :1].expand(-1, samples, -1) for h in states_of(bound["hx"])]
        bound["hx"] = tuple(zeros) if isinstance(bound["hx"], tuple) else zeros[0]
    hx = states_of(bound["hx"])
    lasts: list[list[torch.Tensor]] = [[] for _ in hx]
    for layer in range(bound["num_layers"]):
        given = []
        for direction in range(directions):
            number = layer * directions + direction
            params = list(bound["params"][number * each : (number + 1) * each])
            state = tuple(h[number : number + 1].contiguous() for h in hx)
            settings: dict[str, Any] = {"reverse": bool(direction)}
            settings |= {"activation": name.partition("_")[2]} if kind == "rnn" else {}
            order = tag_of(x).order
            spec = Spec(kind, _roles(recorder, kind, params, order), settings)

            def run(
                t: torch.Tensor,
                start: tuple[torch.Tensor, ...],
                params: list[torch.Tensor] = params,
                state: tuple[torch.Tensor, ...] = state,
            ) -> Any:
                states = start or state
                own = states if len(states) > 1 else states[0]
                return func(t, own, params, bool(bound["has_biases"]), 1, 0.0, False, False, first)

            recorder.number += 1
            turned = [int(first)] if direction else []
            keep = _keep(recorder, x, bool(direction), first)

            def alone(
                t: torch.Tensor,
                settings: Mapping[str, Any],
                run: Any = run,
                keep: Any = keep,
                turned: list[int] = turned,
            ) -> torch.Tensor:
                t = t.flip(turned)
                return _masked(run, t, keep) if settings.get("masked") else run(t, ())[0]

            live = Live(spec, alone, order, batch=0 if first else 1)
            index = recorder.start(spec, live, x, [x], tag_of(x))
            out = run(x.flip(turned), ())
            y = recorder.finish(index, live, out[0])
            tag = tag_of(y)
            last = y[:, -1:].transpose(0, 1) if first else y[-1:]
            states = [last, *out[2:]] if len(hx) > 1 else [last]
            for kept, state_out in zip(lasts, states, strict=True):
                put_tag(state_out, tag)
                kept.append(state_out)
            back = y.flip(turned)
            put_tag(back, tag)
            given.append(back)
        x = given[0] if directions == 1 else torch.cat(given, -1)
        tag = after(torch.cat, (), {}, given, x) if directions > 1 else tag_of(given[0])
        rates = drops(bound["dropout"] * (bound["train"] and layer + 1 < bound["num_layers"]))
        recorder.awake += rates if recorder.evaluates else ()
        put_tag(x, replace(tag, drops=(*tag.drops, *rates)))
    whole = [torch.cat(kept) if len(kept) > 1 else kept[0] for kept in lasts]
    for t, kept in zip(whole, lasts, strict=True):
        put_tag(t, after(torch.cat, (), {}, kept, t) if len(kept) > 1 else tag_of(kept[0]))
    return (x, *whole)


def _roles(
    recorder: "Recorder", kind: str, params: list[torch.Tensor], order: np.ndarray | None
) -> dict[str, Role]:
    """Return a recurrent layer's roles, with features in the order that they have in maps."""
    roles = recorder.without_constants(recurrent_roles(kind, params))
    if order is not None:
        reorder(roles["kernel"], order)
    return roles


def _keep(
    recorder: "Recorder", x: torch.Tensor, is_reversed: bool, first: bool
) -> torch.Tensor | None:
    """Return which steps hold no padding, where one input of integers tells: steps × samples."""
    for given in recorder.inputs if first else []:
        if given.shape == x.shape[:2] and not given.is_floating_point():
            keep = (given != 0).T
            return keep.flip(0) if is_reversed else keep
    return None


def attention(
    recorder: "Recorder", func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Run torch's attention with q, k and v as matrices of their own, each a call."""
    bound = bind(MULTI_HEAD_ATTENTION, args, kwargs)
    rate, bound["dropout_p"] = float(bound.get("dropout_p") or 0), 0.0
    recorder.awake += drops(rate if recorder.evaluates and bound.get("training", True) else 0.0)
    if not bound.get("use_separate_proj_weight"):
        parts = bound["in_proj_weight"].chunk(3)
        bound["use_separate_proj_weight"] = True
        bound["q_proj_weight"], bound["k_proj_weight"], bound["v_proj_weight"] = parts
    if bound["query"].ndim == 3:
        recorder.attention = tuple(bound["query"].shape[:2])
    # It asks for an override of itself first, and would come back here for ever.
    functional: Any = F
    asks = functional.has_torch_function
    functional.has_torch_function = lambda *_: False
    try:
        with recorder:
            out = func(**bound)
        recorder.calls[-1].drops += drops(rate)  # before the last matrix
        return out
    finally:
        functional.has_torch_function = asks
        recorder.attention = None


def _masked(run: Any, x: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
    """Run a recurrent layer that stands still at padding, as Keras's does under a mask.

    Args:
        run: one layer and direction; takes a sequence, samples first, and the states to start from.
        x: (N, T, F).
        keep: (T, N), False at padding; None where no input tells.

    Raises:
        RuntimeError: no input tells where padding is.
    """
    if keep is None:
        raise RuntimeError("no input tells where padding is")
    states: tuple[torch.Tensor, ...] = ()
    outs: list[torch.Tensor] = []
    for step, kept in enumerate(keep):
        out, *after_step = run(x[:, step : step + 1], states)
        now = out[:, 0]
        before = outs[-1] if outs else torch.zeros_like(now)
        outs.append(torch.where(kept[:, None], now, before))
        old = states or tuple(torch.zeros_like(s) for s in after_step)
        states = tuple(
            torch.where(kept[:, None], s, o) for s, o in zip(after_step, old, strict=True)
        )
    return torch.stack(outs, 1)


def states_of(hx: Any) -> tuple[torch.Tensor, ...]:
    """Return the states to start from as a tuple: an LSTM has two."""
    return hx if isinstance(hx, tuple) else (hx,)
