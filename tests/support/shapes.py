"""Checks of declared shapes and kinds at every call, for `jaxtyping.install_import_hook`."""

from collections.abc import Callable
from typing import Any, Protocol

import beartype


def checked(function: Callable) -> Callable:
    """Adds beartype's checks, except of what a `Protocol` declares.

    Whether an object meets one is found by reading all its attributes, and those of a batch's
    candidates are computed when they are read. A `config` module refuses wrong values by itself.
    """
    if function.__module__.endswith(".config"):
        return function
    for name, hint in function.__annotations__.items():
        if isinstance(hint, type) and Protocol in hint.__bases__:
            function.__annotations__[name] = Any
    return beartype.beartype(function)
