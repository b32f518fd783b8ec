"""Record folders: what was put in comes out, and damage is told apart from data."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msjoe_jax.data.records import RecordReader, RecordWriter
from msjoe_jax.data.shards import encode_jpeg
from msjoe_jax.errors import UserError
from tests.support.embeddings import write_embeddings
from tests.support.records import JPEG_FLAT_TOLERANCE, check_flat, flat, write_flat


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=6),
    st.sampled_from([1, 2000, 1 << 20]),
)
def test_round_trip_over_shards(tmp_path_factory, counts, shard_bytes):
    directory = tmp_path_factory.mktemp("records") / "folder"
    videos = {f"vidéo/{i} ..": count for i, count in enumerate(counts)}  # an id is not a path
    write_flat(directory, videos, shard_bytes=shard_bytes)
    check_flat(directory, videos)
    if shard_bytes == 1:
        assert len(list(directory.glob("frames-*"))) == len(counts)


def test_jpeg_bytes_are_stored_as_they_are_and_colours_survive(tmp_path):
    image = flat((255, 0, 0))
    image[:, 1::2] = (0, 0, 255)  # one-pixel columns: chroma subsampling would blend them
    data = encode_jpeg(image, 95)
    with RecordWriter(tmp_path / "r", quality=95) as writer:
        writer.add("bytes", [(0.0, data)])
        writer.add("array", [(0.0, image)])
    reader = RecordReader(tmp_path / "r")
    assert reader.frame_bytes("bytes", [0]) == [data] == reader.frame_bytes("array", [0])
    assert (reader.info("bytes").height, reader.info("bytes").width) == (16, 24)
    error = np.abs(reader.frames("array", [0])[0].astype(int) - image)
    assert error.mean() < 20  # with 4:2:0 both columns come out purple, an error above 80


def test_gather_equals_single_reads_with_repeats_and_resizing(tmp_path):
    write_flat(tmp_path / "r", {"a": 5, "b": 3, "c": 4}, shard_bytes=3000)
    reader = RecordReader(tmp_path / "r")
    requests = [("c", [3, 0, 3]), ("a", [4, 1]), ("b", []), ("c", [0]), ("a", np.array([1]))]
    for size in (None, (8, 10)):
        got = reader.gather(requests, size)
        for (video_id, indices), frames in zip(requests, got, strict=True):
            assert frames.shape == (len(indices), *(size or (16, 24)), 3)
            for index, frame in zip(indices, frames, strict=True):
                np.testing.assert_array_equal(frame, reader.frames(video_id, [index], size)[0])


def test_large_frames_decode_in_threads_to_the_same(tmp_path):
    with RecordWriter(tmp_path / "r") as writer:
        writer.add("a", ((float(t), flat(20 * t, 160, 160)) for t in range(9)))
    got = RecordReader(tmp_path / "r").frames("a", range(9)).astype(int)
    assert np.abs(got.mean((1, 2, 3)) - 20 * np.arange(9)).max() <= JPEG_FLAT_TOLERANCE


def test_bad_use_is_one_clear_line(tmp_path):
    write_flat(tmp_path / "r", {"a": 2})
    reader = RecordReader(tmp_path / "r")
    for call, said in [
        (lambda: reader.info("zz"), "no video 'zz'"),
        (lambda: reader.embeddings("zz"), "no video 'zz'"),
        (lambda: reader.frames("a", [2]), "has 2 frames, not 2"),
        (lambda: reader.frames("a", [-1]), "has 2 frames, not -1"),
        (lambda: RecordReader(tmp_path / "none"), "no such record folder"),
        (lambda: RecordReader(tmp_path), "no manifest.json"),
        (lambda: write_flat(tmp_path / "r", {"a": 1}), "exists already"),
    ]:
        with pytest.raises(UserError, match=said):
            call()


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        ([], "no frames"),
        ([(0.0, flat(1)), (0.0, flat(1))], "timestamps do not increase"),
        ([(0.0, flat(1)), (1.0, flat(1, 8, 8))], "changes size"),
        ([(0.0, flat(1).astype(np.float32))], "uint8"),
        ([(0.0, flat(1)[..., 0])], "uint8"),
    ],
)
def test_bad_frames_leave_no_folder(tmp_path, frames, said):
    with pytest.raises(UserError, match=said), RecordWriter(tmp_path / "r") as writer:
        writer.add("good", [(0.0, flat(1))])
        writer.add("bad", frames)
    assert os.listdir(tmp_path) == []


def test_an_id_twice_and_two_writers_are_refused(tmp_path):
    with pytest.raises(UserError, match="added twice"), RecordWriter(tmp_path / "r") as writer:
        writer.add("a", [(0.0, flat(1))])
        writer.add("a", [(0.0, flat(1))])
    with RecordWriter(tmp_path / "r") as writer:
        with pytest.raises(UserError, match="another process"), RecordWriter(tmp_path / "r"):
            pass
        writer.add("a", [(0.0, flat(1))])
    assert RecordReader(tmp_path / "r").ids == ["a"]


def test_a_damaged_jpeg_names_its_video(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encode_jpeg(noise, 90)  # mostly scan, so that half of it has a whole header
    with RecordWriter(tmp_path / "r") as writer:
        writer.add("good", [(0.0, data)])
        writer.add("torn", [(0.0, data[: len(data) // 2]), (1.0, data)])
        with pytest.raises(UserError, match="not a JPEG"):
            writer.add("text", [(0.0, b"hello")])
    reader = RecordReader(tmp_path / "r")
    with pytest.raises(UserError, match="video torn is a damaged JPEG"):
        reader.gather([("good", [0]), ("torn", [1, 0])])
    assert len(reader.gather([("good", [0]), ("torn", [1])])) == 2


@pytest.mark.parametrize(
    "values", [np.full((2, 3), np.nan), np.full((2, 3), np.inf), np.zeros(5), np.zeros(0)], ids=str
)
def test_damaged_embeddings_name_their_video_and_file(tmp_path, values):
    write_flat(tmp_path / "r", {"a": 2, "b": 2})
    whole = np.arange(6.0).reshape(2, 3)
    write_embeddings(tmp_path / "r", "fp", [("a", whole), ("b", values)])
    reader = RecordReader(tmp_path / "r")
    found = reader.embeddings("a")
    assert found is not None and found.dtype == np.float32
    np.testing.assert_array_equal(found, whole)
    words = r"clip-fp-00000\.arrayrecord: the embeddings of video b are damaged; remove the file"
    with pytest.raises(UserError, match=words):
        reader.embeddings("b")


def test_kill_9_leaves_no_folder_and_the_next_writer_clears_up(tmp_path):
    code = """
        import sys, time, numpy as np
        from msjoe_jax.data.records import RecordWriter
        with RecordWriter(sys.argv[1], shard_bytes=1) as writer:
            for i in range(3):
                writer.add(f"old{i}", [(0.0, np.zeros((16, 24, 3), np.uint8))])
            print("ready", flush=True)
            time.sleep(60)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "r")], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "r").exists()
    assert list((tmp_path / "r.partial").iterdir())
    write_flat(tmp_path / "r", {"a": 2})
    check_flat(tmp_path / "r", {"a": 2})
    assert os.listdir(tmp_path) == ["r"]


def test_a_digest_is_of_the_contents_and_stays_when_the_folder_grows(tmp_path):
    videos = {"a": 3, "b": 2, "c": 1}
    write_flat(tmp_path / "one", videos, shard_bytes=1)
    write_flat(tmp_path / "again", videos, shard_bytes=1)
    write_flat(tmp_path / "more", {**videos, "d": 1}, shard_bytes=1)
    write_flat(tmp_path / "other", {"x": 1, **videos}, shard_bytes=1)  # other colours
    one, again, more, other = (
        RecordReader(tmp_path / name) for name in ("one", "again", "more", "other")
    )
    assert one.digest() == again.digest() == more.digest(videos) != more.digest()
    assert one.digest(["a", "b"]) == more.digest(["b", "a", "b"]) != one.digest()
    assert other.digest(videos) != one.digest()
    assert one.digest(["a", "missing"]) == one.digest(["a"])


def test_a_manifest_without_digests_still_tells_names_and_counts(tmp_path):
    for name, videos in (("one", {"a": 3}), ("other", {"a": 4})):
        write_flat(tmp_path / name, videos)
        file = tmp_path / name / "manifest.json"
        manifest = json.loads(file.read_text())
        for shard in manifest["shards"]:
            del shard["digest"]
        del manifest["check"]
        file.write_text(json.dumps({**manifest, "schema": 1}))  # as they were before both
    one, other = (RecordReader(tmp_path / name).digest() for name in ("one", "other"))
    assert one == RecordReader(tmp_path / "one").digest() != other
