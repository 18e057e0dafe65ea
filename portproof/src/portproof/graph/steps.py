"""Judge training steps: the loss of each, and the weights behind it."""

import re
from collections.abc import Mapping

import numpy as np

from portproof.graph.align import Alignment
from portproof.graph.calls import Call, Graph
from portproof.graph.gaps import FLOAT32_HIGH, WHOLE_GRADIENT, Gap, fitted, gap
from portproof.graph.verdict import Difference, Place

LOSS = 1e-11
"""Losses of one step from the same weights, relative. Measured: up to 4e-16."""
RATE = 1e-6
"""What a factor of moves and the learning rates', which may be in float32, agree to, relative."""
MOVED = 1e-8
"""What steps moved weights by, relative to the largest move of the call."""
REACH = 2.0
"""How far Adam can move a weight by gradients of rounding, whose size it divides by, in units of
the largest move of the call's other weights."""
MULTIPLE = 1e6
"""Up to which factor losses are looked at for being whole multiples: positions, samples, steps."""
METRIC = 1e-6
"""Metrics at an epoch's end, relative: torchmetrics divides in float32."""

BESIDE = "ε beside √v in Keras's {0}, beside √(v/(1 − β₂ᵗ)) in torch's"
WITHIN = "ε within the root in Keras's {0}, beside it in torch's"
MAXIMUM = "ε beside the largest gradient in Keras's {0}, beside each new one in torch's"
PLACED = {
    "Adam": BESIDE, "AdamW": BESIDE, "Adamax": MAXIMUM, "RMSprop": WITHIN, "Adagrad": WITHIN
}  # fmt: skip
"""Optimizers of both frameworks that have ε in another place."""
SWITCHES = ("amsgrad", "centered", "nesterov")
"""Options of optimizers that are on or off."""

SEEN = {"loss", "learning_rate"}
"""Logged, and seen in each step."""
Arrays = Mapping[str, np.ndarray]


def first_apart(
    left: Graph, right: Graph, alignment: Alignment, *arrays: Arrays
) -> tuple[tuple[int, int], Difference] | None:
    """Return the first difference of training, and when: the step from 0, and 1 behind its loss.

    Args:
        left: the reference's calls.
        right: the suspect's.
        alignment: which is which.
        arrays: the reference's `step.k|key|role`, behind the last step when training has ended
            (`fit` may put other weights in place), and `losses`; the suspect's; the reference's
            weights before the first step, `key|role`; and where the suspect's are of another
            process than its first one, that one's: what is only bounded must be equal to these.
    """
    mine, other = arrays[0]["losses"], arrays[1]["losses"]
    if len(mine) != len(other):
        sides = (f"{len(mine)} steps", f"{len(other)} steps")
        found = Difference("steps", "training", *sides, "training", [Place("fit", "fit")])
        return (0, 0), found
    texts = (left.about.get("training", {}), right.about.get("training", {}))
    # A training_step that steps by itself may return no loss.
    unsaid = [a["unsaid"] for a in arrays[:2] if "unsaid" in a]
    said = ~np.any(unsaid, axis=0) if unsaid else np.ones(len(mine), bool)
    shift = _shift(mine[said], other[said])
    if 0 < abs(shift) <= FLOAT32_HIGH:
        other = other - shift
        texts[0]["shift"] = f"{shift:.2g}"
    for k in range(len(mine)):
        place = f"step {k + 1}"
        apart = gap(mine[k : k + 1], other[k : k + 1])
        penalty = arrays[0]["penalties"][k] if "penalties" in arrays[0] else 0.0
        if penalty and gap(mine[k : k + 1] - penalty, other[k : k + 1]).within(LOSS):
            texts[0]["penalties"] = f"{penalty:.6g} in {place}"
        elif said[k] and not apart.within(LOSS):
            sides = (f"{mine[k]:.9g}", f"{other[k]:.9g}")
            detail = f"{texts[0].get('loss', '')} | {texts[1].get('loss', '')}"
            detail += _multiple(mine[k], other[k])
            if abs(shift) > FLOAT32_HIGH:
                detail += f"; the suspect's is {shift:.6g} more in each step, which moves nothing"
            where = [Place(place, place, apart.size)]
            found = Difference("loss", "training", *sides, "training", where, detail=detail)
            found.cause = _penalised(mine[k], other[k], penalty)
            return (k, 0), found
        moved = moved_apart(left, right, alignment, k, *arrays)
        if moved:
            sides = (texts[0].get("optimizer", ""), texts[1].get("optimizer", ""))
            detail = f"weights after {place}"
            found = Difference("update", "call", *sides, "training", moved, detail=detail)
            found.cause = _proportional(left, right, alignment, k, arrays)
            return (k, 1), found
    return _ended(left, right, alignment, len(mine), *arrays)


def _penalised(mine: float, other: float, penalty: float) -> str | None:
    """Return that a loss holds twice the reference's penalties of weights, or half of them."""
    for words, factor in (("twice", 2.0), ("half", 0.5)):
        wanted = np.array([mine + (factor - 1) * penalty])
        if penalty and gap(wanted, np.array([other])).within(LOSS):
            return f"the suspect adds {words} the penalties of the reference's regularisers"
    return None


def _ended(
    left: Graph, right: Graph, alignment: Alignment, k: int, *arrays: Arrays
) -> tuple[tuple[int, int], Difference] | None:
    """Return how the weights differ that training leaves behind, after k steps that agree."""
    if not any(f"step.{k}|{c.key}|{role}" in arrays[0] for c in left.calls for role in c.roles):
        return None
    moved = moved_apart(left, right, alignment, k, *arrays)
    if not moved:
        return None
    texts = [graph.about.get("training", {}) for graph in (left, right)]
    ours, theirs = (text.get("optimizer", "") for text in texts)
    detail = "weights when training has ended"
    found = Difference("update", "call", ours, theirs, "training", moved, detail=detail)
    momentum, names = (
        texts[0].get("average"),
        {f"{c.key}|{r}" for c in right.calls for r in c.roles},
    )
    is_left = all(np.array_equal(arrays[1][f"step.{k}|{name}"], arrays[1][f"step.{k - 1}|{name}"])
                  for name in names)  # fmt: skip
    if momentum is not None and is_left and _is_average(left, momentum, k, arrays[0]):
        found.cause = "the moving average takes the weights' place (use_ema) in the reference alone"
    if is_left and found.cause is None and (step := _put_back(left, k, arrays[0])) is not None:
        found.cause = (
            f"the weights of step {step + 1} are put back at the end in the reference alone"
        )
    return (k, 1), found


def _is_average(graph: Graph, momentum: float, k: int, arrays: Arrays) -> bool:
    """Return whether the last weights are Keras's moving average of those after each of k steps."""
    for name in {f"{c.key}|{role}" for c in graph.calls for role in c.roles.keys() - {*c.frozen}}:
        if name.rpartition("|")[2].startswith("moving"):
            continue
        average = arrays[f"step.0|{name}"]
        for n in range(1, k):
            average = momentum * average + (1 - momentum) * arrays[f"step.{n}|{name}"]
        if not gap(arrays[f"step.{k}|{name}"], average).within(MOVED):
            return False
    return True


def _put_back(graph: Graph, k: int, arrays: Arrays) -> int | None:
    """Return the earlier step whose weights the last ones of k steps are; None where it is none."""
    names = {f"{call.key}|{role}" for call in graph.calls for role in call.roles}
    return next((n for n in range(k - 1) if all(
        np.array_equal(arrays[f"step.{n}|{name}"], arrays[f"step.{k}|{name}"]) for name in names
    )), None)  # fmt: skip


def moved_apart(
    left: Graph, right: Graph, alignment: Alignment, k: int, *arrays: Arrays
) -> list[Place]:
    """Return the calls whose weights the steps up to k moved otherwise; see `first_apart`."""
    loose = {(a.key, role) for a, role in rounded(left, right, alignment, k, *arrays[:2])}
    return [
        Place(a.owner, b.owner, g.size)
        for i, j in sorted(alignment.pairs.items())
        for a, b in [(left.calls[i], right.calls[j])]
        if not (g := _moved(a, b, k, loose, *arrays)).within(MOVED)
    ]


def judge_metrics(left: Graph, right: Graph, ours: Arrays, theirs: Arrays) -> list[Difference]:
    """Return metrics of one name that differ; note in both graphs what is not compared."""
    first, second = (_by_name(side) for side in (ours, theirs))
    sides = ((left, first, second, ours), (right, second, first, theirs))
    for graph, own, other, of in sides:
        training = graph.about["training"]
        unseen = [name for name in own if name not in other and name not in SEEN]
        if training.get("schedules") and len(ours["metrics"]) < 2:
            unseen.append(f"{training['schedules']} by epoch")
        if np.any(of.get("unsaid", False)):
            unseen.append("losses, which its step does not return,")
        training["not compared"] = ", ".join(unseen)
    found = []
    for name in first.keys() & second.keys() - SEEN:
        values = (first[name], second[name])
        if len(values[0]) == len(values[1]):  # Lightning keeps a number until there is another
            both = ~np.isneginf(values[0]) & ~np.isneginf(values[1])
            values = (values[0][both], values[1][both]) if both.any() else values
        apart = gap(*values)
        if not apart.within(METRIC):
            last = (f"{first[name][-1]:.9g}", f"{second[name][-1]:.9g}")
            place = Place("epoch's end", "epoch's end", apart.size)
            found.append(Difference("metric", name, *last, "training", [place]))
    return found


def _by_name(arrays: Arrays) -> dict[str, np.ndarray]:
    """Return metrics by epoch, under names without what only says when they were logged."""
    found = {}
    for name, values in zip(arrays["names"].tolist(), arrays["metrics"].T, strict=True):
        word = name.lower().replace("/", "_").removeprefix("train_").removesuffix("_epoch")
        found[re.sub(r"acc$", "accuracy", word)] = values
    return found


def placed(left: Graph, right: Graph) -> tuple[str, bool, float] | None:
    """Return how ε stands in Keras's optimizer and torch's, whether it is the same, and Keras's.

    Of several optimizers of one kind all count; None where Keras's have no ε in common, for one
    alone can be tried, or where the two models have no such optimizers of one kind.
    """
    ours, theirs = _epsilons(left, "epsilon"), _epsilons(right, "eps")
    for name, own in ours.items():
        other = set().union(*(v for n, v in theirs.items() if n.rstrip("W") == name.rstrip("W")))
        if len(own) == 1 and other:
            (value,) = own
            text, is_same = PLACED[name].format(name), other == own
            is_near = f"{value:g}" in {f"{each:g}" for each in other}
            mine, *told = (repr(v) if is_near else f"{v:g}" for v in (value, *sorted(other)))
            words = f"{text}, and it is {mine} | {' or '.join(told)}"
            return text if is_same else words, is_same, value
    return None


def _epsilons(graph: Graph, word: str) -> dict[str, set[float]]:
    """Return the ε of a model's optimizers, of all groups, under its framework's word for it."""
    found: dict[str, set[float]] = {}
    for text in graph.about.get("training", {}).get("optimizers", ()):
        name, number = text.partition("(")[0], r"[\d.e+-]+"
        told = re.search(rf"\b{word}=({number}(?: or {number})*)", text)
        values = {float(value) for value in told[1].split(" or ")} - {0.0} if told else set()
        if name in PLACED and values:
            found[name] = found.get(name, set()) | values
    return found


def _shift(mine: np.ndarray, other: np.ndarray) -> float:
    """Return by what constant the other's losses are larger, in two steps at least, or 0."""
    shifts, size = other - mine, float(np.abs(mine).max(initial=0.0))
    shift = float(shifts.mean()) if len(shifts) > 1 else 0.0
    is_one = abs(shift) > LOSS * size and float(np.ptp(shifts)) <= 1e-14 * max(1.0, size)
    return shift if is_one else 0.0


def _multiple(mine: float, other: float) -> str:
    """Return that one loss is a whole multiple of the other, if it is."""
    small, large = sorted((mine, other))
    if not 0 < small < large < MULTIPLE * small:  # NaN is none of these
        return ""
    whole = round(large / small)
    if whole < 2 or abs(large / small / whole - 1) > LOSS:
        return ""
    sides = ("suspect", "reference") if large == other else ("reference", "suspect")
    return f"; the {sides[0]}'s is {whole} × the {sides[1]}'s"


def _proportional(
    left: Graph, right: Graph, alignment: Alignment, k: int, arrays: tuple[Arrays, ...]
) -> str | None:
    """Return a cause if all moves of step k are the reference's times a factor, or with a decay.

    A decay takes the same share of weights away, of all arrays or of some.
    """
    ours, theirs, start = arrays[:3]
    loose = {(a.key, role) for a, role in rounded(left, right, alignment, k, ours, theirs)}
    moves = []
    for i, j in alignment.pairs.items():
        a, b = left.calls[i], right.calls[j]
        if a.roles.keys() != b.roles.keys():
            return None
        for role in a.roles:
            if role.startswith("moving") or (a.key, role) in loose:
                continue
            before, behind = f"step.{k - 1}|{{}}|{role}", f"step.{k}|{{}}|{role}"
            w = ours[before.format(a.key)] if k else start[f"{a.key}|{role}"]
            their_w = fitted(theirs[before.format(b.key)], w.shape) if k else w
            seen = fitted(theirs[behind.format(b.key)], w.shape)
            moves.append((ours[behind.format(a.key)] - w, seen - their_w, w))
    moves = [(x, y, w) for x, y, w in moves if x.shape == y.shape and (x.any() or y.any())]
    square = sum(float((x * x).sum()) for x, _, _ in moves)
    largest = max((float(np.abs(m).max()) for x, y, _ in moves for m in (x, y)), default=0.0)
    if not square or all(gap(y, x, largest).within(MOVED) for x, y, _ in moves):
        return None  # nothing moves, or statistics alone part
    factor = sum(float((x * y).sum()) for x, y, _ in moves) / square
    if all(gap(y, factor * x, largest).within(MOVED) for x, y, _ in moves):
        text = f"each weight moves {factor:.9g} × as far in the suspect"
        rates = [float(side["rates"][k]) for side in (ours, theirs) if "rates" in side]
        are_other = len(rates) == 2 and not _is_near(*rates)
        if are_other and _is_near(factor * rates[0], rates[1]):
            text = f"learning rate {rates[0]:.6g} | {rates[1]:.6g}: {text}"
        return text
    shares = []
    for x, y, w in moves:
        share = float(((x - y) * w).sum() / (w * w).sum()) if w.any() else 0.0
        if gap(y, x, largest).within(MOVED):
            continue
        if not gap(y, x - share * w, largest).within(MOVED):
            return None
        shares.append(share)
    if not shares or max(shares) - min(shares) > MOVED * max(map(abs, shares)):
        return None
    side = "suspect" if shares[0] > 0 else "reference"
    return f"weights lose {abs(shares[0]):.6g} of themselves besides in the {side} (weight decay)"


def _is_near(one: float, other: float) -> bool:
    """Return whether two rates are the same, as far as float32 tells."""
    return abs(one - other) <= RATE * abs(other)


def _moved(a: Call, b: Call, k: int, loose: set[tuple[str, str]], *arrays: Arrays) -> Gap:
    """Return how far the two are apart in what the first steps moved a call's weights by."""
    ours, theirs, first, *peer = arrays
    moves, bounded = [], []
    for role in sorted(b.roles.keys() & a.roles.keys()):
        start = first[f"{a.key}|{role}"]
        one = ours[f"step.{k}|{a.key}|{role}"]
        two = fitted(theirs[f"step.{k}|{b.key}|{role}"], one.shape)
        if (a.key, role) in loose:
            if not peer:
                bounded.append((one - start, two - start))
                continue
            one = fitted(peer[0][f"step.{k}|{b.key}|{role}"], one.shape)
        elif role == "bias" and ("recurrent_bias" in a.roles) != ("recurrent_bias" in b.roles):
            two = _sum(two, theirs, f"step.{k}|{b.key}", b)
            one = _sum(one, ours, f"step.{k}|{a.key}", a)
            start = _sum(start, first, a.key, a)
        moves.append((one - start, two - start))
    largest = max((float(np.abs(m).max()) for m, _ in moves), default=0.0)
    moves += [(m, t) for m, t in bounded
              if not all(np.abs(x).max() <= REACH * largest for x in (m, t))]  # fmt: skip
    sizes = [gap(m, t, largest) for m, t in moves if m.any() or t.any()]
    return max(sizes, key=lambda g: g.size, default=Gap(0.0))


def rounded(
    left: Graph, right: Graph, alignment: Alignment, k: int, ours: Arrays, theirs: Arrays
) -> list[tuple[Call, str]]:
    """Return the reference's weights (call, role) whose moves hold rounding alone in both.

    Their gradients, which torch's side notes and Keras's does not, are zero by theory, as before a
    norm, and Adam divides what rounding leaves of them by its own size. SGD does not.
    """
    if right.about.get("training", {}).get("optimizer", "").startswith("SGD("):
        return []
    pairs = [(left.calls[i], right.calls[j]) for i, j in sorted(alignment.pairs.items())]
    roles = [(a, b, role) for a, b in pairs for role in sorted(a.roles.keys() & b.roles.keys())]
    sizes = [[_size(a, role, k, ours) for a, _, role in roles],
             [_size(b, role, k, theirs) for _, b, role in roles]]  # fmt: skip
    noted = [of for of in sizes if np.isfinite(of).any()]
    largest = np.max(noted, axis=0, initial=0.0) if noted else np.zeros(len(roles))
    return [(a, role) for (a, _, role), size in zip(roles, largest, strict=True)
            if 0 < size <= WHOLE_GRADIENT]  # fmt: skip


def _size(call: Call, role: str, k: int, arrays: Arrays) -> float:
    """Return a weight's largest gradient relative to its call's; infinite where none is noted."""
    while k and f"grad.{k}|{call.key}|{role}" not in arrays:
        k -= 1
    names = {r: f"grad.{k}|{call.key}|{r}" for r in call.roles}
    sizes = {r: float(np.abs(arrays[n]).max()) for r, n in names.items() if n in arrays}
    return sizes.get(role, np.inf) / (max(sizes.values(), default=0.0) or 1.0)


def _sum(bias: np.ndarray, arrays: Arrays, key: str, call: Call) -> np.ndarray:
    """Return a bias with its second one, where a call has two."""
    return bias + arrays[f"{key}|recurrent_bias"] if "recurrent_bias" in call.roles else bias
