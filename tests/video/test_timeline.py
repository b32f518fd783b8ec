"""Clocks that jump: joined files, leaps, and slides whose long steps are healthy."""

from fractions import Fraction

import av
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from msjoe_jax.data.video import decode
from msjoe_jax.video.findings import Findings
from msjoe_jax.video.streams import About
from msjoe_jax.video.timeline import Coverage, Timeline
from tests.support.clips import make, number

THREE = range(0, 3000, 40)  # 3 s of 25 frames a second


def numbers(path, **flags):
    decoding = decode(path, **flags)
    return [(t, number(image)) for t, image in decoding], decoding


def joined(tmp_path, name, codec, offsets, **options):
    """Clips of 3 s whose stamps begin at these milliseconds, one after the other in one file."""
    whole = tmp_path / f"joined{name}"
    with whole.open("wb") as file:
        for k, offset in enumerate(offsets):
            # Bare milliseconds leave the packets without durations.
            base = Fraction(1, 1000 if codec == "libx264" else 25)
            stamps = [round((offset + stamp) / 1000 / base) for stamp in THREE]
            part = tmp_path / f"{k}{name}"
            make(part, stamps, codec, base, rate=25, first=75 * k, **options)
            file.write(part.read_bytes())
    return whole


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        (".ts", "libx264", {"bf": "2", "preset": "ultrafast"}),
        (".ts", "mpeg2video", {"bf": "2"}),
        (".mpg", "mpeg2video", {"bf": "2"}),
        (".webm", "libvpx", {"cpu-used": "8"}),
    ],
)
@pytest.mark.parametrize("offsets", [(0, 0), (0, 100_000), (100_000, 0, 720)])
def test_parts_that_were_joined_follow_each_other(tmp_path, name, codec, options, offsets):
    if name == ".webm" and offsets[0] != offsets[-1]:
        pytest.skip("a leap in Matroska is a still picture: its header need not hold it")
    got, decoding = numbers(joined(tmp_path, name, codec, offsets, **options))
    # The first frame may come late by the coder's delay.
    assert got == [(float(t), 25 * t) for t in range(3 * len(offsets))]
    assert decoding.counts == {"discontinuities": len(offsets) - 1}
    assert decoding.duration == pytest.approx(3 * len(offsets), abs=0.05)
    assert any("jumps" in note for note in decoding.notes)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.mov"])
def test_slides_stay_as_long_as_they_say(tmp_path, name):
    path = make(tmp_path / name, range(3), base=Fraction(7200), rate=Fraction(1, 7200))
    got, decoding = numbers(path, fps=1 / 600)
    assert got == [(600.0 * k, k // 12) for k in range(36)]
    assert decoding.counts == {} and decoding.duration == 21_600


def test_slides_of_a_joinable_format_need_no_rate(tmp_path):
    seconds = [0, 20, 55, 61, 120, 122]
    path = make(tmp_path / "a.ts", [1000 * s for s in seconds], rate=25, bf="0")
    got, decoding = numbers(path)
    assert [n for _, n in got[:123]] == [sum(s <= t for s in seconds) - 1 for t in range(123)]
    assert decoding.counts == {}


def test_sound_that_goes_on_explains_a_still_picture(tmp_path):
    stamps = [*range(0, 2000, 40), *range(42_000, 44_000, 40)]
    path = make(tmp_path / "a.ts", stamps, rate=25, bf="0", g="50", sound=(0, 44))
    got, decoding = numbers(path)
    assert [n for _, n in got] == [0, 25, *[49] * 40, 50, 75]
    assert decoding.counts == {}


def test_sound_that_leaps_too_does_not(tmp_path):
    parts = []
    for k, offset in enumerate((0, 42)):
        stamps = [1000 * offset + stamp for stamp in THREE]
        parts.append(tmp_path / f"{k}.ts")
        make(parts[-1], stamps, rate=25, first=75 * k, sound=(offset, offset + 3))
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    got, decoding = numbers(path)
    assert [n for _, n in got] == [25 * t for t in range(6)]
    assert decoding.counts["discontinuities"] == 1


# --- the clock alone ------------------------------------------------------------------------------

ABOUT = About(
    kind="mpegts",
    index=0, base=Fraction(1, 1000), aspect=Fraction(1), can_jump=True, is_bare=False,
    start=None, end=None, ends_itself=False, stated_rate=Fraction(25), rate=Fraction(25),
)  # fmt: skip


class Packets:
    """A container of one stream."""

    class streams:
        pass

    def __init__(self, stamps, keys=()):
        self.streams, self.stamps, self.keys = [], stamps, keys

    def demux(self):
        for place, stamp in enumerate(self.stamps):
            packet = av.Packet(b"x")
            packet.pts = packet.dts = stamp
            packet.duration, packet.time_base = 40, Fraction(1, 1000)
            packet.is_keyframe = place in self.keys
            yield packet


def moved(stamps, keys=(), about=ABOUT):
    findings = Findings()
    timeline = Timeline(Packets(stamps, keys), about, findings)
    return [packet.pts for packet in timeline.packets()], dict(findings.counts)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 10**9), st.integers(5, 90)), min_size=1, max_size=6))
@example([(1, 5), (61, 5)])  # the second begins two frames before the first ends
def test_any_parts_make_one_clock(parts):
    stamps, keys, jumps, end = [], [], 0, None
    for start, count in parts:
        if end is not None and 0 <= start - end <= 1000:
            start = end + 5000
        jumps += end is not None
        keys.append(len(stamps))
        stamps += [start + 40 * k for k in range(count)]
        end = stamps[-1] + 40
    got, counts = moved(stamps, keys)
    assert got == [stamps[0] + 40 * k for k in range(len(stamps))]
    assert counts.get("discontinuities", 0) == jumps


@pytest.mark.parametrize("stray", [7, 10**8, 900])
def test_a_single_false_stamp_moves_nothing_else(stray):
    stamps = [2000 + 40 * k for k in range(50)]
    right = list(stamps)
    stamps[20] = stray
    assert moved(stamps) == (right, {"false_stamps": 1})


def test_a_key_frame_with_the_stamp_before_it_moves_nothing_else():
    stamps = [2000 + 40 * k for k in range(50)]
    right = list(stamps)
    stamps[20] = stamps[19]
    assert moved(stamps, keys=(0, 20)) == (right, {"false_stamps": 1})


def test_where_files_cannot_be_joined_a_header_decides():
    stamps = [40 * k for k in range(30)] + [10**8 + 40 * k for k in range(30)]
    about = ABOUT.__class__(**{**vars(ABOUT), "can_jump": False})
    assert moved(stamps, about=about)[1] == {"discontinuities": 1}  # 28 hours
    told = ABOUT.__class__(**{**vars(about), "end": Fraction(100_002)})
    assert moved(stamps, about=told) == (stamps, {})
    short = ABOUT.__class__(**{**vars(about), "end": Fraction(3)})
    assert moved(stamps, about=short)[1] == {"discontinuities": 1}


def test_a_stream_that_turns_up_on_the_way_ends_nothing_early():
    class Growing(Packets):
        def demux(self):
            yield from super().demux()
            raise IndexError("list index out of range")  # as PyAV does at the end of such a file

    timeline = Timeline(Growing([0, 40, 80]), ABOUT, Findings())
    assert [packet.pts for packet in timeline.packets()] == [0, 40, 80]


def test_coverage_forgets_a_clock_that_restarts():
    coverage = Coverage()

    def add(start, end):
        packet = av.Packet(b"x")
        packet.pts, packet.duration, packet.time_base = start, end - start, Fraction(1)
        coverage.add(packet)

    add(0, 50)
    add(50, 100)
    assert coverage.holds(Fraction(10), Fraction(90))
    assert not coverage.holds(Fraction(10), Fraction(200))
    add(0, 5)
    assert not coverage.holds(Fraction(10), Fraction(90))
