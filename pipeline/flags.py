"""Settings that are command-line flags: a dataclass says of a field which flag sets it."""

import argparse
import dataclasses
import math
from collections.abc import Iterator
from typing import Any, get_args

from pipeline.errors import UsageError


def flag(
    default: Any,
    name: str = "",
    words: str = "",
    *,
    metavar: str = "N",
    choices: tuple[str, ...] = (),
    limits: tuple[float, float] | None = None,
) -> Any:
    """Return a dataclass's field that the flag `name` sets, if there is one; `words` are its help.

    What the flag takes follows from the field's type: a number, a word, nothing for a truth value,
    and for a tuple some of `choices`, with commas or one by one. `check` holds it to its limits.
    """
    taken = {"name": name, "words": words, "metavar": metavar, "choices": choices, "limits": limits}
    return dataclasses.field(default=default, metadata=taken)


def check(settings: Any) -> None:
    """Hold each field of a dataclass, or each item of a tuple, to its choices and limits.

    Integers may be the limits, real numbers lie between them. None is good where it is the default.

    Raises:
        UsageError: naming the first field that is wrong, with the value received.
    """
    for field in dataclasses.fields(settings):
        received, is_tuple = getattr(settings, field.name), _is_tuple(field)
        choices, limits = field.metadata.get("choices"), field.metadata.get("limits")
        for value in received if is_tuple else (received,):
            wrong = None
            if choices and value not in choices:
                wrong = f"{'' if is_tuple else 'one '}of {', '.join(choices)}"
            elif limits and not (value is None is field.default):
                wrong = _wanted(value, isinstance(field.default, float), *limits)
            if wrong:
                raise UsageError(
                    f"`{field.name}` must be {wrong}; received {field.name}={received!r}"
                )


def _wanted(value: Any, is_real: bool, least: float, most: float) -> str | None:
    """Return the requirement that a value does not meet, in words; None where it meets all."""
    if is_real:
        is_between = isinstance(value, float) and least < value < most
        words = "above 0" if most == math.inf else f"between {least} and {most}, both excluded"
        return None if is_between else words
    if type(value) is not int or value < least:
        return f"an integer of at least {least}"
    return f"at most {most}" if value > most else None


def add_flags(
    group: argparse._ArgumentGroup,
    settings: type,
    *,
    without: tuple[str, ...] = (),
    **defaults: Any,
) -> None:
    """Add the flags of the dataclass `settings`; a default that is given here is set, too."""
    for field in _flags(settings):
        if field.name in without:
            continue
        taken = field.metadata
        shown = defaults.get(field.name, field.default)
        if isinstance(shown, tuple):
            shown = ",".join(shown)
        elif isinstance(shown, float):
            shown = f"{shown:.7g}"  # a float32's
        options: dict[str, Any] = {"dest": field.name, "default": defaults.get(field.name)}
        if field.type is bool:
            options |= {"action": "store_true", "help": taken["words"]}
        else:
            options["help"] = (taken["words"] + ("" if shown is None else f" ({shown})")).strip()
            if _is_tuple(field):
                options |= {"action": "append", "metavar": taken["metavar"]}
            elif taken["choices"]:
                options["choices"] = taken["choices"]
            else:
                kind = next(iter(get_args(field.type)), field.type)
                options |= {"type": kind, "metavar": taken["metavar"]}
        group.add_argument(taken["name"], **options)


def given(arguments: Any, settings: type) -> dict[str, Any]:
    """Return the fields of `settings` that a parsed call sets.

    Raises:
        UsageError: a name in a list is none of its choices.
    """
    found = {}
    for field in _flags(settings):
        value = getattr(arguments, field.name, None)
        if value is not None:
            if _is_tuple(field):
                value = tuple(
                    chosen(",".join(value), field.metadata["choices"], field.metadata["name"])
                )
            found[field.name] = value
    return found


def as_words(fields: dict[str, Any], settings: type) -> list[str]:
    """Return the flags that set `fields` of `settings`; the inverse of `given`."""
    words = []
    for field in _flags(settings):
        value = fields.get(field.name)
        if value is not None and value is not False:
            words.append(field.metadata["name"])
            if value is not True:
                words.append(",".join(value) if _is_tuple(field) else str(value))
    return words


def chosen(text: str, known: tuple[str, ...], flag: str) -> list[str]:
    """Return the names in a list with commas, each once.

    Raises:
        UsageError: an unknown name, or none.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in known:
            raise UsageError(f"`{flag}` takes {', '.join(known)}; received {name!r}")
    return names


def _flags(settings: type) -> Iterator[dataclasses.Field[Any]]:
    return (field for field in dataclasses.fields(settings) if field.metadata.get("name"))


def _is_tuple(field: dataclasses.Field[Any]) -> bool:
    return isinstance(field.default, tuple)
