"""Keras layers that are several calls in one, or one call inside: separable and recurrent ones."""

from typing import TYPE_CHECKING, Any

import keras
from keras import layers as L
from keras import ops

from portproof.graph.calls import Op
from portproof.record import keras_layers as kinds
from portproof.record.keras_live import Live, Tag, tensors
from portproof.record.program import SetUpError, drops
from portproof.record.role import Role

if TYPE_CHECKING:
    from portproof.record.keras_recorder import Recorder


def separable(recorder: "Recorder", layer: Any, x: Any) -> Any:
    """Run a separable convolution as the two that it is."""
    if layer.data_format == "channels_first":
        raise SetUpError(f"{layer.name}: separable convolutions are known with channels last alone")
    owner, rank = layer.path or layer.name, len(layer.kernel_size)
    settings = {
        "strides": list(layer.strides),
        "padding": kinds.same_pads(layer, tuple(x.shape), None),
        "dilation": list(layer.dilation_rate),
        "groups": x.shape[-1],
    }
    kernel = Role(layer.depthwise_kernel, lambda a: a.reshape(*a.shape[:rank], 1, -1))
    strides = layer.strides if len(set(layer.strides)) > 1 else layer.strides[0]

    def first(t: Any) -> Any:
        with recorder.quiet():
            return ops.depthwise_conv(
                t,
                layer.depthwise_kernel,
                strides=strides,
                padding=layer.padding,
                dilation_rate=layer.dilation_rate,
            )

    y = recorder.call(
        f"{owner}/depthwise",
        "conv",
        settings,
        Live({"kernel": kernel}, first),
        x,
        [x],
        first(x),
    )
    roles = {"kernel": Role(layer.pointwise_kernel)}
    if layer.bias is not None:
        roles["bias"] = Role(layer.bias)

    def second(t: Any) -> Any:
        with recorder.quiet():
            z = ops.conv(t, layer.pointwise_kernel, strides=1, padding="valid")
            return z if layer.bias is None else z + ops.convert_to_tensor(layer.bias)

    one = [1] * rank
    settings = {"strides": one, "padding": [[0, 0]] * rank, "dilation": one, "groups": 1}
    z = recorder.call(
        f"{owner}/pointwise", "conv", settings, Live(roles, second), y, [y], second(y)
    )
    if layer.activation is None or layer.activation is keras.activations.linear:
        return z
    if isinstance(layer.activation, L.Layer) and layer.activation.weights:
        return layer.activation(z)
    tag = recorder.tag(z)
    with recorder.quiet():
        out = layer.activation(z)
    recorder.put(out, Tag(tag.preds, (kinds.activation(layer.activation),)))
    return out


def recurrent(
    recorder: "Recorder", layer: Any, kind: str, original: Any, args: Any, kwargs: Any
) -> Any:
    """Run a recurrent layer; its call is the whole sequence of states."""
    x = tensors((args, kwargs))[0]
    loop, box = layer.inner_loop, {}

    def inner_loop(sequences: Any, initial_state: Any, mask: Any, training: Any = False) -> Any:
        asked, layer.return_sequences = layer.return_sequences, True
        try:

            def run(t: Any) -> Any:
                with recorder.quiet():
                    return loop(t, initial_state, mask, training)[1]

            with recorder.quiet():
                _, outputs, states = loop(sequences, initial_state, mask, training)
            settings = kinds.settings_of(layer, kind, tuple(x.shape), None)
            if mask is not None:
                settings["masked"] = True
            live = Live(kinds.roles_of(layer, kind), run)
            tag = recorder.tag(x)
            recorder.put(sequences, tag)
            y = recorder.call(
                layer.path or layer.name, kind, settings, live, sequences, [sequences], outputs
            )
            recorder.calls[-1].drops += drops(layer.cell.dropout)
            recorder.calls[-1].drops += drops(layer.cell.recurrent_dropout, "recurrent")
            box["tag"] = Tag(frozenset([len(recorder.calls) - 1]))
            # Behind padding an output may be zero where the state stays.
            state = states[0] if layer.zero_output_for_mask else y[:, -1]
            return y[:, -1], y, [state, *states[1:]]
        finally:
            layer.return_sequences = asked

    layer.inner_loop = inner_loop
    try:
        with recorder.quiet():
            # `call` puts `busy` down again: the loop itself is a call of the graph.
            recorder.busy -= 1
            out = original(layer, *args, **kwargs)
            recorder.busy += 1
    finally:
        del layer.inner_loop
    if "tag" not in box:
        raise SetUpError(f"the recurrent layer {layer.name} did not run its loop")
    for i, o in enumerate(tensors(out)):
        last = () if layer.return_sequences and i == 0 else (Op("getitem", "last state"),)
        recorder.put(o, Tag(box["tag"].preds, last))
    return out


def time_distributed(recorder: "Recorder", layer: Any, x: Any) -> Any:
    """Run what is within on all steps at once; Keras runs it step by step.

    The steps are folded into samples for a layer that would take them for something else.
    """
    if isinstance(layer.layer, L.Dense | L.Embedding):
        return layer.layer(x)
    tag, (samples, steps) = recorder.tag(x), tuple(x.shape[:2])
    with recorder.quiet():
        rows = ops.reshape(x, (samples * steps, *x.shape[2:]))
    recorder.put(rows, tag)
    out = layer.layer(rows)
    tag = recorder.tag(out)
    with recorder.quiet():
        out = ops.reshape(out, (samples, steps, *out.shape[1:]))
    recorder.put(out, tag)
    return out
