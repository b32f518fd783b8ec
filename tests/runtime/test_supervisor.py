"""Children that end in every way: what is said, what is tried again, and that none lives on."""

import errno
import fcntl
import os
import pathlib
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from msjoe_jax.runtime.supervisor import RESUMES, Attempt, Child, Supervisor, describe, held_port

ROOT = pathlib.Path(__file__).parents[2]
LONG = 120  # seconds: nothing here takes them; a bound for a busy machine


def child(program: str, *arguments: object) -> Child:
    """A process that runs a Python program."""
    words = [sys.executable, "-S", "-c", textwrap.dedent(program), *map(str, arguments)]
    return Child(words, os.environ)


def ends(how: int, starts: pathlib.Path) -> Child:
    """A process that notes that it was started and ends with a status, or by a signal."""
    program = """
        import os, sys
        how, starts = int(sys.argv[1]), sys.argv[2]
        with open(starts, "a") as file:
            file.write("start ")
        if how < 0:
            os.kill(os.getpid(), -how)
        sys.exit(how)
    """
    return child(program, how, starts)


def run(children, restarts=0, grace=LONG, pause=0.0):
    """(exit status, the lines said)."""
    lines: list[str] = []
    return Supervisor(grace, pause, lines.append).run(children, restarts), lines


@pytest.mark.parametrize(
    ("statuses", "restarts", "result", "starts"),
    [
        ([0], 2, 0, 1),
        ([75], 2, 75, 1),
        ([2], 2, 2, 1),  # the same input is wrong the next time too
        ([7], 2, 1, 3),
        ([-9], 0, 1, 1),
        ([0, 75], 1, 75, 2),
        ([2, -6], 1, 2, 2),  # JAX ends the others
        ([2, 7], 1, 1, 4),  # a host that fails is told to the others as an error of theirs
        ([0, 7], 1, 1, 4),
    ],
)
def test_what_an_ending_means(tmp_path, statuses, restarts, result, starts):
    noted = tmp_path / "starts"
    status, lines = run([ends(how, noted) for how in statuses], restarts)
    assert (status, len(noted.read_text().split())) == (result, starts)
    assert all("\n" not in line for line in lines)
    if result == 1:
        assert len(lines) == restarts + 1 and lines[-1].endswith(RESUMES)
        for number, line in enumerate(lines[:-1]):
            assert f"restart {number + 1} of {restarts} in" in line
    else:
        assert lines == []


def test_the_host_that_died_first_is_named_and_the_others_end(tmp_path):
    waits = child("import time; time.sleep(600)")
    status, (line,) = run([waits, ends(-9, tmp_path / "starts"), waits], grace=0.2)
    assert status == 1
    assert line.startswith("host 1 of 3 was killed by signal 9; the others had not ended after")
    assert line.endswith(f"and were killed; {RESUMES}")


def test_others_that_end_by_themselves_are_not_killed(tmp_path):
    program = """
        import os, sys, time
        if sys.argv[2] == "dies":
            sys.exit(7)
        while not os.path.exists(sys.argv[1]):
            time.sleep(0.01)
        sys.exit(0)
    """
    gate = tmp_path / "gate"
    opens = child("import pathlib, sys; pathlib.Path(sys.argv[1]).touch()", gate)
    status, (line,) = run([child(program, gate, "waits"), child(program, gate, "dies"), opens])
    assert status == 1
    first = "host 1 of 3 was the first to end, with exit status 7 (the lines above say why)"
    assert line.startswith(f"{first}; the others ended after ")


def test_a_restart_may_succeed(tmp_path):
    program = """
        import os, sys
        tried = os.path.exists(sys.argv[1])
        open(sys.argv[1], "w").close()
        sys.exit(0 if tried else 5)
    """
    status, lines = run([child(program, tmp_path / "tried")], restarts=3)
    assert (status, len(lines)) == (0, 1)
    assert lines[0] == "this host's process ended with exit status 5; restart 1 of 3 in 0 s"


def test_a_process_that_jax_ended_points_at_another_host():
    line = describe(Attempt([-signal.SIGABRT], 0, [], 0.0))
    assert "ended by JAX (exit 134): another host died or does not answer" in line


def test_only_hosts_beside_the_first_have_a_number_before_their_lines(capfd):
    program = "import sys; print('out', sys.argv[1]); print('err', sys.argv[1], file=sys.stderr)"
    assert run([child(program, i) for i in range(3)])[0] == 0
    out, err = capfd.readouterr()
    assert sorted(out.splitlines()) == ["[1] out 1", "[2] out 2", "out 0"]
    assert sorted(err.splitlines()) == ["[1] err 1", "[2] err 2", "err 0"]


PARENT = """
import sys
from msjoe_jax.runtime.supervisor import Child, Supervisor
words = [sys.executable, "-S", "-c", sys.argv[1], sys.argv[2]]
children = [Child([*words, str(i)], {}) for i in (0, 1)]
sys.exit(Supervisor(grace=120, pause=float(sys.argv[3])).run(children, restarts=3))
"""


def start_parent(program: str, folder: pathlib.Path, pause: float = 0.0) -> subprocess.Popen[str]:
    """A parent of two children, in a process group of its own, as a shell would start it."""
    words = [sys.executable, "-c", PARENT, textwrap.dedent(program), str(folder), str(pause)]
    return subprocess.Popen(
        words,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # What a shell starts in the background ignores Ctrl-C, these tests with it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(*files: pathlib.Path) -> None:
    until = time.monotonic() + LONG
    while not all(file.exists() for file in files):
        assert time.monotonic() < until, files
        time.sleep(0.02)


COUNTS = """
    import pathlib, signal, sys, time
    folder, number, got = pathlib.Path(sys.argv[1]), sys.argv[2], []
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *what: got.append(what[0]))
    (folder / f"ready{number}").touch()
    while not got:
        time.sleep(0.01)
    time.sleep(0.5)  # a second one would come by now
    (folder / f"got{number}").write_text(repr([int(x) for x in got]))
    sys.exit(STATUS)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("status", [75, 1])
def test_a_signal_reaches_each_child_once_and_ends_the_run(tmp_path, number, status):
    """The signal goes to the whole group, as Ctrl-C in a terminal does."""
    parent = start_parent(COUNTS.replace("STATUS", str(status)), tmp_path)
    wait_for(tmp_path / "ready0", tmp_path / "ready1")
    os.killpg(parent.pid, number)
    _, said = parent.communicate(timeout=LONG)
    assert [(tmp_path / f"got{i}").read_text() for i in (0, 1)] == [repr([int(number)])] * 2
    if status == 75:
        assert (parent.returncode, said) == (75, "")
    else:  # neither is it started again
        assert parent.returncode == 128 + number
        assert said.count("\n") == 1 and said.startswith(f"launch: stopped by signal {number}: ")


def test_a_signal_between_two_starts_ends_the_run(tmp_path):
    parent = start_parent("import sys; sys.exit(6)", tmp_path, pause=3600.0)
    assert parent.stderr is not None and "restart 1 of 3 in 3600 s" in parent.stderr.readline()
    parent.send_signal(signal.SIGTERM)
    _, said = parent.communicate(timeout=LONG)
    assert parent.returncode == 143 and said.startswith("launch: stopped by signal 15: ")


@pytest.mark.skipif(sys.platform != "linux", reason="a call of Linux")
def test_no_child_outlives_a_killed_parent(tmp_path):
    """Each holds a lock, which only its end gives back."""
    program = """
        import fcntl, pathlib, signal, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        folder, number = pathlib.Path(sys.argv[1]), sys.argv[2]
        lock = open(folder / f"lock{number}", "w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / f"ready{number}").touch()
        time.sleep(600)
    """
    parent = start_parent(program, tmp_path)
    wait_for(tmp_path / "ready0", tmp_path / "ready1")
    parent.kill()
    parent.communicate(timeout=LONG)
    for i in (0, 1):
        with (tmp_path / f"lock{i}").open("w") as lock:
            until = time.monotonic() + LONG
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    assert time.monotonic() < until, f"child {i} lives"
                    time.sleep(0.02)


def test_a_held_port_is_nobodys_but_who_shares_it():
    with held_port() as port, held_port() as other:
        assert port != other
        with socket.socket() as stranger, pytest.raises(OSError) as refused:
            stranger.bind(("localhost", port))
        assert refused.value.errno == errno.EADDRINUSE
        with socket.socket() as server:  # as JAX's coordinator does
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            server.bind(("", port))
            server.listen()
            with socket.create_connection(("localhost", port), timeout=LONG):
                server.accept()[0].close()
