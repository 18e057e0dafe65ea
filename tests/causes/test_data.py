"""Causes in data, first weights, dropout and metrics; and what lacks everything."""

import dataclasses
import hashlib

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from ladder.causes import Evidence, diagnose
from ladder.exchange import Question, Trace

RUNGS = (
    "data", "architecture", "initialisation", "layers", "logits", "gradients",
    "optimizer", "dropout", "training", "evaluation",
)  # fmt: skip
DRAW = np.random.default_rng(11)
IMAGES = DRAW.integers(256, size=(60, 6, 6, 1), dtype=np.uint8)
CLASSES = DRAW.integers(4, size=60)
CLASSES[:4] = range(4)
TRAIN, VALIDATION, TEST = np.arange(34), np.arange(34, 50), np.arange(50, 60)


def named(rung, left, right, question=None):
    sides = [side if isinstance(side, Trace) else Trace("", "", side, {}) for side in (left, right)]
    return diagnose(Evidence(rung, question or Question((), {}, {}), *sides))


# Data.


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def row(stage, chosen, change=lambda x: x, relabel=lambda c: c, dtype="float64"):
    images = np.stack([change(image / 255) for image in IMAGES[chosen]]).astype(dtype)
    classes = relabel(CLASSES[chosen])
    targets = np.eye(4)[classes].astype(dtype)
    return {
        "stage": stage, "size": len(images), "shape": list(images.shape), "dtype": dtype,
        "images": digest(images), "members": [digest(image)[:16] for image in images],
        "pixels": digest(np.sort(images, axis=None)),
        "labels": digest(targets), "classes": classes.tolist(),
        "mean": round(float(images.mean()), 6),
    }  # fmt: skip


def order(epoch):
    return np.random.default_rng(epoch).permutation(len(TRAIN))


def fed(train=TRAIN, validation=VALIDATION, test=TEST, *, order=order, keep=None, **options):
    """Return the facts of two epochs and a prediction, in batches of 8."""
    rows = []
    for epoch in range(2):
        for stage, images in (("train", train[order(epoch)]), ("validation", validation)):
            starts = range(0, len(images), 8)
            rows += [row(stage, images[i : i + 8], **options) for i in starts][:keep]
    rows += [row("predict", test[i : i + 8], **options) for i in range(0, len(test), 8)]
    return {"batches": rows, "set_order": row("train", train, **options)["members"]}


def one_order(of):
    return lambda epoch: of


DATA_MUTANTS = [
    ("last-batch-dropped", "train", fed(keep=4), "of 2 images"),
    ("order-same-each-epoch", "train", fed(order=one_order(order(0))), "order of the first"),
    ("order-not-shuffled", "train", fed(order=one_order(np.arange(34))), "the set's own"),
    ("order-same-each-epoch", "train", fed(order=one_order(order(7))), "none of the reference's"),
    ("order-differs", "train", fed(order=lambda epoch: order(epoch + 5)), "another order"),
    ("order-differs", "train", fed(order=lambda epoch: order(epoch + 1)), "epoch 2"),
    ("order-same-each-epoch", "train", fed(order=one_order(order(1))), "reference's of epoch 2"),
    ("images-rescaled", "train", fed(change=lambda x: x / 2 + 0.25), "0.5·x + 0.25"),
    ("batches-repeated", "train", fed(order=lambda e: np.r_[order(e), order(e)[:6]]), "6 images"),
    ("validation-trained-on", "train", fed(np.r_[TRAIN[:-4], VALIDATION[:4]]), "4 images"),
    ("training-images-validated", "validation", fed(validation=TRAIN[:16]), "16 images"),
    ("other-split", "train, validation",
     fed(np.r_[VALIDATION, TRAIN[16:]], TRAIN[:16]), "split otherwise"),
    ("other-split", "predict", fed(test=VALIDATION[:10]), "in validation only"),
    ("labels-shifted", "train", fed(relabel=lambda c: (c + 1) % 4), "class +1"),
    ("labels-permuted", "train", fed(relabel=lambda c: np.array([2, 1, 0, 3])[c]), "0 → 2, 2 → 0"),
    ("labels-permuted", "train", fed(relabel=lambda c: np.roll(c, 1)), "image before"),
    ("images-unscaled", "train", fed(change=lambda x: np.rint(x * 255)), "0 to 255"),
    ("images-scaled-twice", "train", fed(change=lambda x: x / 255), "twice"),
    ("images-rescaled", "train", fed(change=lambda x: x * 255 / 256), "divided by 256"),
    ("images-rescaled", "train", fed(change=lambda x: 3 * x), "3 times"),
    ("images-inverted", "train", fed(change=lambda x: 1 - x), "1 − x"),
    ("images-standardised", "train", fed(change=lambda x: (x - 0.2860) / 0.3530), "0.286"),
    ("images-standardised", "train", fed(change=lambda x: 2 * x - 1), "−1 to 1"),
    ("float32-inside-float64", "train", fed(dtype="float32"), "float32"),
]  # fmt: skip


@pytest.mark.parametrize(("cause", "stage", "right", "words"), DATA_MUTANTS)
def test_a_mutant_of_the_data_is_named_first(cause, stage, right, words):
    first, *_ = named("data", fed(), right)
    assert (first.cause, first.where) == (cause, stage)
    assert words in first.sentence


@pytest.mark.parametrize(("cause", "change"), [
    ("images-transposed", lambda x: x.swapaxes(0, 1)),
    ("images-flipped", lambda x: x[:, ::-1]),
    ("images-inverted", lambda x: 1 - x),
    ("images-unscaled", lambda x: np.rint(x * 255)),
    ("float32-inside-float64", lambda x: x.astype(np.float32)),
])  # fmt: skip
def test_images_of_the_question_tell_how_they_were_changed(cause, change):
    question = Question((), {}, {"images": IMAGES[:20]})
    first, *_ = named("data", fed(), fed(change=change), question)
    assert first.cause == cause
    assert "found by digest" in first.sentence or cause in ("images-unscaled", "images-inverted")


def test_moved_pixels_are_told_without_the_images_too():
    first, *_ = named("data", fed(), fed(change=lambda x: x[:, ::-1]))
    assert first.cause == "images-rearranged"


def test_blank_images_are_not_called_standardised():
    assert named("data", fed(), fed(change=np.zeros_like)) == []


def test_equal_and_unknown_data_have_no_cause():
    assert named("data", fed(), fed()) == []
    noisy = np.random.default_rng(0)
    right = fed(change=lambda x: x + 0.01 * np.abs(noisy.normal(size=x.shape)))
    assert named("data", fed(), right) == []


# First weights.


def drawn(kernel, bias=0.0, seed=0):
    draw = np.random.default_rng(seed)
    arrays = {}
    for one in range(3):
        arrays[f"own.{one}.hidden.kernel"] = draw.uniform(-kernel, kernel, (200, 30))
        arrays[f"own.{one}.hidden.bias"] = draw.uniform(-bias, bias, 30) if bias else np.zeros(30)
    return Trace("", "", {}, arrays)


def test_another_distribution_is_named():
    glorot, torch = np.sqrt(6 / 230), 1 / np.sqrt(200)
    assert named("initialisation", drawn(glorot), drawn(glorot, seed=9)) == []
    found = named("initialisation", drawn(glorot), drawn(torch, torch))
    assert {one.cause: one.where for one in found} == {
        "bias-not-zero": "hidden.bias",
        "init-distribution": "hidden.kernel",
    }
    assert "torch's default" in found[0].sentence
    assert "glorot_uniform" in found[0].sentence


def test_orthogonal_kernels_are_not_called_normal():
    right = dict(drawn(np.sqrt(6 / 230)).arrays)
    for name, draw in right.items():
        if name.endswith(".kernel"):
            right[name] = np.linalg.qr(np.random.default_rng(3).normal(size=draw.shape))[0]
    (found,) = named("initialisation", drawn(np.sqrt(6 / 230)), Trace("", "", {}, right))
    assert "hidden.kernel: orthogonal fits" in found.sentence


# Dropout.


def dropped(rate=0.4, other=0.3, scale=True, channels=False):
    arrays = {}
    for name, own in (("drop1", rate), ("drop2", other)):
        keep = DRAW.uniform(size=(8, 1, 1, 6) if channels else (8, 4, 4, 6)) >= own
        keep = np.broadcast_to(keep, (8, 4, 4, 6))
        arrays[f"drop.{name}.0"] = np.where(keep, 1 / (1 - own) if scale else 1.0, 0.0)
        arrays[f"drop_eval.{name}"] = np.ones_like(keep, float)
    return Trace("", "", {}, arrays)


@pytest.mark.parametrize(("cause", "where", "right", "words"), [
    ("dropout-rate", "drop1", dropped(rate=0.5), "0.5 against 0.4"),
    ("dropout-rate", "drop1", dropped(rate=0.0), "0 against 0.4"),
    ("dropout-rate", "drop1, drop2", dropped(0.3, 0.4), "swapped"),
    ("dropout-not-scaled", "drop1", dropped(scale=False), "not scaled"),
    ("spatial-dropout", "drop1", dropped(channels=True), "whole channels"),
])  # fmt: skip
def test_a_mutant_of_dropout_is_named_first(cause, where, right, words):
    first, *_ = named("dropout", dropped(), right)
    assert (first.cause, first.where) == (cause, where)
    assert words in first.sentence
    assert named("dropout", dropped(), dropped()) == []


# Evaluation.

LOGITS = DRAW.normal(size=(21, 4)) * 3
LABELS = DRAW.integers(4, size=21)
LOSSES = -log_softmax(LOGITS, axis=1)[np.arange(21), LABELS]
BATCHES = [LOSSES[i : i + 8].mean() for i in range(0, 21, 8)]
EVALUATION = Question((), {"recipe": {"batch_size": 8}, "training": {}}, {})


MEAN_LOSS = LOSSES.mean()


def evaluated(loss=MEAN_LOSS, earlier=1.7, logits=LOGITS, trained_logits=LOGITS):
    history = [{"val_loss": earlier}, {"val_loss": loss}]
    arrays = {"validation_logits": logits, "validation_classes": LABELS,
              "trained_logits": trained_logits, "trained.a.kernel": np.arange(4.0)}  # fmt: skip
    return Trace("", "", {"history": history, "layers": [{"name": "d", "rate": 0.5}]}, arrays)


@pytest.mark.parametrize(("cause", "right"), [
    ("metric-unweighted-mean", evaluated(np.mean(BATCHES))),
    ("metric-of-last-batch", evaluated(BATCHES[-1])),
    ("evaluated-other-weights", evaluated(1.7, 2.3)),
    ("predictions-permuted", evaluated(trained_logits=LOGITS[::-1])),
    ("predictions-permuted", evaluated(trained_logits=LOGITS[:, [1, 0, 2, 3]])),
    ("softmax-output", evaluated(trained_logits=softmax(LOGITS, axis=1))),
])  # fmt: skip
def test_a_mutant_of_evaluation_is_named(cause, right):
    first, *_ = named("evaluation", evaluated(), right, EVALUATION)
    assert first.cause == cause
    assert named("evaluation", evaluated(), evaluated(), EVALUATION) == []


def test_dropout_in_evaluation_is_named_where_it_was_seen_alone():
    def seen(**modes):
        trace = evaluated(MEAN_LOSS * 1.2, trained_logits=LOGITS * 1.1)
        return dataclasses.replace(trace, facts={**trace.facts, "dropout_modes": modes})

    off = {"train": [True], "validation": [False], "predict": [False]}
    for stage, cause in (
        ("validation", "dropout-in-metrics"),
        ("predict", "dropout-in-predictions"),
    ):
        found = named("evaluation", seen(**off), seen(**{**off, stage: [True]}), EVALUATION)
        assert [diagnosis.cause for diagnosis in found] == [cause]
    assert named("evaluation", seen(**off), seen(**off), EVALUATION) == []
    assert named("evaluation", evaluated(), evaluated(MEAN_LOSS * 1.2), EVALUATION) == []


DENSE = DRAW.normal(size=(5, 3))


def test_steps_that_leave_the_weights_as_they_were_are_named():
    def ended_at(step):
        arrays = {f"seam.{at}.d.kernel": DENSE * at for at in (25, 50)}
        arrays |= {"seam.52.d.kernel": DENSE * step, "trained.d.kernel": DENSE * step}
        return Trace("", "", {}, arrays)

    causes = [found.cause for found in named("training", ended_at(52), ended_at(50))]
    assert causes == ["evaluated-other-weights", "steps-left-out"]
    assert named("training", ended_at(52), ended_at(51)) == []


def test_masks_that_come_again_are_named():
    sums = np.arange(12).reshape(6, 2)
    left, right = ({"drop_steps.drop1": values} for values in (sums, sums[[0, 1, 2, 0, 1, 2]]))
    sides = [Trace("", "", {}, arrays) for arrays in (left, right)]
    (found,) = named("dropout", *sides)
    assert found.cause == "dropout-masks-repeated"
    assert "step 4 draws the mask of step 1 again: 3 masks in 6 steps" in found.sentence
    assert named("dropout", sides[0], sides[0]) == []


def test_a_layer_that_drops_nothing_is_not_said_to_repeat_masks():
    """All that it keeps is alike in each step, as of noise that multiplies."""
    sums = np.arange(12).reshape(6, 2)
    own = {"drop_own.drop1": np.linspace(-1, 3, 12).reshape(3, 4)}
    left, right = {"drop_steps.drop1": sums}, {"drop_steps.drop1": np.full_like(sums, 7)}
    sides = [Trace("", "", {}, arrays) for arrays in (left, {**right, **own})]
    assert named("dropout", *sides) == []
    own["drop_own.drop1"][0] = 0
    sides[1] = Trace("", "", {}, {**right, **own})
    assert [found.cause for found in named("dropout", *sides)] == ["dropout-masks-repeated"]


@pytest.mark.parametrize("axis", [0, 1, 3])
def test_masks_that_are_few_are_not_said_to_repeat_by_mistake(axis):
    """Alike in each image, row or channel, some of them come again by chance."""
    sums, drawn = np.arange(12).reshape(6, 2), np.random.default_rng(0).random((4, 3, 3, 2)) < 0.5
    own = np.broadcast_to(drawn.take([0], axis), drawn.shape) * 2.0
    left = {"drop_steps.drop1": sums, "drop_own.drop1": drawn * 2.0}
    right = {"drop_steps.drop1": sums[[0, 1, 2, 0, 1, 2]], "drop_own.drop1": own}
    sides = [Trace("", "", {}, arrays) for arrays in (left, right)]
    assert "dropout-masks-repeated" not in [found.cause for found in named("dropout", *sides)]


@pytest.mark.parametrize(("shown", "cause"), [
    ((0.0, 1.0), ["metric-of-last-batch"]), ((1.0, 1.0), []), ((0.0, 0.0), []),
])  # fmt: skip
def test_an_accuracy_that_never_changes_is_not_called_the_last_batchs(shown, cause):
    """Of a last batch of one image it is 0 or 1; so it is where nothing or all is counted."""
    classes = np.array([0, 1, 0, 1, 0, 1, 1])
    logits = np.eye(2)[[1, 1, 0, 0, 0, 1, 1 if shown[1] else 0]]
    hits = (logits.argmax(1) == classes).mean()
    arrays = {"validation_logits": logits, "validation_classes": classes}
    sides = [
        Trace("", "", {"history": [{"val_accuracy": value} for value in values]}, arrays)
        for values in ((0.5, hits), shown)
    ]
    question = Question((), {"recipe": {"batch_size": 4}, "training": {"batch_size": 3}}, {})
    assert [found.cause for found in named("evaluation", *sides, question)] == cause


@pytest.mark.parametrize("rung", [*RUNGS, "unknown"])
def test_traces_without_anything_have_no_cause(rung):
    assert named(rung, {}, {}) == []


ODD = (np.zeros(0), np.full((2, 2), np.nan), np.array(np.inf), np.zeros((3, 0)), np.array(["a"]))


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("value", range(len(ODD)))
def test_what_is_not_finite_or_empty_never_raises(rung, value, monkeypatch):
    monkeypatch.undo()
    names = ("forced.a", "point.a", "logits.full", "loss.full", "gradient.full.a.kernel",
             "step.1.weight.a.kernel", "step.1.adam.m.a.kernel", "step.1.adam.v.a.kernel",
             "drop.a.0", "drop_eval.a", "own.0.a.kernel", "trained_logits", "validation_logits",
             "trained.a.kernel")  # fmt: skip
    arrays = dict.fromkeys(names, ODD[value])
    facts = {"layers": [{"name": "a", "kind": "dense"}], "history": [{}],
             "batches": [{"stage": "train"}]}  # fmt: skip
    question = Question((), {"points": ["a"]}, {
        "input.a": ODD[value], "images.full": ODD[value], "labels.full": np.zeros(2, int),
        "weights.a.kernel": ODD[value],
    })  # fmt: skip
    left, right = (
        Trace(
            "", "", facts, {k: v + extra if v.dtype.kind == "f" else v for k, v in arrays.items()}
        )
        for extra in (0, 1)
    )
    assert diagnose(Evidence(rung, question, left, right)) == []
    assert diagnose(Evidence(rung, question, left, Trace("", "", {}, {}))) == []
