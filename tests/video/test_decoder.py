"""Damage: the same frames come out, however often a file is decoded."""

import hashlib
import random
from fractions import Fraction

import av
import numpy as np
import pytest

from msjoe_jax.data.video import decode, frames_at
from msjoe_jax.video.decoder import Decoder
from msjoe_jax.video.streams import VideoError
from tests.support.clips import make

CODECS = {
    "h264": ("a.mp4", "libx264", {"g": "25", "bf": "2"}),
    "hevc": ("a.mp4", "libx265", {"x265-params": "log-level=none:keyint=25"}),
    "vp8": ("a.webm", "libvpx", {"g": "25", "cpu-used": "8"}),
    "vp9": ("a.webm", "libvpx-vp9", {"g": "25", "cpu-used": "8"}),
    "av1": ("a.mp4", "libsvtav1", {"g": "25", "preset": "12"}),
    "mpeg4": ("a.avi", "mpeg4", {"g": "25", "bf": "2"}),
    "mpeg2": ("a.ts", "mpeg2video", {"g": "25", "bf": "2"}),
}


def blocks(k):
    """Something that moves all over the picture, 128×64."""
    y, x = np.mgrid[:64, :128]
    grey = ((x + 3 * k) // 8 * 37 ^ (y + k) // 8 * 91) % 256
    return np.stack([grey, 255 - grey, (grey * 3) % 256], -1).astype(np.uint8)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    return {
        kind: make(
            folder / f"{kind}-{name}", range(75), codec, Fraction(1, 25), rate=25, draw=blocks,
            **options,
        )
        for kind, (name, codec, options) in CODECS.items()
    }  # fmt: skip


def outcome(path):
    decoding = decode(path, fps=25)
    digest = hashlib.sha256()
    try:
        for t, image in decoding:
            digest.update(repr((t, image.tobytes())).encode())
    except VideoError as error:
        return str(error), decoding.counts
    return digest.hexdigest(), decoding.counts, decoding.numbers, decoding.duration


def damaged(path, seed, flips):
    """A copy of the file with some bytes of its packets inverted."""
    data, draw = bytearray(path.read_bytes()), random.Random(seed)
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    for _ in range(flips):
        pos, size = draw.choice(packets[1:])
        data[pos + draw.randrange(size)] ^= 0xFF
    copy = path.with_name(f"{seed}-{path.name}")
    copy.write_bytes(data)
    return copy


@pytest.mark.parametrize("kind", CODECS)
def test_healthy_files_are_the_same_in_every_decode(clips, kind):
    digest, counts, numbers, duration = outcome(clips[kind])
    assert counts in ({}, {"disordered": 1})
    assert len(numbers) == pytest.approx(75, abs=1) and duration == pytest.approx(3, abs=0.05)
    assert outcome(clips[kind]) == (digest, counts, numbers, duration)


@pytest.mark.parametrize("kind", CODECS)
def test_damaged_files_are_the_same_in_every_decode(clips, kind):
    assert damage_met(clips[kind], range(4)) > 0


@pytest.mark.soak
@pytest.mark.parametrize("kind", CODECS)
def test_sixty_damaged_files_are_the_same_in_every_decode(clips, kind):
    assert damage_met(clips[kind], range(4, 64)) > 0


def damage_met(path, seeds):
    """How often damage was met in copies of a file, each of which is decoded alike thrice."""
    met = 0
    for seed in seeds:
        copy = damaged(path, seed, (1, 4, 30, 300)[seed % 4])
        first = outcome(copy)
        met += first[1].get("damaged", 0)
        for _ in range(2):
            assert outcome(copy) == first, seed
    return met


def test_damage_does_not_change_frames_at_times(clips):
    path = damaged(clips["h264"], 1, 4)
    whole = dict(decode(path, fps=25))
    times = [0.04, 1.2, 2.0, 2.6]
    for t, image in frames_at(path, times):
        np.testing.assert_array_equal(image, whole[t])


def test_what_was_given_before_the_damage_is_not_given_again(clips):
    data = bytearray(clips["mpeg4"].read_bytes())
    at = len(data) * 8 // 10
    data[at : at + 40] = bytes(0xFF ^ byte for byte in data[at : at + 40])
    path = clips["mpeg4"].with_name("late.avi")
    path.write_bytes(data)
    decoding = decode(path, fps=25)
    assert len(list(decoding)) >= 74  # the last good frame stands in
    lost = decoding.counts["damaged"] + decoding.counts["lost"]
    assert decoding.missing == pytest.approx(lost / 75, abs=0.01) and 0 < decoding.missing < 0.4
    numbers = [item.number for item in Decoder(path, None) if item.frame]
    assert numbers == sorted(set(numbers)) and 50 <= len(numbers) < 75 and numbers[-1] >= 73
