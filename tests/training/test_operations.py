"""What a training measures beside its metrics: kinds of updates, input, memory, a profile."""

import jax.numpy as jnp
import pytest

from msjoe_jax.config import base, read_config
from msjoe_jax.runtime.goodput import INPUT, OTHER, REDONE, UPDATE, VALIDATION, Ledger
from msjoe_jax.training.operations import Operations
from tests.support.system import changed


def operations(folder, ledger, start=0, redone=0, say=print, **fields):
    run = read_config(changed(base(), **fields)).training_run("joint")
    return Operations(run, folder, start, redone, say, ledger)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_updates_made_again_are_not_progress(tmp_path):
    """Update 5 was made before a kill: it is made again, 6 and 7 are new."""
    clock = Clock()
    ledger = Ledger(clock)
    clock.now = 10
    with operations(tmp_path, ledger, start=4, redone=5) as watched:
        rows = []
        for update in (5, 6, 7):
            watched.begin(update, ())
            with ledger.doing(INPUT):
                clock.now += update / 10
            clock.now += 1
            rows.append(watched.end(update, {}))
            with ledger.doing(VALIDATION):
                clock.now += 2
            clock.now += 3  # the row is written, say
    clock.now += 4
    assert [row["time/input_s"] for row in rows] == pytest.approx([0.5, 0.6, 0.7])
    assert rows[-1]["goodput/redone_s"] == pytest.approx(4)
    assert rows[-1]["goodput/other_s"] == pytest.approx(10)
    assert rows[-1]["goodput/share"] * rows[-1]["goodput/wall_s"] == pytest.approx(4 + 1)
    assert rows[-1]["memory/host_gib"] > 0
    seconds = ledger.seconds()
    assert [seconds[kind] for kind in (UPDATE, REDONE, OTHER)] == pytest.approx([8, 4, 14])


def test_only_what_is_logged_is_measured(tmp_path):
    with operations(tmp_path, Ledger(), log_every=2) as watched:
        rows = {}
        for update in (1, 2):
            watched.begin(update, ())
            rows[update] = watched.end(update, {})
    assert rows[1].keys() == {"time/input_s"}
    assert {"memory/host_gib", "goodput/share"} <= rows[2].keys()


def test_a_window_of_updates_is_profiled(tmp_path):
    lines = []
    fields = {"profile_start": 2, "profile_updates": 2}
    with operations(tmp_path, Ledger(), say=lines.append, **fields) as watched:
        for update in (1, 2):  # the training ends within the window
            watched.begin(update, jnp.ones(2))
            watched.end(update, {"reward": jnp.ones(())})
    assert lines == [f"joint: profile updates_2-2: in {tmp_path / 'profile'}"]
    assert list(tmp_path.glob("profile/plugins/profile/updates_2-2/*.xplane.pb"))
