"""Sound tracks: what was played comes back at its time, whatever the rate and the channels."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from msjoe_jax.data.manifest import load_entries
from msjoe_jax.data.predecode import DecodeSettings, decode_part, resume
from msjoe_jax.data.questions import Subtitle
from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.sound import RATE, sound_of, sound_track
from msjoe_jax.data.sources import VideoSource
from msjoe_jax.data.video import decode
from tests.support.tiny import tiny_video


def write_video(path, sounds, rate=44_100, codec="pcm_s16le", seconds=4, layout="stereo", first=0):
    """A video of 5 frames a second; sounds: (start, end, frequency) of packets of sine waves.

    first: the number of the first frame.
    """
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("mpeg4", rate=5)
        pictures.width = pictures.height = 32
        pictures.pix_fmt = "yuv420p"
        stream = container.add_stream(codec, rate=rate, layout=layout)
        for t in range(5 * seconds):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 9 * t, np.uint8))
            frame.pts, frame.time_base = first + t, Fraction(1, 5)
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode(None))
        channels = len(stream.layout.channels)
        for start, end, frequency in sounds:
            times = np.arange(round(start * rate), round(end * rate)) / rate
            wave = (8000 * np.sin(2 * np.pi * frequency * times)).astype(np.int16)
            for first in range(0, len(wave), 1024):
                block = np.repeat(wave[first : first + 1024], channels)
                frame = av.AudioFrame.from_ndarray(block[None], format="s16", layout=layout)
                frame.sample_rate, frame.pts = rate, round(start * rate) + first
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def decoded(flac):
    with av.open(io.BytesIO(flac)) as container:
        stream = container.streams.audio[0]
        assert (stream.codec.name, stream.rate, stream.layout.name) == ("flac", RATE, "mono")
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(stream)])


def sine(start, end, frequency):
    """The samples that the sound should have, in float64."""
    return 8000 * np.sin(2 * np.pi * frequency * np.arange(start * RATE, end * RATE) / RATE)


@pytest.mark.parametrize(
    ("rate", "layout"), [(44_100, "stereo"), (16_000, "mono"), (8_000, "mono")]
)
def test_a_tone_comes_back_in_time(tmp_path, rate, layout):
    write_video(tmp_path / "a.mkv", [(0, 4, 440)], rate, layout=layout)
    sound = sound_track(tmp_path / "a.mkv", 4.0)
    assert sound.damaged == 0
    samples = decoded(sound.flac)
    # Matroska's clock has milliseconds, which the samples are not moved by.
    assert len(samples) == pytest.approx(4 * RATE, abs=16)
    inner = slice(RATE // 10, -RATE // 10)  # a resampler's filter is blunt at both ends
    want = sine(0, 4, 440)[: len(samples)]
    assert np.abs(samples[inner] - want[inner]).max() <= 0.01 * 8000
    assert sound_track(tmp_path / "a.mkv", 4.0) == sound  # the same bytes
    assert sound_track(io.BytesIO((tmp_path / "a.mkv").read_bytes()), 4.0) == sound


def test_silence_stands_where_there_is_no_sound(tmp_path):
    write_video(tmp_path / "a.mkv", [(1, 1.5, 440), (3, 4, 880)])
    samples = decoded(sound_track(tmp_path / "a.mkv", 3.5).flac)
    assert len(samples) == 3.5 * RATE  # cut at the duration
    loud = np.abs(samples.reshape(-1, RATE // 100)).max(1) > 1000  # in hundredths of a second
    want = np.zeros(350, bool)
    want[100:150] = want[300:350] = True
    assert (loud != want).sum() <= 4  # a block at each edge may hold both
    later = decoded(sound_track(tmp_path / "a.mkv", 1.0, start=2.75).flac)
    want = samples[int(2.75 * RATE) :]
    assert len(later) == RATE
    np.testing.assert_allclose(later[: len(want)], want, atol=2)


def loud_at(samples):
    """The hundredths of a second in which there is a tone."""
    return np.abs(samples[: len(samples) // 160 * 160].reshape(-1, 160)).max(1) > 1000


def test_sound_is_on_the_clock_of_the_frames(tmp_path):
    """The first picture, .4 s after the sound's start, is second 0."""
    write_video(tmp_path / "a.mkv", [(0, 0.1, 440), (1, 1.5, 440)], first=2)
    decoding = decode(str(tmp_path / "a.mkv"))
    assert [time for time, _ in decoding] == [0, 1, 2, 3]
    loud = loud_at(decoded(sound_of(VideoSource(str(tmp_path / "a.mkv")), decoding).flac))
    assert np.flatnonzero(loud)[[0, -1]] == pytest.approx([60, 109], abs=2)


def test_parts_of_a_joined_file_are_joined(tmp_path):
    write_video(tmp_path / "a.mkv", [(0, 1, 440), (3, 4, 880)])
    samples = decoded(sound_track(tmp_path / "a.mkv", 4.0, joined=True).flac)
    assert len(samples) == pytest.approx(2 * RATE, abs=32) and loud_at(samples)[1:-1].all()


def test_a_video_without_sound_has_none(tmp_path):
    tiny_video(tmp_path / "a.mp4", 5)
    assert sound_track(tmp_path / "a.mp4", 1.0) == (b"", 0)
    write_video(tmp_path / "b.mkv", [])  # a stream of no packets
    assert sound_track(tmp_path / "b.mkv", 4.0) == (b"", 0)


def test_a_damaged_track_gives_what_it_has(tmp_path):
    write_video(tmp_path / "a.mkv", [(0, 4, 440)], codec="aac")
    data = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "half.mkv").write_bytes(data[: len(data) // 2])
    whole, half = (sound_track(tmp_path / f"{name}.mkv", 4.0) for name in ("a", "half"))
    samples = decoded(half.flac)
    assert RATE < len(samples) < 3 * RATE
    inner = slice(RATE // 10, len(samples) - RATE // 10)
    np.testing.assert_allclose(samples[inner], decoded(whole.flac)[inner], atol=2)


def test_damage_in_the_sound_is_told(tmp_path):
    write_video(tmp_path / "a.mkv", [(0, 4, 440)], codec="aac")
    data = bytearray((tmp_path / "a.mkv").read_bytes())
    middle = slice(len(data) // 2, len(data) // 2 + 600)
    data[middle] = bytes(byte ^ 0x5A for byte in data[middle])
    (tmp_path / "a.mkv").write_bytes(data)
    (tmp_path / "list.jsonl").write_text('{"id": "a", "video": "a.mkv"}\n')
    (tmp_path / "r").mkdir()
    packer = resume(tmp_path / "r", DecodeSettings(1.0, 32, 90, audio=True))
    (entry,) = load_entries(tmp_path / "list.jsonl")
    decode_part(entry, packer.parts, packer.settings)
    packer.add(entry)
    packer.finish()
    notes = RecordReader(tmp_path / "r").info("a").source.notes
    assert "1 times damage was met in the sound; it is left out" in notes


def test_records_keep_sound_and_subtitles(tmp_path):
    write_video(tmp_path / "a.mkv", [(0, 4, 440)])
    tiny_video(tmp_path / "b.mp4", 5)
    (tmp_path / "a.srt").write_text("1\n00:00:01,000 --> 00:00:02,500\nhé\n\n2\nno\n")
    rows = '{"id": "a", "video": "a.mkv", "subtitles": "a.srt"}\n'
    rows += '{"id": "b", "video": "b.mp4", "subtitles": "none.srt"}\n'
    (tmp_path / "list.jsonl").write_text(rows)
    settings = DecodeSettings(1.0, 32, 90, audio=True)
    contents = []
    for name in ("r", "s"):
        (tmp_path / name).mkdir()
        packer = resume(tmp_path / name, settings)
        for entry in load_entries(tmp_path / "list.jsonl"):
            decode_part(entry, packer.parts, settings)
            packer.add(entry)
        assert packer.finish() == 2
        contents.append({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1]
    reader = RecordReader(tmp_path / "r")
    assert reader.settings["audio"] is True
    assert reader.sound("a") == sound_track(tmp_path / "a.mkv", 4.0).flac
    assert reader.sound("b") == b""
    assert reader.info("a").subtitles == (Subtitle(1.0, 2.5, "hé"),)
    assert reader.info("b").subtitles == ()
    (note,) = reader.info("b").source.notes
    assert note.startswith("without subtitles: ") and "none.srt: cannot be read" in note
