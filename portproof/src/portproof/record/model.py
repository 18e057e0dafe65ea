"""What the models of both frameworks share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from portproof.graph.gaps import Gap, gap
from portproof.record.role import Role
from portproof.stored import Writer

Arrays = dict[str, np.ndarray]
Sink = Arrays | Writer
"""A destination of arrays by name."""
Batch = tuple[list[np.ndarray], Any, list[np.ndarray]]
"""Inputs, targets (an array, a list or a dictionary of them) and weights, if any, of one step."""


UNSEEN = 1e-4
"""What casts to float32, which count as float64 where they are recorded, may do to outputs."""


class Model(ABC):
    """One framework's model, able to describe itself and to replay."""

    recorder: Any
    """Of the last run: its `calls`, and what is `live` of each."""
    fails_by: ClassVar[tuple[type[Exception], ...]]
    """The errors of a model that does not take other shapes."""

    def __init__(self, options: dict[str, Any] | None) -> None:
        self.options = dict(options or {})
        """The user's own, for `fit` or a Trainer."""
        self.turned: Sequence[int] = ()
        """Outputs that have their channels behind the samples, though that was not seen."""
        self.named: Sequence[str] = ()
        """Names of inputs that go in by name, in order; none where their places tell."""
        self.example: list[np.ndarray] = []
        self.as_run: Gap | None = None
        """How far its outputs are apart seen and unseen."""

    @abstractmethod
    def describe(
        self,
        inputs: list[np.ndarray],
        opened: Mapping[str, Sequence[int]] = MappingProxyType({}),
        unfold: bool = False,
    ) -> dict[str, Any]:
        """Return the graph of calls, as `portproof.graph.calls.Graph.to_dict`.

        Args:
            inputs: arrays of the shapes that are asked for.
            opened: parameters of a module that are not a layer's but used by themselves, with the
                shape that the other side's has.
            unfold: whether features that a module cuts into maps stand in the order of these with
                channels last.
        """

    @abstractmethod
    def native(self) -> Arrays:
        """Return weights as the framework has them, by its own names."""

    @abstractmethod
    def convert(self, function: Callable[..., Any], weights: Arrays) -> None:
        """Let a user's function fill the model with the other's weights."""

    @abstractmethod
    def fill(self, weights: Mapping[str, np.ndarray]) -> list[str]:
        """Put canonical weights `key|role` in place; return those that did not stay."""

    @abstractmethod
    def train(
        self, batches: list[Batch], swaps: Mapping[str, str], overrides: Mapping[str, Any]
    ) -> Arrays:
        """Train with the user's own loss and optimizer, dropout at 0; return weights by step.

        Args:
            batches: in order.
            swaps: functions of torch that are computed in another way.
            overrides: arguments of a Trainer that outdo the user's own.
        """

    @abstractmethod
    def vary(self, trials: list[dict[str, Any]], given: Mapping[str, np.ndarray]) -> Arrays:
        """Run single calls on `in.i` with other settings; those that cannot are left out."""

    @abstractmethod
    def _read(self, key: str, role: Role) -> np.ndarray: ...

    @abstractmethod
    def _replay(
        self,
        inputs: list[np.ndarray],
        how: Mapping[str, Any],
        given: Mapping[str, np.ndarray],
        found: Sink,
        any_shape: bool,
    ) -> None: ...

    def unseen(self, plain: Sequence[np.ndarray], seen: Sequence[np.ndarray]) -> str:
        """Say by how much outputs differ that nobody watches; nothing within `UNSEEN`.

        What watches a run may change it: a framework that takes a faster way has another one then.
        """
        if self.as_run is None:
            gaps = [gap(a, b) for a, b in zip(plain, seen, strict=False)]
            gaps += [Gap(math.inf, "in another number")] if len(plain) != len(seen) else []
            self.as_run = max(gaps, key=lambda g: g.size)
        return "" if self.as_run.within(UNSEEN) else str(self.as_run)

    def roles(self, recorder: Any) -> dict[str, Role]:
        """Return the roles of a run's weights, by `key|role`."""
        return {
            f"{call.key}|{name}": role
            for call, live in zip(recorder.calls, recorder.live, strict=True)
            for name, role in live.roles.items()
        }

    def readers(self) -> dict[str, Callable[[], np.ndarray]]:
        """Return readers of canonical weights, by `key|role`; each reads the present numbers."""
        roles = self.roles(self.recorder).items()
        return {key: partial(self._read, key, role) for key, role in roles}

    def weights(self) -> Arrays:
        """Return canonical weights by `key|role`, as they are now."""
        return {name: read() for name, read in self.readers().items()}

    def replay(
        self,
        inputs: list[np.ndarray],
        how: Mapping[str, Any],
        given: Mapping[str, np.ndarray],
        found: Sink | None = None,
    ) -> Any:
        """Run the model and return what was seen.

        Args:
            inputs: channels last.
            how: `train`, `seeds` by call, `outputs_only`; `alone` False: run no call alone.
            given: `out.i` and `in.i` to force; where the model does not take numbers of other
                shapes, those of fitting ones.
            found: takes what is seen; a dictionary by itself.
        """
        found = {} if found is None else found
        try:
            self._replay(inputs, how, given, found, True)
        except self.fails_by:
            if not given:
                raise
            found.clear()
            self._replay(inputs, how, given, found, False)
        return found
