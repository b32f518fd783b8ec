"""Embedding of record folders: every frame once, resumed by shard, no values that do not fit."""

import numpy as np
import pytest

from msjoe_jax.data.embed import ShardEmbedder, check_embeddings, embed_records
from msjoe_jax.data.records import RecordReader, RecordWriter
from msjoe_jax.errors import UserError
from msjoe_jax.runtime.files import lock
from tests.support.embeddings import write_embeddings
from tests.support.records import write_flat


def mean_colour(frames):
    return np.stack([frame.mean((0, 1)) for frame in frames])


def check(folder, fingerprint):
    """Whether `mean_colour` of every frame is stored."""
    reader = RecordReader(folder, fingerprint)
    for video_id in reader.ids:
        expected = mean_colour(reader.frames(video_id, range(reader.info(video_id).num_frames)))
        embeddings = reader.embeddings(video_id)
        assert embeddings.dtype == np.float32
        # float16 keeps 11 bits of mantissa, of values up to 255.
        np.testing.assert_allclose(embeddings, expected, rtol=2**-11, atol=1e-3)


def write_of_sizes(folder, counts, **options):
    """Videos of random pictures, each of another size."""
    rng = np.random.default_rng(0)
    with RecordWriter(folder, **options) as writer:
        for v, count in enumerate(counts):
            pictures = rng.integers(0, 256, (count, 16 + v, 24, 3), np.uint8)
            writer.add(f"v{v}", list(enumerate(pictures)))


def of_a_batch(frames):
    """Embeddings that depend on all that shares a batch, and on the place in it."""
    rows = mean_colour(frames)
    return rows + rows.sum() * np.arange(len(rows))[:, None] / 100


def test_short_videos_of_any_size_share_batches(tmp_path):
    """66 clips of 830 frames: 13 batches of 64, where a batch each video would take 69."""
    counts = [70, 70, 70, *(10 - (v < 10) for v in range(63))]
    assert (len(counts), sum(counts), sum(-(-count // 64) for count in counts)) == (66, 830, 69)
    write_of_sizes(tmp_path / "r", counts)
    batches = []

    def encode(frames):
        batches.append([frame.shape for frame in frames])
        return mean_colour(frames)

    embed_records(tmp_path / "r", encode, "fp")
    assert len(batches) == -(-830 // 64) and {len(batch) for batch in batches} == {64}
    assert max(len(set(batch)) for batch in batches) > 3
    check(tmp_path / "r", "fp")


@pytest.mark.parametrize("shard_bytes", [1, 30_000, 1 << 28])
def test_embedding_while_decoding_gives_the_same_bytes(tmp_path, shard_bytes):
    """Which frames share a batch depends on the shard alone."""
    write_of_sizes(tmp_path / "r", [5, 1, 2, 9, 4, 3], shard_bytes=shard_bytes)
    reader = RecordReader(tmp_path / "r")

    def read(video, start, stop):
        return list(reader.frames(video, range(start, stop)))

    embedder = ShardEmbedder(tmp_path / "r", of_a_batch, "live", batch=4)
    for shard in reader.shards:
        for video in shard["videos"]:
            count = reader.info(video).num_frames
            embedder.add(
                video,
                count,
                lambda start, stop, v=video: list(reader.frames(v, range(start, stop))),
            )
        embedder.finish(shard)
    embedder.close()
    embed_records(tmp_path / "r", of_a_batch, "later", batch=4)
    live = sorted((tmp_path / "r").glob("clip-live-*"))
    assert len(live) == len(reader.shards)
    for file in live:
        later = file.with_name(file.name.replace("live", "later"))
        assert file.read_bytes() == later.read_bytes()


def test_frames_that_cannot_be_read_end_the_embedding_and_leave_no_file(tmp_path):
    write_flat(tmp_path / "r", {"a": 3})
    embedder = ShardEmbedder(tmp_path / "r", mean_colour, "fp")

    def read(start, stop):
        raise UserError("a frame of a")

    embedder.add("a", 3, read)
    with pytest.raises(UserError, match="a frame of a"):
        embedder.finish(RecordReader(tmp_path / "r").shards[0])
    embedder.close()
    assert not list((tmp_path / "r").glob("clip-*"))


def test_embed_records_batches_and_resumes_by_shard(tmp_path):
    write_flat(tmp_path / "r", {"a": 5, "b": 2, "c": 4}, shard_bytes=1)
    calls = []

    def encode(frames):
        assert [frame.shape for frame in frames] == 3 * [(16, 24, 3)]
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return mean_colour(frames)

    with pytest.raises(KeyboardInterrupt):
        embed_records(tmp_path / "r", encode, "fp", batch=3)
    embed_records(tmp_path / "r", encode, "fp", batch=3)
    embed_records(tmp_path / "r", encode, "fp", batch=3)  # nothing left: no call
    # a 2 calls, b 1, c interrupted in its first, then c 2.
    assert len(calls) == 6
    check(tmp_path / "r", "fp")
    assert not list((tmp_path / "r").glob("*.partial"))
    assert not (tmp_path / "r" / ".lock").exists()


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_every_batch_gives_the_same(tmp_path, batch):
    write_flat(tmp_path / "r", {"a": 3, "b": 1})
    embed_records(tmp_path / "r", mean_colour, "fp", batch)
    check(tmp_path / "r", "fp")


def test_a_folder_that_has_grown_gets_the_new_shards_only(tmp_path):
    write_flat(tmp_path / "r", {"a": 3, "b": 1}, shard_bytes=1)
    embed_records(tmp_path / "r", mean_colour, "fp")
    (tmp_path / "r" / "clip-fp-00001.arrayrecord").unlink()
    before = (tmp_path / "r" / "clip-fp-00000.arrayrecord").stat().st_mtime_ns
    embed_records(tmp_path / "r", mean_colour, "fp")
    assert (tmp_path / "r" / "clip-fp-00000.arrayrecord").stat().st_mtime_ns == before
    check(tmp_path / "r", "fp")


def test_several_clips_side_by_side(tmp_path):
    folder = tmp_path / "a [b] *"  # not a pattern
    write_flat(folder, {"a": 3, "b": 1, "c": 2}, shard_bytes=2000)
    assert RecordReader(folder).embeddings("a") is None
    embed_records(folder, mean_colour, "f1")
    assert RecordReader(folder).clip == "f1"
    embed_records(folder, lambda frames: mean_colour(frames)[:, :2], "f2")
    with pytest.raises(UserError, match=r"several CLIPs \(f1, f2\); name one"):
        RecordReader(folder)
    check(folder, "f1")
    assert RecordReader(folder, clip="f2").embeddings("b").shape == (1, 2)
    with pytest.raises(UserError, match="missing"):
        RecordReader(folder, clip="f3").embeddings("b")


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda frames: mean_colour(frames) * 1e6, "embeddings of a do not fit float16"),
        (lambda frames: mean_colour(frames) * np.nan, "do not fit float16"),
        (
            lambda frames: mean_colour(frames)[:1],
            r"CLIP made \[1, 3\] embeddings of 64",
        ),
        (
            lambda frames: mean_colour(frames)[:, 0],
            r"CLIP made \[64\] embeddings of 64",
        ),
    ],
)
def test_embeddings_that_do_not_fit_leave_no_file(tmp_path, encode, message):
    write_flat(tmp_path / "r", {"a": 3})
    before = sorted(path.name for path in (tmp_path / "r").iterdir())
    with pytest.raises(UserError, match=message):
        embed_records(tmp_path / "r", encode, "fp")
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == before


def test_a_fingerprint_that_is_no_name_and_a_folder_in_use(tmp_path):
    write_flat(tmp_path / "r", {"a": 3})
    with pytest.raises(UserError, match="fingerprint 'a-b' must be letters"):
        embed_records(tmp_path / "r", mean_colour, "a-b")
    with lock(tmp_path / "r"), pytest.raises(UserError, match="in use"):
        embed_records(tmp_path / "r", mean_colour, "fp")


def refused(folder, clip):
    with pytest.raises(UserError) as error:
        check_embeddings(RecordReader(folder, clip), "models/a clip")
    (line,) = error.value.lines
    assert line.endswith(f"`msjoe predecode --out={folder} '--clip=models/a clip'` embeds them")
    return line


def test_embeddings_of_another_clip_and_half_a_folder_are_refused(tmp_path):
    folder = tmp_path / "r"
    write_flat(folder, {"a": 3, "b": 1, "c": 2}, shard_bytes=1)
    assert f"{folder}: no CLIP embeddings, and the run's CLIP is f1" in refused(folder, "f1")
    embed_records(folder, mean_colour, "f1")
    check_embeddings(RecordReader(folder, "f1"), "any")
    line = refused(folder, "f2")
    assert "embedded by CLIP f1" in line and "the run's CLIP is f2 (models/a clip)" in line
    (folder / "clip-f1-00001.arrayrecord").unlink()
    assert "the embeddings of 1 of 3 shards by CLIP f1 are missing" in refused(folder, "f1")
    embed_records(folder, mean_colour, "f1")
    check_embeddings(RecordReader(folder, "f1"), "any")


def test_those_of_a_siglip_stand_beside_clips(tmp_path):
    folder = tmp_path / "r"
    write_flat(folder, {"a": 3, "b": 1}, shard_bytes=1)
    embed_records(folder, mean_colour, "f1")
    assert RecordReader(folder).embeddings("a", "siglip") is None
    with pytest.raises(UserError) as error:
        check_embeddings(RecordReader(folder, siglip="s1"), "models/s", "siglip")
    (line,) = error.value.lines
    assert "no SigLIP embeddings, and the run's SigLIP is s1 (models/s)" in line
    assert line.endswith(f"`msjoe predecode --out={folder} --siglip=models/s` embeds them")
    embed_records(folder, lambda frames: -mean_colour(frames), "s1", model="siglip")
    check_embeddings(RecordReader(folder, siglip="s1"), "any", "siglip")
    reader = RecordReader(folder, siglip="s1")
    assert reader.clip == "f1" and reader.embedders("siglip") == ["s1"]
    np.testing.assert_array_equal(reader.embeddings("a", "siglip"), -reader.embeddings("a"))
    with pytest.raises(UserError, match="embedded by SigLIP s1, and the run's SigLIP is s2"):
        check_embeddings(RecordReader(folder, siglip="s2"), "any", "siglip")


def test_embeddings_of_other_frames_are_refused_and_made_again(tmp_path):
    """Equal names and numbers of frames: only the contents differ."""
    write_flat(tmp_path / "old", {"x": 1, "a": 3}, shard_bytes=1)
    write_flat(tmp_path / "new", {"a": 3})
    for name in ("old", "new"):
        embed_records(tmp_path / name, mean_colour, "fp")
    stolen = tmp_path / "old" / "clip-fp-00001.arrayrecord"
    (tmp_path / "new" / "clip-fp-00000.arrayrecord").write_bytes(stolen.read_bytes())
    assert "1 of 1 shards by CLIP fp are of other frames" in refused(tmp_path / "new", "fp")
    embed_records(tmp_path / "new", mean_colour, "fp")
    check_embeddings(RecordReader(tmp_path / "new", "fp"), "any")
    check(tmp_path / "new", "fp")


def test_a_damaged_file_is_embedded_again_and_one_of_before_counts_as_right(tmp_path):
    folder = tmp_path / "r"
    write_flat(folder, {"a": 3})
    write_embeddings(folder, "fp", [("a", np.ones((3, 2)))])  # does not state its frames
    check_embeddings(RecordReader(folder, "fp"), "any")
    embed_records(folder, mean_colour, "fp")
    assert (RecordReader(folder, "fp").embeddings("a") == 1).all()
    (folder / "clip-fp-00000.arrayrecord").write_bytes(b"damaged")
    embed_records(folder, mean_colour, "fp")
    check(folder, "fp")
