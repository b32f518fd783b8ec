"""A run's folder: one config for its whole life (`files.lock` keeps other runs out)."""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.files import read_json, write_whole

MAX_SHOWN = 6  # differing fields named in an error
ABSENT = object()


def record_config(
    workdir: epath.PathLike, config: Mapping[str, Any], may_differ: frozenset[str] = frozenset()
) -> None:
    """Writes a config to `workdir`/config.json, and checks that a resumed run has the same.

    Args:
      workdir: the run's folder, locked by the caller.
      config: nested mapping of fields to anything that JSON can hold.
      may_differ: dotted fields that a resumed run may change, such as the number of steps; the
        file then gets the new value.

    Raises:
      UserError: the folder belongs to a run of another config (the differing fields are named), or
        its config.json cannot be read.
    """
    file = epath.Path(workdir) / "config.json"
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    if file.exists():
        before = _flat(read_json(file))
        now = _flat(json.loads(text))
        names = sorted(
            name
            for name in before.keys() | now.keys()
            if name not in may_differ and before.get(name, ABSENT) != now.get(name, ABSENT)
        )
        if names:
            more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
            changes = "; ".join(
                f"{name} was {_text(before, name)}, is {_text(now, name)}"
                for name in names[:MAX_SHOWN]
            )
            raise UserError(
                f"{file.parent} holds a run of another config: {changes}{more}; "
                "name another work folder or restore these values"
            )
    write_whole(file, text)


def _text(fields: Mapping[str, Any], name: str) -> str:
    return json.dumps(fields[name]) if name in fields else "absent"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    fields: dict[str, Any] = {}
    for name, item in value.items():
        fields |= _flat(item, f"{prefix}.{name}" if prefix else name)
    return fields
