"""JSON, read with limits, and its values as what annotations say, dataclasses above all."""

import dataclasses
import json
import math
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from ladder.files import read_limited

Kind = TypeVar("Kind")


def read_json(path: Path, max_bytes: int) -> Any:
    """Read what JSON itself, and this project, would write to `path`.

    Raises:
        OSError: it cannot be read.
        ValueError: larger than `max_bytes`, not JSON, nested too deeply, or with a name twice, a
            number that is not finite as a double, or half a character.
    """
    return parse_json(read_limited(path, max_bytes).decode())


def parse_json(text: str) -> Any:
    """Parse JSON; what Python takes beyond it is refused.

    Raises:
        ValueError: as `read_json`.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_float=_number,
            parse_int=_integer,
            parse_constant=_number,
        )
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is no character
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object names a field twice")
    return found


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits:.20} is not a finite number")
    return value


def _integer(digits: str) -> int:
    _number(digits)  # so that it can be counted with as a double
    return int(digits)


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
    if origin in (tuple, list) and isinstance(value, list):
        is_any_length = origin is list or arguments[-1] is ...
        kinds = arguments[:1] * len(value) if is_any_length else arguments
        if len(kinds) == len(value):
            return origin(
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
