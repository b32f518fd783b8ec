"""Prints every field of a config as Markdown: what docs/config.md holds.

msjoe fields > docs/config.md
"""

import dataclasses
import importlib
import json
import types
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from msjoe_jax.commands.cli import run_app
from msjoe_jax.config import EXTENSIONS, Config
from msjoe_jax.fields import Field, Option, fields_of, kind_of_groups

HEAD = """\
<!-- Made by `msjoe fields > docs/config.md`: change the fields, not this file. -->

# Config fields

Every field of a run with its default, group by group. A config file sets one by
`c.GROUP.FIELD = value`, the command line by `--config.GROUP.FIELD=value`; what cannot be is refused
by name before the run. `configs/` holds whole configs, [method.md](method.md) the maths.
"""
FORMS = {
    "regex": "a regular expression",
    "file": "a file that is there",
    "folder": "a folder that is there",
}


def config_page() -> str:
    """Returns the whole page."""
    run = Config()
    sections = ["## The run", *_table("", Config, run)]
    for field in fields_of(Config, run):
        if dataclasses.is_dataclass(field.kind):
            sections += _group(field.name, field.kind, field.default, field.option.doc)
    for name, (module, kind) in EXTENSIONS.items():
        extension = getattr(importlib.import_module(module), kind)
        doc = f'Only in configs that add it: `add_group(config, "{name}")`.'
        sections += _group(name, extension, extension(), doc)
    return "\n".join([HEAD, *sections])


def _group(name: str, kind: Any, values: Any, doc: str) -> Iterator[str]:
    """Yields the lines of a group and of the groups inside it.

    Args:
      name: its dotted path.
      kind: its dataclass.
      values: its defaults.
      doc: one line about it, from the group around it.
    """
    about = " ".join((kind.__doc__ or "").partition("\n\n")[0].split())
    yield from ("", f"## {name}", "", doc if about == doc else f"{doc} {about}")
    yield from _table(name, kind, values)
    for field in fields_of(kind, values):
        if dataclasses.is_dataclass(field.kind):
            yield from _group(f"{name}.{field.name}", field.kind, field.default, field.option.doc)
        elif entry := kind_of_groups(field.kind):
            path = f"{name}.{field.name}.NAME"
            yield from _group(path, entry, entry(), f"Each group of `{name}.{field.name}`.")


def _table(name: str, kind: Any, values: Any) -> Iterator[str]:
    """Yields the lines of a group's own fields."""
    yield from ("", "| field | type | default | allowed | meaning |", "|---|---|---|---|---|")
    for field in fields_of(kind, values):
        if not dataclasses.is_dataclass(field.kind):
            path = f"`{name}.{field.name}`" if name else f"`{field.name}`"
            doc = field.option.doc.replace("<", "&lt;")
            cells = (path, _type(field.kind), _value(field), _allowed(field), doc)
            yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _type(kind: Any) -> str:
    """Returns a field's type in words."""
    if isinstance(kind, types.UnionType):
        return " or ".join("none" if k is type(None) else _type(k) for k in get_args(kind))
    if get_origin(kind) is tuple:
        return "list of texts"
    if get_origin(kind) is dict:
        if kind_of_groups(kind):
            return "mapping to groups"
        inner = get_args(kind)[1]
        return "mapping of mappings" if get_origin(inner) is dict else "mapping to numbers"
    return {bool: "bool", int: "int", float: "float", str: "text"}[kind]


def _value(field: Field) -> str:
    """Returns a default as a config file would have it."""
    value = field.default
    if isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False)
    return f"`{value}`".replace("\n", "\\n")


def _allowed(field: Field) -> str:
    """Returns limits and choices as text; empty if there are none."""
    limits: Option = field.option
    bounds = []
    for sign, bound in (("≥", limits.low), (">", limits.above), ("≤", limits.high)):
        if bound is not None:
            bounds.append(f"{sign} {int(bound) if bound == int(bound) else bound}")
    if names := limits.names():
        bounds.append(", ".join(f"`{name}`" if name else "empty" for name in names))
    if limits.form:
        bounds.append(FORMS[limits.form] + ("" if limits.form == "regex" else ", or empty"))
    return ", ".join(bounds)


def cli() -> None:
    """Prints the page."""
    run_app(lambda: print(config_page(), end=""))
