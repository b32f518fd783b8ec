"""The host's half of an episode: rows of its own, and lengths that all hosts agree on."""

import jax
import numpy as np
import pytest

from msjoe_jax.rollout import episode_batches
from msjoe_jax.rollout.batches import full_weight
from tests.support.system import changed, colour_questions, noise_videos, tiny_run
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
