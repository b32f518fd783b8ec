"""A counter of XLA compilations: after the first steps the number should no longer grow."""

import jax

# JAX's name for handing a new program to the compiler (or to its persistent cache); a call of a
# program already compiled does not raise it.
COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class CompileCounter:
    """Compilations, and the seconds they took, since the counter was made."""

    def __init__(self) -> None:
        """Starts counting."""
        self.count = 0
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event == COMPILE_EVENT:
            self.count += 1
            self.seconds += duration_secs

    def close(self) -> None:
        """Stops counting."""
        jax.monitoring.unregister_event_duration_listener(self._listen)
