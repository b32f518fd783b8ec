"""Uses of an episode's programs have the shapes of what episodes call (see test_program_list)."""

import jax
import numpy as np
import pytest

from msjoe_jax.config import read_config
from msjoe_jax.rollout.collect import RolloutConfig
from msjoe_jax.rollout.episode_batches import LENGTHS
from msjoe_jax.rollout.programs import ANSWER, REASON
from msjoe_jax.rollout.uses import EpisodeUses, Pick
from msjoe_jax.selectors.base import Selection
from msjoe_jax.selectors.fixed import uniform_frames
from tests.support.system import changed, colour_questions, noise_videos, tiny_run
from tests.support.tiny import tiny_config

B, I, J = 2, 3, 2


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uses")
    reader = noise_videos(folder / "records", {"v0": 20, "v1": 40})
    return tiny_run(tiny_config(folder), reader, colour_questions(reader.ids, B))


def same(listed, real):
    listed, real = (
        jax.tree.map(lambda x: (tuple(x.shape), str(x.dtype)), x) for x in (listed, real)
    )
    assert listed == real


@pytest.mark.parametrize("mode", ["image", "video"])
@pytest.mark.parametrize("counterfactual", [False, True])
def test_prompts_patches_and_seeds_are_those_of_a_batch(made, mode, counterfactual):
    config = changed(made.config, **{"frames.mode": mode})
    typed, episodes = read_config(config), made.episodes(config)
    uses = EpisodeUses(made.programs, typed.episode, typed.prompt, episodes.text.end_ids)
    rollout = RolloutConfig(
        questions=B, query_rollouts=I, frame_draws=J, counterfactual=counterfactual
    )
    (batch,) = episodes.batches(B)
    weight = np.ones(B, np.float32)
    rows, patches = episodes.preview_prompts(batch, weight)
    use = uses.reasoning("joint", rollout, {}, {}, temperature=0.5)
    same(use.arguments, ({}, episodes.stack(rows), patches, episodes.seeds(batch, 1)))
    tokens = typed.prompt.query_tokens
    sampling = episodes.text.sampling(tokens, 0.5)
    assert use.choices == {"place": REASON, "samples": I, "sampling": sampling}
    sets = I * J + counterfactual
    frames = uniform_frames(batch["frame_mask"], typed.frames.key)[:, None, None]
    frames = np.broadcast_to(frames, (B, sets, 1, frames.shape[-1]))
    rows, patches = episodes.answer_prompts(batch, Selection(frames=frames), weight)
    use = uses.answering("joint", rollout, {}, {}, samples=4, temperature=0.0)
    same(use.arguments, ({}, episodes.stack(rows), patches, episodes.seeds(batch, 1)))
    sampling = episodes.text.sampling(typed.prompt.answer_tokens, 0.0)
    assert use.choices == {"place": ANSWER, "samples": 4, "sampling": sampling}
    assert (use.name, use.phase) == ("joint: answer", "joint")


def test_a_trained_selector_draws_in_training_alone(made):
    typed = read_config(made.config)
    uses = EpisodeUses(made.programs, typed.episode, typed.prompt, (1,))
    rollout = RolloutConfig(questions=B, query_rollouts=I, frame_draws=J)
    params = {"clip": {}, "sampler": {}}

    def steps(selectors, sample):
        picks = [Pick(name, 4, J, sample) for name in selectors]
        listed = uses.selection("joint", rollout, params, {}, picks, sample)
        return [use.program.name for use in listed]

    score = ["embed_queries", "cosine", "masked"]
    assert steps(["uniform", "oracle"], False) == score
    assert steps(["topk"], True) == [*score, "best_frames"]
    assert steps(["msjoe"], True) == [*score, "frame_logits", "draw_keys", "choose_frames"]
    assert steps(["msjoe"], False) == [*score, "frame_logits", "choose_frames"]


def test_fewer_frames_have_shorter_prompts_and_more_have_longer_ones(made):
    """Fewer leave the text as much room as in the config's prompts; more are as a run has them."""
    typed, episodes = read_config(made.config), made.episodes(made.config)
    uses = EpisodeUses(made.programs, typed.episode, typed.prompt, (1,))
    rollout = RolloutConfig(questions=B, query_rollouts=1, frame_draws=1)
    key, limit = typed.frames.key, typed.prompt.answer_prompt_tokens
    each = typed.frames.key_patches // made.system.mllm_config.vision.merge**2
    for number in (1, key, 2 * key):
        use = uses.showing(number).answering("", rollout, {}, {}, samples=1, temperature=0.0)
        prompts, patches = use.arguments[1:3]
        assert patches.pixels.shape[1] == number
        (batch,) = episodes.batches(B)
        frames = uniform_frames(batch["frame_mask"], number)[:, None, None]
        other = episodes.with_key_frames(number)
        rows, real = other.answer_prompts(batch, Selection(frames=frames), np.ones(B, np.float32))
        assert real.pixels.shape == patches.pixels.shape
        length = prompts.tokens.shape[-1]
        assert other.stack(rows).tokens.shape[-1] <= length
        assert length <= other.text.prompt.answer_prompt_tokens
        if number < key:
            assert 0 <= length - (limit - (key - number) * each) < -(-limit // LENGTHS)
