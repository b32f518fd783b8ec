"""Batches: the right frames, an order of the seed alone, and an exact resumption."""

import collections
import dataclasses
import json
import shutil
import unittest.mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.data import pipeline as data_pipeline
from msjoe_jax.data.pipeline import make_pipeline, uniform_indices
from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader, RecordWriter
from msjoe_jax.data.shards import encode_jpeg
from msjoe_jax.errors import UserError
from msjoe_jax.selectors.base import Selection
from msjoe_jax.training.config import TrainingConfig
from msjoe_jax.training.question_weights import question_order
from tests.support.embeddings import write_embeddings
from tests.support.system import noise_videos, tiny_run
from tests.support.tiny import tiny_config

COUNTS = [1, 3, 8, 13]  # frames a video; T = 8 candidates: shorter, exact, longer
WIDTH = 4


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pipeline") / "records"
    with RecordWriter(directory) as writer:
        for v, count in enumerate(COUNTS):
            frames = [(t + 0.25, np.full((8, 8, 3), 15 * t + v, np.uint8)) for t in range(count)]
            writer.add(f"v{v}", frames)
    write_embeddings(
        directory,
        "fp",
        (
            (f"v{v}", np.arange(n)[:, None] + np.full(WIDTH, 100.0 * v))
            for v, n in enumerate(COUNTS)
        ),
    )
    return RecordReader(directory)


EPOCHS = np.random.default_rng(5).permuted(np.tile(np.arange(10), (5, 1)), axis=1).ravel()
QUESTIONS = [Question(f"q{i}", f"v{i % 4}", "?", ("a", "b"), 0) for i in range(10)]


def pipeline(reader, **changes):
    options = {"batch_size": 4, "num_candidates": 8, "num_preview": 2, "order": EPOCHS, **changes}
    return make_pipeline(QUESTIONS, reader, **options)


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].dtype == b[key].dtype
            np.testing.assert_array_equal(a[key], b[key])


@given(st.integers(0, 70), st.integers(0, 5000))
def test_uniform_indices_are_bin_centres(count, total):
    indices = uniform_indices(count, total)
    n = min(count, total)
    assert len(indices) == n
    for i, index in enumerate(indices):
        # The centre lies in frame `index`: index ≤ (i + ½)·total/n < index + 1, in exact integers.
        assert index * 2 * n <= (2 * i + 1) * total < (index + 1) * 2 * n
    assert len(set(indices.tolist())) == n


def test_rows_hold_the_frames_they_name(reader):
    (batch, *_) = take(iter(pipeline(reader, order=None)), 1)
    assert batch["index"].tolist() == [0, 1, 2, 3]
    for v, count in enumerate(COUNTS):
        taken = min(count, 8)
        np.testing.assert_array_equal(batch["frame_mask"][v], np.arange(8) < taken)
        chosen = batch["frame_index"][v][:taken]
        if count <= 8:
            np.testing.assert_array_equal(chosen, np.arange(count))
        else:
            assert (np.diff(chosen) >= 1).all()
            assert chosen[-1] < count
        np.testing.assert_array_equal(batch["embeddings"][v][:taken, 0], 100 * v + chosen)
        np.testing.assert_array_equal(batch["timestamps"][v][:taken], chosen + 0.25)
        assert not batch["embeddings"][v][taken:].any()
        shown = batch["preview_index"][v]
        assert batch["preview_mask"][v].tolist() == [True, count > 1]
        # Flat frames survive JPEG to within a few units; the frames differ by 15.
        assert np.abs(batch["preview"][v].mean((1, 2, 3)) - (15 * shown + v)).max() <= 3
    assert batch["preview_index"].tolist() == [[0, 0], [0, 2], [2, 6], [3, 9]]


def test_preview_function_and_no_previews(reader):
    def patches(frames):
        return {"sum": frames.astype(np.int32).sum((1, 2, 3)), "shape": np.array(frames.shape)}

    batch = next(iter(pipeline(reader, preview_fn=patches)))
    assert batch["preview"]["shape"].tolist() == [[2, 8, 8, 3]] * 4
    assert batch["preview"]["sum"].shape == (4, 2)
    assert next(iter(pipeline(reader, num_preview=0)))["preview"].shape == (4, 0, 8, 8, 3)
    assert "embeddings" not in next(iter(pipeline(reader, with_embeddings=False)))


def test_the_order_is_the_given_one(reader, monkeypatch):
    first = take(iter(pipeline(reader)), 6)
    for threads, read_ahead in ((7, 9), (0, 2)):
        monkeypatch.setattr(data_pipeline, "THREADS", threads)
        monkeypatch.setattr(data_pipeline, "READ_AHEAD", read_ahead)
        assert_same(first, take(iter(pipeline(reader)), 6))
    assert np.concatenate([b["index"] for b in first]).tolist() == EPOCHS[:24].tolist()


def test_copies_of_a_question_in_a_batch_are_numbered(reader):
    order = np.array([3, 3, 1, 3, 3, 0, 1, 1])
    batches = list(pipeline(reader, order=order))
    assert [b["copy"].tolist() for b in batches] == [[0, 1, 0, 2], [0, 0, 0, 1]]
    halves = [list(pipeline(reader, order=order, rows=np.array(r))) for r in ([0, 1], [2, 3])]
    assert [half[0]["copy"].tolist() for half in halves] == [[0, 1], [0, 2]]


@pytest.mark.parametrize("consumed", [0, 1, 3, 7])
def test_state_round_trips_bit_for_bit(reader, consumed, monkeypatch):
    iterator = iter(pipeline(reader))
    take(iterator, consumed)
    state = json.loads(json.dumps(iterator.get_state()))
    rest = take(iterator, 4)
    monkeypatch.setattr(data_pipeline, "THREADS", 3)
    resumed = iter(pipeline(reader))
    resumed.set_state(state)
    assert resumed.get_state() == state
    assert_same(rest, take(resumed, 4))
    assert state == {"next_index": consumed}  # nothing of the machine in it
    iterator.set_state(state)  # also backwards, in place
    assert_same(rest, take(iterator, 4))


def test_the_last_batch_is_filled_up(reader):
    batches = list(pipeline(reader, order=None))
    assert [b["valid"].sum() for b in batches] == [4, 4, 2]
    real = np.concatenate([b["index"][b["valid"]] for b in batches])
    assert real.tolist() == list(range(10))
    assert all(b["frame_mask"].any(1).all() for b in batches)  # fillers are real rows too


@pytest.mark.parametrize("order", [EPOCHS, None])
@pytest.mark.parametrize("split", [([0, 1], [2, 3]), ([0, 3], [1, 2]), ([0, 1, 2], [3])])
def test_hosts_have_the_rows_of_each_batch_between_them(reader, order, split):
    options = {"order": order, "num_preview": 0}
    single = take(iter(pipeline(reader, **options)), 3)
    for rows in map(np.array, split):
        own = take(iter(pipeline(reader, rows=rows, **options)), 3)
        for whole, part in zip(single, own, strict=True):
            for key in ("index", "copy", "valid", "error", "embeddings"):
                np.testing.assert_array_equal(part[key], whole[key][rows])


def test_a_damaged_preview_drops_its_rows_alone(reader, tmp_path):
    """Video v2 has a preview whose JPEG is cut short: all else is as in the whole folder."""
    with RecordWriter(tmp_path / "records") as writer:
        for v, count in enumerate(COUNTS):
            jpegs = reader.frame_bytes(f"v{v}", range(count))
            if v == 2:  # its previews are frames 2 and 6
                jpegs[6] = jpegs[6][:-40]
            writer.add(f"v{v}", ((t + 0.25, jpeg) for t, jpeg in enumerate(jpegs)))
    write_embeddings(
        tmp_path / "records", "fp", ((f"v{v}", reader.embeddings(f"v{v}")) for v in range(4))
    )
    damaged = RecordReader(tmp_path / "records")
    iterator = iter(pipeline(damaged, order=None))
    whole, cut = take(iter(pipeline(reader, order=None)), 3), take(iterator, 1)
    state = iterator.get_state()
    cut += take(iterator, 2)
    assert state == {"next_index": 1}
    iterator.set_state(state)
    assert_same(cut[1:], take(iterator, 2))
    for before, after in zip(whole, cut, strict=True):
        broken = before["index"] % 4 == 2
        np.testing.assert_array_equal(after["valid"], before["valid"] & ~broken)
        np.testing.assert_array_equal(after["error"] != "", broken)
        assert all("video v2 is a damaged JPEG" in error for error in after["error"][broken])
        assert not after["preview"][broken].any()
        np.testing.assert_array_equal(after["preview"][~broken], before["preview"][~broken])
        for key in before.keys() - {"preview", "valid", "error"}:
            np.testing.assert_array_equal(after[key], before[key])
    # A filling row is a copy of question 0: it is left out as it is, and says nothing.
    options = {"batch_size": 3, "num_candidates": 8, "num_preview": 2}
    (batch,) = make_pipeline([QUESTIONS[2], QUESTIONS[1]], damaged, **options)
    assert batch["valid"].tolist() == [False, True, False]
    assert (batch["error"] != "").tolist() == [True, False, False]


def flip(file, at):
    data = bytearray(file.read_bytes())
    data[at] ^= 0xFF
    file.write_bytes(bytes(data))


def start_of(file, record):
    """Where a record begins in a file."""
    return file.read_bytes().index(record)


def half(values):
    return np.asarray(values, "<f2").tobytes()


def spoil_value(directory, reader, value):
    """Video v2's embeddings, one of whose values is no number."""
    rows = {f"v{v}": reader.embeddings(f"v{v}") for v in range(4)}
    rows["v2"][3, 1] = value
    write_embeddings(directory, "fp", rows.items())


SPOILS = {
    "embeddings": lambda d, r: flip(
        f := d / "clip-fp-00000.arrayrecord", start_of(f, half(r.embeddings("v2"))) + 5
    ),
    "nan": lambda d, r: spoil_value(d, r, np.nan),
    "inf": lambda d, r: spoil_value(d, r, -np.inf),
    "video": lambda d, r: flip(f := d / "videos-00000.arrayrecord", start_of(f, b"\xa2v2") + 1),
}


@pytest.mark.parametrize("kind", SPOILS)
def test_a_damaged_embedding_or_video_costs_its_questions(reader, tmp_path, kind):
    shutil.copytree(reader.directory, tmp_path / "records")
    SPOILS[kind](tmp_path / "records", reader)
    damaged = RecordReader(tmp_path / "records")
    whole = take(iter(pipeline(reader, order=None)), 3)
    rows = take(iter(pipeline(damaged, order=None)), 3)
    for before, after in zip(whole, rows, strict=True):
        broken = before["index"] % 4 == 2
        np.testing.assert_array_equal(after["index"], before["index"])
        np.testing.assert_array_equal(after["valid"], before["valid"] & ~broken)
        np.testing.assert_array_equal((after["error"] != ""), before["valid"] & broken)
        for error in after["error"][after["error"] != ""]:
            assert error.startswith("video unreadable: ") and "damaged" in error
        for key in before.keys() - {"valid", "error", "index"}:
            np.testing.assert_array_equal(after[key][~broken], before[key][~broken])
            assert after[key].shape == before[key].shape
        assert np.isfinite(after["embeddings"]).all() and after["frame_mask"].any(1).all()


def test_a_missing_video_costs_its_questions(reader):
    """Of a benchmark's videos some are often gone from the net."""
    gone = [dataclasses.replace(q, video="gone") if q.video == "v2" else q for q in QUESTIONS]
    options = {"batch_size": 10, "num_candidates": 8, "num_preview": 2}
    rows = next(iter(make_pipeline(gone, reader, **options)))
    broken = rows["index"] % 4 == 2
    np.testing.assert_array_equal(rows["valid"], ~broken)
    assert set(rows["error"][broken]) == {f"video unreadable: not in {reader.directory}"}
    assert set(rows["error"][~broken]) == {""}


def test_where_no_video_can_be_read_the_run_ends(reader, tmp_path):
    shutil.copytree(reader.directory, tmp_path / "records")
    file = tmp_path / "records" / "clip-fp-00000.arrayrecord"
    file.write_bytes(file.read_bytes()[:100])
    words = "none of the 10 questions' videos can be read: .*00000.arrayrecord: damaged, 0 records"
    with pytest.raises(UserError, match=words):
        next(iter(pipeline(RecordReader(tmp_path / "records"))))


def test_bad_use_is_one_clear_line(reader, tmp_path):
    with RecordWriter(tmp_path / "bare") as writer:
        writer.add("v0", [(0.0, np.zeros((8, 8, 3), np.uint8))])
    bare = RecordReader(tmp_path / "bare")
    lost = [Question("q9", "gone", "?", ("a",), 0)]
    options = {"batch_size": 1, "num_candidates": 2, "num_preview": 1}
    for call, said in [
        (lambda: make_pipeline([], reader, **options), "no questions"),
        (lambda: make_pipeline(lost, reader, **options), "question q9: video 'gone'"),
        (lambda: make_pipeline(QUESTIONS[:1], bare, **options), "no CLIP embeddings"),
        (lambda: pipeline(reader, batch_size=0), "batch_size 0 must be positive"),
    ]:
        with pytest.raises(UserError, match=said):
            call()


# --- mixtures, hosts and workers ------------------------------------------------------------------

HOSTS = {1: [range(8)], 2: [range(4), range(4, 8)], 4: [[0, 4], [1, 5], [2, 6], [3, 7]]}
MIXED = [Question(f"{s}/q{i}", f"v{i % 4}", "?", ("a", "b"), 0) for s in "abc" for i in range(5)]


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.sampled_from([0.1, 0.25, 1.0, 3.0]), min_size=3, max_size=3),
    st.integers(0, 3),
    st.integers(0, 2),
    st.integers(0, 4),
    st.integers(0, 2),
)
def test_a_mixture_is_the_same_for_any_hosts_workers_and_stops(
    reader, weights, seed, threads, stop, read_ahead
):
    """The union of what 1, 2 and 4 hosts make, with other threads on each, gone on at any batch."""
    mixed = dict(zip("abc", weights, strict=True))
    order = question_order(
        TrainingConfig(steps=5), MIXED, batch_size=8, refill=0, seed=seed, weights=mixed
    )
    how = {"batch_size": 8, "num_candidates": 8, "num_preview": 1, "order": order}
    for hosts in HOSTS.values():
        found = np.empty((5, 8), int)
        for host, rows in enumerate(hosts):
            workers = (threads + host) % 3
            with unittest.mock.patch.multiple(
                data_pipeline, THREADS=workers, READ_AHEAD=read_ahead + 1
            ):
                first = iter(make_pipeline(MIXED, reader, rows=np.array(rows), **how))
                made = take(first, stop)
                second = iter(make_pipeline(MIXED, reader, rows=np.array(rows), **how))
                second.set_state(json.loads(json.dumps(first.get_state())))
                made += take(second, 5 - stop)
            found[:, np.array(rows)] = [batch["index"] for batch in made]
        assert found.ravel().tolist() == order.tolist()
    held = np.bincount(order // 5, minlength=3)
    quotas = 40 * np.array(weights) / sum(weights)
    assert (np.abs(held - quotas) < 1).all()


# --- what is read ---------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch):
    """How many records of each kind are read."""
    counts = collections.Counter()
    read = RecordReader._read

    def counted(self, kind, shard, indices):
        counts[kind] += len(indices)
        return read(self, kind, shard, indices)

    monkeypatch.setattr(RecordReader, "_read", counted)
    return counts


def test_of_an_hour_only_previews_and_chosen_frames_are_read(tmp_path, reads):
    rng, config = np.random.default_rng(0), tiny_config(tmp_path)
    config.frames.candidates, config.frames.preview, config.frames.key = 3600, 4, 32
    config.prompt.answer_prompt_tokens = 512
    jpeg = encode_jpeg(rng.integers(0, 256, (28, 28, 3), np.uint8), 90)
    with RecordWriter(tmp_path / "hour") as writer:
        writer.add("hour", ((float(t), jpeg) for t in range(3600)))
    write_embeddings(tmp_path / "hour", "fp", [("hour", np.zeros((3600, 32)))])
    question = Question("q", "hour", "what colour is the cup ?", ("red", "blue"), 0)
    episodes = tiny_run(config, RecordReader(tmp_path / "hour"), [question]).episodes()
    reads.clear()
    (batch,) = episodes.batches(1)
    assert reads == {"clip-fp": 1, "frames": 4}
    chosen = np.sort(rng.permutation(3600)[:32])[None, None, None].repeat(3, 1)
    weight = np.ones(1)
    episodes.preview_prompts(batch, weight)
    episodes.answer_prompts(batch, Selection(chosen), weight)
    assert weight == 1 and reads == {"clip-fp": 1, "frames": 4 + 32}
    reads.clear()
    list(episodes.batches(1, with_embeddings=False))
    assert reads == {"frames": 4}


def test_a_folder_that_lost_a_shard_stops_by_its_name(tmp_path):
    folder = tmp_path / "records"
    noise_videos(folder, {"v0": 4, "v1": 4, "v2": 4}, shard_bytes=1)
    (folder / "frames-00001.arrayrecord").unlink()
    with pytest.raises(UserError, match=r"frames-00001\.arrayrecord: shard is missing; copy or"):
        RecordReader(folder)
    (folder / "videos-00002.arrayrecord").unlink()
    with pytest.raises(UserError, match=r"shard is missing, and 1 more; copy"):
        RecordReader(folder)
