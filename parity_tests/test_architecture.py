"""Rung `architecture`: layer tables and parameter counts, read off the built objects."""

import pytest

from ladder.compare import compare_facts
from pipeline.recipe import preset

VARIANTS = ("base", "dropout")
ENGINES = ("keras-tensorflow", "lightning")
PARAMETERS = {
    "conv1": 320,
    "conv2": 18_496,
    "conv3": 73_856,
    "hidden": 262_272,
    "logits": 1_290,
}


def ask_layers(ask, engine, variant, mutant=""):
    return ask(engine, preset(variant), "layers", mutant=mutant).facts


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "engine",
    [
        "keras-tensorflow",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("keras-jax", "keras-torch")),
    ],
)
def test_the_layer_tables_match(ask, engine, variant):
    keras, lightning = (ask_layers(ask, name, variant)["layers"] for name in (engine, "lightning"))
    assert compare_facts(keras, lightning) == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_fast_path_runs_the_tables_own_layers(ask, variant):
    """In another order: each pool before its activation, where the two commute."""
    facts = ask_layers(ask, "lightning", variant)
    names = [row["name"] for row in facts["layers"]]
    assert sorted(facts["fast_order"]) == sorted(names)
    swapped = [name.replace("act", "pool") if name[:3] == "act" else name for name in names]
    swapped = [
        name.replace("pool", "act") if old.startswith("pool") else name
        for old, name in zip(names, swapped, strict=True)
    ]
    assert facts["fast_order"] == swapped


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_parameters_are_the_tutorials(ask, engine, variant):
    facts = ask_layers(ask, engine, variant)
    counts = {row["name"]: row["parameters"] for row in facts["layers"] if row["parameters"]}
    assert counts == PARAMETERS
    assert facts["parameters"] == sum(PARAMETERS.values()) == 356_234


@pytest.mark.parametrize("engine", ENGINES)
def test_the_table_is_the_recipes(ask, engine):
    rows = {row["name"]: row for row in ask_layers(ask, engine, "dropout")["layers"]}
    sizes = [rows[f"pool{block}"]["output_shape"] for block in (1, 2, 3)]
    assert sizes == [[14, 14, 32], [7, 7, 64], [4, 4, 128]]
    kinds = [row["kind"] for row in rows.values()]
    block = ["convolution", "leaky_relu", "max_pool", "dropout"]
    assert kinds == [*3 * block, "flatten", "dense", "leaky_relu", "dropout", "dense"]


@pytest.mark.parametrize(
    ("engine", "mutant", "where"),
    [
        ("lightning", "average-pool", "pool1.kind"),
        ("lightning", "no-bias", "conv2.parameters"),
        ("keras-tensorflow", "valid-pool", "pool3.output_shape.0"),
        ("keras-tensorflow", "activation-after-pool", "pool1.kind"),
    ],
)
def test_a_mutant_is_caught_at_its_layer(ask, engine, mutant, where):
    other = ENGINES[1 - ENGINES.index(engine)]
    mutated = ask_layers(ask, engine, "dropout", mutant)["layers"]
    differences = compare_facts(mutated, ask_layers(ask, other, "dropout")["layers"])
    assert differences
    assert differences[0].where == where
