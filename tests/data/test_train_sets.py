"""Several sets to train on: their questions and records under names of their own."""

import dataclasses

import numpy as np
import pytest

from msjoe_jax.data.pipeline import make_pipeline
from msjoe_jax.data.questions import DataConfig, Question, TrainSet, load_questions, save_questions
from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.train_sets import (
    MixedRecords,
    set_of,
    sets_of,
    train_questions,
    train_records,
    weights_of,
)
from msjoe_jax.errors import UserError
from msjoe_jax.phase_inputs import data_inputs
from tests.support.system import noise_videos


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two sets whose questions and videos have the same ids, over videos of other lengths."""
    folder = tmp_path_factory.mktemp("sets")
    sets = {}
    for name, frames in (("b", {"v0": 5, "v1": 9}), ("a", {"v0": 7, "v2": 4})):
        noise_videos(folder / name, frames, shard_bytes=1)
        asked = [Question(f"q{i}", v, "?", ("x", "y"), 0) for i, v in enumerate(frames)]
        save_questions(folder / f"{name}.jsonl", asked)
        sets[name] = TrainSet(str(folder / name), str(folder / f"{name}.jsonl"), 1.0 + len(sets))
    return DataConfig(train_sets=sets)


def test_equal_ids_of_two_sets_are_two(data):
    asked = train_questions(data, load_questions)
    assert [q.id for q in asked] == ["a/q0", "a/q1", "b/q0", "b/q1"]
    assert [q.video for q in asked] == ["a/v0", "a/v2", "b/v0", "b/v1"]
    assert [set_of(q) for q in asked] == ["a", "a", "b", "b"]
    assert weights_of(data) == {"a": 2.0, "b": 1.0} and list(sets_of(data)) == ["a", "b"]


def test_each_video_is_that_of_its_set(data):
    mixed = train_records(data)
    assert isinstance(mixed, MixedRecords)
    assert mixed.ids == ["a/v0", "a/v2", "b/v0", "b/v1"]
    parts = {name: RecordReader(one.records) for name, one in data.train_sets.items()}
    wanted = [(video, [0, 3]) for video in mixed.ids]
    gathered = mixed.gather(wanted)
    for (video, at), frames in zip(wanted, gathered, strict=True):
        part, own = parts[video[0]], video[2:]
        assert mixed.info(video).num_frames == part.info(own).num_frames
        assert mixed.info(video).id == video
        np.testing.assert_array_equal(frames, part.frames(own, at))
        np.testing.assert_array_equal(mixed.frames(video, at), frames)
        np.testing.assert_array_equal(mixed.embeddings(video), part.embeddings(own))
    assert [info.id for info in mixed.infos(mixed.ids)] == mixed.ids
    with pytest.raises(UserError, match=r"\b(a and .*b|b and .*a): no video 'v0'"):
        mixed.info("v0")


def test_batches_of_a_mixture_are_those_of_its_parts(data):
    asked, mixed = train_questions(data, load_questions), train_records(data)
    how = {"batch_size": 2, "num_candidates": 4, "num_preview": 2}
    (of_a, of_b) = make_pipeline(asked, mixed, **how)
    for name, batch in (("a", of_a), ("b", of_b)):
        one = data.train_sets[name]
        (own,) = make_pipeline(load_questions(one.questions), RecordReader(one.records), **how)
        for key in own.keys() - {"index"}:
            np.testing.assert_array_equal(batch[key], own[key])


def test_one_set_has_its_own_ids(data):
    one = data.train_sets["a"]
    alone = DataConfig(train_records=one.records, train_questions=one.questions)
    assert train_questions(alone, load_questions) == load_questions(one.questions)
    assert train_records(alone).ids == ["v0", "v2"] and weights_of(alone) == {}


def test_a_folder_of_two_sets_is_opened_once(data):
    both = {name: data.train_sets["a"] for name in ("x", "y")}
    mixed = train_records(dataclasses.replace(data, train_sets=both))
    assert mixed.parts["x"] is mixed.parts["y"] and mixed.ids[0] == "x/v0"


def test_embeddings_by_two_models_are_refused(tmp_path, data):
    noise_videos(tmp_path / "c", {"v0": 3}, clip="another")
    sets = {**data.train_sets, "c": TrainSet(str(tmp_path / "c"), "")}
    with pytest.raises(UserError, match="the set c has embeddings by another, the first one by"):
        train_records(dataclasses.replace(data, train_sets=sets))


def test_weights_are_inputs_of_a_training(data):
    """So that its position in the data is not gone on with in another mixture."""
    asked, mixed = train_questions(data, load_questions), train_records(data)
    before, now = (data_inputs(asked, mixed, {"a": 2.0, "b": w}) for w in (1.0, 3.0))
    assert {k for k in now if now[k] != before[k]} == {"weights of the sets"}
    swapped = {"a": data.train_sets["b"], "b": data.train_sets["a"]}
    other = dataclasses.replace(data, train_sets=swapped)
    after = data_inputs(train_questions(other, load_questions), train_records(other))
    assert after["questions"] != now["questions"]
