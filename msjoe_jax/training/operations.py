"""What a training measures beside its metrics: where its time and memory go, and profiles."""

from collections.abc import Callable
from typing import Any, Self

from etils import epath

from msjoe_jax.runtime.goodput import INPUT, OTHER, REDONE, UPDATE, Ledger, process_ledger
from msjoe_jax.runtime.memory import memory_metrics
from msjoe_jax.runtime.profiler import Profiler
from msjoe_jax.training.config import TrainingRun


class Operations:
    """A context manager around the updates of a training; `begin` and `end` stand around each.

    Args:
      run: the training.
      folder: its own.
      start: the last update that is done.
      redone: the last update that was done before a kill; those up to it are made again.
      say: prints a line.
      ledger: of wall time; by default the process's.
    """

    def __init__(
        self,
        run: TrainingRun,
        folder: epath.PathLike,
        start: int,
        redone: int,
        say: Callable[[str], object],
        ledger: Ledger | None = None,
    ):
        self._redone, self._update, self._log_every = redone, start, run.loop.log_every
        self._ledger = ledger or process_ledger()
        self._waited = 0.0
        self._profiler = Profiler(
            epath.Path(folder) / "profile",
            run.loop.profile_start,
            run.loop.profile_updates,
            lambda line: say(f"{run.name}: {line}"),
            done=start,
        )

    def begin(self, update: int, state: Any) -> None:
        """Begins an update of a state, an array of which may still be computed."""
        self._update = update
        self._ledger.switch(REDONE if update <= self._redone else UPDATE)
        self._profiler.begin(update, state)

    def end(self, update: int, metrics: dict[str, Any]) -> dict[str, float]:
        """Ends an update whose metrics may still be computed, and returns further ones."""
        self._profiler.end(update, metrics)
        waited, self._waited = self._waited, self._ledger.seconds()[INPUT]
        more = {"time/input_s": self._waited - waited}
        if update % self._log_every:
            return more
        return more | memory_metrics() | self._ledger.metrics()

    def __enter__(self) -> Self:
        self._waited = self._ledger.seconds()[INPUT]
        self._ledger.switch(UPDATE)
        return self

    def __exit__(self, *exception: object) -> None:
        self._profiler.close(self._update)
        self._ledger.switch(OTHER)
