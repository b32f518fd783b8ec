"""The heartbeat of a run: a small file for each host that says what it does and when it last moved.

    WORKDIR/heartbeat/0.json
    {"state": "running", "time": "…", "host": 0, "name": "…", "pid": 123,
     "work": "joint", "done": 12, "total": 200, "unit": "update", "moved": "…"}

`time` is when the file was written: a process that is gone writes none. `moved` is when the display
of progress last moved: one that stands still writes on, with an old `moved`.
"""

import datetime
import json
import os
import socket
import sys
import threading
import time
from typing import Any, Self

from etils import epath

from msjoe_jax.runtime.files import write_whole
from msjoe_jax.runtime.progress import latest

SECONDS = 60  # between two heartbeats: as often as object storage takes kindly
FOLDER = "heartbeat"  # in the work folder


class Heartbeat:
    """A context manager in which a thread writes the heartbeat of a host.

    Args:
      workdir: the run's folder.
      host: the number of this host.
      seconds: between two heartbeats.
    """

    def __init__(self, workdir: epath.PathLike, host: int = 0, seconds: float = SECONDS):
        self._path = epath.Path(workdir) / FOLDER / f"{host}.json"
        self._about = {"host": host, "name": socket.gethostname(), "pid": os.getpid()}
        self._seconds, self._ended, self._told = seconds, threading.Event(), False
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def write(self, state: str) -> None:
        """Writes the file; what stands in the way is said once, and ends no run."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, json.dumps(self._content(state)) + "\n")
        except Exception as error:
            if not self._told:
                print(f"{self._path}: no heartbeat: {error}", file=sys.stderr, flush=True)
            self._told = True

    def __enter__(self) -> Self:
        self.write("running")
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.write("ended" if kind is None else f"stopped by {kind.__name__}")

    def _beat(self) -> None:
        while not self._ended.wait(self._seconds):
            self.write("running")

    def _content(self, state: str) -> dict[str, Any]:
        content = {"state": state, "time": _iso(time.time()), **self._about}
        if moment := latest():
            content |= {"work": moment.work, "done": moment.done, "total": moment.total}
            content |= {"unit": moment.unit, "moved": _iso(moment.time)}
        return content


def _iso(seconds: float) -> str:
    at = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return at.isoformat(timespec="seconds")
