"""Ends a run at a moment when nothing is lost: after SIGTERM or Ctrl-C, on all hosts at once."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType

from msjoe_jax.errors import Unfinished
from msjoe_jax.runtime import hosts

_asked: list[str] = []  # the signals that this process has got


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Keeps SIGTERM and Ctrl-C until the run can end; a second one is obeyed at once.

    To be entered after `hosts.connect`: JAX catches SIGTERM there too, and ends nothing by it.
    """

    def note(number: int, frame: FrameType | None) -> None:
        which = signal.Signals(number)
        _asked.append(which.name)
        signal.signal(which, before[which])
        print(
            f"{which.name}: the run ends after this update or batch, saved; again: at once",
            file=sys.stderr,
            flush=True,
        )

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    if hosts.count() > 1:
        before[signal.SIGTERM] = signal.SIG_DFL
    _asked.clear()
    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def signal_here() -> str:
    """Returns the name of the signal that has asked this host to end, "" if none has."""
    return "".join(_asked[:1])


def end_if_asked(where: str) -> None:
    """Ends the run if a signal has asked for it; all that was made is on disk.

    Args:
      where: what is finished, for people.

    Raises:
      Unfinished: it has.
    """
    if name := next(filter(None, hosts.gather(signal_here(), where)), ""):
        raise Unfinished(f"{name}: ended after {where}; the same command resumes")
