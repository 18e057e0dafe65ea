"""How a layer or module of one's own, with weights that portproof does not know, is recorded.

Without an adapter such a layer stays unmatched, which is said and never passes. With one it is a
call like any other: its weights are drawn, carried over and differentiated by role, and it is
compared alone. Register one in each of the two files that hold the models:

    from portproof.adapter import Adapter, register

    @register("ScaledDense")
    class ScaledDenseAdapter(Adapter):
        kind = "scaled dense"

        def roles(self, layer):
            return {"kernel": layer.w, "gamma": layer.scale}

In the other framework the class may have another name; kind and roles are the same, and a weight
in another layout is given with two functions, to and from the first one's:

    @register("Scaled")
    class ScaledAdapter(Adapter):
        kind = "scaled dense"

        def roles(self, module):
            return {"kernel": (module.weight, lambda a: a.T, lambda a: a.T), "gamma": module.g}
"""

from collections.abc import Callable, Mapping
from typing import Any


class Adapter:
    """One kind of layer; subclass it, and register the subclass."""

    kind: str = ""
    """The same in both frameworks."""
    channels_first: bool = False
    """Whether it takes and gives channels at axis 1 (torch)."""

    def roles(self, layer: Any) -> Mapping[str, Any]:
        """Return the layer's weights by role.

        A value is a variable or parameter, or one with two functions of arrays: to the layout in
        which both sides agree, and back.
        """
        raise NotImplementedError

    def settings(self, layer: Any) -> dict[str, Any]:
        """Return the settings, as plain values, that the two layers must have alike."""
        return {}


_REGISTERED: dict[str, Adapter] = {}
_OWN = "_portproof_adapter"


def register(name: str) -> Callable[[type[Adapter]], type[Adapter]]:
    """Register an adapter for layers or modules whose class has this name.

    Raises:
        ValueError: the adapter names no kind.
    """

    def decorate(adapter: type[Adapter]) -> type[Adapter]:
        if not adapter.kind:
            raise ValueError(f"`kind` of {adapter.__name__} must name the kind; received ''")
        _REGISTERED[name] = adapter()
        return adapter

    return decorate


def attach(layer: Any, adapter: Adapter | None) -> None:
    """Give one layer an adapter of its own, or none, as no attribute that it could notice."""
    layer.__dict__[_OWN] = adapter


def detach(layer: Any) -> None:
    """Take a layer's own adapter away."""
    layer.__dict__.pop(_OWN, None)


def is_tried(layer: Any) -> bool:
    """Return whether a layer has been given an adapter of its own, be it none."""
    return _OWN in layer.__dict__


def adapter_of(layer: Any) -> Adapter | None:
    """Return a layer's own adapter, its class's, or that of the nearest class it descends from."""
    if layer.__dict__.get(_OWN) is not None:
        own: Adapter = layer.__dict__[_OWN]
        return own
    for cls in type(layer).__mro__:
        if cls.__name__ in _REGISTERED:
            return _REGISTERED[cls.__name__]
    return None
