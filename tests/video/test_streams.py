"""Which stream is the video, how a file is opened, and what its header promises."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from msjoe_jax.data.video import decode
from msjoe_jax.video.streams import VideoError, about, name_of, opened
from tests.support.clips import HEIGHT, WIDTH, make, number, picture


def several(path, tracks):
    """A file with several videos: (codec, frames a second, frames, scale, disposition) each."""
    with av.open(str(path), "w") as container:
        streams = []
        for codec, rate, _, scale, disposition in tracks:
            stream = container.add_stream(codec, rate=rate)
            stream.width, stream.height = WIDTH * scale, HEIGHT * scale
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.disposition = disposition
            streams.append(stream)
        for place, ((_, rate, count, scale, _), stream) in enumerate(
            zip(tracks, streams, strict=True)
        ):
            for k in range(count):
                pixels = np.kron(picture(1000 * place + k), np.ones((scale, scale, 1), np.uint8))
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = k, 1 / Fraction(rate)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


NONE, DEFAULT = av.stream.Disposition(0), av.stream.Disposition.default
PICTURE = av.stream.Disposition.attached_pic
THUMBNAILS = av.stream.Disposition.timed_thumbnails


@pytest.mark.parametrize(
    ("tracks", "best"),
    [
        # A poster, default or not, first or last, larger or not, is not the video.
        ([("mjpeg", 25, 1, 1, NONE), ("mpeg4", 10, 30, 2, DEFAULT)], 1),
        ([("mjpeg", 25, 1, 4, DEFAULT), ("mpeg4", 10, 30, 1, NONE)], 1),
        ([("mpeg4", 10, 30, 1, NONE), ("mjpeg", 25, 1, 4, DEFAULT)], 0),
        # A short trailer, however large.
        ([("mpeg4", 10, 5, 4, NONE), ("mpeg4", 10, 30, 1, NONE)], 1),
        # The default, then the larger, then the first.
        ([("mpeg4", 10, 30, 2, NONE), ("mpeg4", 10, 30, 1, DEFAULT)], 1),
        ([("mpeg4", 10, 30, 1, NONE), ("mpeg4", 10, 30, 2, NONE)], 1),
        ([("mpeg4", 10, 30, 1, DEFAULT), ("mpeg4", 10, 30, 1, DEFAULT)], 0),
        # One picture alone is all there is.
        ([("mjpeg", 25, 1, 1, NONE)], 0),
    ],
)
def test_the_best_stream_moves_lasts_and_is_the_default(tmp_path, tracks, best):
    path = several(tmp_path / "a.mkv", tracks)
    decoding = decode(path)
    got = [number(image) for _, image in decoding]
    assert got == [1000 * best + 10 * t for t in range(len(got))]
    assert decoding.stream == best


def test_a_stream_may_be_chosen(tmp_path):
    tracks = [("mpeg4", 10, 30, 2, DEFAULT), ("mpeg4", 5, 30, 1, NONE)]
    path = several(tmp_path / "a.mkv", tracks)
    decoding = decode(path, stream=1)
    assert [number(image) for _, image in decoding] == [1000 + 5 * t for t in range(6)]
    assert decoding.stream == 1
    with pytest.raises(VideoError, match="stream 2 is no video; video streams: 0, 1"):
        list(decode(path, stream=2))


def test_a_file_object_is_read_from_its_start_and_left_open(tmp_path):
    path = make(tmp_path / "a.mp4", range(0, 3000, 100))
    file = io.BytesIO(path.read_bytes())
    file.seek(77)
    for _ in range(2):
        assert [number(image) for _, image in decode(file)] == [0, 10, 20]
    assert not file.closed
    with path.open("rb") as file, pytest.raises(VideoError, match=r"a\.mp4: stream 5"):
        list(decode(file, stream=5))
    assert name_of(io.BytesIO()) == "video"
    with pytest.raises(VideoError, match="video: cannot be opened"):
        list(decode(io.BytesIO(b"nothing")))


@pytest.mark.parametrize(
    ("name", "codec", "options", "is_told"),
    [
        ("a.mp4", "libx264", {"mux": {"movflags": "faststart"}}, True),
        ("a.mkv", "libx264", {}, True),
        ("a.avi", "mpeg4", {}, True),
        ("a.flv", "libx264", {}, True),
        ("a.ts", "libx264", {}, False),
        ("a.h264", "libx264", {}, False),
    ],
)
@pytest.mark.parametrize("share", [0.45, 1])
def test_what_the_header_promises_is_compared(tmp_path, name, codec, options, is_told, share):

    def draw(k):  # large, so that headers are a small share of the file
        return np.kron(picture(k), np.ones((8, 8, 1), np.uint8))

    path = make(tmp_path / name, range(60), codec, Fraction(1, 10), g="5", draw=draw, **options)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    decoding = decode(path)
    count = len(list(decoding))
    if share == 1:
        assert count == 6 and decoding.missing == 0 and "missing" not in decoding.counts
        assert (decoding.expected is not None) == is_told
        assert decoding.warnings == 0
    elif is_told:
        assert decoding.expected == pytest.approx(6, abs=0.11)
        assert decoding.missing == pytest.approx(
            1 - decoding.duration / decoding.expected, abs=0.05
        )
        assert 0.3 < decoding.missing < 0.8
        promised = round(10 * (decoding.expected - decoding.duration))
        assert abs(decoding.counts["missing"] - promised) <= 1
        assert any("promises" in note for note in decoding.notes)
    else:
        assert decoding.expected is None and decoding.missing < 0.1  # the frame that is cut


def test_sound_that_lasts_longer_takes_nothing_from_the_pictures(tmp_path):
    path = make(tmp_path / "a.mkv", range(0, 3000, 100), sound=(0, 6))
    decoding = decode(path)
    assert len(list(decoding)) == 3
    assert decoding.missing == 0 and decoding.counts == {}


def test_a_duration_of_all_ones_is_none(tmp_path):
    path = make(tmp_path / "a.mp4", range(0, 1000, 100), rate=10)
    with opened(path) as (container, stream):
        told = about(container, stream)
    assert told.index == 0 and not told.is_bare and not told.can_jump
    assert told.end == 1 and told.ends_itself and told.start == 0
