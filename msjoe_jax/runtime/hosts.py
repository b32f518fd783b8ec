"""The hosts of a run: how they find each other, exchange small values, decide as one, and end.

A run of several hosts is one process a host, all with the same arguments, which call what is here
in the same order. Values go through the coordinator, beside the devices: waiting for another host
holds up no program that runs.
"""

import contextlib
import faulthandler
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from msjoe_jax.errors import USER_ERROR, HostDied, UserError
from msjoe_jax.runtime.platform import has_tpu

HEARTBEAT_S = 30  # without a sign of life from a process, JAX ends the others
POLL_MS = 5_000  # between looks for the failure of another host, while one waits
KEPT = 4  # exchanges whose values stay with the coordinator
FAILED = "msjoe/failed"


class _Exchange:
    """The counters of this process: they name what is exchanged, and show that it goes on."""

    def __init__(self) -> None:
        self.count, self.index = 1, 0  # of the hosts
        self.number = 0
        self.beats = 0
        self.doing = "starting"
        self.since = time.monotonic()


_exchange = _Exchange()


def connect(coordinator: str = "", hosts: int = 0, host: int = -1) -> None:
    """Joins the hosts of a run; before any other use of JAX.

    Args:
      coordinator: address and port of the first host; "": the hosts of a TPU slice find each
        other, and any other process is alone.
      hosts: how many; host: which of them this is, from 0.

    Raises:
      UserError: only some of the three are given, or the others do not come.
    """
    given = [bool(coordinator), hosts > 0, host >= 0]
    if any(given) and not all(given):
        raise UserError(
            "--coordinator=ADDRESS:PORT, --hosts=1 or more and --host=0 or more go together: give "
            "all three or none"
        )
    if coordinator and not re.fullmatch(r".+:\d+", coordinator):
        raise UserError(f"--coordinator={coordinator}: give ADDRESS:PORT")
    if any(given) and host >= hosts:
        raise UserError(f"--host={host}: the last of --hosts={hosts} is {hosts - 1}")
    if hosts == 1 or not (any(given) or has_tpu()):
        return
    where: dict[str, Any] = {}
    if coordinator:
        where = {"coordinator_address": coordinator, "num_processes": hosts, "process_id": host}
    import jax

    # Two programs at once on CPU devices would mix up their messages to the other hosts.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        jax.distributed.initialize(**where, heartbeat_timeout_seconds=HEARTBEAT_S)
    except Exception as error:
        if not coordinator and isinstance(error, ValueError):  # TPUs of no cluster
            return
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"the hosts of this run do not find each other ({reason}); start the same command on "
            "every host at about the same time"
        ) from None
    _exchange.count, _exchange.index = jax.process_count(), jax.process_index()


def count() -> int:
    """Returns the number of hosts that `connect` has joined."""
    return _exchange.count


def index() -> int:
    """Returns which of the hosts this is, from 0."""
    return _exchange.index


def is_first() -> bool:
    """Whether this host is the one that writes."""
    return index() == 0


@contextlib.contextmanager
def only_the_first_talks() -> Iterator[None]:
    """Leaves to the first host what all would print; each host prints its own errors."""
    if is_first():
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def beat(doing: str) -> None:
    """Says what this host is about to do; between two beats `Watchdog` sees no progress."""
    _exchange.beats += 1
    _exchange.doing, _exchange.since = doing, time.monotonic()


def gather(value: Any, what: str) -> list[Any]:
    """Exchanges a value that JSON can hold; returns those of all hosts, in their order.

    Args:
      value: this host's.
      what: for people: what a host that does not come was waited for.

    Raises:
      UserError: another host has raised one.
      HostDied: another host has failed otherwise.
    """
    beat(what)
    if count() == 1:
        return [value]
    client, number = _client(), _exchange.number
    _exchange.number += 1
    client.key_value_set(_key(number, index()), json.dumps(value))
    values = [value if h == index() else json.loads(_wait(_key(number, h))) for h in range(count())]
    # Who has all values of this exchange knows that the others have read the ones before.
    if number >= KEPT:
        client.key_value_delete(_key(number - KEPT, index()))
    return values


def merge(values: dict[int, Any], what: str) -> dict[int, Any]:
    """Merges what hosts have by place in a batch, in the order of the places.

    Of a place that several hosts hold, the first host's counts; they are alike.
    """
    merged: dict[int, Any] = {}
    for one in gather(list(values.items()), what):
        for place, value in one:
            merged.setdefault(place, value)
    return dict(sorted(merged.items()))


def total(values: Sequence[float], what: str) -> list[float]:
    """Returns the sums over all hosts."""
    return [sum(column) for column in zip(*gather(list(values), what), strict=True)]


def on_first(function: Callable[[], Any], what: str) -> Any:
    """Calls a function on the first host alone; returns its result, JSON, on every host.

    Raises:
      UserError: the function has raised one.
    """
    outcome: tuple[str, Any] = ("result", None)
    if is_first():
        try:
            outcome = ("result", function())
        except UserError as error:
            outcome = ("error", list(error.lines))
    kind, value = gather(outcome, what)[0] if count() > 1 else outcome
    if kind == "error":
        raise UserError(*value)
    return value


def agree(value: Any, what: str) -> None:
    """Checks that all hosts have the same value (JSON).

    Raises:
      UserError: they have not; the hosts that differ from the first are named, and of objects the
        fields that do.
    """
    values = gather(value, what)
    if others := [h for h, other in enumerate(values) if other != values[0]]:
        names = ", ".join(map(str, others))
        fields = ", ".join(_differing(values[0], values[others[0]]))
        where = f" in {fields}" if fields else ""
        raise UserError(f"hosts disagree on {what}: host {names} and host 0 differ{where}")


def _differing(left: Any, right: Any, path: str = "") -> Iterator[str]:
    """Yields the names, with dots, of fields that two objects of JSON have differently."""
    if isinstance(left, dict) and isinstance(right, dict):
        for name in sorted(left.keys() | right.keys()):
            inner = f"{path}.{name}" if path else name
            yield from _differing(left.get(name), right.get(name), inner)
    elif left != right and path:
        yield path


@contextlib.contextmanager
def failures_told() -> Iterator[None]:
    """Tells the other hosts when the block fails here, and ends when they know: they end too.

    Raises:
      UserError: the block has raised one, or another host has.
      HostDied: another host has failed otherwise.
    """
    try:
        yield
    except Exception as error:
        if count() > 1:
            lines, code = [f"{type(error).__name__}: {error}"], 1
            if isinstance(error, UserError):
                lines, code = list(error.lines), USER_ERROR
            failure = [index(), f"host {index()}: {'; '.join(lines)}", code]
            with contextlib.suppress(Exception):  # another host was the first to tell
                _client().key_value_set(FAILED, json.dumps(failure))
            _all_know()
        raise


def _all_know() -> None:
    """Waits until every host has seen that one has failed: the first holds up the coordinator."""
    with contextlib.suppress(Exception):  # one that does not come in time is ended by JAX
        _client().wait_at_barrier(FAILED, 1000 * HEARTBEAT_S)


def _wait(key: str) -> str:
    client = _client()
    while True:
        try:
            return client.blocking_key_value_get(key, POLL_MS)
        except Exception as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
        if failure := _failure():
            message, code = failure
            raise UserError(message) if code == USER_ERROR else HostDied(message)


def _failure() -> tuple[str, int] | None:
    """Returns the message of another host that has failed and its exit status, or None."""
    try:
        host, message, code = json.loads(_client().key_value_try_get(FAILED))
    except Exception:  # NOT_FOUND
        return None
    return None if host == index() else (message, code)


def _key(number: int, host: int) -> str:
    return f"msjoe/exchange/{number}/{host}"


def _client() -> Any:
    from jax._src import distributed

    return distributed.global_state.client


class Watchdog:
    """A thread that ends the run when a host lives but stands still, and names it.

    Args:
      limit: seconds without a beat on any host, after which all end.
      interval: seconds between two looks.
    """

    def __init__(self, limit: float, interval: float = 10.0) -> None:
        self._limit, self._interval = limit, interval
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if count() > 1:
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()

    def _run(self) -> None:
        me = index()
        while not self._ended.wait(self._interval):
            own = [_exchange.beats, time.monotonic() - _exchange.since, _exchange.doing]
            try:
                _client().key_value_set(f"msjoe/beat/{me}", json.dumps(own), True)
                beats = self._beats()
                failure = _failure()
            except Exception:  # the coordinator is gone: JAX ends this process
                return
            line, code = failure or (stands_still(beats, self._limit), 1)
            if line and not self._ended.wait(2 * POLL_MS / 1000):  # the main thread may see it
                print(f"error: {line}", file=sys.stderr, flush=True)
                if failure:
                    _all_know()
                else:
                    faulthandler.dump_traceback(all_threads=True)
                os._exit(code)

    def _beats(self) -> list[tuple[int, float, str] | None]:
        found: list[tuple[int, float, str] | None] = []
        for host in range(count()):
            try:
                found.append(tuple(json.loads(_client().key_value_try_get(f"msjoe/beat/{host}"))))
            except Exception:
                found.append(None)
        return found


def stands_still(beats: list[tuple[int, float, str] | None], limit: float) -> str:
    """Names the host that all wait for, if none has made progress for `limit` seconds; else "".

    Args:
      beats: of each host, how many, seconds since the last, and what it then began; None: no word.
      limit: in seconds.
    """
    known = [(*beat_, host) for host, beat_ in enumerate(beats) if beat_ is not None]
    if len(known) < len(beats) or min(seconds for _, seconds, _, _ in known) < limit:
        return ""
    least, most = min(known)[0], max(known)[0]
    late = [(host, doing) for number, _, doing, host in known if number == least]
    seconds = min(seconds for _, seconds, _, _ in known)
    if least == most:
        where = known[0][2]
        return f"all hosts stand still for {seconds:.0f} s at: {where}; the same command resumes"
    names = ", ".join(f"host {host} ({doing})" for host, doing in late)
    return (
        f"{names} stands still for {seconds:.0f} s and the others wait for it; "
        "the same command resumes from the newest checkpoint"
    )
