"""Hosts exchange values, decide as one, and end as one; several are processes on this machine."""

import contextlib
import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.errors import UserError
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.supervisor import held_port
from tests.support.processes import ended, start

# --- one host -------------------------------------------------------------------------------------


def test_one_host_is_all_hosts():
    assert (hosts.count(), hosts.index(), hosts.is_first()) == (1, 0, True)
    assert hosts.gather({"a": 1}, "values") == [{"a": 1}]
    assert hosts.merge({3: "c", 1: "a"}, "values") == {1: "a", 3: "c"}
    assert hosts.total([1, 2.5], "counts") == [1, 2.5]
    assert hosts.on_first(lambda: 5, "work") == 5
    hosts.agree("x", "the config")


def test_flags_that_do_not_go_together():
    for where, said in [
        (("here:1",), "go together"),
        (("", 2), "go together"),
        (("", 0, 1), "go together"),
        (("here:1", 0, 0), "--hosts=1 or more"),
        (("here", 2, 0), "--coordinator=here: give ADDRESS:PORT"),
        (("here:1", 2, 2), "--host=2: the last of --hosts=2 is 1"),
    ]:
        with pytest.raises(UserError, match=said):
            hosts.connect(*where)


# --- who stands still -----------------------------------------------------------------------------

BEATS = st.tuples(st.integers(0, 50), st.floats(0, 100), st.just("reading"))


@given(st.lists(BEATS, min_size=2, max_size=6), st.floats(1, 200))
def test_a_host_stands_still_only_when_none_goes_on(beats, limit):
    line = hosts.stands_still(beats, limit)
    assert bool(line) == all(seconds >= limit for _, seconds, _ in beats)
    if line:
        least = min(number for number, _, _ in beats)
        if least < max(number for number, _, _ in beats):
            for host, (number, _, _) in enumerate(beats):
                assert (f"host {host} (reading)" in line) == (number == least)


def test_a_host_without_a_word_is_still_starting():
    assert hosts.stands_still([(5, 100.0, "x"), None], 10) == ""


# --- several --------------------------------------------------------------------------------------

CASES = {"exchange": 3, "failure": 2, "crash": 2, "still": 2}


def main(case, port, number, host):
    """One of several hosts."""
    number, host = int(number), int(host)
    hosts.connect(f"localhost:{port}", number, host)
    watch = hosts.Watchdog(4.0, interval=0.5) if case == "still" else hosts.Watchdog(600.0)
    with watch, hosts.failures_told():
        globals()[f"case_{case}"](host)


def case_exchange(host):
    import jax

    from msjoe_jax.runtime.machine import fetch, make_machine
    from msjoe_jax.runtime.mesh import MeshConfig

    out = {"gather": [hosts.gather([host, i], "values") for i in range(20)]}
    out["first"] = hosts.on_first(lambda: host, "work")
    out["merge"] = hosts.merge({10 - host: f"of {host}", 5: f"of {host}"}, "rows")
    out["total"] = hosts.total([host, 1], "counts")
    out["large"] = len(hosts.gather("x" * 5_000_000, "much")[1])
    try:
        hosts.on_first(lambda: raise_(UserError("first", "second")), "work")
    except UserError as error:
        out["error"] = list(error.lines)
    try:
        hosts.agree({"a": 1, "b": {"c": host == 1, "d": 2}}, "the config")
    except UserError as error:
        out["agree"] = str(error)
    for sizes in ((1, 6, 1), (1, 3, 2), (2, 1, 3)):  # the last two: hosts share rows
        machine = make_machine(MeshConfig(*sizes))
        whole = np.arange(24.0).reshape(12, 2)
        rows = machine.rows(12)
        placed = machine.put({"x": whole[rows], "n": np.float32(3)})
        total = jax.jit(lambda t: t["x"].sum(), out_shardings=machine.whole)(placed)
        assert fetch(total) == whole.sum() and placed["x"].shape == (12, 2)
        np.testing.assert_array_equal(fetch(placed)["x"], whole[rows])
        held = hosts.merge({int(r): int(r) for r in rows}, "rows")
        assert list(held) == list(range(12))
        out[f"rows {sizes}"] = rows.tolist()
    print(json.dumps(out))


def raise_(error):
    raise error


def case_failure(host):
    if host == 1:
        raise UserError("file.json: broken")
    for i in range(1000):
        hosts.gather(i, "a value")


def case_crash(host):
    if host == 0:
        raise ZeroDivisionError("by hand")
    hosts.gather(1, "a value")


def case_still(host):
    import time

    hosts.gather(1, "the first value")
    hosts.beat("reading video 7")
    if host == 1:
        time.sleep(600)
    hosts.beat("what follows")
    hosts.gather(2, "the second value")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """All cases at once: most of their time is waiting."""
    folder = tmp_path_factory.mktemp("hosts")
    running = {}
    with contextlib.ExitStack() as ports:
        for case, number in CASES.items():
            port = ports.enter_context(held_port())
            lines = [(__file__, case, port, number, host) for host in range(number)]
            running[case] = start(lines, folder / case, devices=2)
        return {case: ended(started, folder / case) for case, started in running.items()}


@pytest.mark.slow
def test_values_are_exchanged_in_order(results):
    assert [one.status for one in results["exchange"]] == [0, 0, 0], results["exchange"][0].err
    outs = [json.loads(one.out.splitlines()[-1]) for one in results["exchange"]]  # after Gloo's
    rows = {name: [out.pop(name) for out in outs] for name in list(outs[0]) if "rows" in name}
    assert outs[0] == outs[1] == outs[2]
    assert outs[0]["gather"] == [[[h, i] for h in range(3)] for i in range(20)]
    assert outs[0]["first"] == 0 and outs[0]["total"] == [3, 3] and outs[0]["large"] == 5_000_000
    assert outs[0]["merge"] == {"5": "of 0", "8": "of 2", "9": "of 1", "10": "of 0"}
    assert outs[0]["error"] == ["first", "second"]
    assert outs[0]["agree"] == ("hosts disagree on the config: host 1 and host 0 differ in b.c")
    assert rows["rows (1, 6, 1)"] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert rows["rows (1, 3, 2)"] == rows["rows (1, 6, 1)"]
    assert rows["rows (2, 1, 3)"] == [list(range(6)), list(range(12)), list(range(6, 12))]


@pytest.mark.slow
def test_one_host_that_fails_ends_all_with_its_line(results):
    for one in results["failure"]:
        assert "UserError: " in one.err and "file.json: broken" in one.err
        assert one.status == 1  # a traceback: run_cli is not in this test
    assert "host 1: file.json: broken" in results["failure"][0].err
    assert "HostDied: host 0: ZeroDivisionError: by hand" in results["crash"][1].err


@pytest.mark.slow
def test_a_host_that_stands_still_is_named(results):
    said = [one.err for one in results["still"]]
    assert any("host 1 (reading video 7) stands still for" in text for text in said), said
    assert all(one.status != 0 for one in results["still"])
    assert "Thread" in "".join(said)  # where every thread was


if __name__ == "__main__":
    main(*sys.argv[1:])
