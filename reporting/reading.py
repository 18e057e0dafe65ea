"""JSON of other rooms, read into dataclasses with checks."""

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from ladder.files import read_json
from pipeline.errors import RunError

MAX_JSON_BYTES = 16 * 1024 * 1024
Kind = TypeVar("Kind")


def read_as(kind: type[Kind], path: Path) -> Kind:
    """Read a JSON file as the dataclass `kind`; fields that it does not have are passed over.

    Raises:
        RunError: missing, too large, not JSON, or a field is missing or of the wrong type.
    """
    try:
        value = read_json(path, MAX_JSON_BYTES)
        return typing.cast(Kind, _built(kind, value, ""))
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from error


def _built(kind: Any, value: Any, place: str) -> Any:
    """Return JSON's `value` as the annotated `kind`.

    Raises:
        ValueError: it is none.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _built_dataclass(kind, value, place)
    if origin is types.UnionType:
        return _built_union(arguments, value, place)
    if origin is tuple and isinstance(value, list):
        return tuple(_built(arguments[0], item, f"{place}[{n}]") for n, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: _built(arguments[1], item, f"{place}.{key}") for key, item in value.items()}
    wanted: Any = (int, float) if kind is float else kind
    is_boolean = isinstance(value, bool) and kind is not bool
    if origin is not None or is_boolean or not isinstance(value, wanted):
        raise ValueError(f"{place.lstrip('.') or 'the file'} has a wrong type: {value!r:.60}")
    return value


def _built_union(kinds: tuple[Any, ...], value: Any, place: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    reasons = []
    for kind in kinds:
        if kind is not type(None):
            try:
                return _built(kind, value, place)
            except ValueError as error:
                reasons.append(str(error))
    raise ValueError(reasons[0])


def _built_dataclass(kind: Any, value: Any, place: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{place.lstrip('.') or 'the file'} must be a JSON object")
    hints = typing.get_type_hints(kind)
    built = {}
    for field in dataclasses.fields(kind):
        if field.name in value:
            inside = f"{place}.{field.name}"
            built[field.name] = _built(hints[field.name], value[field.name], inside)
        elif field.default is dataclasses.MISSING:
            raise ValueError(f"{place}.{field.name}".lstrip(".") + " is missing")
    return kind(**built)
