"""Alignment, carried weights, gaps and judgement, on graphs that NumPy computes."""

import copy
import dataclasses
import math

import numpy as np
import pytest
from portproof.explain import _joined
from portproof.graph import gaps
from portproof.graph.align import align
from portproof.graph.calls import Call, Graph, Op, Output
from portproof.graph.carry import carry
from portproof.graph.compare import Judge, Judged, Replays
from portproof.graph.conclude import conclude
from portproof.graph.fused import Part, Split, joined_calls, joined_weights, split_fused
from portproof.graph.gaps import gap
from portproof.graph.verdict import Difference, Place, PortError, Verdict, joined_rates

RELU = Op("relu", "relu")


def dense(owner, size, preds, between=(), key=None, **more):
    return Call(
        owner,
        key or owner,
        "dense",
        {"kernel": list(size), "bias": [size[1]]},
        preds=list(preds),
        between=list(between),
        in_shape=[4, size[0]],
        out_shape=[4, size[1]],
        **more,
    )


def graph(*calls, ends=None, total=None):
    keys = {c.key: sum(int(np.prod(s)) for s in c.roles.values()) for c in calls}
    counted = sum(keys.values())
    preds = [len(calls) - 1] if ends is None else ends
    out = Output(preds, [], [], [4, 2])
    return Graph(list(calls), [out], counted, total or counted, 0, [], [], {"inputs": ["as given"]})


def skip(names="abcd"):
    """Two branches of equal shapes that meet: only what follows tells them apart."""
    a, b, c, d = names
    return graph(
        dense(a, (3, 5), ["input0"]),
        dense(b, (5, 5), [0], [RELU]),
        dense(c, (5, 5), [1], [RELU]),
        dense(d, (5, 2), [0, 2], [Op("add", "add")]),
    )


def test_calls_are_paired_by_what_leads_to_and_follows_them_not_by_name() -> None:
    left, right = skip("abcd"), skip("dcba")
    assert align(left, right).pairs == {0: 0, 1: 1, 2: 2, 3: 3}


def test_calls_in_another_order_are_paired() -> None:
    left = graph(
        dense("a", (3, 4), ["input0"]),
        dense("b", (3, 6), ["input0"]),
        dense("c", (10, 2), [0, 1], [Op("concat", "concat")]),
    )
    right = graph(
        dense("x", (3, 6), ["input0"]),
        dense("y", (3, 4), ["input0"]),
        dense("z", (10, 2), [0, 1], [Op("concat", "cat")]),
    )
    assert align(left, right).pairs == {0: 1, 1: 0, 2: 2}


def test_a_tie_is_settled_by_names_then_by_order() -> None:
    def attention(*names):
        calls = [dense(n, (4, 4), ["input0"]) for n in names]
        return graph(*calls, dense("out", (4, 2), range(len(names))))

    left = attention("att/query", "att/key", "att/value")
    assert align(left, attention("value", "key", "query")).pairs == {0: 2, 1: 1, 2: 0, 3: 3}
    assert align(left, attention("m1", "m2", "m3")).pairs == {0: 0, 1: 1, 2: 2, 3: 3}


def test_shared_weights_are_paired_use_by_use() -> None:
    left = graph(dense("d", (3, 3), ["input0"]), dense("d", (3, 3), [0], [RELU]),
                 dense("e", (3, 2), [1]))  # fmt: skip
    found = align(left, copy.deepcopy(left))
    assert found.pairs == {0: 0, 1: 1, 2: 2}


def test_calls_of_shared_weights_are_paired_by_what_leads_to_them_in_any_order() -> None:
    def shared(*order):
        calls = [dense("a", (3, 4), ["input0"]), dense("b", (3, 4), [0], [RELU])]
        calls += [dense("head", (4, 2), [n]) for n in order]
        return graph(*calls)

    left, right = shared(0, 1), shared(1, 0)
    right.outputs = [
        dataclasses.replace(o, between=[Op("softmax", "softmax")]) for o in right.outputs
    ]
    assert align(left, right).pairs == {0: 0, 1: 1, 2: 3, 3: 2}


def test_a_convolution_of_points_is_a_dense_call() -> None:
    conv = Call("c", "c", "conv", {"kernel": [1, 1, 3, 5]}, preds=["input0"])
    conv.in_shape, conv.out_shape = [4, 1, 1, 3], [4, 1, 1, 5]
    other = dataclasses.replace(dense("d", (3, 5), ["input0"]), roles={"kernel": [3, 5]})
    assert align(graph(conv), graph(other)).pairs == {0: 0}
    wide = dataclasses.replace(conv, roles={"kernel": [1, 2, 3, 5]})
    assert align(graph(wide), graph(other)).pairs == {}


def test_calls_that_are_alike_are_paired_in_the_order_of_their_numbers() -> None:
    def branches(*names):
        calls = [dense(name, (3, 3), ["input0"]) for name in names]
        return graph(*calls, dense("head", (3, 2), list(range(len(names)))))

    keras = branches("m/dense_1", "m/dense_2", "m/dense_10")
    torch = branches("experts.0", "experts.1", "experts.2")
    assert align(keras, torch).pairs == {0: 0, 1: 1, 2: 2, 3: 3}
    assert align(keras, branches("e.2", "e.0", "e.1")).pairs == {0: 1, 1: 2, 2: 0, 3: 3}
    words = branches("a/value", "a/key", "a/query")
    assert align(words, branches("q", "k", "v")).pairs == {0: 2, 1: 1, 2: 0, 3: 3}


def test_a_layer_more_stays_unmatched_and_the_others_are_paired() -> None:
    left = skip()
    right = graph(
        dense("a", (3, 5), ["input0"]),
        dense("b", (5, 5), [0], [RELU]),
        dense("more", (5, 7), [1], [RELU]),
        dense("c", (7, 5), [2], [RELU]),
        dense("d", (5, 2), [0, 3], [Op("add", "add")]),
    )
    pairs = align(left, right).pairs
    assert pairs[0] == 0
    assert pairs[3] == 4
    assert {2, 3} - set(pairs.values())


def test_a_named_pair_is_taken_as_it_is() -> None:
    left = graph(dense("a", (3, 3), ["input0"]), dense("b", (3, 3), ["input0"]),
                 dense("c", (3, 2), [0, 1]))  # fmt: skip
    right = copy.deepcopy(left)
    assert align(left, right, [("a", "b")]).pairs == {0: 1, 1: 0, 2: 2}


def test_a_named_pair_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="--pair a=z: the suspect has no z; nearest are"):
        align(skip(), skip("wxyv"), [("a", "z")])
    with pytest.raises(ValueError, match="the reference has no ab; nearest are a, "):
        align(skip(), skip(), [("ab", "a")])


def run(g: Graph, weights, x, force=None, slip=None):
    """Compute a graph of dense calls: inputs, outputs, and calls alone on forced inputs."""
    force, arrays, made = force or {}, {}, []
    for i, call in enumerate(g.calls):
        taken = [x if p == "input0" else made[p] for p in call.preds]
        value = sum(np.maximum(t, 0) if RELU in call.between else t for t in taken)

        def apply(v, call=call):
            factor = slip[1] if slip and slip[0] == call.owner else 1.0
            kernel, bias = (weights[f"{call.key}|{r}"] for r in ("kernel", "bias"))
            return v @ kernel * factor + bias

        arrays[f"in.{i}"], out = value, apply(value)
        arrays[f"out.{i}"] = out
        if f"in.{i}" in force:
            arrays[f"alone.{i}"] = apply(force[f"in.{i}"])
        made.append(force.get(f"out.{i}", out))
    arrays["final.0"] = made[g.outputs[0].preds[0]]
    return arrays


def verdict_of(left, right, slip=None, forget=(), strict=False, accept=(), still=False) -> Verdict:
    alignment = align(left, right)
    carried = carry(left, right, alignment, 0)
    x = np.random.default_rng(3).normal(size=(4, 3)) * (not still)
    ours = run(left, carried.left, x)
    free = run(right, carried.right, x, slip=slip)
    force = {
        f"{w}.{j}": ours[f"{w}.{i}"] for i, j in alignment.pairs.items() for w in ("in", "out")
    }
    forced = run(right, carried.right, x, force, slip)
    for name in forget:
        ours = {k: v * np.nan if k == name else v for k, v in ours.items()}
    judge = Judge(left, right, alignment, Replays(ours, free, forced), ["forward"])
    judge.forward()
    judge.outputs_settled()
    return conclude(
        ("a:f", "b:f"), ("keras", "torch"), (left, right), alignment, carried.differences,
        judge.found, ["forward"], ["3"], strict, accept,
    )  # fmt: skip


def test_equal_models_pass() -> None:
    verdict = verdict_of(skip(), skip("wxyz"))
    assert verdict.passed
    verdict.raise_for_difference()
    assert verdict.first is None
    assert "the same computation" in str(verdict)
    assert "asked: forward" in str(verdict)


def test_the_first_call_that_differs_is_named_and_no_other() -> None:
    verdict = verdict_of(skip(), skip("wxyz"), slip=("y", 1 + 1e-6))
    assert not verdict.passed
    assert verdict.first is not None
    assert verdict.first[:2] == ("c", "y")
    assert [(d.what, d.places[0].right, d.cause) for d in verdict.failures] == [("call", "y", None)]
    assert "cause unknown" in str(verdict)
    with pytest.raises(PortError, match="NOT the same"):
        verdict.raise_for_difference()


@pytest.mark.parametrize(("slip", "passes"), [(1e-16, True), (3e-15, True), (1e-8, False)])
def test_rounding_passes_and_a_constant_that_nobody_found_does_not(slip, passes) -> None:
    assert verdict_of(skip(), skip("wxyz"), slip=("x", 1 + slip)).passed == passes


def test_a_stretch_that_differs_is_told_from_the_calls_around_it() -> None:
    right = skip("wxyz")
    right.calls[1].between = []
    verdict = verdict_of(skip(), right)
    assert [(d.what, d.kind, d.left, d.right) for d in verdict.failures] == [
        ("between", "before dense", "relu", "nothing")
    ]


def test_numbers_that_are_none_never_pass() -> None:
    verdict = verdict_of(skip(), skip("wxyz"), forget=["out.1"])
    assert not verdict.passed
    assert "NaN" in {d.what for d in verdict.failures}


def test_outputs_that_are_the_same_for_every_sample_never_pass() -> None:
    left, right = skip(), skip("wxyz")
    for g in (left, right):
        g.calls[3].preds = ["input0"]
        g.calls[3].roles["kernel"] = [3, 2]
    verdict = verdict_of(left, right, still=True)
    assert [d.what for d in verdict.failures] == ["zero"]
    assert verdict_of(left, right).passed


def test_an_unmatched_call_never_passes() -> None:
    right = graph(*skip("wxyz").calls, dense("aux", (5, 9), [0]), ends=[3])
    verdict = verdict_of(skip(), right)
    assert [d.what for d in verdict.failures] == ["unmatched"]
    assert verdict.outputs["output, batch of 4"].within(1e-14)


def test_a_neutral_parameter_never_passes() -> None:
    left = skip()
    left.calls[0].roles = {"kernel": [3, 5], "bias": [5], "gamma": [5]}
    verdict = verdict_of(left, skip("wxyz"))
    (difference,) = verdict.failures
    assert (difference.what, difference.left, difference.right) == ("parameters", "gamma", "–")
    assert "only on the left; 1 here" in difference.detail


def test_weights_that_no_call_uses_never_pass() -> None:
    right = skip("wxyz")
    right.uncovered, right.total = [("old.weight", 12)], right.total + 12
    verdict = verdict_of(skip(), right)
    assert [d.what for d in verdict.failures] == ["unused weights"]
    missing = graph(*skip().calls, total=10_000)
    assert [d.what for d in verdict_of(missing, skip()).failures] == ["count"]


def test_settings_without_effect_are_declared_and_strict_refuses_them() -> None:
    left, right = skip(), skip("wxyz")
    left.calls[0].settings, right.calls[0].settings = {"padding": 0}, {"padding": 1}
    assert verdict_of(left, right).passed
    assert [d.what for d in verdict_of(left, right).declarations] == ["padding"]
    assert not verdict_of(left, right, strict=True).passed


def test_a_difference_that_is_accepted_passes_and_others_do_not() -> None:
    slip = ("y", 1.5)
    assert not verdict_of(skip(), skip("wxyz"), slip=slip, accept=["w"]).passed
    left = skip()
    left.calls[0].roles = {"kernel": [3, 5], "bias": [5], "gamma": [5]}
    assert verdict_of(left, skip("wxyz"), accept=["parameters"]).passed


@pytest.mark.parametrize(
    ("ours", "theirs", "what", "fails"),
    [
        ({"drops in evaluation": []}, {"drops in evaluation": ["0.5"]}, "dropout", True),
        ({}, {"axes": [[1, 0]]}, "axes", True),
        ({}, {"axes": [[0, 1]]}, None, False),
        ({"keys": ["mean", "std"]}, {"keys": ["logits", "value"]}, "names", False),
        ({"keys": []}, {"keys": ["logits"]}, None, False),
    ],
)
def test_what_the_sides_say_of_themselves_is_compared(ours, theirs, what, fails) -> None:
    left, right = skip(), skip("wxyz")
    left.about, right.about = {**left.about, **ours}, {**right.about, **theirs}
    verdict = verdict_of(left, right)
    assert [(d.what, d.fails) for d in verdict.differences] == [(what, fails)] * bool(what)


@pytest.mark.parametrize(
    ("end", "passes"),
    [(gaps.Gap(1e-3), True), (gaps.Gap(math.inf, "shapes (1, 3) | (3)"), False)],
)
def test_an_accepted_difference_excuses_gaps_behind_it_and_no_other_shape(end, passes) -> None:
    left, right = skip(), skip("wxyz")
    found = Difference("epsilon", "norm", "1", "2", "output", [Place("a", "b", 1e-3)])
    judged = Judged(differences=[found], outputs={"output": end})
    verdict = conclude(
        ("a:f", "b:f"), ("keras", "torch"), (left, right), align(left, right), [], judged,
        ["forward"], ["3"], False, ["epsilon"],
    )  # fmt: skip
    assert verdict.passed == passes
    assert any("outputs, end to end, differ by 1.0e-03" in note for note in verdict.notes) == passes


def test_what_acts_in_training_by_fit_alone_is_said() -> None:
    left = skip()
    left.about["regularised"] = ["dense: L2"]
    (note,) = verdict_of(left, skip("wxyz")).notes
    assert note.endswith("steps were not asked for: dense: L2 of the reference")


def test_a_weight_that_two_calls_read_is_one_and_is_carried_as_one() -> None:
    def tied(*keys):
        calls = [dense("a", (3, 3), ["input0"], key=keys[0]),
                 dense("b", (3, 3), [0], [RELU], key=keys[1])]  # fmt: skip
        calls[1].kind = "weight"
        return graph(*calls)

    one, two = (
        tied("kernel=w;bias=a;", "kernel=w;bias=b;"),
        tied("kernel=v;bias=a;", "kernel=w;bias=b;"),
    )
    for left, right, differs in ((one, one, []), (one, two, ["sharing"]), (two, one, ["sharing"])):
        made = carry(left, right, align(left, right), 0)
        assert [d.what for d in made.differences] == differs
        assert len({str(a) for k, a in made.right.items() if k.endswith("kernel")}) == (
            2 if (left, right) == (two, two) else 1
        )


def test_shared_weights_on_one_side_are_a_difference() -> None:
    tied = graph(dense("d", (3, 3), ["input0"]), dense("d", (3, 3), [0], [RELU]),
                 dense("e", (3, 2), [1]))  # fmt: skip
    free = graph(dense("d", (3, 3), ["input0"]), dense("f", (3, 3), [0], [RELU]),
                 dense("e", (3, 2), [1]))  # fmt: skip
    assert [d.what for d in verdict_of(tied, free).failures] == ["sharing"]
    assert "sharing" in [d.what for d in verdict_of(free, tied).failures]
    assert verdict_of(tied, copy.deepcopy(tied)).passed


def test_numbers_that_are_huge_hide_no_others() -> None:
    logits = np.array([[0.5, -1.0, -1e30], [0.25, 1.0, -1e30]])
    assert gap(logits, np.where(logits > -1e9, logits + 1e-3, logits)).size > 1e-4
    assert gap(logits, np.where(logits < -1e9, 2 * logits, logits)).size == 1
    assert gap(logits, logits * (1 + 1e-15)).within(gaps.CALL)
    assert gap(np.array([True, False]), np.array([True, True])).size == 1
    assert gap(np.array([1], np.uint8), np.array([2], np.uint8)).size == 1


def test_stretches_of_one_cause_are_one_difference() -> None:
    causes = ["a", "b", "a", None, None]
    given = [Difference("between", "before conv", f"{n}", "", "output", [Place(f"{n}", "")], cause)
             for n, cause in enumerate(causes)]  # fmt: skip
    found = _joined(given)
    assert [(d.left, len(d.places)) for d in found] == [("0", 2), ("1", 1), ("3", 1), ("4", 1)]


@pytest.mark.parametrize(("count", "sides"), [(3, ["none", "none", "none"]), (5, ["none"])])
def test_rates_that_grow_from_block_to_block_are_one_difference(count, sides) -> None:
    given = [
        Difference("dropout", "before conv", "none", f"{n / 10:g}, 0.1", "none", [Place("", "")])
        for n in range(1, count + 1)
    ]
    found = joined_rates([Difference("epsilon", "norm", "1", "2", "output"), *given])
    assert [d.left for d in found[1:]] == sides
    assert sum(len(d.places) for d in found) == count
    assert found[-1].right == ("0.1 … 0.5" if count == 5 else "0.3, 0.1")


def test_what_is_not_compared_is_said() -> None:
    g = skip()
    g.about |= {"training": {"not compared": "StepLR by epoch"}, "precision": "torch.autocast"}
    verdict = conclude(
        ("a:f", "b:f"), ("keras", "torch"), (g, g), align(g, g), [], Judged(), ["forward"], ["3"],
        False, [],
    )  # fmt: skip
    for text in ("StepLR by epoch of the", "torch.autocast of the"):
        assert sum(f"not compared: {text}" in n for n in verdict.notes) == 2


def attention(width, count, owner="qkv"):
    calls = [dense(f"{owner}{n}", (4, width), ["input0"], siblings="t1") for n in range(count)]
    return graph(*calls, dense("out", (4, 2), range(count), [Op("softmax", "softmax")]))


def test_a_matrix_for_queries_keys_and_values_is_read_as_three() -> None:
    three, one = attention(4, 3), attention(12, 1)
    split, parts = split_fused(one, three)
    assert [p.call for p in parts] == [0, 0, 0, 1]
    assert align(three, split).pairs == {0: 0, 1: 1, 2: 2, 3: 3}
    assert split.calls[3].preds == [0, 1, 2]
    assert split_fused(three, one)[0] is three
    assert split_fused(one, one)[0] is one
    out = np.arange(48.0).reshape(4, 12)
    kernel = "grad|qkv0|kernel"
    seen = Split(
        {"out.0": out, "in.0": out, "out.1": out, kernel: out, "final.0": out}, split, parts
    )
    assert np.array_equal(seen["out.1"], out[:, 4:8])
    assert np.array_equal(seen["in.2"], out)
    assert np.array_equal(seen["out.3"], out)
    assert np.array_equal(seen["final.0"], out)
    assert np.array_equal(seen[f"grad|{split.calls[2].key}|kernel"], out[:, 8:])
    assert "out.4" not in seen
    joined = joined_calls({f"out.{i}": seen[f"out.{i}"] for i in range(4)}, parts)
    assert np.array_equal(joined["out.0"], out)
    weights = {
        f"{c.key}|{r}": np.full(s, i) for i, c in enumerate(split.calls) for r, s in c.roles.items()
    }
    whole = joined_weights(weights, split, parts)["qkv0|kernel"]
    assert np.array_equal(whole[0], np.repeat([0, 1, 2], 4))


def test_blocks_of_several_widths_are_told_by_where_the_program_cuts() -> None:
    heads = [dense(f"head{n}", (4, n), ["input0"], siblings="t1") for n in (3, 1)]
    one = dense("heads", (4, 4), ["input0"], siblings="t1")
    assert split_fused(graph(one), graph(*heads))[1] == [Part(0)]
    one.cuts = [[1, 3], [0, 1]]
    split, parts = split_fused(graph(one), graph(*heads))
    assert [p.widths for p in parts] == [(1, 3)] * 2
    assert align(graph(*heads), split).pairs == {0: 1, 1: 0}
    behind = graph(one, dense("behind", (3, 3), ["0[1:4]"]))
    split, _ = split_fused(behind, graph(*heads))
    assert [c.preds for c in split.calls] == [["input0"], ["input0"], [1]]
    more = dense("more", (4, 7), ["input0"], siblings="t1")
    assert [p.widths for p in split_fused(graph(one), graph(*heads, more))[1]] == [(1, 3)] * 2
    again = dataclasses.replace(one, cuts=[])  # its weights are whole here
    assert split_fused(graph(one, again), graph(*heads))[1] == [Part(0), Part(1)]
    one.cuts = [[1, 2], [0, 1]]  # a column is left
    assert split_fused(graph(one), graph(*heads))[1] == [Part(0)]


def test_a_graph_survives_json() -> None:
    import json

    g = skip()
    assert Graph.from_dict(json.loads(json.dumps(g.to_dict()))) == g
