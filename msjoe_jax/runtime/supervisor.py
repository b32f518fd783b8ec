"""Starts the processes of a run, waits for them, and starts them again when one dies.

What `msjoe launch` is made of. JAX is not imported here: on a TPU host the child owns the chips.
"""

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO

from msjoe_jax.errors import UNFINISHED, USER_ERROR

DONE, FINE = 0, (0, UNFINISHED)  # exit statuses
RESUMES = "the same command resumes from the newest checkpoint"
# The kernel kills the child when its parent is gone, however that died. Other systems have no such
# call: there a child whose parent was killed runs on to its own end.
TIED = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
if os.getppid() != int(sys.argv[1]):  # it died before the call
    os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
POLL = 0.05  # seconds between looks at the children


@dataclasses.dataclass(frozen=True)
class Child:
    """One process to start: its command line and its whole environment."""

    command: Sequence[str]
    environment: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Attempt:
    """How one start of all children ended.

    Args:
      statuses: of each child, as `subprocess` has them: -N is "killed by signal N".
      first: the child that was the first to end in a way that ends the others, if any did.
      killed: the children that did not end by themselves within the grace, and were killed.
      seconds: from the end of `first` to the end of the last child.
    """

    statuses: list[int]
    first: int | None
    killed: list[int]
    seconds: float

    @property
    def status(self) -> int:
        """The exit status of the whole: 2, 75, 0, or 1 for a death."""
        bad = {s for i, s in enumerate(self.statuses) if i not in self.killed and s not in FINE}
        if USER_ERROR in bad and bad <= {USER_ERROR, -signal.SIGABRT}:  # JAX ended the others
            return USER_ERROR
        if self.first is not None:
            return 1
        return UNFINISHED if UNFINISHED in self.statuses else DONE


@dataclasses.dataclass
class Supervisor:
    """Runs children to their end.

    Args:
      grace: seconds the other children have to end by themselves once one has died.
      pause: seconds before the first new start; doubled for each one after it.
      say: takes each line meant for the user.
    """

    grace: float = 60.0
    pause: float = 10.0
    say: Callable[[str], object] = lambda line: print(f"launch: {line}", file=sys.stderr)
    _sent: list[int] = dataclasses.field(default_factory=list)  # signals this process was sent
    _passed_on: int = 0  # how many of them the children have had

    def run(self, children: Sequence[Child], restarts: int = 0) -> int:
        """Starts the children, again after a death for at most `restarts` times.

        SIGTERM, SIGINT and SIGHUP are passed on to the children; there is no new start after one.
        Call it from the main thread.

        Returns:
          0: all ended with 0. 75: some saved and have not finished. 2: a wrong input, which is
          never tried again. 1: a death. 128 + N: a death after this process was sent signal N.
        """
        before = {each: signal.getsignal(each) for each in FORWARDED}
        try:
            for each, handler in before.items():
                if handler is not signal.SIG_IGN:  # nohup
                    signal.signal(each, lambda number, _: self._sent.append(number))
            return self._run(children, restarts)
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def _run(self, children: Sequence[Child], restarts: int) -> int:
        for start in range(restarts + 1):
            attempt = self._attempt(children)
            if attempt.first is None:
                return attempt.status
            if attempt.status == USER_ERROR:  # the children have said which
                return USER_ERROR
            died = describe(attempt)
            if start < restarts and not self._sent:
                pause = self.pause * 2**start
                self.say(f"{died}; restart {start + 1} of {restarts} in {pause:.0f} s")
                self._wait(pause)
            if self._sent:
                self.say(f"stopped by signal {self._sent[0]}: {died}; {RESUMES}")
                return 128 + self._sent[0]
        self.say(f"{died}{f'; restarts: {restarts} of {restarts}' if restarts else ''}; {RESUMES}")
        return 1

    def _attempt(self, children: Sequence[Child]) -> Attempt:
        """Starts the children and waits until all have ended."""
        running: list[subprocess.Popen[str]] = []
        first, since = None, 0.0
        killed: list[int] = []
        try:
            for child in children:
                running.append(_start(child, piped=bool(running)))
            pumps = [pump for i, process in enumerate(running) for pump in _pumps(i, process)]
            while None in (statuses := [process.poll() for process in running]):
                self._pass_on(running)
                if first is None:
                    first, since = _death(statuses), time.monotonic()
                elif time.monotonic() - since > self.grace and not killed:
                    killed = [i for i, status in enumerate(statuses) if status is None]
                    for i in killed:
                        running[i].kill()
                time.sleep(POLL)
        finally:
            for process in running:
                process.kill()  # none is left but after an exception
                process.wait()
        for pump in pumps:
            pump.join(timeout=5)  # a grandchild may hold the pipe for longer
        ends = [process.wait() for process in running]
        if first is None:
            first, since = _death(ends), time.monotonic()
        return Attempt(ends, first, killed, time.monotonic() - since)

    def _pass_on(self, running: Sequence[subprocess.Popen[str]]) -> None:
        for number in self._sent[self._passed_on :]:
            self._passed_on += 1
            for process in running:
                process.send_signal(number)  # does nothing to one that has ended

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._sent:
            time.sleep(POLL)


def describe(attempt: Attempt) -> str:
    """Says in one line who ended first and how, and how the others ended."""
    assert attempt.first is not None
    hosts, status = len(attempt.statuses), attempt.statuses[attempt.first]
    how = f"was killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
    if hosts == 1:
        if status == -signal.SIGABRT:
            return (
                "this host's process was ended by JAX (exit 134): another host died or does not "
                "answer; its own lines are above"
            )
        return f"this host's process {how}"
    if status > 0:  # a host that is told of a failure may end before the one that failed
        how = f"was the first to end, with exit status {status} (the lines above say why)"
    line = f"host {attempt.first} of {hosts} {how}; the others "
    if attempt.killed:
        return line + f"had not ended after {attempt.seconds:.0f} s and were killed"
    return line + f"ended after {attempt.seconds:.0f} s"


@contextlib.contextmanager
def held_port() -> Iterator[int]:
    """Yields a free TCP port of this machine that stays ours until the end.

    A socket is bound to it but does not listen. JAX's coordinator binds it too, since both ask for
    SO_REUSEPORT; a process that does not ask, or of another user, cannot.
    """
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    with socket.socket(family) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        held.bind(("", 0))
        yield held.getsockname()[1]


def _death(statuses: Sequence[int | None]) -> int | None:
    """The first child that ended in a way the others do not survive."""
    return next((i for i, status in enumerate(statuses) if status not in (None, *FINE)), None)


def _start(child: Child, piped: bool) -> subprocess.Popen[str]:
    """Starts a child in a process group of its own: a Ctrl-C reaches it once, through us."""
    command = list(child.command)
    if sys.platform == "linux":
        command = [sys.executable, "-I", "-S", "-c", TIED, str(os.getpid()), *command]
    pipe = subprocess.PIPE if piped else None
    return subprocess.Popen(
        command,
        env=dict(child.environment),
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        text=True,
        errors="replace",
        process_group=0,
    )


def _pumps(number: int, process: subprocess.Popen[str]) -> list[threading.Thread]:
    """Starts what passes on the lines of a piped child, each with its number before it."""

    def pump(source: IO[str], target: IO[str]) -> None:
        for line in source:
            target.write(f"[{number}] {line.rstrip()}\n")
            target.flush()

    pairs = [(process.stdout, sys.stdout), (process.stderr, sys.stderr)]
    threads = [
        threading.Thread(target=pump, args=(source, target), daemon=True)
        for source, target in pairs
        if source is not None
    ]
    for thread in threads:
        thread.start()
    return threads
