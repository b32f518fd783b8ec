"""Files appear whole or not at all, a folder has one holder, and faults name file and line."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.errors import UserError
from msjoe_jax.runtime import files
from msjoe_jax.runtime.files import (
    absolute,
    commit_file,
    is_local,
    json_lines,
    lock,
    on_disk,
    open_whole,
    partial_path,
    read_json,
    read_json_lines,
    write_whole,
)

# --- whole or not at all --------------------------------------------------------------------------


@given(st.binary(max_size=40) | st.text(st.characters(codec="utf-8"), max_size=20))
def test_what_is_written_is_read_and_replaces_what_was_there(tmp_path_factory, data):
    file = tmp_path_factory.mktemp("files") / "a.b"
    for content in ("before\r\n", data):
        write_whole(file, content)
        written = content.encode() if isinstance(content, str) else content
        assert file.read_bytes() == written
        assert os.listdir(file.parent) == ["a.b"]


@pytest.mark.parametrize("kind", [str, lambda path: path, epath.Path])
def test_every_type_of_path_and_of_bytes(tmp_path, kind):
    for data in (b"abc", bytearray(b"abc"), memoryview(b"abc"), "abc"):
        write_whole(kind(tmp_path / "a"), data)
        assert (tmp_path / "a").read_bytes() == b"abc"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [None, b"before"])
def test_an_error_leaves_what_was_there(tmp_path, error, before):
    file = tmp_path / "a"
    if before is not None:
        file.write_bytes(before)
    with pytest.raises(error), open_whole(file) as stream:
        stream.write(b"half")
        raise error
    assert os.listdir(tmp_path) == ([] if before is None else ["a"])
    assert before is None or file.read_bytes() == before


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(28, "No space left on device")

    write_whole(tmp_path / "a", "before")
    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a", "after")
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "before"


def test_a_folder_that_is_not_there_is_an_error_and_is_not_made(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "none" / "a", "x")
    assert os.listdir(tmp_path) == []


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    events, fsync = [], os.fsync

    def synced(descriptor):
        events.append((os.fstat(descriptor).st_size, (tmp_path / "a").exists()))
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", synced)
    write_whole(tmp_path / "a", b"12345")
    partial_path(tmp_path / "b").write_bytes(b"123")
    commit_file(tmp_path / "b")
    assert events == [(5, False), (3, True)]
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


KILLED = """
import os, signal, sys
from msjoe_jax.runtime.files import write_whole
def kill(event, arguments):
    if event == "os.rename":
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(kill)
write_whole(sys.argv[1], b"after")
"""


def test_kill_9_before_the_file_has_its_name(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"before")
    done = subprocess.run([sys.executable, "-c", KILLED, file])
    assert done.returncode == -signal.SIGKILL
    assert file.read_bytes() == b"before"
    write_whole(file, b"now")  # what the killed process left is in nobody's way
    assert os.listdir(tmp_path) == ["a"]


# --- one holder -----------------------------------------------------------------------------------

HOLD = """
import sys
from msjoe_jax.runtime.files import lock
with lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(folder):
    """Starts a process that holds the folder until its standard input ends."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    child = subprocess.Popen([sys.executable, "-c", HOLD, folder], **pipes)
    assert child.stdout.readline() == "held\n"
    return child


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path):
    run = tmp_path / "run"
    child = hold(run)
    message = rf"run is in use by another process \(pid {child.pid}\)"
    for _ in range(2):  # a refused process must not take the lock or its owner's name away
        with pytest.raises(UserError, match=message), lock(run):
            pass
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert os.listdir(run) == [".lock"]
    for _ in range(2):
        with lock(run):
            assert (run / ".lock").read_text() == str(os.getpid())
            with pytest.raises(UserError, match=f"pid {os.getpid()}"), lock(run):
                pass
        assert os.listdir(run) == []


def test_a_second_process_gets_the_folder_when_the_first_ends(tmp_path):
    child = hold(tmp_path)
    child.communicate("")
    assert child.returncode == 0
    with lock(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


def test_a_lock_on_a_file_that_was_removed_meanwhile_does_not_count(tmp_path, monkeypatch):
    """The holder removes the file between our opening and our locking it; another then locks."""
    flock, opened = files.fcntl.flock, []

    def late(descriptor, operation):
        opened.append(descriptor)
        if len(opened) == 1:
            (tmp_path / ".lock").unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(files.fcntl, "flock", late)
    with lock(tmp_path):
        assert len(opened) == 2
        with pytest.raises(UserError, match="in use"), lock(tmp_path):
            pass


def test_a_folder_that_was_renamed_or_removed_under_its_lock(tmp_path):
    with lock(tmp_path / "a"):
        os.rename(tmp_path / "a", tmp_path / "b")
        with lock(tmp_path / "a"):  # another folder of that name
            pass
        child = hold(tmp_path / "a")
    assert (tmp_path / "a" / ".lock").exists()  # not ours to remove
    child.communicate("")
    with lock(tmp_path / "c"):
        (tmp_path / "c" / ".lock").unlink()
        (tmp_path / "c").rmdir()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        message = rf"{folder} cannot be made or written to \(.*\); name another folder"
        with pytest.raises(UserError, match=message), lock(folder):
            pass


def test_object_storage_is_locked_by_an_object(bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with lock(bucket / "run"):
        assert (bucket / "run" / ".lock").exists()
        assert os.listdir(tmp_path) == []
    assert not (bucket / "run" / ".lock").exists()


def test_objects_are_written_whole_or_not_at_all(bucket):
    file = bucket / "run" / "a.json"
    write_whole(file, '{"é": 1}')
    assert read_json(file) == {"é": 1}
    with pytest.raises(ZeroDivisionError), open_whole(file) as half:
        half.write(b"{")
        _ = 1 / 0
    assert read_json(file) == {"é": 1}
    write_whole(file, '{"b": 2}\n{"b": 3}\n')
    assert [row for _, row in read_json_lines(file)] == [{"b": 2}, {"b": 3}]
    assert [p.name for p in file.parent.iterdir()] == ["a.json"]


def test_what_a_path_is(tmp_path, monkeypatch, bucket):
    monkeypatch.chdir(tmp_path)
    assert is_local("a") and is_local(tmp_path) and not is_local(bucket)
    assert absolute("a") == tmp_path / "a"
    assert absolute("~") == pathlib.Path.home()
    assert absolute(str(bucket / "a")) == bucket / "a"
    assert on_disk("a", "it") == pathlib.Path("a")
    with pytest.raises(UserError, match=f"{bucket}/a: it must be on a disk of this host"):
        on_disk(bucket / "a", "it")


# --- JSON -----------------------------------------------------------------------------------------


def test_lines_have_their_numbers_and_blank_ones_are_skipped(tmp_path):
    file = tmp_path / "rows.jsonl"
    # U+2028 ends a line for str.splitlines, but not in JSON.
    file.write_bytes('\ufeff{"a": "\u2028"}\r\n\n  \n{"b": 2}'.encode())
    assert list(read_json_lines(file)) == [(1, {"a": "\u2028"}), (4, {"b": 2})]
    file.write_bytes(b"")
    assert list(read_json_lines(str(file))) == []


ROWS = st.lists(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3)))


@given(ROWS, st.data())
def test_every_object_comes_back_with_its_number(tmp_path_factory, rows, data):
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    blanks = [data.draw(st.integers(0, 2)) for _ in rows]
    lines = "".join("\n" * n + json.dumps(row) + "\n" for n, row in zip(blanks, rows, strict=True))
    write_whole(file, lines)
    numbers = [sum(blanks[: i + 1]) + i + 1 for i in range(len(rows))]
    assert list(read_json_lines(file)) == list(zip(numbers, rows, strict=True))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a"\n', r"rows.jsonl:2: not JSON \(.*\)"),
        (b"\n[1]", "rows.jsonl:2: not a JSON object"),
        (b'{"a": 1} {"b": 1}', "rows.jsonl:1: not JSON"),
        (b"[" * 100_000, "rows.jsonl:1: not JSON"),
        (b"\xff\xfe", "rows.jsonl: not UTF-8 text"),
    ],
)
def test_a_bad_line_is_named(tmp_path, content, message):
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_json_lines(tmp_path / "rows.jsonl"))


def test_the_lines_before_a_bad_one_are_read(tmp_path):
    write_whole(tmp_path / "rows.jsonl", '{"a": 1}\n{')
    rows = read_json_lines(tmp_path / "rows.jsonl")
    assert next(rows) == (1, {"a": 1})
    with pytest.raises(UserError, match=":2: not JSON"):
        next(rows)


def test_one_object_and_what_is_none(tmp_path):
    file = tmp_path / "a.json"
    write_whole(file, '{"a": [1]}')
    assert read_json(file) == read_json(str(file)) == {"a": [1]}
    for content, message in ((b"[1]", "not a JSON object"), (b"{", "not JSON"), (b"\xff", "not")):
        write_whole(file, content)
        with pytest.raises(UserError, match=rf"a.json: {message}"):
            read_json(file)


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match=rf"{path}: cannot be read \(.*\)"):
            read_json(path)
        with pytest.raises(UserError, match=rf"{path}: cannot be read \(.*\); check the path"):
            list(read_json_lines(path))


def test_a_wrong_line_keeps_no_other_from_being_read(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(
        b'\xef\xbb\xbf{"a": 1}\n\n{"a"\n[1]\n{"b": 1, "b": 2}\n{"c": "\xff"}\n \n{"d": "\xc3\xa9"}'
    )
    rows = dict(json_lines(file))
    assert {n: row for n, row in rows.items() if isinstance(row, dict)} == {
        1: {"a": 1},
        8: {"d": "é"},
    }
    wrong = {n: str(row) for n, row in rows.items() if isinstance(row, UserError)}
    assert list(wrong) == [3, 4, 5, 6] and wrong[3].startswith("not JSON")
    assert wrong[4] == "not a JSON object" and wrong[6] == "not UTF-8 text"
    assert wrong[5] == "field 'b' is there twice"
    with pytest.raises(UserError, match=r"none\.jsonl: cannot be read"):
        list(json_lines(tmp_path / "none.jsonl"))
