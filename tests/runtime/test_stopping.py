"""A signal ends a run at the next moment at which all is on disk, and a second one at once."""

import os
import signal

import pytest

from msjoe_jax.errors import Unfinished
from msjoe_jax.runtime.stopping import end_if_asked, signal_here, signals_wait


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_for_its_moment(number, capsys):
    before = signal.getsignal(number)
    with signals_wait():
        end_if_asked("nothing yet")
        os.kill(os.getpid(), number)
        assert signal_here() == signal.Signals(number).name
        assert signal.getsignal(number) == before  # so that a second one is obeyed
        with pytest.raises(Unfinished, match=f"{signal_here()}: ended after batch 3; the same"):
            end_if_asked("batch 3")
    assert signal.getsignal(number) == before
    assert "again: at once" in capsys.readouterr().err
    with signals_wait():
        assert signal_here() == ""  # a later run in the same process begins anew
