"""What may let trainings part, each with what takes it away: nothing here is tried yet."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from portproof.graph.calls import Graph
from portproof.graph.fused import whole_key
from portproof.graph.steps import PLACED, SWITCHES, placed

Remedy = tuple[str, dict[str, Any]]
"""A cause, and what the suspect's training without it is told; by `reference`, the other one's."""
SINGLE = 1e-6
"""How far float32 takes an option's number at most, relative."""
CLIPPED = "torch clips by the gradients' norm + 1e-6, and Keras by their norm"
VELOCITY = "the learning rate is part of {}'s velocity in Keras, and a factor of it in torch"
SPARSE = (
    "Keras on TensorFlow takes a table's gradient from each place that reads a row, torch their sum"
)
COUPLED = "weight decay is part of the gradient in the suspect, and not in the reference"
TWO_BIASES = "two biases in the suspect, of which its optimizer moves both: one alone agrees"
IN_SINGLE = "momentum and weight decay are rounded to float32 by Keras on TensorFlow"
ROUNDED = ("momentum", "weight_decay")
"""Options that Keras casts to the weights' dtype, by way of TensorFlow's float32."""
OTHERWISE = "the rule of the optimizer, {} | {}: torch's own by the reference's options agrees"
MORE = "the optimizer {} with other groups, weights, schedules or options: one of its rule agrees"
RULES = {"clipnorm": "each gradient's norm", "clipvalue": "value", "global_clipnorm": "all's norm"}
"""Keras's arguments for clipping, in words."""


@dataclass(frozen=True)
class Causes:
    """What the descriptions of two models say of how their trainings may part.

    Attributes:
        left: the reference.
        right: the suspect.
        pairs: which calls belong together.
        frameworks: of both, as their programs name them.
    """

    left: Graph
    right: Graph
    pairs: Mapping[int, int]
    frameworks: tuple[str, str]

    @property
    def is_torch(self) -> bool:
        """Whether the suspect is a module, on which most can be tried."""
        return self.frameworks[1].startswith("torch")

    @property
    def is_port(self) -> bool:
        """Whether it is one of a Keras model."""
        return self.is_torch and self.frameworks[0].startswith("keras")

    @property
    def is_rounded(self) -> bool:
        """Whether the reference's optimizer rounds some numbers to float32."""
        return self.frameworks[0].endswith("on tensorflow")

    @property
    def rules(self) -> set[str]:
        """Causes that are the frameworks' and no port's."""
        other = placed(self.left, self.right)
        same = {other[0], VELOCITY.format("RMSprop")} if other and other[1] else set()
        return {CLIPPED, SPARSE, IN_SINGLE, VELOCITY.format("SGD"), *same}

    def of_epsilon(self) -> Iterator[Remedy]:
        """Yield where ε stands, if the two optimizers have it in different places."""
        if other := placed(self.left, self.right):
            yield other[0], self._placed(other[2])

    def _placed(self, epsilon: float) -> dict[str, Any]:
        precision = "float32" if self.is_rounded else "float64"
        return {"placed_epsilon": {"precision": precision, "epsilon": epsilon}}

    def of_rules(self) -> Iterator[Remedy]:
        """Yield what the frameworks' optimizers do each in their own way."""
        told = self.right.about.get("training", {}).get("optimizer", "")
        if self.is_torch:
            yield CLIPPED, {"exact_clipping": True}
        kinds = re.findall(r"\b(SGD|RMSprop)\([^)]*momentum=", told) if self.is_port else []
        if "SGD" in kinds:
            yield VELOCITY.format("SGD"), {"velocity": True}
        yield from self.of_epsilon()
        if "RMSprop" in kinds and (other := placed(self.left, self.right)):
            text = VELOCITY.format("RMSprop")
            text = text if other[1] else f"{text}; and {other[0]}"  # another ε is no rule
            yield text, {"velocity": True, **self._placed(other[2])}
        if self.is_port and self.is_rounded:
            if any(self.left.calls[i].kind == "embedding" for i in self.pairs):
                yield SPARSE, {"reference": {"dense": True}}
            options = self.left.about.get("training", {}).get("options", {})
            if names := [name for name in ROUNDED if options.get(name) and f"{name}=" in told]:
                yield IN_SINGLE, {"single": names}

    def of_updates(self) -> Iterator[Remedy]:
        """Yield what may let weights part behind losses that agree."""
        yield from self.of_rules()
        if not self.is_torch:
            return
        both = [(self.left.calls[i], self.right.calls[j]) for i, j in self.pairs.items()]
        still = [f"{b.key}|recurrent_bias" for a, b in both
                 if "recurrent_bias" in b.roles.keys() - a.roles.keys()]  # fmt: skip
        if still:
            yield TWO_BIASES, {"still": still}
        yield from self._of_optimizers()

    def of_losses(self, theirs: Mapping[str, np.ndarray]) -> Iterator[Remedy]:
        """Yield how the loss functions that the suspect has called can be computed otherwise."""
        ours, about = self.left.about, self.right.about
        called = [each.split("/") for each in theirs["called"].tolist()]
        value = ours.get("training", {}).get("smoothing")
        if value and any(name == "cross_entropy" for name, _ in called):
            yield f"labels are smoothed by {value:g} in the reference", {"smoothing": value}
        for name, key in called:
            yield about["variants"][name][key][0], {"swaps": {name: key}}

    def _of_optimizers(self) -> Iterator[Remedy]:
        """Yield how the suspect clips or what its optimizer is told otherwise."""
        ours, theirs = (graph.about.get("training", {}) for graph in (self.left, self.right))
        clips, other = ours.get("clipping", []), theirs.get("clipping", [])
        if clips != other:
            text = f"gradients are clipped by {_clipping(clips)} | {_clipping(other)}"
            yield text, {"clipping": clips}
        mine, own = ours.get("options", {}), theirs.get("options", {})
        taken = {n: float(np.float32(v)) if self.is_rounded and n in ROUNDED else v
                 for n, v in mine.items()}  # fmt: skip
        for name in sorted(mine.keys() & own.keys()):
            if mine[name] != own[name]:
                is_near = abs(mine[name] - own[name]) <= SINGLE * abs(mine[name])
                sides = [f"{side[name]:.{17 if is_near else 6}g}" for side in (mine, own)]
                if name in SWITCHES:
                    sides = ["on" if side[name] else "off" for side in (mine, own)]
                is_new = self.is_port and name == "weight_decay" and not own[name]
                kind = {"decoupled": True} if is_new else {}
                yield f"{name} {' | '.join(sides)}", {"options": {name: taken[name], **kind}}
        decay = mine.get("weight_decay") and own.get("weight_decay")
        if self.is_port and decay and not own.get("decoupled"):
            yield COUPLED, {"options": {"decoupled": True}}
        yield from self._of_decay(ours, theirs, taken)
        yield from self._of_squares(ours, theirs)
        counts = [training.get("accumulated", 1) for training in (ours, theirs)]
        if counts[0] != counts[1]:
            text = f"batches per step {counts[0]} | {counts[1]}"
            yield text, {"accumulate_grad_batches": counts[0]}
        if left_out := theirs.get("left out"):
            more = f" and {len(left_out) - 3} more" if len(left_out) > 3 else ""
            text = f"the optimizer was not given {', '.join(left_out[:3])}{more}"
            yield text, {"all weights": True}
        if "rule" in ours and "learning_rate" in mine:
            how: dict[str, Any] = {"optimizer": ours["rule"], "options": taken}
            if self.is_port:
                how |= {"velocity": bool(mine.get("momentum"))}
                if ours["rule"] in PLACED and "epsilon" in mine:
                    how |= self._placed(mine["epsilon"])
            names = ours["rule"], theirs.get("rule")
            text = MORE.format(names[0]) if names[0] == names[1] else OTHERWISE.format(*names)
            yield text, how

    def _of_decay(
        self, ours: Mapping[str, Any], theirs: Mapping[str, Any], options: Mapping[str, float]
    ) -> Iterator[Remedy]:
        """Yield that other weights decay, where the reference leaves some out or the suspect."""
        mine_alone = options.get("weight_decay")
        others = {float(v) for v in _decays(theirs).split(" or ") if v} - {0.0}
        if "spared" not in ours or not mine_alone or len(others) != 1:
            return
        if not math.isclose(mine_alone, others.pop(), rel_tol=SINGLE):
            return  # another decay
        if found := self._decaying(set(ours["spared"])):
            which, keys = found
            yield (f"weight decay is of {which} in the reference",
                   {"spared": keys, "decay": mine_alone})  # fmt: skip

    def _of_squares(self, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[Remedy]:
        """Yield what the reference's L2 adds to gradients, as decay in the suspect's optimizer."""
        added = ours.get("squared", {})
        keys = {f"{whole_key(c.key)}|{r}" for c in self.left.calls for r in c.roles}
        found = self._decaying(keys - added.keys()) if len(set(added.values())) == 1 else None
        if self.is_port and found:
            (share,) = set(added.values())
            other = _decays(theirs) or "0"
            other += "" if " or " in other else ", of all weights" if float(other) else ""
            other += " beside the gradient" if theirs.get("options", {}).get("decoupled") else ""
            text = (f"L2 adds {share:g} × {found[0]} to their gradients in the reference; the "
                    f"suspect's weight decay is {other}")  # fmt: skip
            yield text, {"spared": found[1], "decay": share, "options": {"decoupled": False}}

    def _decaying(self, spared: set[str]) -> tuple[str, list[str]] | None:
        """Return which weights decay, in words, and the suspect's others.

        Args:
            spared: the reference's others.

        Returns:
            None where one of the suspect's is of both.
        """
        mine = dict[str, dict[str, bool]]()
        blocks: dict[str, set[bool]] = {}
        for i, j in self.pairs.items():
            a, b = self.left.calls[i], self.right.calls[j]
            for role in a.roles.keys() & b.roles.keys():
                is_spared = f"{whole_key(a.key)}|{role}" in spared
                mine.setdefault(role, {})[a.owner] = is_spared
                blocks.setdefault(f"{whole_key(b.key)}|{role}", set()).add(is_spared)
        if any(len(each) > 1 for each in blocks.values()):  # of one weight in parts
            return None
        words = [role if all(of.values()) else f"the {role} of {owner}"
                 for role, of in sorted(mine.items()) for owner in of if of[owner]]  # fmt: skip
        which = f"all but {', '.join(dict.fromkeys(words))}" if words else "all weights"
        return which, [key for key, each in blocks.items() if each == {True}]


def _decays(training: Mapping[str, Any]) -> str:
    """Return the weight decays of an optimizer's groups, as `0.02 or 0.0`."""
    number = r"[\d.e+-]+"
    told = re.search(rf"weight_decay=({number}(?: or {number})*)", training.get("optimizer", ""))
    return told[1] if told else ""


def _clipping(rule: Sequence[Any]) -> str:
    """Return a rule in words; one that a module has written itself is not known."""
    if not rule or rule[0] == "own":
        return "a hook of its own" if rule else "nothing"
    return f"{RULES[rule[0]]}, at most {rule[1]:g}"
