"""What training and a user's functions give is judged: steps, first weights, conversions."""

import numpy as np
import pytest
from portproof.explain import BIASED, Bench, Explanation
from portproof.graph import gaps
from portproof.graph.align import align
from portproof.graph.calls import Call, Graph, Output
from portproof.graph.carry import carry
from portproof.graph.compare import Judged, Replays
from portproof.graph.conclude import conclude
from portproof.graph.first import frozen_values, judge_first
from portproof.graph.steps import first_apart, judge_metrics, placed
from portproof.graph.users import as_reference, judge_batches, judge_conversion
from portproof.graph.verdict import Difference, Place
from portproof.record.program import metrics


def graph(*calls):
    """Return calls that follow one another."""
    for i, call in enumerate(calls):
        call.preds = [i - 1 if i else "input0"]
    count = sum(int(np.prod(size)) for c in calls for size in c.roles.values())
    ends = [Output([len(calls) - 1], [], [], [4, 2])]
    return Graph(list(calls), ends, count, count, 0, [], [], {"inputs": ["as given"]})


def skip():
    sizes = {"a": (3, 5), "b": (5, 5), "c": (5, 5), "d": (5, 2)}
    return graph(*(Call(name, name, "dense", {"kernel": [*size], "bias": [size[1]]})
                   for name, size in sizes.items()))  # fmt: skip


def judge_steps(left, right, alignment, ours, theirs, before):
    apart = first_apart(left, right, alignment, ours, theirs, before)
    return [apart[1]] if apart else judge_metrics(left, right, ours, theirs)


def first(role, *draws):
    """Return a side whose calls start from these numbers in one role, with the others fixed."""
    return {f"first|{c.key}|{role}": a for c, a in zip(skip().calls, draws, strict=False)}


@pytest.mark.parametrize(
    ("moved", "gradients", "optimizer", "peer", "is_apart"),
    [
        ((0.1, -0.15), (1e-17, 1e-17), "Adam(lr=0.1)", None, False),
        ((0.0, -0.15), (0.0, 1e-17), "Adam(lr=0.1)", None, False),
        ((0.0, -0.15), (0.0, 0.0), "Adam(lr=0.1)", None, True),
        ((0.0, 5.0), (1e-17, 1e-17), "Adam(lr=0.1)", None, True),
        ((0.0, np.nan), (1e-17, 1e-17), "Adam(lr=0.1)", None, True),
        ((0.0, 0.01), (1e-17, 1e-17), "SGD(lr=0.1)", None, True),
        ((0.0, 0.01), (1e-5, 1e-5), "Adam(lr=0.1)", None, True),
        ((0.1, -0.15), (1e-17, 1e-17), "Adam(lr=0.1)", -0.15, False),
        ((0.1, -0.15), (1e-17, 1e-17), "Adam(lr=0.1)", -0.14, True),
    ],
)
def test_moves_by_gradients_of_rounding_are_bounded(
    moved, gradients, optimizer, peer, is_apart
) -> None:
    g = graph(Call("a", "a", "dense", {"kernel": [3, 5], "bias": [5]}))
    g.about["training"] = {"optimizer": optimizer, "optimizers": [optimizer]}

    def side(move, gradient):
        made = {"losses": np.ones(1), "step.0|a|kernel": np.full((3, 5), 0.1)}
        made |= {"step.0|a|bias": np.full(5, move), "grad.0|a|kernel": np.ones((3, 5))}
        return made | {"grad.0|a|bias": np.full(5, gradient)}

    before = {"a|kernel": np.zeros((3, 5)), "a|bias": np.zeros(5)}
    ours, theirs = map(side, moved, gradients)
    others = [] if peer is None else [side(peer, 1e-17)]
    apart = first_apart(g, g, align(g, g), ours, theirs, before, *others)
    assert (apart is not None) == is_apart


def test_where_statistics_alone_part_no_cause_is_sought_in_the_moves() -> None:
    sizes = {"gamma": [5], "moving_mean": [5]}
    g = graph(Call("a", "a", "batch_norm", sizes))
    g.about["training"] = {"optimizer": "SGD(lr=0.1)"}
    ours, theirs = (
        {"losses": np.ones(1), "step.0|a|gamma": np.full(5, 0.9),
         "step.0|a|moving_mean": np.full(5, mean)}
        for mean in (0.1, 0.2)
    )  # fmt: skip
    before = {f"a|{role}": np.ones(5) for role in sizes}
    apart = first_apart(g, g, align(g, g), ours, theirs, before)
    assert apart is not None
    assert (apart[1].what, apart[1].cause) == ("update", None)


@pytest.mark.parametrize(
    ("momentum", "factor", "cause"),
    [
        (0.9, 1.0, "momentum 0.99 | 0.9"),
        (0.9, 64 / 63, f"momentum 0.99 | 0.9, {BIASED}"),
        (0.9, 1.1, None),
        (0.99, 64 / 63, None),
    ],
)
def test_another_share_of_kept_statistics_is_named_where_it_gives_them(
    momentum, factor, cause
) -> None:
    rng = np.random.default_rng(0)
    before, of_batch = rng.uniform(0.5, 1, 5), rng.uniform(2, 3, 5)
    shape = {"in_shape": [4, 4, 4, 5], "out_shape": [4, 4, 4, 5]}
    left, right = (
        graph(
            Call(
                "a",
                "a",
                "batch_norm",
                {"moving_variance": [5]},
                settings={"momentum": kept},
                **shape,
            )
        )
        for kept in (0.99, momentum)
    )
    moved = [0.99 * before + 0.01 * of_batch,
             momentum * before + (1 - momentum) * factor * of_batch]  # fmt: skip
    name = "moved|a|moving_variance"
    seen = Replays({}, {}, {}, *({name: array} for array in moved))
    place, role = Place("a", "a", 0.1), "moving_variance"
    d = Difference("statistics", "batch_norm", role, role, "training", [place])
    bench = Bench(True, right, *[lambda *_: {}] * 4)
    first = {"a|moving_variance": before}
    Explanation(bench, left, right, {0: 0}, Judged([d]), seen, first).training()
    assert d.cause == cause


@pytest.mark.parametrize(
    ("shifts", "said", "noted"),
    [
        ((2e-9, 2e-9), None, "2e-09"),
        ((2e-9, 3e-9), "", None),
        ((0.5, 0.5), "the suspect's is 0.5 more in each step, which moves nothing", None),
        ((np.nan, np.nan), "", None),
    ],
)
def test_a_constant_in_the_loss_is_told_from_other_losses(shifts, said, noted) -> None:
    g = graph(Call("a", "a", "dense", {"kernel": [3, 5]}))
    g.about["training"] = {}
    losses = np.array([1.25, 0.7])
    ours, theirs = (
        {"losses": of, **{f"step.{k}|a|kernel": np.full((3, 5), 0.1) for k in range(2)}}
        for of in (losses, losses + shifts)
    )
    apart = first_apart(g, g, align(g, g), ours, theirs, {"a|kernel": np.zeros((3, 5))})
    assert (apart is None) == (said is None)
    assert said is None or said in apart[1].detail
    assert g.about["training"].get("shift") == noted


def test_first_weights_are_told_apart_by_their_distribution() -> None:
    g, rng = skip(), np.random.default_rng(0)
    wide, other, few = (rng.uniform(-1, 1, n) for n in (9000, 9000, 25))
    ours = first("kernel", wide, wide, few, np.zeros(10)) | first("bias", np.zeros(5), few)
    theirs = first("kernel", other, other / 1.2, few * 1.1, few[:10]) | first("bias", np.zeros(5))
    found, (note,) = judge_first(g, g, align(g, g), ours, theirs)
    assert [(d.kind, [p.left for p in d.places]) for d in found] == [("dense kernel", ["b", "d"])]
    assert found[0].right == "within ±0.83, deviation 0.48"
    assert note == "too few first weights to tell their distribution: c (kernel)"


def test_first_weights_raise_no_false_alarm_over_many_seeds() -> None:
    g = skip()
    for seed in range(100):
        rng = np.random.default_rng(seed)
        ours, theirs = (first("kernel", *rng.normal(size=(4, 500))) for _ in range(2))
        assert judge_first(g, g, align(g, g), ours, theirs) == ([], [])


def test_constants_in_both_are_said_to_be_equal_or_not() -> None:
    left, right = skip(), skip()
    for call in (*left.calls[:2], *right.calls[:2]):
        call.frozen = ["kernel"]
    ours = first("kernel", np.ones(3), np.ones(3))
    theirs = first("kernel", np.ones(3), np.zeros(3))
    (apart,), notes = frozen_values(left, right, align(left, right), ours, theirs)
    assert (apart.what, apart.effect, [p.left for p in apart.places]) == ("values", "none", ["b"])
    assert notes == ["frozen in both, with the same values of their own: a (kernel)"]


def test_metrics_are_compared_in_the_epochs_in_which_both_sides_log_them() -> None:
    def failing(ours, theirs):
        g = skip()
        g.about["training"] = {}
        sides = [{"metrics": np.array(v)[:, None], "names": np.array(["mae"])}
                 for v in (ours, theirs)]  # fmt: skip
        return [d.kind for d in judge_metrics(g, g, *sides)]

    none = -np.inf
    assert failing([none, 2.0, none], [none, 2.0, 2.0]) == []
    assert failing([none, 2.0], [none, 3.0]) == ["mae"]
    assert failing([2.0, none], [none, 2.0]) == ["mae"]
    assert failing([np.nan, 2.0], [1.0, 2.0]) == ["mae"]
    assert failing([1.0, 2.0], [1.0]) == ["mae"]


def recurrent(roles):
    shapes = {"kernel": [3, 8], "recurrent": [2, 8], "bias": [8], "recurrent_bias": [8]}
    return graph(Call("r", "r", "lstm", {r: shapes[r] for r in roles}, preds=["input0"]))


def test_a_bias_held_as_the_sum_of_two_is_split_and_said() -> None:
    one, two = ("kernel", "recurrent", "bias"), ("kernel", "recurrent", "bias", "recurrent_bias")
    left, right = recurrent(one), recurrent(two)
    carried = carry(left, right, align(left, right), 0)
    parts = [carried.right[f"r|{r}"] for r in ("bias", "recurrent_bias")]
    assert np.allclose(sum(parts), carried.left["r|bias"], rtol=0, atol=1e-16)
    assert all(part.all() for part in parts)
    assert [(d.what, d.fails) for d in carried.differences] == [("biases", False)]
    back = carry(right, left, align(right, left), 0)
    whole = back.left["r|bias"] + back.left["r|recurrent_bias"]
    assert np.array_equal(back.right["r|bias"], whole)


def test_steps_are_judged_by_losses_and_by_what_they_move() -> None:
    g = skip()
    found = align(g, g)
    rng = np.random.default_rng(0)
    first = {f"{c.key}|{r}": rng.normal(size=s) for c in g.calls for r, s in c.roles.items()}

    def trained(rate=0.1, losses=(1.0, 0.5), logged=None, decay=0.0, role=""):
        moves = np.random.default_rng(1)
        steps = [{k: moves.normal(size=v.shape) for k, v in first.items()} for _ in range(2)]
        arrays = {"losses": np.array(losses), **metrics([logged or {}])}
        for n in range(2):
            arrays |= {
                f"step.{n}|{k}": v
                - rate * sum(s[k] for s in steps[: n + 1])
                - (decay * (n + 1) * v if role in k else 0)
                for k, v in first.items()
            }
        return arrays

    def judged(**other):
        return judge_steps(g, g, found, trained(), trained(**other), first)

    g.about["training"] = {"schedules": "StepLR"}
    assert judged() == []
    assert g.about["training"]["not compared"] == "StepLR by epoch"
    assert [(d.what, len(d.places)) for d in judged(rate=0.1 + 1e-6)] == [("update", 4)]
    (loss,) = judged(losses=(1.0, 0.5 + 1e-9))
    assert (loss.what, loss.places[0].left, loss.fails) == ("loss", "step 2", True)
    assert [d.what for d in judged(losses=(1.0,))] == ["steps"]
    assert [d.what for d in judged(losses=(1.0, np.nan))] == ["loss"]
    assert judged(losses=(64.0, 0.5))[0].detail.endswith("the suspect's is 64 × the reference's")
    assert "×" not in judged(losses=(64.001, 0.5))[0].detail
    assert "moves 2 × as far in the suspect" in str(judged(rate=0.2)[0].cause)
    assert "lose 0.01 of themselves besides in the suspect" in str(judged(decay=0.01)[0].cause)
    assert "besides in the reference" in str(judged(decay=-0.01, role="kernel")[0].cause)
    assert judged(rate=0.2, decay=0.01)[0].cause is None
    ours = trained(logged={"accuracy": 0.5, "val_loss": 1.0})
    theirs = trained(logged={"train_acc": 0.5, "val/loss_epoch": 1.1, "f1": 1.0})
    (metric,) = judge_steps(g, g, found, ours, theirs, first)
    assert (metric.what, metric.kind, metric.left, metric.right) == (
        "metric",
        "val_loss",
        "1",
        "1.1",
    )
    assert g.about["training"]["not compared"] == "f1, StepLR by epoch"


def test_batches_of_two_loaders_are_compared_channels_last() -> None:
    g = skip()
    g.about["inputs"] = ["channels first"]
    x, y = np.arange(24.0).reshape(2, 2, 2, 3) / 255, np.arange(2)
    ours, theirs = {"x.0.0": x, "y.0": y}, {"x.0.0": np.moveaxis(x, -1, 1), "y.0": y}
    assert judge_batches(ours, as_reference(g, theirs)) == []
    (found,) = judge_batches(ours, as_reference(g, theirs | {"x.0.0": np.moveaxis(x, -1, 1) * 2}))
    assert (found.kind, found.cause, found.fails) == ("inputs", "0.5 × the suspect's", True)
    assert judge_batches(ours, {"x.0.0": x})[0].detail == "on one side alone: y.0"


def test_columns_and_integers_of_batches_are_compared_beside_much_larger_ones() -> None:
    seconds, ratios = 1.7e9 + np.arange(4.0), np.arange(4.0) / 4
    ours = {"x.0.0": np.stack([seconds, ratios], 1), "y.0": 1_500_000 + np.arange(4)}
    theirs = {"x.0.0": np.stack([seconds, 1 - ratios], 1), "y.0": ours["y.0"] + 1}
    assert [found.kind for found in judge_batches(ours, theirs)] == ["inputs", "targets"]
    near = {"x.0.0": ours["x.0.0"] + [[0.0, 1e-8]], "y.0": ours["y.0"]}
    assert judge_batches(ours, near) == []


def test_a_conversion_is_judged_by_where_it_puts_weights() -> None:
    left, right = recurrent(("kernel", "bias")), recurrent(("kernel", "bias", "recurrent_bias"))
    rng = np.random.default_rng(0)
    given = {
        "r|kernel": rng.normal(size=(8, 8)),
        "r|bias": np.ones(8),
        "r|recurrent_bias": np.ones(8),
    }
    found = {f"first|{n}": a.astype(np.float32) for n, a in given.items()}
    found |= {"first|r|bias": np.full(8, 2.0), "first|r|recurrent_bias": np.zeros(8)}
    before = {name: rng.normal(size=a.shape) for name, a in given.items()}
    of = (left, right, align(left, right), given, before)
    assert judge_conversion(*of, found) == []
    kernel, name = given["r|kernel"], "first|r|kernel"
    for seen, cause in (
        (kernel[::-1][:, rng.permutation(8)], None),
        (kernel[rng.permutation(8)], "the same rows in another order"),
        (before["r|kernel"], "it was left as it was"),
        (kernel.T, "axes 0 and 1 exchanged"),
    ):
        (wrong,) = judge_conversion(*of, found | {name: seen})
        assert wrong.kind == "lstm kernel"
        assert cause in str(wrong.cause) if cause else wrong.cause is None
    judged = Judged(outputs={"output": gaps.Gap(0.0)}, whole_gradient=gaps.Gap(0.0))
    judged.differences = [wrong]
    verdict = conclude(
        ("a:f", "b:f"), ("keras", "torch"), (left, right), of[2], [], judged, ["forward"], ["3"],
        False, [],
    )  # fmt: skip
    assert not verdict.passed


@pytest.mark.parametrize(
    ("ours", "theirs", "found"),
    [
        ("Adam(learning_rate=1, epsilon=1e-07)", "Adam(lr=1, eps=1e-07)", True),
        ("Adam(learning_rate=1, epsilon=1e-07)", "Adam(lr=1, eps=1e-08)", False),
        ("RMSprop(epsilon=1e-07)", "RMSprop(lr=1, eps=1e-07)", True),
        ("Adam(epsilon=1e-07)", "AdamW(eps=1e-07)", True),
        ("Adam(epsilon=1e-07)", "Adam(eps=1e-07 or 1e-08)", False),  # in groups
        ("Adam(epsilon=1e-07)", "Adamax(eps=1e-07)", None),
        ("SGD(learning_rate=1)", "SGD(lr=1)", None),
        ("Adam(epsilon=1e-07)", "", None),
        ("Adam(lr=1, eps=1e-07)", "Adam(lr=1, eps=1e-07)", None),  # torch's on both sides
    ],
)
def test_where_epsilon_stands_is_known_of_optimizers_of_one_kind(ours, theirs, found) -> None:
    left, right = skip(), skip()
    for graph, text in ((left, ours), (right, theirs)):
        graph.about["training"] = {"optimizers": [text]}
    other = placed(left, right)
    assert (other[1:] if other else None) == (None if found is None else (found, 1e-7))
    assert other is None or ("it is 1e-07 | 1e-08" in other[0]) != found


@pytest.mark.parametrize(("effect", "passes"), [("output", True), ("training", False)])
def test_what_no_output_and_no_gradient_shows_is_declared_but_never_a_loss(effect, passes) -> None:
    judged = Judged(outputs={"output": gaps.Gap(0.0)}, whole_gradient=gaps.Gap(0.0))
    judged.differences = [Difference("loss", "training", "1", "2", effect, [Place("a", "b", 0.5)])]
    g = skip()
    verdict = conclude(
        ("a:f", "b:f"), ("keras", "torch"), (g, g), align(g, g), [], judged,
        ["forward", "gradients", "steps"], ["3"], False, [],
    )  # fmt: skip
    assert verdict.passed == passes


@pytest.mark.parametrize(
    ("size", "whole", "passes"),
    [(1e-10, 1e-10, True), (1e-10, 1e-8, False), (1e-8, 1e-10, False), (None, 1e-10, False),
     (float("nan"), 1e-10, False)],
)  # fmt: skip
def test_rounding_behind_a_gate_passes_only_where_the_whole_gradient_agrees(
    size: float | None, whole: float, passes: bool
) -> None:
    call = Call("a", "a", "dense", {"kernel": [2, 2]}, preds=["input0"])
    graph = Graph([call], [Output([0], [], [], [4, 2])], 4, 4, 0, [], [], {"inputs": ["as given"]})
    place = Place("a", "a", size)
    found = Difference("gradients", "behind dense", "", "", "training", [place])
    judged = Judged([found], {"output": gaps.Gap(0.0)}, whole_gradient=gaps.Gap(whole))
    verdict = conclude(
        ("a:f", "b:f"), ("keras", "torch"), (graph, graph), align(graph, graph), [], judged,
        ["forward", "gradients"], ["2"], False, [],
    )  # fmt: skip
    assert verdict.passed == passes
