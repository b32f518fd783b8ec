"""Packets from which decoding may start, by their bytes; and frames at times, which rely on it."""

from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.data.video import decode, frames_at
from msjoe_jax.video import decoder as module
from msjoe_jax.video.keys import is_fresh
from tests.support.clips import make, number

X265 = "log-level=none:keyint=10:min-keyint=10"
KINDS = {
    # name, codec, options; how many of the 50 frames are fresh.
    "h264": ("a.mp4", "libx264", {"g": "10", "bf": "2", "sc_threshold": "0"}, 5),
    "h264 in ts": ("a.ts", "libx264", {"g": "10", "bf": "2", "sc_threshold": "0"}, 5),
    "h264, open": ("a.mkv", "libx264", {"x264-params": "keyint=10:open-gop=1:scenecut=0"}, 1),
    "h264, refreshed": ("a.mp4", "libx264", {"x264-params": "keyint=10:intra-refresh=1"}, 1),
    "hevc": ("a.mp4", "libx265", {"x265-params": f"{X265}:open-gop=0:scenecut=0"}, 5),
    "hevc, open": ("a.mkv", "libx265", {"x265-params": f"{X265}:scenecut=0"}, 1),
    "vp9": ("a.webm", "libvpx-vp9", {"g": "10", "cpu-used": "8"}, 5),
    "mpeg4": ("a.mp4", "mpeg4", {"g": "10", "bf": "2"}, 0),
    "mjpeg": ("a.mkv", "mjpeg", {"pixels": "yuvj420p"}, 50),
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return {
        kind: make(folder / f"{k}{name}", range(50), codec, Fraction(1, 10), rate=10, **options)
        for k, (kind, (name, codec, options, _)) in enumerate(KINDS.items())
    }


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_forgets_all_before_is_fresh(clips, kind):
    with av.open(str(clips[kind])) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        fresh = [k for k, packet in enumerate(packets) if is_fresh(packet, stream)]
    assert len(packets) == 50
    assert len(fresh) == KINDS[kind][3]
    # The oracle: a new decoder that starts there gives the very same frames.
    whole = {frame.pts: frame.to_ndarray() for frame in frames(clips[kind], 0)}
    for start in fresh[:5]:
        for frame in frames(clips[kind], start):
            np.testing.assert_array_equal(frame.to_ndarray(), whole[frame.pts])


def frames(path, start):
    with av.open(str(path)) as container:
        for k, packet in enumerate(container.demux(video=0)):
            if k >= start or not packet.size:
                yield from packet.decode()


@settings(max_examples=8)
@given(st.sampled_from(sorted(KINDS)), st.lists(st.integers(0, 5200), max_size=4), st.booleans())
def test_frames_at_times_are_those_of_the_whole(clips, kind, milliseconds, is_cut):
    times = [t / 1000 for t in milliseconds]
    module_length, module.LONGEST_GROUP = module.LONGEST_GROUP, 7 if is_cut else 1000
    try:
        got = list(frames_at(clips[kind], times))
    finally:
        module.LONGEST_GROUP = module_length
    steps = {
        t: image for t, image in decode(clips[kind], fps=1000) if round(1000 * t) in milliseconds
    }
    assert [t for t, _ in got] == sorted({t for t in times if t < 5})
    for (t, image), whole in zip(got, steps.values(), strict=True):
        assert number(image) == int(10 * t + 1e-9)
        np.testing.assert_array_equal(image, whole)


@pytest.mark.parametrize("kind", ["h264", "vp9", "mpeg4"])
def test_a_part_is_cut_from_the_whole_with_its_frame_numbers(clips, kind):
    decoding = decode(clips[kind], fps=5, start=2.5, end=4.1)
    got = [(t, number(image)) for t, image in decoding]
    assert got == [(k / 5, 25 + 2 * k) for k in range(8)]
    assert list(decoding.numbers) == [n for _, n in got]
    assert decoding.duration == pytest.approx(1.6, abs=0.002)
    assert decoding.missing == 0 and decoding.counts == {}


def test_what_is_not_wanted_is_not_decoded(clips, monkeypatch):
    decoded = []
    real = module.Decoder._frames

    def frames(self, packet):
        decoded.append(packet)
        return real(self, packet)

    monkeypatch.setattr(module.Decoder, "_frames", frames)
    ((t, image),) = frames_at(clips["h264"], [3.3])
    assert (t, number(image)) == (3.3, 33)
    # The first group tells the clock; that of 3.3 s, and the one into which it may reach.
    assert len([packet for packet in decoded if packet]) <= 30
