"""The one display of progress: a bar on a terminal, plain lines in a file or a log service."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TextIO

from tqdm import tqdm

from msjoe_jax.runtime import hosts

LINE_SECONDS = 30  # between two lines where there is no terminal


class Moment(NamedTuple):
    """Where some work stood when its display last moved; `time` is in seconds since 1970."""

    work: str
    done: int
    total: int | None
    unit: str
    time: float


class _Latest:
    moment: Moment | None = None


def latest() -> Moment | None:
    """Returns the last moment at which any work of this process moved; None: none has yet."""
    return _Latest.moment


class Progress:
    """What `progress` yields. May be used from several threads."""

    def __init__(
        self,
        label: str,
        total: int | None,
        unit: str,
        initial: int,
        stream: TextIO,
        clock: Callable[[], float],
    ) -> None:
        """Starts the display; for the arguments see `progress`."""
        self.label, self._total, self._unit = label, total, unit
        self._count, self._initial = initial, initial
        self._stream, self._clock = stream, clock
        self._metrics: dict[str, str] = {}
        self._lock = threading.Lock()
        self._bar: tqdm | None = None
        if stream.isatty():
            self._bar = tqdm(
                total=total,
                initial=initial,
                desc=label,
                unit=unit,
                unit_scale=unit == "B",
                file=stream,
                dynamic_ncols=True,
            )
        self._started = self._shown = clock()
        self._print_line()
        self._note()

    def update(self, n: int = 1, **metrics: object) -> None:
        """Counts `n` more units as done, and shows these metrics as `metrics` does."""
        with self._lock:
            self._count += n
            self._note()
            self._keep(metrics)
            if self._bar is not None:
                self._bar.update(n)
            elif self._clock() - self._shown >= LINE_SECONDS:
                self._print_line()

    def expect(self, total: int | None) -> None:
        """Changes how many units there are, as far as that is known by now; None: it is not."""
        with self._lock:
            self._total = total
            if self._bar is not None:
                self._bar.total = total

    def metrics(self, **values: object) -> None:
        """Shows these values, numbers or texts, with the next line or drawing of the bar."""
        with self._lock:
            self._keep(values)

    def write(self, text: str) -> None:
        """Prints a message on a line of its own."""
        with self._lock:
            if self._bar is not None:
                self._bar.write(text, file=self._stream)
            else:
                print(text, file=self._stream, flush=True)

    def close(self, finished: bool = True) -> None:
        """Ends the display; `finished` says whether the work was done or given up."""
        with self._lock:
            if self._bar is not None:
                self._bar.close()
            else:
                self._print_line("done in" if finished else "stopped after")

    def _note(self) -> None:
        _Latest.moment = Moment(self.label, self._count, self._total, self._unit, time.time())

    def _keep(self, metrics: dict[str, object]) -> None:
        self._metrics |= {name: _value(value) for name, value in metrics.items()}
        if metrics and self._bar is not None:
            self._bar.set_postfix_str(self._shown_metrics(), refresh=False)

    def _shown_metrics(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self._metrics.items())

    def _print_line(self, ending: str = "") -> None:
        """Prints the state; `ending` stands before the time that the work took."""
        if self._bar is not None:
            return
        self._shown = self._clock()
        seconds = self._shown - self._started
        parts = [f"{self.label} {self._count_text()}"]
        # What an earlier session did says nothing about the speed of this one.
        rate = (self._count - self._initial) / seconds if seconds > 0 else 0.0
        if rate > 0:
            parts.append(self._rate(rate))
        if ending:
            parts.append(f"{ending} {_duration(seconds)}")
        elif rate > 0 and self._total is not None:
            parts.append(f"{_duration(max(0, self._total - self._count) / rate)} left")
        if self._metrics:
            parts.append(self._shown_metrics())
        print(", ".join(parts), file=self._stream, flush=True)

    def _count_text(self) -> str:
        if self._unit == "B":
            total = "" if self._total is None else f"/{size_text(self._total)}"
            return f"{size_text(self._count)}{total}"
        total = "" if self._total is None else f"/{self._total}"
        return f"{self._count}{total} {self._unit}"

    def _rate(self, rate: float) -> str:
        if self._unit == "B":
            return f"{size_text(rate)}/s"
        if rate < 0.1:
            return f"{_short(1 / rate)} s/{self._unit}"
        return f"{_short(rate)} {self._unit}/s"


@contextlib.contextmanager
def progress(
    label: str,
    total: int | None,
    unit: str = "step",
    initial: int = 0,
    *,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Progress]:
    """Shows the progress of a piece of work until the block ends.

    On a terminal this is a bar. Elsewhere it is a line at the start, one at the end, and between
    them, at updates, one at most every 30 s:

        pretrain 12/60 update, 3.1 update/s, 15 s left, reward=0.512 right=0.40

    Args:
      label: the name of the work.
      total: how many units there are; None if that is not known.
      unit: the name of one unit; "B" for bytes, which are shown as kB, MB, GB.
      initial: units that were done before, by a run that this one resumes.
      stream: where to print; None: stderr, on the first of several hosts.
      clock: tells the time in seconds.
    """
    with contextlib.ExitStack() as stack:
        if stream is None:
            stream = sys.stderr if hosts.is_first() else stack.enter_context(open(os.devnull, "w"))
        bar = Progress(label, total, unit, initial, stream, clock)
        try:
            yield bar
        except BaseException:
            bar.close(finished=False)
            raise
        bar.close()


def _value(value: Any) -> str:
    """Writes a metric as text: numbers (also of NumPy and JAX) with three digits."""
    if isinstance(value, str | int):
        return str(value)
    return f"{float(value):.3g}"


def _short(value: float) -> str:
    """Writes a positive number with two digits or more."""
    if value >= 9.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 0.95 else f"{value:.2f}"


def size_text(count: float) -> str:
    """Writes a number of bytes as B, kB, MB, GB or TB."""
    for name in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {name}" if name == "B" or count >= 9.95 else f"{count:.1f} {name}"
        count /= 1000
    return f"{count:.1f} TB"


def _duration(seconds: float) -> str:
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60} min"
