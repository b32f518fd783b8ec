"""Progress: a bar on a terminal, few plain lines elsewhere, by a clock that the test holds."""

import io
import re
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.runtime.progress import LINE_SECONDS, progress


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def log(total=60, unit="update", initial=0):
    """A stream, its clock, and the display that prints to it."""
    stream, clock = io.StringIO(), Clock()
    return (
        stream,
        clock,
        progress("pretrain", total, unit, initial, stream=stream, clock=clock),
    )


def lines(stream):
    text = stream.getvalue()
    assert "\r" not in text and "\x1b" not in text
    assert text.endswith("\n")
    return text.splitlines()


def test_a_line_at_the_start_every_30_s_and_at_the_end():
    stream, clock, display = log()
    with display as bar:
        for step in range(60):
            clock.now += 1
            bar.update(reward=step / 100, right="0.40")
    assert lines(stream) == [
        "pretrain 0/60 update",
        "pretrain 30/60 update, 1.0 update/s, 30 s left, reward=0.29 right=0.40",
        "pretrain 60/60 update, 1.0 update/s, 0 s left, reward=0.59 right=0.40",
        "pretrain 60/60 update, 1.0 update/s, done in 1 min 0 s, reward=0.59 right=0.40",
    ]


@given(
    st.lists(st.tuples(st.floats(0, 100), st.integers(0, 5)), max_size=30),
    st.integers(0, 100),
    st.integers(0, 50),
)
def test_few_lines_and_the_last_state(updates, total, initial):
    stream, clock, display = log(total, initial=initial)
    with display as bar:
        for seconds, n in updates:
            clock.now += seconds
            bar.update(n, loss=n)
    printed = lines(stream)
    assert 2 <= len(printed) <= (clock.now - 1000) / LINE_SECONDS + 2
    assert printed[0] == f"pretrain {initial}/{total} update"
    count = initial + sum(n for _, n in updates)
    assert printed[-1].startswith(f"pretrain {count}/{total} update, ")
    assert "done in" in printed[-1]
    if updates:
        assert printed[-1].endswith(f"loss={updates[-1][1]}")


def test_what_was_done_before_does_not_count_as_speed():
    stream, clock, display = log(1000, initial=900)
    with display as bar:
        clock.now += 40
        bar.update(20)
    assert lines(stream) == [
        "pretrain 900/1000 update",
        "pretrain 920/1000 update, 0.50 update/s, 2 min 40 s left",
        "pretrain 920/1000 update, 0.50 update/s, done in 40 s",
    ]


@pytest.mark.parametrize(("total", "shown"), [(0, "0/0 update"), (None, "0 update")])
def test_nothing_to_do_and_nobody_knows_how_much(total, shown):
    stream, _, display = log(total)
    with display:
        pass
    assert lines(stream) == [f"pretrain {shown}", f"pretrain {shown}, done in 0 s"]


def test_an_unknown_total_has_a_speed_but_no_end():
    stream, clock, display = log(None)
    with display as bar:
        clock.now += 30
        bar.update(3000)
    assert lines(stream)[1] == "pretrain 3000 update, 100 update/s"


def test_bytes_are_scaled():
    stream, clock, display = log(16_500_000_000, "B", initial=2_000)
    with display as bar:
        clock.now += 50
        bar.update(5_000_000_000)
    assert lines(stream) == [
        "pretrain 2.0 kB/16 GB",
        "pretrain 5.0 GB/16 GB, 100 MB/s, 1 min 55 s left",
        "pretrain 5.0 GB/16 GB, 100 MB/s, done in 50 s",
    ]


@pytest.mark.parametrize(
    ("count", "seconds", "shown"),
    [
        (1, 7200, "7200 s/update, 118 h 0 min left"),
        (2, 40, "20 s/update, 19 min 20 s left"),
        (6, 60, "0.10 update/s, 9 min 0 s left"),
        (12, 60, "0.20 update/s, 4 min 0 s left"),
    ],
)
def test_slow_work_is_shown_in_seconds_a_unit(count, seconds, shown):
    stream, clock, display = log(60)
    with display as bar:
        clock.now += seconds
        bar.update(count)
    assert lines(stream)[1] == f"pretrain {count}/60 update, {shown}"


def test_metrics_are_kept_and_read_as_numbers():
    stream, clock, display = log()
    with display as bar:
        bar.metrics(a=1, b=np.float32(1 / 3), c="x")
        clock.now += 31
        bar.update(b=np.array(2.0))
    assert lines(stream)[1].endswith("a=1 b=2 c=x")


def test_a_message_has_its_own_line():
    for stream in (io.StringIO(), Terminal()):
        with progress("work", 3, stream=stream) as bar:
            bar.update()
            bar.write("careful: the bar is hot")
            bar.update()
        assert "careful: the bar is hot" in re.split(r"[\r\n]", stream.getvalue())


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_says_how_far_it_came_and_leaves_a_clean_line(error):
    stream, clock, display = log()
    with pytest.raises(error), display as bar:
        clock.now += 2
        bar.update(5)
        raise error
    assert lines(stream)[-1] == "pretrain 5/60 update, 2.5 update/s, stopped after 2 s"
    terminal = Terminal()
    with pytest.raises(error), progress("work", 3, stream=terminal) as bar:
        bar.update()
        raise error
    assert terminal.getvalue().endswith("\n")


def test_a_terminal_gets_a_bar():
    terminal = Terminal()
    with progress("work", 4, unit="frame", initial=1, stream=terminal) as bar:
        bar.update(3, loss=0.25, name="a")
    last = terminal.getvalue().split("\r")[-1]
    assert "work: 100%" in last and "4/4" in last and "loss=0.25 name=a" in last
    assert last.endswith("\n") and "\n" not in last[:-1]


def test_stderr_is_the_default(capsys):
    with progress("work", 1) as bar:
        bar.update()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[0] == "work 0/1 step"


def test_many_threads_lose_no_update():
    stream, _, display = log(4000, initial=0)
    with display as bar:

        def work():
            for _ in range(500):
                bar.update()

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert lines(stream)[-1].startswith("pretrain 4000/4000 update")


def test_a_total_that_is_known_later():
    stream, clock, display = log(None, "s of video")
    with display as bar:
        clock.now += 10
        bar.expect(100)
        bar.update(10)
        clock.now += 20
        bar.update(20)
        bar.expect(30)
    assert lines(stream)[:2] == [
        "pretrain 0 s of video",
        "pretrain 30/100 s of video, 1.0 s of video/s, 1 min 10 s left",
    ]
    assert lines(stream)[2].startswith("pretrain 30/30 s of video")


def test_a_bar_shows_a_total_that_is_known_later():
    stream = Terminal()
    with progress("decode", None, "s", stream=stream) as bar:
        bar.expect(8)
        bar.update(4)
        bar.expect(4)
    assert "4/4" in stream.getvalue()
