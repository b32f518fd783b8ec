"""Fields of a config: each with a type, a default, bounds or choices, and a line on its meaning.

A config group is a frozen dataclass whose fields are made by `option` and `group`. `read` turns
plain values (of a file, of flags, of a checkpoint's metadata) into the dataclass and reports every
mistake at once; `plain` is its inverse.
"""

import dataclasses
import difflib
import math
import re
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, cast, get_args, get_origin, get_type_hints

KEY = "option"
LARGEST_INT = (1 << 31) - 1
LARGEST_FLOAT = 3.4e38


class Option(NamedTuple):
    """Documentation and limits of a field, beside its type.

    low, high: inclusive bounds; above: an exclusive one. choices: of a text, of every entry of a
    list of texts, or of the keys of a mapping: any collection, such as a dict of implementations,
    or a function that returns one. form: `regex`, `file` or `folder` (the latter two may be empty
    and must exist otherwise).
    """

    doc: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    choices: Collection[str] | Callable[[], Collection[str]] = ()
    form: str = ""

    def names(self) -> tuple[str, ...]:
        """Returns the choices as they are now."""
        return tuple(self.choices() if callable(self.choices) else self.choices)


def option(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: Collection[str] | Callable[[], Collection[str]] = (),
    form: str = "",
) -> Any:
    """Makes a field of a config group: its default, its documentation, and its limits.

    Args:
      default: its value if none is given.
      doc: one line of documentation.
      low, high, above: bounds of a number; see `Option`.
      choices: names that are allowed; see `Option`.
      form: of a text; see `Option`.
    """
    metadata = {KEY: Option(doc, low, high, above, choices, form)}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def group(kind: type, doc: str, **defaults: Any) -> Any:
    """Makes a field that is a config group itself, with these defaults in place of its own."""
    return dataclasses.field(default_factory=lambda: kind(**defaults), metadata={KEY: Option(doc)})


class Field(NamedTuple):
    """One field of a group. `kind` is its type, `default` its value."""

    name: str
    kind: Any
    default: Any
    option: Option


def fields_of(kind: type, instance: Any = None) -> Iterator[Field]:
    """Yields the fields of a config group, with the values of `instance` (None: the defaults)."""
    hints = get_type_hints(kind)
    instance = kind() if instance is None else instance
    for field in dataclasses.fields(kind):
        if KEY in field.metadata:
            value = getattr(instance, field.name)
            yield Field(field.name, hints[field.name], value, field.metadata[KEY])


def plain(instance: Any) -> dict[str, Any]:
    """Returns a config group as nested plain values, as JSON and `ml_collections` hold them."""

    def value(x: Any) -> Any:
        if dataclasses.is_dataclass(x):
            return plain(x)
        return {name: value(y) for name, y in x.items()} if isinstance(x, Mapping) else x

    return {field.name: value(field.default) for field in fields_of(type(instance), instance)}


def read(
    kind: type, values: Mapping[str, Any], prefix: str, slips: list[str], defaults: Any = None
) -> Any:
    """Makes a config group from plain values; absent fields have their defaults.

    Args:
      kind: the dataclass.
      values: by field name.
      prefix: stands before a field's name in a message, such as "config.frames.".
      slips: gets a line for every value that is not allowed.
      defaults: a group whose values are the defaults; None: the dataclass's own.

    Returns:
      The group, with the default in place of a value that is not allowed.
    """
    fields = {field.name: field for field in fields_of(kind, defaults)}
    for name in values:
        if name not in fields:
            matches = difflib.get_close_matches(str(name), fields, 1)
            hint = f"; did you mean {matches[0]}?" if matches else ""
            slips.append(f"{prefix}{name}: there is no such field{hint}")
    resolved: dict[str, Any] = {}
    bad_fields: list[str] = []
    for name, field in fields.items():
        if name not in values:
            resolved[name] = field.default
        elif dataclasses.is_dataclass(field.kind):
            resolved[name] = _group(
                cast(type, field.kind), values[name], f"{prefix}{name}", slips, field.default
            )
        elif kind_of_groups(field.kind):
            resolved[name] = _groups(field, values[name], f"{prefix}{name}", slips)
        else:
            value, slip = _value(field, values[name])
            if slip:
                bad_fields.append(name)
                slips.append(f"{prefix}{name}={_format_value(values[name])} {slip}")
            resolved[name] = field.default if slip else value
    result = kind(**resolved)
    if hasattr(result, "slips"):  # a relation to a wrong field means nothing
        slips.extend(f"{prefix}{line}" for line in result.slips() if not mentions(line, bad_fields))
    return result


def kind_of_groups(kind: Any) -> type | None:
    """Returns the dataclass of a field that maps names to groups; None of another field."""
    entry = get_args(kind)[1] if get_origin(kind) is dict else None
    return cast(type, entry) if dataclasses.is_dataclass(entry) else None


def _group(kind: type, values: Any, path: str, slips: list[str], defaults: Any = None) -> Any:
    """Reads a group inside another; `path` is its own."""
    if not isinstance(values, Mapping):
        slips.append(f"{path}={values!r} must be a group of fields")
        values = {}
    return read(kind, values, f"{path}.", slips, defaults)


def _groups(field: Field, values: Any, path: str, slips: list[str]) -> dict[str, Any]:
    """Reads a mapping of names to groups; a name is a word, as it stands in paths of fields."""
    kind = kind_of_groups(field.kind)
    assert kind is not None
    if not isinstance(values, Mapping):
        slips.append(f"{path}={values!r} must be a mapping of names to groups of fields")
        return {}
    for name in values:
        if not re.fullmatch(r"[A-Za-z_][\w-]*", str(name), re.ASCII):
            slips.append(f"{path}: the name {name!r} must be letters, digits, _ and -")
    return {name: _group(kind, entry, f"{path}.{name}", slips) for name, entry in values.items()}


def mentions(line: str, names: Iterable[str]) -> bool:
    """Says whether a line names one of these fields."""
    return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", line) for name in names)


def _format_value(value: Any) -> str:
    return value if isinstance(value, str) and value else repr(value)


def _value(field: Field, value: Any) -> tuple[Any, str]:
    """Returns the value in the field's type, and what is wrong with it ("" if nothing)."""
    kind, limits = field.kind, field.option
    if isinstance(kind, types.UnionType):  # X | None
        if value is None:
            return None, ""
        kind = next(k for k in get_args(kind) if k is not type(None))
    if kind is bool:
        return value, "" if type(value) is bool else "must be True or False"
    if kind in (int, float):
        return _number(kind, value, limits)
    if kind is str:
        return value, _text(value, limits)
    if get_origin(kind) is tuple:
        if isinstance(value, str) or not isinstance(value, list | tuple):
            return value, "must be a list of texts"
        checks = [(entry, _text(entry, limits)) for entry in value]
        slip = "; ".join(f"holds {entry!r}, which {s}" for entry, s in checks if s)
        if not slip and len(set(value)) < len(value):
            slip = "names something twice"
        return tuple(value), slip
    assert get_origin(kind) is dict, kind
    return _mapping(kind, value, limits)


def _mapping(kind: Any, value: Any, limits: Option) -> tuple[Any, str]:
    """Reads a mapping of names to numbers, or of names to such mappings; as `_value`."""
    nested = get_origin(get_args(kind)[1]) is dict
    expected = "a mapping of names to numbers"
    if not isinstance(value, Mapping):
        return value, f"must be {expected}"
    for name, entry in value.items():
        if nested:
            slip = _mapping(get_args(kind)[1], entry, Option(""))[1]
        else:
            slip = (
                _text(name, Option("", choices=limits.names())) or _number(float, entry, limits)[1]
            )
        if slip:
            return value, f"holds {name}: {entry!r}, which {slip}"
    return {name: dict(x) if nested else x for name, x in value.items()}, ""


def _number(kind: type, value: Any, limits: Option) -> tuple[Any, str]:
    expected = "a whole number" if kind is int else "a number"
    is_number = type(value) is int or (kind is float and type(value) is float)
    if not is_number or (type(value) is float and not math.isfinite(value)):
        return value, f"must be {expected}"
    # What 32 bits hold is as far as any computation goes.
    largest = LARGEST_INT if kind is int else LARGEST_FLOAT
    high = largest if limits.high is None else limits.high
    low = -largest if limits.low is None and limits.above is None else limits.low
    bounds = []
    if low is not None and value < low:
        bounds.append(f"at least {_format_bound(low)}")
    if limits.above is not None and value <= limits.above:
        bounds.append(f"above {_format_bound(limits.above)}")
    if value > high:
        bounds.append(f"at most {_format_bound(high)}")
    return kind(value), f"must be {' and '.join(bounds)}" if bounds else ""


def _format_bound(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) and abs(bound) <= LARGEST_INT else f"{bound:g}"


def _text(value: Any, limits: Option) -> str:
    if not isinstance(value, str):
        return "must be a text"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "holds a byte that is no UTF-8 text"
    names = limits.names()
    if names and value not in names:
        matches = difflib.get_close_matches(value, names, 1)
        hint = f" (did you mean {matches[0]}?)" if matches else ""
        return f"is not one of {', '.join(name or repr(name) for name in names)}{hint}"
    if limits.form == "regex":
        try:
            re.compile(value)
        except re.error as error:
            return f"is no regular expression ({error})"
    return ""
