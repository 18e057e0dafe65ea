"""Figures in sentences of the documents are those of the committed results."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
ENGINES = ("keras-tensorflow", "keras-jax", "keras-torch")
NO_RESULTS = {"2.0", "3.11", "3.12", "3.13", "3.14", "1.14"}
"""Of the README: versions."""


def read(name):
    return json.loads((RESULTS / name).read_text())


def accuracies():
    runs = {(run["engine"], run["variant"]): run["test_accuracy"]
            for run in read("compare-20-epochs/comparison.json")["runs"]}  # fmt: skip
    engines = "keras-tensorflow", "lightning"
    return [f"{runs[engine, variant]:.4f}" for variant in ("base", "dropout") for engine in engines]


def largest_gap():
    gaps = [rung["worst"]["gap"] for climb in read("proof/ladder.json")["climbs"]
            if (climb["left"], climb["right"]) == ("lightning", "keras-tensorflow")
            and climb["lane"] == "float64" for rung in climb["rungs"]
            if rung["name"] in ("logits", "gradients", "optimizer") and rung["worst"]]  # fmt: skip
    return [f"{max(gaps):.0e}".replace("e-0", "e-")]


def ratios(folder, *pairs):
    arms = {arm["arm"]: arm["faster_than"] for arm in read(f"{folder}/benchmark.json")["arms"]}
    return [f"{arms[ours][other]['median']:.1f}" for ours, other in pairs]


def against_stock(folder):
    return ratios(folder, *((f"ours {name}", f"stock {name}") for name in ("lightning", *ENGINES)))


def bfloat16(folder):
    return ratios(folder, *((f"{name} bf16", name) for name in ("ours lightning", "raw torch")))


SENTENCES = {
    "the test accuracy is {} with Keras on TensorFlow and {} with Lightning, and with dropout {} "
    "and {}.": accuracies,
    "differ by rounding, by {} at most": largest_gap,
    "our `Trainer.fit` is {} times as fast as a newcomer's and our `model.fit` {} (TensorFlow), {} "
    "(JAX) and {} times (torch)": lambda: against_stock("benchmark-cpu"),
    "the same ratios are {} for `Trainer.fit`, and {} (TensorFlow), {} (JAX) and {} (torch) for "
    "`model.fit`": lambda: against_stock("benchmark-cpu-intel"),
    "Lightning's epoch {} times as fast here ([measured](results/benchmark-cpu-bf16/benchmark.md), "
    "n = 6) and the hand-written loop's {} times": lambda: bfloat16("benchmark-cpu-bf16"),
    "has matrix units for it, {} and {} times": lambda: bfloat16("benchmark-cpu-intel-bf16"),
}


def prose(text):
    """Return a document's sentences in one line, without its made parts, code and links."""
    text = re.sub(r"<!-- (\w+) -->.*?<!-- /\1 -->|```.*?```", "", text, flags=re.S)
    return " ".join(text.split())


def unfounded(text):
    """Return the sentences that the results do not give, and the decimals that no sentence has."""
    text, wrong = prose(text), []
    for sentence, measured in SENTENCES.items():
        wanted = sentence.format(*measured())
        if wanted not in text:
            wrong.append(wanted)
        text = text.replace(wanted, "")
    plain = re.sub(r"`[^`]*`|\]\([^)]*\)", "", text)
    decimals = re.findall(r"\d+\.\d+\b(?! GB)|\de-\d+", plain)
    return wrong + [each for each in decimals if each not in NO_RESULTS]


def test_the_figures_of_the_readme_are_those_of_the_results():
    assert unfounded((ROOT / "README.md").read_text()) == []


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [("is 0.9149 with", "is 0.9159 with", 5), ("few things", "2.5 things", 1)],
)
def test_a_stale_figure_is_seen(old, new, found):
    text = (ROOT / "README.md").read_text() + "\nfew things\n"
    assert old in text
    assert len(unfounded(text.replace(old, new))) == found
