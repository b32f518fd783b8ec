"""Errors that a user can act on: a line each, and status 2."""

import io
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
