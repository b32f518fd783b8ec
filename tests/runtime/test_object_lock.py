import json
import threading

import pytest

from msjoe_jax.errors import UserError
from msjoe_jax.runtime import object_lock
from msjoe_jax.runtime.object_lock import object_lock as hold

DEAD = 1 << 30  # beyond the largest pid


def left_behind(file, **owner):
    file.write_text(json.dumps({"token": "other", "pid": DEAD, "host": "far", **owner}))


def test_lock_is_an_object_until_the_block_ends(bucket):
    file = bucket / "run" / ".lock"
    with hold(file):
        assert file.exists()
    assert not file.exists()
    with hold(file):
        pass


def test_lock_that_is_renewed_keeps_others_out(bucket, monkeypatch):
    monkeypatch.setattr(object_lock, "RENEW", 0.05)
    monkeypatch.setattr(object_lock, "POLL", 0.05)
    file = bucket / "run" / ".lock"
    with (
        hold(file),
        pytest.raises(UserError, match=r"run is in use by another process \(pid \d+ on .*\)"),
        hold(file),
    ):
        raise AssertionError("held twice")


def test_lock_that_is_not_renewed_is_taken_over(bucket, monkeypatch, capsys):
    monkeypatch.setattr(object_lock, "LEASE", 0.0)
    file = bucket / "run" / ".lock"
    left_behind(file)
    with hold(file):
        assert json.loads(file.read_text())["host"] != "far"
    assert "locked by pid 1073741824 on far; waiting" in capsys.readouterr().out


def test_lock_of_a_dead_process_of_this_host_is_taken_over_at_once(bucket, monkeypatch, capsys):
    monkeypatch.setattr(object_lock, "LEASE", 1e9)
    monkeypatch.setattr(object_lock, "_place", lambda: "here")
    left_behind(bucket / ".lock", place="here")
    with hold(bucket / ".lock"):
        pass
    assert "has died" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "no JSON", "[]"])
def test_damaged_lock_is_taken_over_too(bucket, monkeypatch, text):
    monkeypatch.setattr(object_lock, "LEASE", 0.0)
    (bucket / ".lock").write_text(text)
    with hold(bucket / ".lock"):
        pass
    assert not (bucket / ".lock").exists()


def test_process_whose_lock_was_taken_is_stopped_and_leaves_the_other(bucket, monkeypatch, capsys):
    monkeypatch.setattr(object_lock, "RENEW", 0.05)
    stopped = threading.Event()
    monkeypatch.setattr(object_lock._thread, "interrupt_main", stopped.set)
    file = bucket / ".lock"
    with hold(file):
        left_behind(file)
        assert stopped.wait(60)
    assert "another process has taken over the lock" in capsys.readouterr().err
    assert json.loads(file.read_text())["token"] == "other"


def test_renewal_whose_answer_was_lost_is_its_own(bucket):
    holder = object_lock._Holder(bucket / ".lock")
    before = holder._generation
    after = holder._written(before)
    assert after != before
    assert holder._written(before) == after  # sent again, refused, and found to be there
    holder._generation = after
    holder.release()
    assert not (bucket / ".lock").exists()


def test_bucket_that_refuses_is_one_line(bucket):
    with pytest.raises(UserError, match="gs://forbidden/run cannot be written to"):
        hold(bucket.parent / "forbidden" / "run" / ".lock").__enter__()
