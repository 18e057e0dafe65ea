import dataclasses
import math

import numpy as np
import pytest
import yaml

from pipeline.errors import UsageError
from pipeline.recipe import nearest_float32, preset, recipe_from_dict, recipe_to_dict, write_recipe
from pipeline.recipe_file import read_recipe_fields

# The tutorial's numbers, as docs/architecture.md states them.
TUTORIAL = {
    "image_size": 28,
    "num_classes": 10,
    "validation_fraction": 0.2,
    "split_seed": 13,
    "conv_filters": (32, 64, 128),
    "kernel_size": 3,
    "pool_size": 2,
    "hidden_units": 128,
    "negative_slope": 0.1,
    "init": "shared",
    "learning_rate": 1e-3,
    "beta_1": 0.9,
    "beta_2": 0.999,
    "epsilon": 1e-7,
    "batch_size": 64,
    "num_epochs": 20,
    "seed": 0,
    "precision": "32",
}
RATES = {"base": (0.0, 0.0, 0.0, 0.0), "dropout": (0.25, 0.25, 0.4, 0.3)}
FLOATS = ("negative_slope", "learning_rate", "beta_1", "beta_2", "epsilon")


@pytest.mark.parametrize("variant", RATES)
def test_the_defaults_are_the_tutorials(variant):
    expected = {**TUTORIAL, "variant": variant, "dropout_rates": RATES[variant]}
    received = dataclasses.asdict(preset(variant))
    assert received.keys() == expected.keys()
    for name, value in expected.items():  # to within float32's rounding
        same = value if isinstance(value, str) else pytest.approx(value, rel=6e-8)
        assert received[name] == same, name


@pytest.mark.parametrize("name", FLOATS)
def test_floats_are_the_nearest_float32(name):
    assert getattr(preset("base"), name) == float(np.float32(TUTORIAL[name])) != TUTORIAL[name]
    assert getattr(preset("base", **{name: 1 / 3}), name) == float(np.float32(1 / 3))


def test_rates_are_rounded_and_a_share_of_a_count_is_not():
    recipe = preset("dropout", validation_fraction=1 / 3)
    assert recipe.dropout_rates == tuple(float(np.float32(rate)) for rate in RATES["dropout"])
    assert recipe.validation_fraction == 1 / 3 != nearest_float32(1 / 3)


def refused(name, value, message):
    return pytest.param(name, value, message, id=f"{name}={str(value)[:20]}")


INTEGERS = ("image_size", "num_classes", "kernel_size", "pool_size", "hidden_units", "batch_size",
            "num_epochs")  # fmt: skip
BAD_VALUES = [
    *(refused(name, 0, "must be an integer of at least 1") for name in INTEGERS),
    *(refused(name, value, "must be an integer of at least 1; received batch_size=")
      for name, value in [("batch_size", 1.5), ("batch_size", True), ("batch_size", "64")]),
    *(refused(name, -1, "must be an integer of at least 0") for name in ("seed", "split_seed")),
    *(refused(name, 2**32, "must be at most 4294967295") for name in ("seed", "split_seed")),
    *(refused(name, value, "must be above 0") for name in ("learning_rate", "epsilon")
      for value in (0.0, -1.0, math.nan, math.inf, None, True, [1.0], "nan", "1e-99")),
    *(refused(name, value, "must be between 0 and 1, both excluded")
      for name in ("beta_1", "beta_2", "negative_slope", "validation_fraction")
      for value in (0.0, 1.0, -0.1, math.nan)),
    refused("learning_rate", "small", "`learning_rate` must be a number; received learning_rate="),
    refused("hidden_units", 10**22, "`hidden_units` must be at most 65536"),
    refused("conv_filters", [10**9], "`conv_filters` must be at most 65536"),
    refused("pool_size", 3, "`pool_size` must be at most 2; received pool_size=3"),
    refused("image_size", 1025, "`image_size` must be at most 1024; received image_size=1025"),
    refused("learning_rate", 1e39, "must fit in float32"),
    refused("learning_rate", 10**400, "must fit in float32"),
    refused("validation_fraction", 10**400, "must fit in float32"),
    refused("variant", "wide", "`variant` must be one of base, dropout; received variant='wide'"),
    refused("variant", ["base"], "`variant` must be one of base, dropout"),
    refused("precision", 16, "`precision` must be one of 32, 64, bf16; received precision='16'"),
    refused("precision", True, "`precision` must be one of 32, 64, bf16"),
    refused("init", "", "`init` must be shared, own or a weights file"),
    refused("init", None, "`init` must be shared, own or a weights file"),
    refused("conv_filters", [], "`conv_filters` must name at least one block"),
    refused("conv_filters", [32, 0, 128], "`conv_filters` must be an integer of at least 1"),
    refused("conv_filters", [[32]], "`conv_filters` must be an integer of at least 1"),
    refused("conv_filters", 32, "`conv_filters` must be a list; received conv_filters=32"),
    refused("conv_filters", None, "`conv_filters` must be a list; received conv_filters=None"),
    refused("conv_filters", "abc", "`conv_filters` must be a list"),
    refused("conv_filters", {1: 2}, "`conv_filters` must be a list"),
    refused("conv_filters", [32], "2 in all"),
    refused("dropout_rates", 0.5, "`dropout_rates` must be a list; received dropout_rates=0.5"),
    refused("dropout_rates", [0.1], r"one rate a block and one before the logits, 4 in all"),
    refused("dropout_rates", [0.0, 0.0, 0.0, 1.0], r"must lie in \[0, 1\)"),
    refused("dropout_rates", [0.0, 0.0, 0.0, math.nan], r"must lie in \[0, 1\)"),
    refused("dropout_rates", [0.0, 0.0, 0.0, "half"], "`dropout_rates` must be a number"),
    refused("dropout_rates", [0.0, 0.0, 0.0, 0.3], "must be zero in the base variant"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "message"), BAD_VALUES)
def test_a_bad_value_is_refused_by_name(name, value, message):
    with pytest.raises(UsageError, match=message) as caught:
        recipe_from_dict({name: value})
    assert f"`{name}`" in str(caught.value) or name == "conv_filters"
    assert len(str(caught.value)) < 500


def test_good_values_at_the_border_are_taken():
    recipe = recipe_from_dict(
        {"seed": 2**32 - 1, "batch_size": 1, "learning_rate": 1, "precision": 64}
    )
    assert (recipe.seed, recipe.learning_rate, recipe.precision) == (2**32 - 1, 1.0, "64")


def test_what_yaml_reads_as_a_word_is_a_number_all_the_same(tmp_path):
    (tmp_path / "recipe.yaml").write_text("learning_rate: 1e-3")
    fields = read_recipe_fields(tmp_path / "recipe.yaml")
    assert fields == {"learning_rate": "1e-3"}
    assert recipe_from_dict(fields) == preset("base")


def test_dropout_without_rates_is_refused():
    with pytest.raises(UsageError, match="not all zero in others"):
        preset("dropout", dropout_rates=(0.0, 0.0, 0.0, 0.0))


def test_an_unknown_variant_or_field_is_refused():
    with pytest.raises(UsageError, match="received variant='wide'"):
        preset("wide")
    with pytest.raises(UsageError, match=r"a recipe has no field `num_epoch`; it has variant, "):
        preset("base", num_epoch=1)
    with pytest.raises(UsageError, match="no field `1`"):
        recipe_from_dict({1: 2})


@pytest.mark.parametrize("variant", RATES)
def test_a_recipe_survives_the_way_through_yaml(variant, tmp_path):
    recipe = preset(variant, learning_rate=1 / 3, seed=7, precision="64", init="a ü/b: #c.st")
    write_recipe(tmp_path / "recipe.yaml", recipe)
    assert recipe_from_dict(read_recipe_fields(tmp_path / "recipe.yaml")) == recipe
    assert recipe_from_dict(read_recipe_fields(tmp_path / "recipe.yaml")) != preset(variant)
    assert list(yaml.safe_load((tmp_path / "recipe.yaml").read_text())) == list(
        recipe_to_dict(recipe)
    )
