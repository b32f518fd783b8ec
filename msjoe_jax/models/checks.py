"""What the sizes of every model have to be, whichever file they come from."""

import dataclasses
from typing import Any


def check_sizes(sizes: Any) -> None:
    """Checks the fields of a config dataclass that are declared as numbers.

    Raises:
      ValueError: a size is no whole number above 0 (an id: from 0 on), or a float is not above 0.
    """
    for field in dataclasses.fields(sizes):
        value, least = getattr(sizes, field.name), 0 if field.name.endswith("_id") else 1
        if field.type is int and (type(value) is not int or value < least):
            raise ValueError(f"{field.name} is {value!r}, not a whole number from {least} on")
        if field.type is float and (type(value) not in (int, float) or not value > 0):
            raise ValueError(f"{field.name} is {value!r}, not a number above 0")


def flat_fields(sizes: Any, above: str = "") -> dict[str, Any]:
    """Lists the fields of a config dataclass and of those that it holds, by dotted names."""
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(sizes):
        value = getattr(sizes, field.name)
        if dataclasses.is_dataclass(value):
            fields |= flat_fields(value, f"{above}{field.name}.")
        else:
            fields[f"{above}{field.name}"] = value
    return fields


def check_heads(name: str, width: int, heads: int) -> None:
    """Checks that the heads share the width evenly.

    Raises:
      ValueError: they do not.
    """
    if width % heads:
        raise ValueError(f"{name} {width} is not a multiple of the {heads} heads")
