"""Which modules an adapter's config selects: `peft` loads the factors of no others.

Reference: peft `tuners/tuners_utils.py` (0.21.2), `check_target_module_exists`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from msjoe_jax.stated import shown

ALL_LINEAR = "all-linear"
HEAD = "lm_head"


def selects(config: Mapping[str, Any], names: Sequence[str], linear: bool) -> bool:
    """Says whether an adapter's config selects a module.

    Args:
      config: an adapter_config.json.
      names: of the module, in any version; the last is that of today's, which exclusions mean.
      linear: whether it is a linear map.

    Raises:
      ValueError: naming a field that is no selection of modules.
    """
    targets = config.get("target_modules")
    if not isinstance(targets, str | list):
        raise ValueError(f"target_modules is {shown(targets)}, neither names nor a pattern")
    if _names_one(config, "exclude_modules", names[-1]):
        return False
    saved = config.get("modules_to_save") or ()
    if any(_matched(rf"(^|.*\.){name}($|\..*)", names[-1], "modules_to_save") for name in saved):
        return False
    if isinstance(targets, str) and targets.lower() == ALL_LINEAR:
        return linear and names[-1] != HEAD
    return any(
        _names_one(config, "target_modules", name)
        and (isinstance(targets, str) or name in targets or _is_of_layers(config, name))
        for name in names
    )


def _names_one(config: Mapping[str, Any], field: str, name: str) -> bool:
    """Whether a field, a pattern of whole names or a list of their ends, means a module."""
    stated = config.get(field)
    if not stated:
        return False
    if isinstance(stated, str):
        return _matched(f"(?:{stated})\\Z", name, field)
    if not isinstance(stated, list) or not all(isinstance(one, str) for one in stated):
        raise ValueError(f"{field} is {shown(stated)}, neither names nor a pattern")
    return any(name == one or name.endswith(f".{one}") for one in stated)


def _is_of_layers(config: Mapping[str, Any], name: str) -> bool:
    """Whether a module is of the layers to which a list of targets is narrowed."""
    layers, patterns = config.get("layers_to_transform"), config.get("layers_pattern")
    if layers is None or layers == []:
        return True
    layers = [layers] if type(layers) is int else layers
    if not isinstance(layers, list) or not all(type(layer) is int for layer in layers):
        raise ValueError(f"layers_to_transform is {shown(layers)}, not numbers of layers")
    patterns = [patterns] if isinstance(patterns, str) else patterns or ()
    forms = [rf"(?:^|.*?\.){pattern}\.(\d+)\." for pattern in patterns if pattern]
    found = (_search(form, name, "layers_pattern") for form in forms or [r".*?\.[^.]*\.(\d+)\."])
    first = next((match for match in found if match), None)
    return first is not None and int(first.groups()[-1]) in layers


def _matched(pattern: str, name: str, field: str) -> bool:
    return _search(pattern, name, field) is not None


def _search(pattern: str, name: str, field: str) -> re.Match[str] | None:
    try:
        return re.match(pattern, name)
    except re.error:
        raise ValueError(f"{field} holds {shown(pattern)}, no pattern") from None
