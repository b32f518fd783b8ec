"""Profiles of a few updates, by config or on SIGUSR1, as TensorBoard's profile plugin reads them.

    FOLDER/plugins/profile/updates_FIRST-LAST/HOST.xplane.pb

A profile is kept on a local disk until it is whole. What goes wrong with one is a line, and never
ends a run.
"""

import contextlib
import signal
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
from etils import epath

BY_SIGNAL = 3  # updates profiled on a signal, where the config does not say how many


class _Request:
    """Whether SIGUSR1 has come. A flag alone: the handler runs between any two instructions."""

    wanted = False


@contextlib.contextmanager
def listen_for_signal() -> Iterator[None]:
    """Takes SIGUSR1, in a `with` body in the main thread, as the wish for a profile.

    It would end the process otherwise. Before and after updates it is kept for the next one.
    """

    def ask(*_: object) -> None:
        _Request.wanted = True

    before = signal.signal(signal.SIGUSR1, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


class Profiler:
    """A profiler of updates `start` … `start + count − 1`, and of the next few on a signal.

    Args:
      folder: where profiles go; TensorBoard's log folder.
      start: the first update of the window.
      count: its length; 0: no window.
      say: prints a line.
      done: updates that were made before; the window may lie among them, which a line says.
    """

    def __init__(
        self,
        folder: epath.PathLike,
        start: int,
        count: int,
        say: Callable[[str], object],
        done: int = 0,
    ):
        self._folder, self._say = epath.Path(folder), say
        self._window, self._count = range(start, start + count), count or BY_SIGNAL
        self._first: int | None = None  # of the profile that is being made
        self._last = 0
        self._temporary: tempfile.TemporaryDirectory | None = None
        self._broken = False
        self._annotation: Any = None
        if count and self._window[-1] <= done:
            say(
                f"no profile: config.profile_start={start} and profile_updates={count} name "
                f"updates before {done + 1}, where this start begins"
            )

    def begin(self, update: int, ready: Any) -> None:
        """Starts a profile if one is due with this update.

        Args:
          update: its number.
          ready: arrays of the update before it, which is waited for, so that none of it is seen.
        """
        if self._first is None and not self._broken:
            by_config = update in self._window
            if by_config or _Request.wanted:
                _Request.wanted = False
                self._last = self._window[-1] if by_config else update + self._count - 1
                self._start(update, ready)
        self._annotation = jax.profiler.StepTraceAnnotation("update", step_num=update)
        self._annotation.__enter__()

    def end(self, update: int, ready: Any) -> None:
        """Ends the profile if this was its last update, once the arrays `ready` are there."""
        if self._annotation is not None:
            self._annotation.__exit__(None, None, None)
            self._annotation = None
        if self._first is not None and update >= self._last:
            jax.block_until_ready(ready)
            self._stop(update)

    def close(self, update: int) -> None:
        """Ends a profile whose updates did not all come; `update` was the last."""
        if self._first is not None:
            self._stop(update)

    def _start(self, update: int, ready: Any) -> None:
        jax.block_until_ready(ready)
        try:
            self._temporary = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
            jax.profiler.start_trace(self._temporary.name)
        except Exception as error:
            self._give_up(f"update {update}", error)
            return
        self._first = update

    def _stop(self, update: int) -> None:
        assert self._first is not None and self._temporary is not None
        name, self._first = f"updates_{self._first}-{update}", None
        try:
            jax.profiler.stop_trace()
        except Exception as error:  # JAX starts no other after that
            self._give_up(name, error)
            return
        target = self._folder / "plugins" / "profile" / name
        try:
            target.mkdir(parents=True, exist_ok=True)
            for file in epath.Path(self._temporary.name).glob("plugins/profile/*/*"):
                try:
                    file.copy(target / file.name, overwrite=True)
                except BaseException:
                    (target / file.name).unlink(missing_ok=True)
                    raise
            self._say(f"profile {name}: in {self._folder}")
        except Exception as error:
            self._say(f"profile {name}: not kept: {_reason(error)}")
        finally:
            self._temporary.cleanup()

    def _give_up(self, what: str, error: Exception) -> None:
        self._broken = True
        if self._temporary is not None:
            self._temporary.cleanup()
        self._say(f"no profile of {what}, nor any later one of this start: {_reason(error)}")


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
