"""One program of a check and what it recorded, as the comparison reads it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from portproof.graph.calls import Graph
from portproof.graph.fused import Part, Split, joined_calls, joined_weights, split_fused
from portproof.graph.inputs import EDGE_ROWS
from portproof.programs import CheckError, Program, answers
from portproof.stored import Stored, save

BATCHES = (("batch of 4", 4), ("batch of 3", 3), ("single", 1), ("edge batch", EDGE_ROWS))
"""Full, partial and single batches, and one of wide numbers, zeros and small ids.

Calls are compared on the first, outputs on all."""
ROWS = BATCHES[0][1]
Arrays = Mapping[str, np.ndarray]


@dataclass
class Side:
    """One program with its graph, as the comparison reads it."""

    program: Program
    files: dict[int, str]
    """Inputs by the number of rows."""
    graph: Graph
    parts: list[Part] = field(default_factory=list)
    swaps: dict[str, str] = field(default_factory=dict)
    """Functions computed in another way from here on: constants that were found."""
    forced: str = ""
    trained: dict[str, Any] = field(default_factory=dict)
    digest: str = ""
    """Of all weights that the model starts from, once `first` has read them."""
    _out: str = ""

    def split(self, other: Graph) -> None:
        """Read dense calls as several, where the other side has them so."""
        self.graph, self.parts = split_fused(self.graph, other)

    def first(self) -> Arrays:
        """Return the weights that the model starts from; of large ones some of their numbers."""
        out = self.program.path("first")
        self.digest = self.program.ask("first", out=out)["digest"]
        return self.read(out)

    def fill(self, weights: Arrays) -> None:
        """Put weights in place, as `fill` does."""
        fill([self], weights)

    def give(self, arrays: Arrays, own: Arrays = MappingProxyType({})) -> str:
        """Write what a replay is forced by, and return the file.

        Args:
            arrays: `in.i` and `out.i`.
            own: for blocks of a call that others of its blocks are given for.
        """
        given = {part.call for i, part in enumerate(self.parts) if f"out.{i}" in arrays}
        lacking = [f"out.{i}" for i, part in enumerate(self.parts)
                   if part.call in given and f"out.{i}" not in arrays]  # fmt: skip
        kept = {name: own[name] for name in lacking if name in own}
        return save(self.program.path("force"), joined_calls({**kept, **arrays}, self.parts))

    def start(self, rows: int = ROWS, **how: Any) -> None:
        """Ask for a replay; `seen` waits."""
        self._out = self.program.path("seen")
        how.setdefault("swaps", self.swaps)
        self.program.send("replay", inputs=self.files[rows], out=self._out, **how)

    def seen(self) -> Arrays:
        """Return the replay's arrays by the calls of the graph."""
        self.program.answer()
        return self.read(self._out)

    def read(self, path: str) -> Arrays:
        """Return the arrays of a file that the program wrote, by the calls of the graph."""
        return Split(Stored(path), self.graph, self.parts)

    def train(self, batches: str, **overrides: Any) -> str:
        """Ask for a training from the present weights; return the file that will hold it.

        `program.answer`, or `answers`, must follow.

        Args:
            batches: a file, as `record.program.made_batches` gives them.
            overrides: arguments of the Trainer that outdo the user's own.
        """
        out = self.program.path("trained")
        self.program.send("train", given=batches, out=out, swaps=self.swaps, overrides=overrides)
        return out

    def vary(self, trials: list[dict[str, Any]], given: dict[str, np.ndarray]) -> Arrays:
        """Run single calls by other settings; return `alone.n` by trial."""
        trials = [{**t, "call": self.parts[t["call"]].call} for t in trials]
        out = self.program.path("varied")
        path = save(self.program.path("given"), joined_calls(given, self.parts))
        self.program.ask("vary", given=path, trials=trials, out=out)
        return Stored(out)

    def seeds(self, of: Mapping[int, int]) -> dict[str, list[tuple[int | None, int]]]:
        """Return seeds, each with its block's width, by the program's own calls."""
        found: dict[str, list[tuple[int | None, int]]] = {}
        wanted = {self.parts[i].call for i in of}
        for i, part in enumerate(self.parts):
            if part.call in wanted:
                width = 0 if part.number is None else part.widths[part.number]
                found.setdefault(str(part.call), []).append((of.get(i), width))
        return found


def fill(sides: Sequence[Side], weights: Arrays) -> None:
    """Put weights in place, on all sides at once: processes of a module may wait for each other.

    Raises:
        CheckError: a weight is another one behind.
    """
    for side in sides:
        joined = joined_weights(weights, side.graph, side.parts)
        side.program.send("fill", given=save(side.program.path("weights"), joined))
    found = answers([side.program for side in sides])
    for side, lost in zip(sides, (answer["lost"] for answer in found), strict=True):
        if lost and not side.graph.unreadable:
            raise CheckError(
                f"{side.program.side}: {len(lost)} weights did not keep what was put there: "
                f"{lost[0].rpartition('|')[2]} of {lost[0].partition(';')[0]}"
            )
