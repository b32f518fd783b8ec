"""A run's folder: one config for its whole life (`files.lock` keeps other runs out).

The few fields that a resumed run may change are recorded in `config_changes.jsonl`, a row a change:
when, after which update of each training, the field, its value before and since.
"""

import datetime
import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.checkpoint_folders import finished_steps
from msjoe_jax.runtime.files import read_json, write_whole

MAX_SHOWN = 6  # differing fields named in an error
ABSENT = object()
HISTORY = "config_changes.jsonl"


def record_config(
    workdir: epath.PathLike, config: Mapping[str, Any], may_differ: frozenset[str] = frozenset()
) -> None:
    """Writes a config to `workdir`/config.json, and checks that a resumed run has the same.

    Args:
      workdir: the run's folder, locked by the caller.
      config: nested mapping of fields to anything that JSON can hold.
      may_differ: dotted fields that a resumed run may change; the change is recorded and printed,
        and the file gets the new value.

    Raises:
      UserError: the folder belongs to a run of another config (the differing fields are named), or
        its config.json cannot be read.
    """
    folder = epath.Path(workdir)
    file = folder / "config.json"
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    if file.exists():
        before = _flat(read_json(file))
        now = _flat(json.loads(text))
        differing = sorted(
            name
            for name in before.keys() | now.keys()
            if before.get(name, ABSENT) != now.get(name, ABSENT)
        )
        if names := [name for name in differing if name not in may_differ]:
            more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
            changes = "; ".join(_change(name, before, now) for name in names[:MAX_SHOWN])
            raise UserError(
                f"{folder} holds a run of another config: {changes}{more}; "
                "name another work folder or restore these values"
            )
        if differing:
            _record_changes(folder, differing, before, now)
    write_whole(file, text)


def _record_changes(
    folder: epath.Path, names: list[str], before: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    """Adds a row for each field to the history of changes, and prints it."""
    history = folder / HISTORY
    rows = history.read_text() if history.exists() else ""
    updates = _finished_updates(folder)
    time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    for name in names:
        row = {"time": time, "after": updates, "field": name}
        values = {"was": before.get(name), "is": now.get(name)}
        rows += json.dumps({**row, **values}) + "\n"
    write_whole(history, rows)
    after = ", ".join(f"{training} update {update}" for training, update in updates.items())
    for name in names:
        print(f"config.{_change(name, before, now)}, after {after or 'no checkpoint'} ({HISTORY})")


def _finished_updates(folder: epath.Path) -> dict[str, int]:
    """Returns the newest checkpoint of each training, from which a resumed run goes on."""
    updates: dict[str, int] = {}
    for path in sorted(folder.iterdir()):
        steps = finished_steps(path / "checkpoints")
        updates |= {path.name: steps[-1]} if steps else {}
    return updates


def _change(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return f"{name} was {_text(before, name)}, is {_text(now, name)}"


def _text(fields: Mapping[str, Any], name: str) -> str:
    return json.dumps(fields[name]) if name in fields else "absent"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    fields: dict[str, Any] = {}
    for name, item in value.items():
        fields |= _flat(item, f"{prefix}.{name}" if prefix else name)
    return fields
