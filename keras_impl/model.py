"""The network, in Keras."""

import keras

from pipeline.recipe import Recipe
from pipeline.record import Layer


def build_model(recipe: Recipe) -> keras.Sequential:
    """Build the CNN: images (N, H, W, 1) in [0, 1] to logits (N, classes)."""
    layers: list[keras.Layer] = [
        keras.Input((recipe.image_size, recipe.image_size, 1), name="image")
    ]
    for block, filters in enumerate(recipe.conv_filters, start=1):
        layers += [
            keras.layers.Conv2D(filters, recipe.kernel_size, padding="same", name=f"conv{block}"),
            # Keras's own default slope is 0.3, torch's 0.01: the recipe names it.
            keras.layers.LeakyReLU(recipe.negative_slope, name=f"act{block}"),
            keras.layers.MaxPooling2D(recipe.pool_size, padding="same", name=f"pool{block}"),
        ]
        if rate := recipe.dropout_rates[block - 1]:
            # Unseeded, Keras on torch drops by torch's generator; `EpochStart` sets the epoch's.
            layers.append(keras.layers.Dropout(rate, seed=recipe.seed, name=f"drop{block}"))
    layers += [
        keras.layers.Flatten(name="flatten"),
        keras.layers.Dense(recipe.hidden_units, name="hidden"),
        keras.layers.LeakyReLU(recipe.negative_slope, name="hidden_act"),
    ]
    if rate := recipe.dropout_rates[-1]:
        layers.append(keras.layers.Dropout(rate, seed=recipe.seed, name="hidden_drop"))
    # No softmax here: the loss takes logits on both sides, which is exact where a clipped
    # probability would have no gradient.
    layers.append(keras.layers.Dense(recipe.num_classes, name="logits"))
    return keras.Sequential(layers, name=recipe.variant)


def layers_of(model: keras.Sequential) -> list[Layer]:
    """Return the built layers; shapes are (H, W, C)."""
    return [
        Layer(
            layer.name,
            type(layer).__name__,
            tuple(layer.output.shape[1:]),
            layer.count_params(),
        )
        for layer in model.layers
    ]
