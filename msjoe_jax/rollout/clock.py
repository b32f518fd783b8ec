"""Measures how long the device works for each step of an episode, and waits for the host."""

import contextlib
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

import jax


class DeviceClock:
    """A clock of device work, from dispatch to result; work may overlap.

    busy: seconds in which work of each kind was under way; idle: seconds between the end of one
    and the start of the next in which nothing was. Both since the last `take`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: Counter[str] = Counter()
        self._started: dict[str, float] = {}
        self._free_since: float | None = None
        self._began = time.perf_counter()
        self._idle = 0.0
        self._busy: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def __call__(self, kind: str) -> Iterator[None]:
        """Times a `with` body: a dispatch and the fetch of its result."""
        self._start(kind)
        try:
            yield
        finally:
            self._end(kind)

    def follow(self, kind: str, result: jax.Array) -> Callable[[], None]:
        """Times work that was just dispatched, until its result is there.

        Returns:
          A function to call when the result is known to be there: the end has then been counted.
        """
        self._start(kind)
        first = threading.Lock()

        def end() -> None:
            if first.acquire(blocking=False):  # the first call counts
                self._end(kind)

        def wait() -> None:
            jax.block_until_ready(result)
            end()

        threading.Thread(target=wait, daemon=True).start()
        return end

    def take(self) -> tuple[dict[str, float], float]:
        """Returns busy seconds by kind and the device's idle share of the time, and starts anew."""
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

    def _start(self, kind: str) -> None:
        with self._lock:
            now = time.perf_counter()
            if self._free_since is not None:
                self._idle += now - self._free_since
                self._free_since = None
            if not self._under_way[kind]:
                self._started[kind] = now
            self._under_way[kind] += 1

    def _end(self, kind: str) -> None:
        with self._lock:
            now = time.perf_counter()
            self._under_way[kind] -= 1
            if not self._under_way[kind]:
                self._busy[kind] += now - self._started[kind]
            if not self._under_way.total():
                self._free_since = now
