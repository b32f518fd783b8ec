"""Frames of any source: the same pictures from a file and from a folder, whole or in part."""

from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from msjoe_jax.data.decoded_source import decode_source, notes_of, source_frames_at
from msjoe_jax.data.sources import VideoSource
from msjoe_jax.data.video import VideoError

RATE, COUNT, SIZE = 10, 37, 16
LEVELS = [int(x) for x in np.linspace(20, 235, COUNT)]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same 3.7 s as a file without loss, and as a folder of pictures."""
    folder = tmp_path_factory.mktemp("both")
    (folder / "frames").mkdir()
    with av.open(str(folder / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=RATE)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "bgr0"
        for k, level in enumerate(LEVELS):
            image = np.full((SIZE, SIZE, 3), level, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="bgr0")
            frame.pts, frame.time_base = k, Fraction(1, RATE)
            container.mux(stream.encode(frame))
            Image.fromarray(image).save(folder / "frames" / f"{k}.png")
        container.mux(stream.encode(None))
    return folder


def sources(both, **part):
    return (
        VideoSource(str(both / "a.mkv"), **part),
        VideoSource(str(both / "frames"), rate=float(RATE), **part),
    )


def frames(source, fps):
    with decode_source(source, fps, None) as decoding:
        got = [(t, int(image[0, 0, 0])) for t, image in decoding]
    return got, decoding


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([1.0, 3.0, 0.5, 10.0, 2.5]),
    st.integers(0, 35),
    st.integers(1, 60),
)
def test_a_part_of_a_file_is_what_a_scan_over_its_frames_gives(both, fps, start, length):
    """Tenths of a second, as exact as fractions are."""
    part = {"start": start / 10, "end": (start + length) / 10}
    step, end = 1 / Fraction(fps), min(start + length, COUNT)
    want = []
    t = Fraction(0)
    while Fraction(start, 10) + t < Fraction(end, 10):
        number = max(k for k in range(COUNT) if Fraction(k, 10) <= Fraction(start, 10) + t)
        want.append((float(t), LEVELS[number]))
        t += step
    for source in sources(both, **part):
        got, decoding = frames(source, fps)
        assert got == want
        assert decoding.duration == pytest.approx((end - start) / 10)
        notes = notes_of(source, decoding)
        ends_before = start + length > COUNT
        assert bool(notes) == ends_before
        if ends_before:
            assert notes == (f"'end' is {part['end']:g} s, and the video ends at 3.7 s",)


def test_a_part_beyond_the_end(both):
    for source in sources(both, start=50.0):
        with pytest.raises(VideoError, match=r"3\.7 s"):
            frames(source, 1.0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 45), min_size=1, max_size=6), st.sampled_from([0, 4, 11]))
def test_frames_at_times(both, tenths, start):
    """In any order, several times the same one, some after the end."""
    for source in sources(both, start=start / 10, end=3.0):
        found = list(source_frames_at(source, [t / 10 for t in tenths]))
        assert [frame.at for frame in found] == sorted({t / 10 for t in tenths})
        for frame in found:
            number = start + round(frame.at * 10)
            if number < 30:
                assert frame.image is not None and (frame.image == LEVELS[number]).all()
            else:
                assert frame.image is None


def test_between_two_frames_the_earlier_is_shown(both):
    for source in sources(both):
        (frame,) = source_frames_at(source, [0.3999])
        assert frame.image is not None and frame.image[0, 0, 0] == LEVELS[3]


def test_times_before_the_first_picture_have_none(tmp_path):
    """Three pictures, at 2 s, 4 s and 6 s of a file whose sound begins at 0 s."""
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=1)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "bgr0"
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), "s16", "mono")
        silence.sample_rate, silence.pts = 8000, 0
        container.mux(sound.encode(silence))
        for k in (2, 4, 6):
            image = np.full((SIZE, SIZE, 3), 30 * k, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="bgr0")
            frame.pts, frame.time_base = k, Fraction(1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    source = VideoSource(str(tmp_path / "a.mkv"))
    found = source_frames_at(source, [1.0, 2.0, 3.5, 4.0, 5.9, 99.0])
    levels = [None if image is None else int(image[0, 0, 0]) for _, image in found]
    assert levels == [None, 60, 60, 120, 120, None]


def test_notes_of_a_folder(tmp_path):
    for k, size in enumerate([(8, 8), (9, 5)]):
        Image.new("RGB", size).save(tmp_path / f"{k}.png")
    (tmp_path / "2.png").write_bytes(b"")
    for k in range(22):
        (tmp_path / f"{k:02}.txt").touch()
    source = VideoSource(str(tmp_path), rate=1.0)
    _, decoding = frames(source, 1.0)
    passed_over, bars, damaged = notes_of(source, decoding)
    assert passed_over.endswith("18.txt, 19.txt and 2 more") and "00.txt, 01.txt" in passed_over
    assert bars.startswith("1 pictures have") and damaged.startswith("1 pictures cannot")
