"""Shapes with a place: what loading takes."""

from typing import Any

import jax

from msjoe_jax.runtime.machine import make_machine
from msjoe_jax.runtime.mesh import with_shardings


def placed(shapes: Any) -> Any:
    """The shape and type of every leaf, whole on all devices."""
    whole = make_machine().whole
    return with_shardings(shapes, jax.tree.map(lambda _: whole, shapes))
