"""How long the device works for each stage, and how long it waits for the host."""

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterator

import jax


class DeviceClock:
    """Times device work from its dispatch to its result; work may overlap in several threads.

    busy: seconds of each kind of work; idle: seconds between the end of one and the start of the
    next in which nothing was under way. Both since the last `take`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way = 0
        self._free_since: float | None = None
        self._began = time.perf_counter()
        self._idle = 0.0
        self._busy: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def __call__(self, kind: str) -> Iterator[None]:
        """Around a dispatch and the fetch of its result."""
        began = self._start()
        try:
            yield
        finally:
            self._end(kind, began)

    def follow(self, kind: str, result: jax.Array) -> None:
        """Times work that was just dispatched and is not waited for here."""
        began = self._start()

        def wait() -> None:
            jax.block_until_ready(result)
            self._end(kind, began)

        threading.Thread(target=wait, daemon=True).start()

    def take(self) -> tuple[dict[str, float], float]:
        """Busy seconds by kind and the share of time in which the device was idle; starts anew."""
        with self._lock:
            now = time.perf_counter()
            idle = self._idle
            if self._free_since is not None:
                idle += now - self._free_since
                self._free_since = now
            share = idle / max(now - self._began, 1e-9)
            busy, self._busy = dict(self._busy), defaultdict(float)
            self._idle, self._began = 0.0, now
            return busy, share

    def _start(self) -> float:
        with self._lock:
            now = time.perf_counter()
            if self._free_since is not None:
                self._idle += now - self._free_since
                self._free_since = None
            self._under_way += 1
            return now

    def _end(self, kind: str, began: float) -> None:
        with self._lock:
            now = time.perf_counter()
            self._busy[kind] += now - began
            self._under_way -= 1
            if not self._under_way:
                self._free_since = now
