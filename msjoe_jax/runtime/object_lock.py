"""A lock on object storage: an object that its holder renews.

Object storage knows no process, but it creates and replaces an object on condition: if there is
none, if it is still the one that was read. So one process makes the object, and renews it as long
as it lives. Whoever finds one waits for LEASE seconds: if it has been renewed, the holder lives; if
not, it has died, and its lock is taken over. No clock is compared with another host's.
"""

import _thread
import contextlib
import json
import os
import pathlib
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import tensorstore as ts
from etils import epath

from msjoe_jax.errors import UserError

RENEW = 15.0  # seconds between two renewals
LEASE = 60.0  # seconds without one after which the holder counts as dead
POLL = 1.0
RETRIES = 6  # of a request that fails, each after twice the time: a minute in all
BOOT = pathlib.Path("/proc/sys/kernel/random/boot_id")
PROCESSES = "/proc/self/ns/pid"


@contextlib.contextmanager
def object_lock(file: epath.Path) -> Iterator[None]:
    """Holds the lock `file` (gs://…) for this process until the block ends.

    Raises:
      UserError: another process holds it, or the object cannot be written.
    """
    try:
        holder = _Holder(file)
    except (ValueError, OSError) as error:  # TensorStore's, of whatever storage answers
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"{file.parent} cannot be written to ({reason}); name another") from None
    try:
        yield
    finally:
        holder.release()


class _Holder:
    """Holds the lock, and renews it in the background."""

    def __init__(self, file: epath.Path) -> None:
        spec = {"driver": "gcs", "bucket": file.parts[2], "path": "/".join(file.parts[3:])}
        spec["gcs_request_retries"] = {"max_retries": RETRIES}
        self._folder, self._store = file.parent, ts.KvStore.open(spec).result()
        self._token = uuid.uuid4().hex
        self._generation = self._take()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Removes the lock, unless it has been lost."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(ValueError, OSError):  # then it runs out
            self._store.write("", None, if_equal=self._generation).result()

    def _take(self) -> bytes:
        """Writes the lock and returns its generation."""
        while True:
            found = self._store.read("").result()
            if found.state != "missing":
                self._outlast(found)
            if generation := self._written(found.stamp.generation):
                return generation

    def _outlast(self, found: Any) -> None:
        """Waits until the holder of what was found can be taken for dead."""
        owner = _read_owner(found.value)
        name = f"pid {owner.get('pid')} on {owner.get('host')}"
        if not _is_dead_here(owner):
            print(f"{self._folder} is locked by {name}; waiting {LEASE:.0f} s for a sign of life")
            end = time.monotonic() + LEASE
            while time.monotonic() < end:
                time.sleep(POLL)
                now = self._store.read("").result()
                if now.state == "missing":
                    return
                if now.stamp.generation != found.stamp.generation:
                    raise UserError(f"{self._folder} is in use by another process ({name})")
        print(f"{self._folder}: {name} has died without releasing its lock; taken over")

    def _written(self, before: bytes) -> bytes:
        """Writes the lock over the generation `before`; returns the new one, b"" if it is not."""
        owner = {"token": self._token, "pid": os.getpid(), "host": socket.gethostname()}
        text = json.dumps({**owner, "place": _place()})
        stamp = self._store.write("", text, if_equal=before).result()
        if stamp.generation:
            return stamp.generation
        # A request that was answered, but whose answer was lost, is sent again and refused.
        found = self._store.read("").result()
        mine = _read_owner(found.value).get("token") == self._token
        return found.stamp.generation if mine else b""

    def _keep(self) -> None:
        while not self._ended.wait(RENEW):
            try:
                generation = self._written(self._generation)
            except (ValueError, OSError):  # tried again; nobody takes over if nobody gets through
                continue
            if not generation:
                text = f"error: {self._folder}: another process has taken over the lock; stopping"
                print(text, file=sys.stderr)
                _thread.interrupt_main()
                return
            self._generation = generation


def _read_owner(text: bytes) -> dict[str, Any]:
    try:
        owner = json.loads(text)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _place() -> str:
    """Names what process numbers are valid in: this start of this host, and of this container."""
    try:
        return f"{BOOT.read_text().strip()} {os.readlink(PROCESSES)}"
    except OSError:
        return ""


def _is_dead_here(owner: dict[str, Any]) -> bool:
    """Whether the owner was a process of this host that is no more."""
    if not _place() or owner.get("place") != _place() or not isinstance(owner.get("pid"), int):
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
