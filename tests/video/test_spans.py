"""The player's clock: first and last pictures, edit lists, bare streams."""

from fractions import Fraction

import av
import numpy as np
import pytest

from msjoe_jax.data.video import decode
from msjoe_jax.video.spans import BestStamp
from tests.support.clips import make, number

EVERYWHERE = [
    ("a.mp4", "libx264"),
    ("a.mov", "libx264"),
    ("a.mkv", "libx264"),
    ("a.ts", "libx264"),
    ("a.flv", "libx264"),
    ("a.webm", "libvpx"),
]


@pytest.mark.parametrize(("name", "codec"), EVERYWHERE)
def test_a_late_first_picture_keeps_its_time_in_every_container(tmp_path, name, codec):
    stamps = range(5000, 8200, 40)
    path = make(tmp_path / name, stamps, codec, rate=25, sound=(0, 9), bf="0")
    decoding = decode(path)
    assert [(t, number(image)) for t, image in decoding] == [(5, 0), (6, 25), (7, 50), (8, 75)]
    assert decoding.duration == pytest.approx(8.2, abs=0.002)
    assert decoding.counts == {}


@pytest.mark.parametrize(("name", "codec"), EVERYWHERE)
def test_a_first_picture_within_a_second_is_time_0(tmp_path, name, codec):
    path = make(tmp_path / name, range(720, 3720, 40), codec, rate=25, sound=(0, 4), bf="0")
    decoding = decode(path)
    assert [(t, number(image)) for t, image in decoding] == [(0, 0), (1, 25), (2, 50)]
    assert decoding.duration == pytest.approx(3, abs=0.002)


def test_pictures_that_an_edit_list_cuts_are_not_shown(tmp_path):
    # The first half second stands before time 0, for the decoder alone.
    make(tmp_path / "whole.mp4", range(0, 3000, 40), rate=25, bf="2")
    path = tmp_path / "cut.mp4"
    with av.open(str(tmp_path / "whole.mp4")) as whole, av.open(str(path), "w") as cut:
        stream = cut.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.size:
                half = round(0.48 / packet.time_base)
                packet.pts, packet.dts = packet.pts - half, packet.dts - half
                packet.stream = stream
                cut.mux(packet)
    decoding = decode(path)
    assert [(t, number(image)) for t, image in decoding] == [(0, 12), (1, 37), (2, 62)]
    assert decoding.duration == pytest.approx(2.52, abs=0.001)
    assert decoding.counts == {} and decoding.missing == 0


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.h264", "libx264", {"bf": "2"}),
        ("a.hevc", "libx265", {"x265-params": "log-level=none"}),
        ("a.m2v", "mpeg2video", {"bf": "2"}),
    ],
)
def test_a_bare_stream_runs_at_its_coders_rate(tmp_path, name, codec, options):
    path = make(tmp_path / name, range(150), codec, Fraction(1, 50), rate=50, **options)
    decoding = decode(path)
    assert [(t, number(image)) for t, image in decoding] == [(0, 0), (1, 50), (2, 100)]
    assert decoding.duration == 3 and decoding.rate == 50 and decoding.counts == {}
    assert decode(path).count() == (150, 50)


def test_a_bare_stream_of_no_rate_is_told(tmp_path):
    path = make(
        tmp_path / "a.mjpeg", range(75), "mjpeg", Fraction(1, 50), rate=50, pixels="yuvj420p"
    )
    decoding = decode(path)
    assert [(t, number(image)) for t, image in decoding] == [(0, 0), (1, 25), (2, 50)]
    assert decoding.counts == {"assumed_rate": 1} and decoding.rate == 25
    assert decoding.warnings == 0 and "25" in decoding.notes[0]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_the_last_frame_lasts_as_its_packet_says(tmp_path, name):
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuvj420p"
        for stamp, lasts in ((0, 2500), (2500, 40)):
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), "rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, 1000)
            for packet in stream.encode(frame):
                packet.duration = round(lasts / 1000 / packet.time_base)
                container.mux(packet)
    decoding = decode(path)
    list(decoding)
    assert decoding.duration == pytest.approx(2.54, abs=0.1)


def test_stamps_of_the_kind_that_runs_back_less_are_believed():
    best = BestStamp()

    def stamp(pts, dts):
        frame = av.VideoFrame(16, 16)
        frame.pts, frame.dts = pts, dts
        return best.stamp(frame)

    assert [stamp(0, 0), stamp(2, 1), stamp(1, 2), stamp(None, 3)] == [0, 2, 2, 3]
    assert BestStamp().stamp(av.VideoFrame(16, 16)) is None
