"""A full disk is one line that names the folder, the need and what is free."""

import errno
import logging
import os
import shutil
import types

import jax.numpy as jnp
import pytest

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.space import _unraisable, full_disk, is_closed, is_full, room_for, room_of

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x/y")
QUOTA = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
# As TensorStore words it, by way of Orbax.
WRAPPED = ValueError("RESOURCE_EXHAUSTED: Failed to write 9 bytes: No space left on device")


def raised_from(cause, suppress):
    try:
        try:
            raise cause
        except Exception as error:
            raise RuntimeError("a save failed") from (error if suppress else None)
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    "error, full",
    [
        (FULL, True),
        (QUOTA, True),
        (WRAPPED, True),
        (raised_from(FULL, True), True),
        (raised_from(WRAPPED, False), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (raised_from(ValueError("no"), True), False),
        (None, False),
    ],
    ids=str,
)
def test_what_a_full_disk_is(error, full):
    assert is_full(error) == full


def test_the_line(tmp_path, monkeypatch):
    asked = []

    def usage(path):
        asked.append(os.fspath(path))
        return types.SimpleNamespace(free=1_250_000)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    folder = tmp_path / "not" / "there"
    with pytest.raises(UserError) as caught, room_for(folder, "a checkpoint", 2_400_000):
        raise WRAPPED
    assert str(caught.value) == (
        f"{folder}: the disk is full: a checkpoint needs 2.4 MB, 1.2 MB are free; free some space, "
        "and the same command goes on"
    )
    assert asked == [str(tmp_path)]
    assert str(full_disk(tmp_path)).startswith(f"{tmp_path}: the disk is full: 1.2 MB are free; ")


def test_the_line_names_the_file_s_folder_where_nothing_else_is_known(tmp_path):
    there = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "cache" / "file"))
    with pytest.raises(UserError, match=rf"^{tmp_path}/cache: the disk is full"), room_for("run"):
        raise there
    with pytest.raises(UserError, match=r"^run: the disk is full: it needs"), room_for("run", "it"):
        raise there


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_closed_folder_is_one_line(tmp_path, code):
    reason = os.strerror(code)
    error = raised_from(RuntimeError(f"open() failed: {reason}; opening /x"), True)
    assert is_closed(error) and not is_full(error)
    words = rf"^{tmp_path}: cannot be written to \({reason}\); make it writable or name another$"
    with pytest.raises(UserError, match=words), room_for(tmp_path):
        raise error
    named = OSError(code, reason, "/x/y")  # says it by itself, and may be of what is read
    with pytest.raises(OSError) as caught, room_for(tmp_path):
        raise named
    assert caught.value is named


@pytest.mark.parametrize("error", [UserError("No space left on device"), OSError(5, "x")], ids=str)
def test_other_errors_pass(error, tmp_path):
    with pytest.raises(type(error)) as caught, room_for(tmp_path):
        raise error
    assert caught.value is error


def test_room_of_a_tree():
    tree = {"a": jnp.zeros((1000, 1000)), "b": [jnp.zeros(10**6, jnp.bfloat16)]}
    assert 6_000_000 < room_of(tree) <= 6_600_000


def test_libraries_do_not_repeat_it(caplog):
    log = logging.getLogger("absl")
    gone = FileNotFoundError(errno.ENOENT, "No such file", "/run/3.orbax-checkpoint-tmp/meta")
    for error in (WRAPPED, gone, ValueError("another")):
        try:
            raise error
        except (ValueError, OSError):
            log.exception("a thread failed")
    assert [record.exc_info[1].args[0] for record in caplog.records] == ["another"]
    told = []
    for text in ("Event loop is closed", "another"):
        args = types.SimpleNamespace(exc_value=RuntimeError(text))
        _unraisable(args, lambda args: told.append(str(args.exc_value)))
    assert told == ["another"]
