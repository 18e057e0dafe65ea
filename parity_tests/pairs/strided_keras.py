"""The second pair's Keras implementation: strided convolutions, BatchNorm, average pooling, AdamW.

A program, written as a user writes it; its twin is `strided_lightning.py`.
"""

from typing import Any

import keras
import numpy as np

IMAGE_SHAPE = (16, 16, 3)
NUM_CLASSES = 10


def single(value: float) -> float:
    """Return the float32 nearest to `value`.

    Keras on TensorFlow casts an optimizer's numbers and a schedule's through float32 even in a
    float64 model; a number that float32 can hold is the same number on both sides.
    """
    return float(np.float32(value))


PEAK_RATE = single(2e-3)
DECAY_STEPS = 8  # so few that ten steps pass the schedule's end
FLOOR = single(0.1)
BETA_1, BETA_2 = single(0.9), single(0.999)
EPSILON = 1e-7
WEIGHT_DECAY = single(0.05)
MAX_NORM = single(1.0)


def build() -> keras.Model:
    """Return the compiled model: images (N, 16, 16, 3) in [0, 1] to logits (N, 10)."""
    model = build_network()
    model.compile(
        optimizer=build_optimizer(),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def build_network() -> keras.Sequential:
    """Return the network: 16×16 to 8×8 to 4×4 by strides, to 2×2 by pooling; 5,018 parameters."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(IMAGE_SHAPE, name="image"),
            # Stride 2 on an even size pads right and bottom alone; torch pads all four sides.
            layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False, name="conv1"),
            # `momentum` is what is kept, torch's is what is added; torch's ε is 1e-5.
            layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name="norm1"),
            layers.ReLU(name="act1"),
            layers.Conv2D(24, 3, strides=2, padding="same", use_bias=False, name="conv2"),
            layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name="norm2"),
            layers.ReLU(name="act2"),
            # Padded by one pixel on each side: a window is divided by the pixels in it, not by 9.
            layers.AveragePooling2D(3, padding="same", name="pool"),
            layers.Flatten(name="flatten"),
            layers.Dense(NUM_CLASSES, name="logits"),
        ],
        name="strided",
    )


def build_optimizer() -> keras.optimizers.Optimizer:
    """Return AdamW with a cosine schedule, clipped by the global norm; kernels alone decay."""
    optimizer = keras.optimizers.AdamW(
        learning_rate=build_schedule(),
        weight_decay=WEIGHT_DECAY,  # Keras's default is 0.004, torch's 0.01
        beta_1=BETA_1,
        beta_2=BETA_2,
        epsilon=EPSILON,
        global_clipnorm=MAX_NORM,  # `clipnorm` would clip each variable by itself
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def build_schedule() -> keras.optimizers.schedules.LearningRateSchedule:
    """Return the cosine schedule, which counts steps; Lightning counts epochs unless told.

    Given a Python float, TensorFlow would compute it in float32 whatever the model's dtype.
    """
    return keras.optimizers.schedules.CosineDecay(np.float64(PEAK_RATE), DECAY_STEPS, alpha=FLOOR)


def batches() -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Return ten batches of noise, images (N, 16, 16, 3) and classes (N,); each fifth is small."""
    random = np.random.default_rng(0)
    sizes = [16 if (step + 1) % 5 else 6 for step in range(10)]
    return [(random.random((size, 16, 16, 3)), random.integers(10, size=size)) for size in sizes]
