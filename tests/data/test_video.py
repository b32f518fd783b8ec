"""Decoding: the frame on screen at each second, whatever the container, the clock and the damage.

The clips are made here, each frame carrying its number as an 8×2 grid of black and white blocks,
which survives any codec; what must be shown at t is found by a plain scan over the stamps.
"""

import itertools
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msjoe_jax.data.video import VideoError, decode
from msjoe_jax.errors import UserError
from tests.support.clips import HEIGHT, WIDTH, make, number, picture
from tests.support.material import BROKEN_VIDEOS, MATERIAL, needs_material


def shown(times, count, fps):
    """Numbers on screen at 0, 1/fps, … before the last frame's start (times from 0, in order)."""
    wanted = itertools.takewhile(lambda t: t <= times[-1], (k / fps for k in itertools.count()))
    return [max(k for k in range(count) if times[k] <= t) for t in wanted]


def check(path, stamps, base, fps, tolerance=0):
    """`tolerance`: seconds by which the container rounds stamps; frames that close may swap."""
    times = [(s - stamps[0]) * base for s in stamps]
    decoding = decode(path, float(fps))
    got = list(decoding)
    assert decoding.warnings == 0
    want = shown(times, len(stamps), fps)
    assert [t for t, _ in got] == [float(k / fps) for k in range(len(got))]
    for k, expected in enumerate(want):
        near = [abs(time - k / fps) for time in times]
        if min(near) > tolerance:
            assert number(got[k][1]) == expected, f"at {float(k / fps)} s"
    # Past the last start, only the last frame, for as long as it lasts.
    assert {number(image) for _, image in got[len(want) :]} <= {len(stamps) - 1}
    assert decoding.duration >= times[-1] - tolerance
    assert len(got) == np.ceil(Fraction(decoding.duration).limit_denominator(100_000) * fps)
    return decoding


@pytest.mark.parametrize(
    ("name", "codec", "tolerance"),
    [
        ("a.mp4", "libx264", 0),
        ("a.mkv", "libx264", 0.001),  # Matroska keeps milliseconds
        ("a.webm", "libvpx-vp9", 0.001),
        ("a.avi", "mpeg4", 0),
        ("a.mov", "mpeg4", 0),
    ],
)
@pytest.mark.parametrize("rate", [Fraction(10), Fraction(30000, 1001)])
def test_constant_rate(tmp_path, name, codec, tolerance, rate):
    stamps = list(range(round(3.3 * rate)))
    make(tmp_path / name, stamps, codec, 1 / rate, rate=rate)
    for fps in (Fraction(1), Fraction(5, 2)):
        decoding = check(tmp_path / name, stamps, 1 / rate, fps, tolerance)
        assert decoding.duration == pytest.approx(float(len(stamps) / rate), abs=0.05)
        assert decoding.rate == pytest.approx(float(rate), rel=2e-3)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.integers(1, 2500), min_size=1, max_size=30),
    st.sampled_from([Fraction(1), Fraction(3), Fraction(1, 2)]),
    st.booleans(),
)
def test_variable_rate(tmp_path_factory, gaps, fps, reorder):
    stamps = [0, *itertools.accumulate(gaps)]
    path = tmp_path_factory.mktemp("vfr") / "a.mp4"
    make(path, stamps, bf="2" if reorder else "0")
    check(path, stamps, Fraction(1, 1000), fps)


def test_a_clock_that_starts_late(tmp_path):
    stamps = [60_000 + 100 * k for k in range(25)]
    check(make(tmp_path / "a.ts", stamps, "mpeg4"), stamps, Fraction(1, 1000), Fraction(1), 1e-4)


@pytest.mark.parametrize("turn", [90, 180, -90])
def test_rotation_is_applied(tmp_path, turn):
    path = make(tmp_path / "a.mp4", [0, 100, 200], turn=turn)
    ((_, image),) = decode(path)
    assert image.shape == ((WIDTH, HEIGHT, 3) if turn % 180 else (HEIGHT, WIDTH, 3))
    (_, (_, image)) = decode(make(tmp_path / "b.mp4", [0, 100], turn=turn), fps=10)
    white = np.argwhere(image[..., 0] > 127).mean(0) / image.shape[:2]
    assert picture(1)[:16, :16].min() == 255  # frame 1 is white in the top left block alone
    corner = {90: (1, 0), 180: (1, 1), -90: (0, 1)}[turn]  # counter-clockwise from the top left
    assert np.abs(white - corner).max() < 0.3


def test_pixel_aspect_and_max_side(tmp_path):
    path = make(tmp_path / "a.mkv", [0, 100], aspect=Fraction(1, 2))
    assert next(decode(path))[1].shape == (HEIGHT, WIDTH // 2, 3)
    assert next(decode(path, max_side=32))[1].shape == (16, 32, 3)
    path = make(tmp_path / "b.mkv", [0, 100], aspect=Fraction(2))
    assert next(decode(path))[1].shape == (HEIGHT // 2, WIDTH, 3)
    path = make(tmp_path / "c.mkv", list(range(0, 3000, 100)))
    small = list(decode(path, max_side=64))
    assert [number(image) for _, image in small] == [0, 10, 20]
    assert small[0][1].shape == (16, 64, 3)
    assert next(decode(path, max_side=4000))[1].shape == (HEIGHT, WIDTH, 3)  # never enlarged


def test_max_frames_and_bad_rates(tmp_path):
    path = make(tmp_path / "a.mp4", list(range(0, 3000, 100)))
    assert [number(image) for _, image in decode(path, max_frames=2)] == [0, 10]
    for fps in (0, -1, float("nan")):
        with pytest.raises(UserError, match="fps"):
            decode(path, fps=fps)


def test_a_still_last_frame_lasts_as_long_as_the_file_says(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height = WIDTH, HEIGHT
        for k, (stamp, lasts) in enumerate([(0, 100), (100, 4900)]):
            frame = av.VideoFrame.from_ndarray(picture(k), format="rgb24").reformat(
                format="yuv420p"
            )
            frame.pts, frame.time_base, frame.duration = stamp, Fraction(1, 1000), lasts
            for packet in stream.encode(frame):
                packet.duration = round(lasts / 1000 / packet.time_base)
                container.mux(packet)
        container.mux(stream.encode(None))
    decoding = decode(path)
    assert [number(image) for _, image in decoding] == [0, 1, 1, 1, 1]
    assert decoding.duration == 5


@pytest.mark.parametrize("cut", [0.4, 0.6])
def test_a_truncated_file_gives_what_it_has(tmp_path, cut):
    stamps = list(range(0, 6000, 100))
    for name, options in [("a.mkv", {}), ("a.mp4", {"mux": {"movflags": "faststart"}})]:
        path = make(tmp_path / name, stamps, "mpeg4", g="1", **options)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * cut)])
        got = [number(image) for _, image in decode(path)]
        assert 1 <= len(got) < 6
        assert got == [10 * t for t in range(len(got))]


def test_damage_in_the_middle_costs_only_its_own_frames(tmp_path):
    stamps = list(range(0, 9000, 100))
    path = make(tmp_path / "a.mkv", stamps, "ffv1", g="1", slicecrc="1")
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    middle = slice(int(len(data) * 0.5), int(len(data) * 0.55))
    data[middle] = rng.integers(0, 256, middle.stop - middle.start, np.uint8).tobytes()
    path.write_bytes(data)
    decoding = decode(path)
    got = list(decoding)
    assert decoding.warnings > 0
    assert [t for t, _ in got] == [float(t) for t in range(len(got))]
    for k in (0, 1, 2, 3, 7, 8):
        assert number(got[k][1]) == 10 * k


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be opened"),
        (b"", "cannot be opened"),
        (b"no video at all\n" * 40, "cannot be opened"),
        (b"\x00\x00\x00\x18ftypmp42" + bytes(400), "cannot be opened"),
    ],
)
def test_what_is_no_video_is_one_line_with_file_and_reason(tmp_path, content, said):
    path = tmp_path / "a.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VideoError, match=said) as caught:
        list(decode(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_frame_after_a_lost_head_is_kept(tmp_path):
    path = make(tmp_path / "a.mkv", list(range(0, 3500, 100)), "ffv1", g="1", slicecrc="1")
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        data = bytearray(path.read_bytes())
        for packet in packets[:-2] + packets[-1:]:
            start = data.find(bytes(packet))
            data[start + 8 : start + packet.size] = b"\xff" * (packet.size - 8)
    path.write_bytes(data)
    decoding = decode(path)
    assert [(t, number(image)) for t, image in decoding] == [(3.3, 33)]


def test_audio_alone(tmp_path):
    path = tmp_path / "a.mka"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="no video stream"):
        list(decode(path))


# (seconds at 1 fps, height, width) from the MANIFEST's duration, frames and pixel aspect; a file
# whose header and frames disagree (its audio is longer, say) goes by its frames.
REAL = {
    "videos/one-by-one-person-detection.mp4": (140, 432, 768),
    "videos/ma-lmm_video.mp4": (71, 360, 640),
    "videos/kitchen.mp4": (42, 480, 640),
    "videos/monkey.mp4": (17, 240, 320),
    "videos/flipping_a_pancake.mkv": (11, 240, 426),
    "videos/skateboarding_dog.mp4": (15, 1024, 576),
    "videos/mpeg4_mp3.avi": (7, 240, 320),
    "videos/h263_vfr_desks.3gp": (6, 264, 352),
    "videos/exo_rot90_352x288.mp4": (1, 352, 288),
    "videos/av1_aac.mp4": (2, 720, 1080),
    "videos/bear-vp9.webm": (3, 240, 320),
    "videos/h264.flv": (2, 720, 1080),
    "videos/h265_video.mp4": (1, 128, 128),
    "videos/rot_90.mov": (1, 568, 320),
    "broken_videos/corrupted.mp4": (5, 720, 1280),
    "broken_videos/fragmented_bogus_duration.mp4": (2, 720, 1080),
}


@needs_material
@pytest.mark.parametrize("name", REAL)
def test_real_videos(name):
    count, height, width = REAL[name]
    decoding = decode(MATERIAL / name)
    got = [(t, image.shape, image.std()) for t, image in decoding]
    assert [t for t, _, _ in got] == [float(t) for t in range(count)]
    assert {shape for _, shape, _ in got} == {(height, width, 3)}
    assert all(spread > 5 for _, _, spread in got)  # a picture, not a grey field
    assert count - 1 < decoding.duration <= count
    damaged = {"broken_videos/corrupted.mp4": 2, "videos/mpeg4_mp3.avi": 1}
    assert decoding.warnings <= damaged.get(name, 0)


@needs_material
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("audio_only_opus.mp4", "no video stream"),
        ("header_only_231s.mp4", "no frame could be decoded"),
        ("invalid-bitstream.webm", "no frame could be decoded"),
    ],
)
def test_real_broken_videos(name, said):
    with pytest.raises(VideoError, match=said):
        list(decode(BROKEN_VIDEOS / name))


# --- by number ------------------------------------------------------------------------------------


def test_frames_by_their_numbers(tmp_path):
    stamps = [0, 100, 150, 400, 500, 900]
    clip = make(tmp_path / "clip.mkv", stamps)
    count, rate = decode(clip).count()
    assert count == len(stamps) and rate > 0
    assert [number(image) for image in decode(clip).numbered([0, 2, 3])] == [0, 2, 3]
    steady = make(tmp_path / "steady.mp4", range(0, 2000, 100))
    assert decode(steady).count() == (20, 10.0)
    (tmp_path / "none.mp4").write_bytes(b"")
    with pytest.raises(VideoError, match=r"none\.mp4"):
        decode(tmp_path / "none.mp4").count()


@needs_material
def test_a_file_of_packed_frames_is_counted_as_it_is_shown():
    assert decode(MATERIAL / "videos" / "mpeg4_mp3.avi").count() == (164, 25.0)
