"""A small model as a subject of the ladder: what holds of both adapters."""

import numpy as np
import pytest

IMAGES = np.random.default_rng(0).random((6, 8, 8, 2)).astype(np.float32)
CLASSES = np.array([0, 1, 2, 0, 1, 2])


def check_that_weights_survive_the_way_in_and_out(subject, num_features):
    """Of the small model; `num_features` go into its last layer."""
    weights = subject.weights()
    assert {name: array.shape for name, array in weights.items()} == {
        "conv.kernel": (3, 3, 2, 4), "conv.bias": (4,), "norm.gamma": (4,), "norm.beta": (4,),
        "norm.moving_mean": (4,), "norm.moving_variance": (4,),
        "depthwise.kernel": (3, 3, 1, 8), "logits.kernel": (num_features, 3), "logits.bias": (3,),
    }  # fmt: skip
    changed = {name: array + np.float32(0.5) for name, array in weights.items()}
    before = subject.predict(IMAGES)
    subject.load_weights(changed)
    for name, array in subject.weights().items():
        np.testing.assert_array_equal(array, changed[name])
    assert not np.allclose(subject.predict(IMAGES), before)
    with pytest.raises(ValueError, match=r"missing conv\.bias"):
        subject.load_weights({name: weights[name] for name in weights if name != "conv.bias"})


def check_segments(subject, points, names):
    """Check that each segment computes what the whole model does, and from what it is handed."""
    inputs = dict(zip(names, [IMAGES, *(points[name] for name in names)], strict=False))
    forced = subject.forced(inputs, names)
    for name in names:
        np.testing.assert_allclose(forced[name], points[name], atol=1e-6)
    doubled = subject.forced({"logits": 2 * points["flatten"]}, names)
    assert list(doubled) == ["logits"]
    assert not np.allclose(doubled["logits"], points["logits"])


def check_that_the_loss_is_the_mean_over_all_images(subject):
    parts = [float(subject.loss(IMAGES[i : i + 1], CLASSES[i : i + 1])) for i in range(6)]
    assert float(subject.loss(IMAGES, CLASSES)) == pytest.approx(np.mean(parts), rel=1e-6)
    many = np.tile(IMAGES, (100, 1, 1, 1))
    assert float(subject.loss(many, np.tile(CLASSES, 100))) == pytest.approx(np.mean(parts))


def check_the_contract_of_the_tutorials_model(contract, data_format):
    assert contract["optimizer"] == {
        "kind": "adam", "learning_rate": pytest.approx(1e-3), "weight_decay": 0.0,
        "weight_decay_kind": "none", "clipping": "none", "schedule": "none",
        "gradient_accumulation": 1, "beta_1": pytest.approx(0.9), "beta_2": pytest.approx(0.999),
        "epsilon": pytest.approx(1e-7), "epsilon_placement": "outside", "amsgrad": False,
    }  # fmt: skip
    assert contract["loss"] == {
        "kind": "categorical cross-entropy", "reduction": "mean over the batch",
        "takes": "logits", "label_smoothing": 0.0,
    }  # fmt: skip
    assert contract["metrics"] == {"accuracy": "share of images, weighted by batch size"}
    assert contract["dtypes"] == {"compute": "float32", "weights": "float32"}
    assert contract["data_format"] == data_format
    assert contract["frozen"] == []
    assert contract["layers"]["act1"] == {
        "kind": "leaky_relu",
        "negative_slope": pytest.approx(0.1),
    }
