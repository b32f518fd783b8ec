"""A video that ends each process that decodes it."""

import multiprocessing
import os
import signal

from msjoe_jax.data.manifest import Entry


class Deadly(Entry):
    """Its size is what a worker asks for first; the process of the test survives that."""

    @property
    def size(self) -> int:
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return 1
