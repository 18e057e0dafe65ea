import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline import network
from pipeline.errors import UsageError
from pipeline.network import (
    first_weights,
    glorot_limit,
    parameter_shapes,
    read_weights,
    shared_first_weights,
    write_weights,
)
from pipeline.recipe import preset
from tests.programs import run_python

RECIPE = preset("base")
SMALL = preset("base", conv_filters=(2, 3), hidden_units=4, dropout_rates=(0.0, 0.0, 0.0))


def test_shapes_are_canonical():
    assert parameter_shapes(RECIPE) == {
        "conv1.kernel": (3, 3, 1, 32),
        "conv1.bias": (32,),
        "conv2.kernel": (3, 3, 32, 64),
        "conv2.bias": (64,),
        "conv3.kernel": (3, 3, 64, 128),
        "conv3.bias": (128,),
        "hidden.kernel": (2048, 128),
        "hidden.bias": (128,),
        "logits.kernel": (128, 10),
        "logits.bias": (10,),
    }


def digest(weights):
    content = b"".join(name.encode() + array.tobytes() for name, array in weights.items())
    return hashlib.sha256(content).hexdigest()


def test_shared_first_weights_are_a_function_of_the_seed_alone():
    ours = digest(shared_first_weights(RECIPE))
    assert ours == digest(shared_first_weights(preset("dropout", num_epochs=1, precision="64")))
    assert ours != digest(shared_first_weights(preset("base", seed=1)))
    assert ours.startswith("747774c177d44a0b"), (
        "their bits never change from one version to the next"
    )


def test_shared_first_weights_keep_to_glorots_bounds():
    weights = shared_first_weights(RECIPE)
    assert {name: array.shape for name, array in weights.items()} == parameter_shapes(RECIPE)
    for name, array in weights.items():
        assert array.dtype == np.float32
        if name.endswith("bias"):
            assert not array.any()
        else:
            limit = glorot_limit(array.shape)
            assert 0.95 * limit < np.abs(array).max() <= np.float32(limit)
            assert abs(array.mean()) < 0.1 * limit


@pytest.mark.parametrize(
    ("shape", "fans"), [((3, 3, 1, 32), 9 + 288), ((2048, 128), 2176), ((3, 3, 64, 128), 1728)]
)
def test_glorots_limit_counts_the_receptive_field(shape, fans):
    assert glorot_limit(shape) == math.sqrt(6 / fans)


def without(name):
    return lambda weights: {key: value for key, value in weights.items() if key != name}


def with_one(name, value):
    return lambda weights: {**weights, name: value(weights.get(name))}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("conv2.bias"), "missing conv2.bias"),
        (with_one("conv3.bias", lambda _: np.zeros(3, np.float32)), "unexpected conv3.bias"),
        (
            with_one("conv2.kernel", lambda array: array.transpose(3, 2, 0, 1)),
            r"conv2.kernel has shape \(3, 2, 3, 3\), expected \(3, 3, 2, 3\)",
        ),
        (with_one("hidden.bias", lambda array: array[:, None]), r"hidden.bias has shape \(4, 1\)"),
        (with_one("logits.bias", lambda array: array + np.nan), "logits.bias holds values that"),
        (with_one("logits.bias", lambda array: array - np.inf), "are not finite"),
        (with_one("logits.bias", lambda array: array.astype(np.int32)), "received int32"),
        (with_one("logits.bias", lambda array: array.astype(np.float16)), "received float16"),
        (lambda _: {"a": np.zeros(1)}, "missing conv1.kernel; missing conv1.bias; .*unexpected a"),
    ],
)
def test_other_parameters_are_refused_and_named(damage, message, tmp_path):
    weights = damage(shared_first_weights(SMALL))
    write_weights(tmp_path / "w", weights)
    with pytest.raises(ValueError, match=message):
        read_weights(tmp_path / "w", SMALL)


def test_float64_weights_are_taken(tmp_path):
    weights = {name: array.astype(float) for name, array in shared_first_weights(SMALL).items()}
    write_weights(tmp_path / "w", weights)
    assert read_weights(tmp_path / "w", SMALL)["conv1.kernel"].dtype == np.float64


def test_bfloat16_which_numpy_lacks_is_refused(tmp_path):
    header = b'{"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
    (tmp_path / "w").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(ValueError, match="as safetensors"):
        read_weights(tmp_path / "w", SMALL)
    # TensorFlow, JAX and ONNX bring a package that teaches NumPy such types.
    program = (
        "import sys, ml_dtypes, pathlib, ladder.arrays as arrays\n"
        "arrays.read_arrays(pathlib.Path(sys.argv[1]))"
    )
    done = run_python("-c", program, tmp_path / "w", cwd=Path(__file__).parents[1])
    assert "as safetensors: a is bfloat16, which NumPy itself lacks" in done.stderr


def test_too_large_a_file_is_refused(tmp_path, monkeypatch):
    write_weights(tmp_path / "w", shared_first_weights(SMALL))
    monkeypatch.setattr(network, "MAX_WEIGHTS_BYTES", 100)
    with pytest.raises(ValueError, match="larger than the 100 bytes allowed"):
        read_weights(tmp_path / "w", SMALL)


def test_init_chooses_where_training_starts(tmp_path):
    weights = shared_first_weights(preset("base", seed=5))
    write_weights(tmp_path / "w", weights)
    assert first_weights(preset("base", init="own")) is None
    assert digest(first_weights(RECIPE)) == digest(shared_first_weights(RECIPE))
    from_file = first_weights(preset("base", init=str(tmp_path / "w")))
    assert digest({name: from_file[name] for name in weights}) == digest(weights)


@pytest.mark.parametrize("kind", ["missing", "folder", "garbage", "other network", "null"])
def test_an_init_that_is_no_weights_file_is_refused(kind, tmp_path):
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
    elif kind == "garbage":
        path.write_bytes(b"garbage")
    elif kind == "other network":
        save_file({"conv1.kernel": np.zeros(1, np.float32)}, path)
    init = "\0" if kind == "null" else str(path)
    with pytest.raises(UsageError, match="`init` must be shared, own or a weights file; "):
        first_weights(preset("base", init=init))
