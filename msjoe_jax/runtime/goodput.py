"""Goodput: the share of a process's wall time in which it makes updates, and where the rest goes.

At every moment one thing is being done, so that the seconds of all things add up to the wall time
since this module was first imported, which `main` does before it imports JAX.
"""

import contextlib
import functools
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

BEGAN = time.perf_counter()
COMPILE_EVENTS = "/jax/core/compile/"  # JAX's: tracing, lowering, the compiler or its cache
# What a process does. REDONE: updates that were made before a kill, and lost with it.
UPDATE, REDONE, COMPILE, INPUT = "update", "redone", "compile", "input"
VALIDATION, CHECKPOINT, OTHER = "validation", "checkpoint", "other"
LOSSES = (COMPILE, INPUT, VALIDATION, CHECKPOINT, REDONE, OTHER)


class Ledger:
    """A ledger of wall time: seconds by what was being done.

    One thread says what is being done. While a program is compiled, in whatever thread, that counts
    in its place.

    Args:
      clock: tells the time in seconds.
      began: the time from which the ledger is kept.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter, began: float | None = None):
        self._clock, self._lock = clock, threading.Lock()
        self._began = self._since = clock() if began is None else began
        self._doing = OTHER
        self._seconds: dict[str, float] = defaultdict(float)
        self._compiles: list[tuple[float, float]] = []  # apart from each other, the newest last

    @contextlib.contextmanager
    def doing(self, kind: str) -> Iterator[None]:
        """Counts the time of a `with` body as `kind`, but for what it says itself to be doing."""
        before = self.switch(kind)
        try:
            yield
        finally:
            self.switch(before)

    def switch(self, kind: str) -> str:
        """Counts the time from now on as `kind`; returns what it was counted as before."""
        with self._lock:
            self._settle(self._clock())
            before, self._doing = self._doing, kind
            return before

    def compiled(self, seconds: float) -> None:
        """Counts the last `seconds` as compilation, but for what of them is counted so already."""
        with self._lock:
            now = self._clock()
            self._settle(now)
            start = max(now - seconds, self._began)
            first, fresh = start, now - start
            while self._compiles and self._compiles[-1][1] > start:  # nested, or another thread's
                before, end = self._compiles.pop()
                fresh -= end - max(before, start)
                first = min(first, before)
            self._compiles.append((first, now))
            self._seconds[self._doing] -= fresh
            self._seconds[COMPILE] += fresh

    def seconds(self) -> dict[str, float]:
        """Returns the seconds of each kind up to now."""
        with self._lock:
            self._settle(self._clock())
            return {kind: max(0.0, self._seconds[kind]) for kind in (UPDATE, *LOSSES)}

    def metrics(self) -> dict[str, float]:
        """Returns the share of updates in the wall time, that time, and the seconds of the rest."""
        seconds = self.seconds()
        wall = max(sum(seconds.values()), 1e-9)
        losses = {f"goodput/{kind}_s": seconds[kind] for kind in LOSSES}
        return {"goodput/share": seconds[UPDATE] / wall, "goodput/wall_s": wall, **losses}

    def _settle(self, now: float) -> None:
        self._seconds[self._doing] += now - self._since
        self._since = now


@functools.cache
def process_ledger() -> Ledger:
    """Returns the ledger of this process, which hears of compilations from its first use on."""
    import jax

    ledger = Ledger(began=BEGAN)

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event.startswith(COMPILE_EVENTS):
            ledger.compiled(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return ledger


@contextlib.contextmanager
def doing(kind: str) -> Iterator[None]:
    """Counts the time of a `with` body, or of a function that it decorates, as `kind`."""
    with process_ledger().doing(kind):
        yield


class TimedStream:
    """A stream of batches; the time in which its next one is waited for counts as input.

    Args:
      stream: an iterator with `get_state` and `set_state`, as Grain's.
      ledger: gets the time; by default the process's.
    """

    def __init__(self, stream: Any, ledger: Ledger | None = None):
        self._stream, self._ledger = stream, ledger or process_ledger()

    def __iter__(self) -> "TimedStream":
        return self

    def __next__(self) -> Any:
        with self._ledger.doing(INPUT):
            return next(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def newest_row(path: epath.PathLike) -> int:
    """Returns the newest `step` in a file of rows, 0 without any; damaged rows are passed over."""
    file = epath.Path(path)
    newest = 0
    for line in file.read_bytes().splitlines() if file.exists() else ():
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            newest = max(newest, json.loads(line)["step"])
    return newest
