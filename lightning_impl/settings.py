"""What PyTorch and Lightning are told before a run, and what a built network says it is."""

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import UsageError
from pipeline.execution import Execution
from pipeline.recipe import Recipe

PRECISIONS = {"32": "32-true", "64": "64-true", "bf16": "bf16-mixed"}


def configure(recipe: Recipe, execution: Execution) -> dict[str, Any]:
    """Set torch up for one run and return what it resolved to.

    Raises:
        UsageError: a GPU is asked for and there is none.
    """
    has_gpu = torch.cuda.is_available()
    if execution.device == "gpu" and not has_gpu:
        raise UsageError(
            "`--device gpu`: torch sees no GPU here; use --device cpu, or see scripts/doctor.py"
        )
    if execution.num_threads is not None:
        torch.set_num_threads(execution.num_threads)
    # TensorFloat-32 is on by default in TensorFlow and in cuDNN, off in torch's matmul.
    torch.backends.cuda.matmul.allow_tf32 = execution.tf32
    torch.backends.cudnn.allow_tf32 = execution.tf32
    torch.use_deterministic_algorithms(execution.deterministic)
    torch.manual_seed(recipe.seed)
    return {
        "device": accelerator(execution),
        "gpu": torch.cuda.get_device_name() if accelerator(execution) == "gpu" else None,
        "threads": torch.get_num_threads(),
        "precision": PRECISIONS[recipe.precision],
    }


def accelerator(execution: Execution) -> str:
    """Return Lightning's name of the device to run on."""
    is_gpu = execution.device != "cpu" and torch.cuda.is_available()
    return "gpu" if is_gpu else "cpu"


def layer_table(model: nn.Sequential, image_size: int) -> list[dict[str, Any]]:
    """Return a row for each layer, read off the built network.

    `name`, `kind`, `output_shape` without the batch axis in H, W, C order, `parameters`, and
    what the kind has: `filters`, `kernel_size`, `strides`, `padding`, `pool_size`,
    `negative_slope`, `rate`, `units`, `use_bias`.
    """
    parameter = next(model.parameters())
    output = torch.zeros(1, 1, image_size, image_size, dtype=parameter.dtype)
    table = []
    with torch.no_grad():
        for name, layer in model.named_children():
            size = output.shape[-1]
            output = layer(output)
            table.append({"name": name, **_row(layer, size, output)})
    return table


def _row(layer: nn.Module, input_size: int, output: Tensor) -> dict[str, Any]:
    shape = list(output.shape[1:])
    row: dict[str, Any] = {
        "kind": _KINDS[type(layer)],
        "output_shape": shape[1:] + shape[:1] if len(shape) == 3 else shape,
        "parameters": sum(parameter.numel() for parameter in layer.parameters()),
    }
    match layer:
        case nn.Conv2d():
            row |= {
                "filters": layer.out_channels,
                "kernel_size": list(layer.kernel_size),
                "strides": list(layer.stride),
                "dilation": list(layer.dilation),
                "groups": layer.groups,
                "padding": layer.padding,
                "use_bias": layer.bias is not None,
                "activation": "linear",
            }
        case nn.MaxPool2d():
            row |= {
                "pool_size": _pair(layer.kernel_size),
                "strides": _pair(layer.stride),
                "padding": _pool_padding(layer, input_size),
            }
        case nn.LeakyReLU():
            row |= {"negative_slope": layer.negative_slope}
        case nn.Dropout():
            row |= {"rate": layer.p}
        case nn.Linear():
            row |= {
                "units": layer.out_features,
                "use_bias": layer.bias is not None,
                "activation": "linear",
            }
    return row


_KINDS = {
    nn.Conv2d: "convolution",
    nn.LeakyReLU: "leaky_relu",
    nn.MaxPool2d: "max_pool",
    nn.Dropout: "dropout",
    nn.Flatten: "flatten",
    nn.Linear: "dense",
}


def _pair(size: int | tuple[int, ...]) -> list[int]:
    return [size, size] if isinstance(size, int) else list(size)


def _pool_padding(layer: nn.MaxPool2d, input_size: int) -> str:
    """Say what Keras would call this pool's padding.

    Keras's "same" pads (-H % stride) pixels, the larger half at the right and bottom. Without
    padding of its own, torch's ceil_mode pads them all there, which is the same for at most one.
    """
    (kernel, _), (stride, _) = _pair(layer.kernel_size), _pair(layer.stride)
    missing = -input_size % stride
    if layer.padding in (0, (0, 0)) and layer.dilation == 1 and kernel == stride:
        if layer.ceil_mode and missing <= 1:
            return "same"
        return "valid"
    return f"explicit {layer.padding}"
