"""Every field of the config."""

import dataclasses

from msjoe_jax import config
from msjoe_jax.config import Config
from msjoe_jax.fields import fields_of


def walk(kind=Config, prefix=""):
    """(dotted name, field) of every field that holds a value."""
    for field in fields_of(kind):
        name = prefix + field.name
        if dataclasses.is_dataclass(field.kind):
            yield from walk(field.kind, name + ".")
        else:
            yield name, field


def extensions():
    for name in config.EXTENSIONS:
        yield from walk(config._extension(name), f"{name}.")


FIELDS = [*walk(), *extensions()]
