"""The host's half of an episode: rows of its own, and lengths that all hosts agree on."""

import dataclasses

import jax
import numpy as np
import pytest

from msjoe_jax.data.questions import Subtitle
from msjoe_jax.data.records import RecordReader, RecordWriter
from msjoe_jax.rollout import episode_batches
from msjoe_jax.rollout.batches import full_weight
from msjoe_jax.selectors.base import Selection
from msjoe_jax.text import prompts
from tests.support.embeddings import write_embeddings
from tests.support.system import EMBEDDING, changed, colour_questions, noise_videos, tiny_run
from tests.support.tiny import tiny_config


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batches")
    reader = noise_videos(folder / "records", {"a": 6, "b": 9})
    return tiny_run(tiny_config(folder), reader, colour_questions(reader.ids, 4))


def test_a_host_makes_its_rows_alone(made):
    """They are rows of the whole batch, with the seeds that those have there."""
    episodes = made.episodes()
    whole = next(iter(episodes.batches(4)))
    some = next(iter(episodes.batches(4, rows=np.array([1, 3]))))
    jax.tree.map(np.testing.assert_array_equal, some, jax.tree.map(lambda x: x[[1, 3]], whole))
    numbers = np.asarray(episodes.seeds(whole, 5).question)
    np.testing.assert_array_equal(episodes.seeds(some, 5).question, numbers[[1, 3]])


def test_all_hosts_take_the_length_of_the_longest_prompt(made, monkeypatch):
    """Another host's prompt of 90 tokens makes this host's as long; alone they are cut."""
    episodes = made.episodes(changed(made.config, **{"prompt.length_step": 12}))
    batch = next(iter(episodes.batches(2)))
    rows, _ = episodes.preview_prompts(batch, full_weight(batch))
    alone = episodes.stack(rows).tokens.shape[-1]
    full = made.episodes().stack(rows).tokens.shape[-1]
    monkeypatch.setattr(episode_batches.hosts, "gather", lambda own, _: [own, full - 1])
    assert episodes.stack(rows).tokens.shape[-1] == full > alone


def test_the_prompt_of_answer_has_the_subtitles_of_its_own_frames(tmp_path, monkeypatch):
    """Of the record, or of the question where that has some; each draw those of its frames."""
    frame = np.full((28, 28, 3), 90, np.uint8)
    with RecordWriter(tmp_path / "records") as writer:
        for name in "ab":
            spoken = [[float(t), t + 0.2, f"{name} {t}"] for t in range(0, 6, 2)]
            extra = {"subtitles": spoken if name == "a" else "none"}
            writer.add(name, ((float(t), frame) for t in range(6)), extra=extra)
    embeddings = {name: np.ones((6, EMBEDDING)) for name in "ab"}
    write_embeddings(tmp_path / "records", "random", embeddings.items())
    reader = RecordReader(tmp_path / "records")
    asked = colour_questions(reader.ids, 2)
    asked.append(dataclasses.replace(asked[0], id="own", subtitles=(Subtitle(4, 5, "own"),)))
    config = changed(tiny_config(tmp_path), **{"prompt.subtitles": True})
    run = tiny_run(config, reader, asked)
    seen = []
    plain = prompts.answer_prompt

    def answer_prompt(*given):
        seen.append(given[4])
        return plain(*given[:4])

    monkeypatch.setattr(episode_batches.prompts, "answer_prompt", answer_prompt)
    for subtitles in (True, False):
        episodes = run.episodes(changed(config, **{"prompt.subtitles": subtitles}))
        batch = next(iter(episodes.batches(3)))
        chosen = np.tile(np.array([[[0, 1], [2, 4]]])[None], (3, 1, 1, 1)).reshape(3, 1, 2, 2)
        weight = full_weight(batch)
        episodes.answer_prompts(batch, Selection(frames=chosen), weight)
        assert weight.all() and len(seen) == 6
        if subtitles:
            assert seen == [("a 0",), ("a 2", "a 4"), (), (), (), ("own",)]
        else:
            assert not any(seen)
        seen.clear()
