"""Errors that a user can act on: a line each, and status 2."""

import io
import os
import subprocess
import sys

import pytest

from msjoe_jax.errors import HostDied, UserError, run_cli


def outcome(capsys, error):
    def fail():
        raise error

    with pytest.raises(SystemExit) as ended:
        run_cli(fail)
    return ended.value.code, capsys.readouterr().err


def test_each_message_is_one_line(capsys):
    assert outcome(capsys, UserError("a\nb")) == (2, "error: a b\n")
    assert outcome(capsys, UserError("one", "two\n three")) == (2, "error: one\nerror: two three\n")
    assert str(UserError("one", "two")) == "one\ntwo"


def test_what_the_system_refuses_and_ctrl_c(capsys):
    assert outcome(capsys, OSError(28, "No space left", "x/y")) == (
        2,
        "error: x/y: No space left\n",
    )
    code, text = outcome(capsys, KeyboardInterrupt())
    assert code == 130 and "resumes" in text


def test_the_death_of_another_host_is_no_mistake_of_the_user(capsys):
    assert outcome(capsys, HostDied("host 1: KeyError: 'x'")) == (
        1,
        "error: host 1: KeyError: 'x'\n",
    )


def test_text_that_the_terminal_cannot_show_is_escaped(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    run_cli(lambda: print("报告.html"))
    sys.stdout.flush()
    assert raw.getvalue() == b"\\u62a5\\u544a.html\n"


def test_an_error_of_object_storage_is_one_line(capsys):
    class PermissionDeniedError(Exception):
        pass

    PermissionDeniedError.__module__ = "tensorflow.python.framework.errors_impl"

    def main():
        raise PermissionDeniedError(
            "Error executing an HTTP request: HTTP 403\n\twhen reading gs://b"
        )

    with pytest.raises(SystemExit) as ended:
        run_cli(main)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: Error executing an HTTP request: HTTP 403\n"


ENDS = {
    "in the middle": ("for i in range(100_000): print(i)", 141, ""),
    "at the end": ("print('x' * 100)", 141, ""),
    "with a mistake": ("print('x'); raise UserError('no file')", 2, "error: no file\n"),
    "another pipe": (
        "import os; r, w = os.pipe(); os.close(r); os.write(w, b'x')", 2, "error: Broken pipe\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_without_a_reader_it_ends_without_a_word(name):
    """As in `msjoe … | head -1`: what it still had to say is dropped, but for its mistakes."""
    body, status, said = ENDS[name]
    read, write = os.pipe()
    if name != "another pipe":
        os.close(read)
    head = "from msjoe_jax.errors import UserError, run_cli\ndef main():"
    done = subprocess.run(
        [sys.executable, "-c", f"{head}\n    {body}\nrun_cli(main)"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": ""},  # unbuffered, a mistake would come too late
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (status, said)
