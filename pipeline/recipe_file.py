"""Reading a recipe that a user has written, or a run: YAML, with limits."""

from pathlib import Path
from typing import Any

import yaml

from ladder.files import read_limited
from pipeline.errors import UsageError

MAX_RECIPE_BYTES = 64 * 1024
MAX_NESTING = 16
MAX_INTEGER_BITS = 1024
# PyYAML raises these for a value that does not fit the type it is marked with.
UNCAUGHT_BY_YAML = (ValueError, LookupError, AttributeError, TypeError, OverflowError)


class _LoaderWithoutAliases(yaml.SafeLoader):
    """A few lines of aliases can stand for gigabytes, and a recipe needs none."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse an alias; else do as SafeLoader does."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("a recipe has no aliases")
        return super().compose_node(parent, index)

    def fetch_flow_collection_start(self, token_class: Any) -> None:
        """Refuse brackets in brackets, on which PyYAML spends the square of their depth."""
        if self.flow_level >= MAX_NESTING:
            raise yaml.YAMLError("a recipe is not nested so deeply")
        super().fetch_flow_collection_start(token_class)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a field that is named twice; else do as SafeLoader does."""
        fields = super().construct_mapping(node, deep)
        if len(fields) < len(node.value):
            raise yaml.YAMLError("a recipe names a field twice")
        return fields

    def construct_number(self, node: yaml.ScalarNode) -> int:
        """Refuse a number so long that Python would not print it; else do as SafeLoader does."""
        number = self.construct_yaml_int(node)
        if number.bit_length() > MAX_INTEGER_BITS:
            raise yaml.YAMLError(f"a number of {number.bit_length()} bits is too long")
        return number


_LoaderWithoutAliases.add_constructor(
    "tag:yaml.org,2002:int", _LoaderWithoutAliases.construct_number
)


def read_recipe_fields(path: Path) -> dict[str, Any]:
    """Read the fields that a YAML recipe sets; the rest keep their defaults.

    Raises:
        UsageError: no such file, too large, not YAML, or not a mapping.
    """
    try:
        fields = yaml.load(read_limited(path, MAX_RECIPE_BYTES).decode(), _LoaderWithoutAliases)
    except (OSError, yaml.YAMLError, RecursionError, *UNCAUGHT_BY_YAML) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"cannot read the recipe {path}: {reason}") from error
    if not isinstance(fields, dict):
        raise UsageError(f"the recipe {path} must be a mapping of fields to values")
    return fields
