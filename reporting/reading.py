"""JSON of results, read into dataclasses with checks."""

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
        return built(kind, read_json(path, MAX_JSON_BYTES))
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from error


def built(kind: type[Kind], value: Any, place: str = "", *, is_whole: bool = False) -> Kind:
    """Return JSON's `value`, found at `place`, as the annotated `kind`.

    Raises:
        ValueError: it is none; where it `is_whole`, also one with a field too many or too few.
    """
    return typing.cast(Kind, _built(kind, value, place, is_whole))


def _built(kind: Any, value: Any, place: str, is_whole: bool) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _built_dataclass(kind, value, place, is_whole)
    if origin is types.UnionType:
        return _built_union(arguments, value, place, is_whole)
    if origin is tuple and isinstance(value, list):
        kinds = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        if len(kinds) == len(value):
            return tuple(
                _built(one, item, f"{place}[{number}]", is_whole)
                for number, (one, item) in enumerate(zip(kinds, value, strict=True))
            )
    if origin is dict and isinstance(value, dict):
        return {
            key: _built(arguments[1], item, f"{place}.{key}", is_whole)
            for key, item in value.items()
        }
    wanted: Any = (int, float) if kind is float else kind
    is_boolean = isinstance(value, bool) and kind is not bool
    if origin is not None or is_boolean or not isinstance(value, wanted):
        wrong = "type or length" if origin is tuple else "type"
        raise ValueError(f"{place.lstrip('.') or 'the file'} has a wrong {wrong}: {value!r:.60}")
    return value


def _built_union(kinds: tuple[Any, ...], value: Any, place: str, is_whole: bool) -> Any:
    if value is None and type(None) in kinds:
        return None
    reasons = []
    for kind in kinds:
        if kind is not type(None):
            try:
                return _built(kind, value, place, is_whole)
            except ValueError as error:
                reasons.append(str(error))
    raise ValueError(reasons[0])


def _built_dataclass(kind: Any, value: Any, place: str, is_whole: bool) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{place.lstrip('.') or 'the file'} must be a JSON object")
    hints = typing.get_type_hints(kind)
    if is_whole and set(value) != set(hints):
        names = sorted(set(value) ^ set(hints))
        raise ValueError(f"{place.lstrip('.')}: unexpected or missing fields {names}")
    found = {}
    for field in dataclasses.fields(kind):
        if field.name in value:
            inside = f"{place}.{field.name}"
            found[field.name] = _built(hints[field.name], value[field.name], inside, is_whole)
        elif field.default is dataclasses.MISSING:
            raise ValueError(f"{place}.{field.name}".lstrip(".") + " is missing")
    return kind(**found)
