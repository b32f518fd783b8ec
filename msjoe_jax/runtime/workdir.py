"""A run's folder: one run at a time, one config for its whole life."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from msjoe_jax.errors import UserError

SHOWN = 6  # differing fields named in an error
ABSENT = object()


@contextlib.contextmanager
def lock_workdir(path: str) -> Iterator[None]:
    """Creates `path` and holds it for this process until the block ends, or the process does.

    The lock is the kernel's, so a killed run leaves none. Object storage (gs://…) has no locks:
    there the block just runs. In a run of several hosts only the first takes it.

    Raises:
      UserError: another process holds it, or the folder cannot be made.
    """
    if "://" in str(path):
        yield
        return
    try:
        os.makedirs(path, exist_ok=True)
        file = os.open(os.path.join(path, ".lock"), os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"cannot use {path} as a work folder: {error.strerror}") from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(file, 32).decode() or "unknown"
            raise UserError(f"{path} is in use by another run (pid {owner})") from error
        os.ftruncate(file, 0)
        os.pwrite(file, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(file)  # releases the lock; the file stays, else two runs could lock two files


def record_config(
    workdir: str, config: Mapping[str, Any], may_differ: frozenset[str] = frozenset()
) -> None:
    """Writes `config` (anything JSON can hold) to `workdir`/config.json; a resumed run must match.

    Args:
      workdir: the run's folder, locked by the caller.
      config: nested mapping of fields.
      may_differ: dotted fields that a resumed run may change, such as the number of steps; the
        file then gets the new value.

    Raises:
      UserError: the folder belongs to a run of another config (the differing fields are named), or
        its config.json cannot be read.
    """
    file = epath.Path(workdir) / "config.json"
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    if file.exists():
        try:
            before = _flat(json.loads(file.read_text()))
        except ValueError as error:
            raise UserError(f"{file} is not JSON ({error}); name another work folder") from error
        now = _flat(json.loads(text))
        names = sorted(
            name
            for name in before.keys() | now.keys()
            if name not in may_differ and before.get(name, ABSENT) != now.get(name, ABSENT)
        )
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            words = "; ".join(
                f"{name} was {_words(before, name)}, is {_words(now, name)}"
                for name in names[:SHOWN]
            )
            raise UserError(
                f"{workdir} holds a run of another config: {words}{more}; "
                "name another work folder or restore these values"
            )
    partial = epath.Path(workdir) / "config.json.partial"
    partial.write_text(text)
    partial.replace(file)


def _words(fields: Mapping[str, Any], name: str) -> str:
    return json.dumps(fields[name]) if name in fields else "absent"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    fields: dict[str, Any] = {}
    for name, item in value.items():
        fields |= _flat(item, f"{prefix}.{name}" if prefix else name)
    return fields
