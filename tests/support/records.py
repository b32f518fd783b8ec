"""Record folders of flat pictures."""

import numpy as np

from msjoe_jax.data.records import RecordReader, RecordWriter

# JPEG of quality 92 on flat colour: within rounding of the YCbCr round trip and of quantisation.
JPEG_FLAT_TOLERANCE = 3


def flat(value, height=16, width=24):
    return np.full((height, width, 3), value, np.uint8)


def write_flat(directory, videos, **options):
    """videos: {id: number of frames}; frame t of video v is flat with a colour made of (v, t)."""
    with RecordWriter(directory, **options) as writer:
        for v, (video_id, count) in enumerate(videos.items()):
            frames = ((t / 2, flat((7 * v % 256, 5 * t % 256, 90))) for t in range(count))
            writer.add(video_id, frames, fps=2.0, extra={"v": v})


def check_flat(directory, videos):
    reader = RecordReader(directory)
    assert reader.ids == list(videos)
    for v, (video_id, count) in enumerate(videos.items()):
        info = reader.info(video_id)
        assert (info.id, info.num_frames, info.fps, info.extra) == (video_id, count, 2.0, {"v": v})
        np.testing.assert_array_equal(info.timestamps, np.arange(count) / 2)
        assert info.duration == count / 2
        frames = reader.frames(video_id, range(count)).astype(int)
        assert frames.shape == (count, 16, 24, 3)
        colours = np.array([[7 * v % 256, 5 * t % 256, 90] for t in range(count)])
        assert np.abs(frames - colours[:, None, None]).max() <= JPEG_FLAT_TOLERANCE
