"""Q-Frame: its tiers, and their visual tokens counted in the prompts of real clips."""

import numpy as np
import pytest

from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader, RecordWriter
from msjoe_jax.data.video import decode
from msjoe_jax.errors import UserError
from msjoe_jax.rollout.batches import full_weight
from msjoe_jax.rollout.candidates import BatchCandidates
from msjoe_jax.selectors import SELECTORS, qframe
from tests.support.embeddings import write_embeddings
from tests.support.material import VIDEOS, needs_material
from tests.support.scored import chosen, scored
from tests.support.system import EMBEDDING, changed, colour_questions, noise_videos, tiny_run
from tests.support.tiny import tiny_config

BUDGET, PATCHES = 8, 1024


@pytest.mark.parametrize(
    "k, tiers", [(8, (4, 8, 32)), (1, (1, 0, 0)), (3, (2, 2, 8)), (16, (8, 16, 64))], ids=str
)
def test_tiers_fill_the_budget(k, tiers):
    whole, quarters, sixteenths = qframe.tiers(k)
    assert (whole, quarters, sixteenths) == tiers and qframe.most(k) == sum(tiers)
    assert whole + quarters / 4 + sixteenths / 16 == k


def test_ranks_are_shown_smaller_and_smaller():
    """Scores so far apart that noise does not matter."""
    rng = np.random.default_rng(0)
    scores = rng.permutation(100) * 2.0
    frames, tokens = chosen(SELECTORS["qframe"].select(scored(scores), 8))
    order = np.argsort(-scores)
    for limit, ranks in ((256, order[:4]), (64, order[4:12]), (16, order[12:44])):
        shown = [t for t, n in zip(frames, tokens, strict=True) if n == limit]
        assert shown == sorted(ranks)


def test_small_frames_keep_to_the_budget():
    """Of 4 tokens a sixteenth is one: 16 + 8 + 8 of a budget of 32, and no more."""
    scores = np.arange(100) * 2.0
    frames, tokens = chosen(SELECTORS["qframe"].select(scored(scores, frame_tokens=4), 8))
    assert frames == list(range(100 - 20, 100))
    assert tokens == [1] * 16 + [4] * 4


def test_a_long_video_is_thinned():
    """Of 200 frames 128 are candidates, evenly from the first to the last."""
    picks = SELECTORS["qframe"].select(scored([0.0] * 200, draws=40), 8).frames
    assert set(picks.ravel()) == set(np.linspace(0, 199, 128).astype(int))


# --- tokens in prompts ----------------------------------------------------------------------------

CLIPS = {"one-by-one-person-detection": 139, "ma-lmm_video": 70, "kitchen": 41}


def grid_of(height, width, tokens):
    """Qwen's published resize: multiples of 28, at most so many of them in all."""
    rows, columns = round(height / 28), round(width / 28)
    if rows * columns > tokens:
        scale = np.sqrt(height * width / (tokens * 28 * 28))
        rows, columns = int(height / scale / 28), int(width / scale / 28)
    return max(rows, 1) * max(columns, 1)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Real clips at one frame a second, and a tiny system that sees them."""
    folder = tmp_path_factory.mktemp("clips")
    with RecordWriter(folder / "records") as writer:
        for name in CLIPS:
            writer.add(name, decode(VIDEOS / f"{name}.mp4", 1.0, 448))
    infos = [RecordReader(folder / "records").info(name) for name in CLIPS]
    assert {info.id: info.num_frames for info in infos} == pytest.approx(CLIPS, abs=1)
    rng = np.random.default_rng(0)
    rows = ((info.id, rng.normal(size=(info.num_frames, EMBEDDING))) for info in infos)
    write_embeddings(folder / "records", "random", rows)
    settings = {
        "frames.candidates": 200,
        "frames.key": BUDGET,
        "frames.key_patches": PATCHES,
        "prompt.answer_prompt_tokens": 4096,
    }
    config = changed(tiny_config(folder), **settings)
    reader = RecordReader(folder / "records")
    return tiny_run(config, reader, colour_questions(list(CLIPS), len(CLIPS)))


def visual_tokens(episodes, rows):
    """The visual tokens of each picture of a prompt, by its markers and placeholders alone."""
    sizes = episodes.system.mllm_config
    counts = []
    for token in rows["tokens"]:
        if token == sizes.vision_start_token_id:
            counts.append(0)
        elif token == sizes.image_token_id:
            counts[-1] += 1
    return counts


@needs_material
@pytest.mark.slow
@pytest.mark.parametrize("name", ["qframe", "topk_two_sizes", "gmm_eva", "topk"])
def test_visual_tokens_of_real_clips(clips, name):
    """Each picture has the tokens of its tier, and all of them together fit the budget."""
    episodes = clips.episodes()
    (batch,) = episodes.batches(len(CLIPS))
    weight = full_weight(batch)
    queries = [[("red cup",)]] * len(CLIPS)
    selection = episodes.select(
        clips.params, batch, queries, 0, selector=name, weight=weight
    ).selection
    prompts, _ = episodes.answer_prompts(batch, selection, weight)
    assert (weight == 1).all() and not episodes.failures
    for b, (clip, seconds) in enumerate(CLIPS.items()):
        frames, limits = chosen(selection, b)
        info = clips.reader.info(clip)
        limits = limits or [PATCHES // 4] * BUDGET
        counts = visual_tokens(episodes, prompts[b][0])
        assert counts == [grid_of(info.height, info.width, limit) for limit in limits]
        assert all(count <= limit for count, limit in zip(counts, limits, strict=True))
        assert sum(counts) <= BUDGET * PATCHES // 4
        if name == "qframe":
            tiers = [limits.count(limit) for limit in (256, 64, 16)]
            assert tiers == [4, 8, min(32, info.num_frames - 12)], seconds
        elif name != "topk":
            assert len(frames) == BUDGET and set(limits) == {256, 64}


def test_the_widest_tier_is_what_key_patches_allow(tmp_path):
    """Through the candidates of a run, which also give each draw its chance."""
    reader = noise_videos(tmp_path / "records", {"v0": 14, "v1": 14})
    run = tiny_run(tiny_config(tmp_path), reader, colour_questions(reader.ids, 2))

    def candidates(update=0, seed=0):
        episodes = run.episodes(changed(run.config, seed=seed))
        (batch,) = episodes.batches(2)
        return BatchCandidates(
            episodes, run.params, batch, [[("cup",)] * 2] * 2,
            update=update, draws=2, sample=False, weight=full_weight(batch),
        )  # fmt: skip

    made = candidates()
    assert made.frame_tokens == run.episodes().config.frames.key_patches // 4 == 4

    def draws(made):
        places = np.ndindex(2, 2, 2)
        return [made.generator(*place).integers(1 << 40) for place in places]

    first = draws(made)
    assert first == draws(candidates()) and len(set(first)) == 8
    assert not set(first) & set(draws(candidates(update=1)))
    assert not set(first) & set(draws(candidates(seed=1)))


def test_several_sizes_are_refused_in_a_video(tmp_path):
    """All frames of a video are of one size."""
    reader = noise_videos(tmp_path / "records", {"v0": 14})
    config = changed(tiny_config(tmp_path), **{"frames.mode": "video"})
    run = tiny_run(config, reader, [Question("q0", "v0", "what ?", ("red", "blue"), 0)])
    episodes = run.episodes()
    (batch,) = episodes.batches(1)
    weight = full_weight(batch)
    selection = SELECTORS["topk_two_sizes"].select(scored([0.0, 1.0, 2.0], frame_tokens=4), 3)
    with pytest.raises(UserError, match=r"several sizes.*config\.frames\.mode=image"):
        episodes.answer_prompts(batch, selection, weight)
    one_size = selection._replace(tokens=np.ones_like(selection.tokens))
    episodes.answer_prompts(batch, one_size, weight)
    assert weight.tolist() == [1]
