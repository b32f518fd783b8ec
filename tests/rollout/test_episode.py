"""Episodes: what is dropped, selections of any resolution, masked frames, video mode."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from msjoe_jax.data.questions import Question
from msjoe_jax.rollout import episode_batches
from msjoe_jax.rollout.batches import full_weight
from msjoe_jax.rollout.frames import to_patches
from msjoe_jax.rollout.programs import Patches, frame_features
from msjoe_jax.selectors import SELECTORS
from msjoe_jax.selectors.base import Selection, Selector
from tests.support.system import (
    changed,
    colour_questions,
    noise_videos,
    tiny_run,
    with_damage,
)
from tests.support.tiny import tiny_config

B, I, J, K = 4, 2, 2, 4
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An untrained tiny system, and videos of which the first has fewer frames than K."""
    folder = tmp_path_factory.mktemp("episode")
    reader = noise_videos(folder / "records", {f"v{v}": 3 + 3 * v for v in range(B)})
    config = tiny_config(folder)
    config.rollout.questions, config.rollout.query_rollouts = B, I
    config.rollout.frame_draws = J
    return tiny_run(config, reader, colour_questions(reader.ids, B))


# --- what is dropped ------------------------------------------------------------------------------


def test_damaged_frames_drop_their_questions_alone(made, tmp_path):
    """A frame that both draws must take, of the first question; a preview of the second."""
    # Three frames, of which 0 and 2 are previews; six, of which 1 and 4 are.
    reader = with_damage(made.reader, tmp_path / "records", {"v0": 1, "v1": 1})
    work = dataclasses.replace(made, reader=reader).collector()
    rollout = work.batch(made.params, 5)
    weight = {record.question.id: record.weight for record in rollout.records}
    assert weight == {"q0": 0, "q1": 0, "q2": 1, "q3": 1}
    assert rollout.arrays.weight.tolist() == [record.weight for record in rollout.records]
    failures = work.roll_out.episodes.failures
    said = {failure["question"]: failure["error"] for failure in failures}
    assert said.keys() == {"q0", "q1"} and len(failures) == 2
    assert {failure["question"]: failure["video"] for failure in failures} == {
        "q0": "v0",
        "q1": "v1",
    }
    assert said["q0"].startswith("frames unreadable:") and "v0 is a damaged" in said["q0"]
    assert said["q1"].startswith("previews unreadable:") and "v1 is a damaged" in said["q1"]


def test_a_prompt_that_is_too_long_drops_its_question_alone(made):
    asked = list(made.questions)
    asked[2] = dataclasses.replace(asked[2], question="what colour is the cup ? " * 20)
    run = dataclasses.replace(made, questions=asked)
    episodes = run.episodes()
    (batch,) = episodes.batches(B)
    weight = full_weight(batch)
    how = {"temperature": 1.0, "weight": weight}
    reasoned = episodes.reason(run.params["mllm"], batch, 0, rollouts=I, **how)
    assert weight.tolist() == [1, 1, 0, 1]
    selected = episodes.select(run.params, batch, reasoned.queries, 0, selector="uniform")
    episodes.answer(run.params["mllm"], batch, selected.selection, 0, **how)
    assert weight.tolist() == [1, 1, 0, 1]
    ((failure,),) = [episodes.failures]  # once, though it is too long twice
    assert failure["question"] == "q2" and failure["error"].startswith("prompt too long: ")


def test_rows_that_fill_a_batch_do_not_count(made):
    episodes = made.episodes()
    batches = list(episodes.batches(3))
    assert [full_weight(batch).tolist() for batch in batches] == [[1, 1, 1], [1, 0, 0]]
    ids = [[question.id for question in episodes.batch_questions(batch)] for batch in batches]
    assert ids == [["q0", "q1", "q2"], ["q3", "q0", "q0"]]


# --- masked frames --------------------------------------------------------------------------------


@pytest.mark.parametrize("selector", ["msjoe", "uniform", "topk", "topk_smooth", "filtered"])
@pytest.mark.parametrize("sample", [True, False])
def test_what_stands_in_masked_frames_does_not_matter(made, selector, sample):
    """NaN in their embeddings changes no bit of the rows of S, nor of the choice."""
    episodes = made.episodes()
    (batch,) = episodes.batches(B)
    hole = ~batch["frame_mask"][..., None]
    assert hole.any()
    poisoned = {**batch, "embeddings": np.where(hole, np.nan, batch["embeddings"])}
    queries = [[("red cup", "dog"), ("kitchen",)]] * B
    clean, other = (
        episodes.select(made.params, x, queries, 3, selector=selector, draws=J, sample=sample)
        for x in (batch, poisoned)
    )
    np.testing.assert_array_equal(clean.selection.frames, other.selection.frames)
    assert (clean.selection.frames >= 0).any()
    for one, two in ((clean.similarity, other.similarity), (clean.logits, other.logits)):
        np.testing.assert_array_equal(one, two)
        assert not np.isnan(one).any()
    jax.tree.map(np.testing.assert_array_equal, clean.draw, other.draw)


# --- selections of any resolution -----------------------------------------------------------------

LARGE = 64  # patches: 8 × 8 of a frame of 112 × 112 pixels, 16 visual tokens
TOKENS = LARGE // 4


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    counts = {"v0": 3, "v1": 9}
    reader = noise_videos(folder / "records", counts, height=112, width=112)
    config = tiny_config(folder)
    config.frames.key_patches, config.prompt.answer_prompt_tokens = LARGE, 128
    return tiny_run(config, reader, colour_questions(reader.ids, 2))


def answered(run, monkeypatch, selector):
    """Queries to answers by a selector: (selection, what was completed)."""
    monkeypatch.setitem(SELECTORS, "toy", Selector(selector))
    episodes = run.episodes()
    (batch,) = episodes.batches(2)
    queries = [[("red cup",), ("dog", "kitchen")]] * 2
    selected = episodes.select(run.params, batch, queries, 0, selector="toy", draws=1)
    weight = full_weight(batch)
    completed = episodes.answer(
        run.params["mllm"], batch, selected.selection, 0, temperature=1.0, weight=weight
    )
    assert weight.all() and not episodes.failures
    return selected.selection, completed


def even(candidates, k):
    return SELECTORS["uniform"].select(candidates, k)


def lengths(completed):
    return np.asarray(completed.prompts.segments).sum(-1)


def same_completions(one, other):
    assert one.texts == other.texts
    jax.tree.map(np.testing.assert_array_equal, one.completions, other.completions)


def test_the_room_for_patches_changes_shapes_only(tmp_path, monkeypatch):
    """Frames of 2 : 1 leave half of a square's budget; with room for it: the same replies."""
    reader = noise_videos(tmp_path / "records", {"v0": 3, "v1": 9}, height=56, width=112)
    config = tiny_config(tmp_path)
    config.frames.key_patches, config.frames.preview_patches = LARGE, LARGE
    config.prompt.answer_prompt_tokens = config.prompt.query_prompt_tokens = 128
    run = tiny_run(config, reader, colour_questions(reader.ids, 2))
    _, fitted = answered(run, monkeypatch, even)
    (batch,) = run.episodes().batches(2)
    assert batch["preview"][0].shape[2] == fitted.patches.pixels.shape[2] == LARGE // 2
    monkeypatch.setattr(episode_batches, "most_patches", lambda sizes, system, budget: budget)
    _, whole = answered(run, monkeypatch, even)
    assert whole.patches.pixels.shape[2] == LARGE
    assert fitted.texts == whole.texts
    near = functools.partial(np.testing.assert_allclose, rtol=1e-6)  # sums in another order
    jax.tree.map(near, fitted.completions, whole.completions)


def test_fewer_tokens_make_shorter_prompts(large, monkeypatch):
    """Of frames of 16 tokens; what may have more than it has stays as it is."""
    chosen, plain = answered(large, monkeypatch, even)

    def with_tokens(each):
        def select(candidates, k):
            selection = even(candidates, k)
            return selection._replace(tokens=np.broadcast_to(each, selection.frames.shape))

        return answered(large, monkeypatch, select)[1]

    shown = (chosen.frames >= 0).reshape(2, 2, K)
    assert shown.sum(-1).tolist() == [[3, 3], [4, 4]]
    each = np.array([4, 1, 16, 9])  # squares: a square frame uses them up
    fewer = with_tokens(each)
    assert (lengths(plain) - lengths(fewer) == (shown * (TOKENS - each)).sum(-1)).all()
    same_completions(with_tokens(np.full(K, TOKENS)), plain)
    same_completions(with_tokens(np.full(K, 1 << 30)), plain)
    assert with_tokens(np.full(K, 0)).texts == with_tokens(np.full(K, 1)).texts  # one at least


def test_tokens_that_are_not_kept_leave_the_prompt(large, monkeypatch):
    """Keep all: the same bits as without; some: their features alone, at their old positions."""
    chosen, plain = answered(large, monkeypatch, even)
    keep = np.random.default_rng(0).random((2, 2, 1, K, TOKENS)) < 0.5

    def with_keep(keep):
        def select(candidates, k):
            return even(candidates, k)._replace(keep=keep)

        return answered(large, monkeypatch, select)[1]

    same_completions(with_keep(np.ones_like(keep)), plain)
    part = with_keep(keep)
    before, after = plain.prompts, part.prompts
    full, index = np.asarray(before.feature_index), np.asarray(after.feature_index)
    positions = [np.asarray(x.positions) for x in (before, after)]
    for b, g in np.ndindex(2, 2):
        here = full[b, g] >= 0
        kept = np.concatenate(
            [keep[b, g, 0, i] for i in np.flatnonzero(chosen.frames[b, g, 0] >= 0)]
        )
        stays = ~here
        stays[here] = kept
        stays &= np.asarray(before.segments)[b, g] != 0
        count = int(stays.sum())
        assert count == lengths(part)[b, g] < lengths(plain)[b, g]
        np.testing.assert_array_equal(index[b, g, :count], full[b, g, stays])
        np.testing.assert_array_equal(positions[1][b, g, :, :count], positions[0][b, g][:, stays])
    np.testing.assert_array_equal(after.start, before.start)
    np.testing.assert_array_equal(part.features, plain.features)


def test_tokens_and_masks_together_are_rolled_out(large, monkeypatch):
    """A whole batch of training, counterfactual set included, by a selector of both kinds."""

    def select(candidates, k):
        selection = even(candidates, k)
        shape = selection.frames.shape
        return selection._replace(
            tokens=np.full(shape, 4), keep=np.arange(TOKENS) % 2 == np.zeros((*shape, 1), int)
        )

    monkeypatch.setitem(SELECTORS, "toy", Selector(select))
    config = changed(
        large.config,
        **{"rollout.selector": "toy", "rollout.counterfactual": True},
        **{"rollout.questions": 2, "rollout.query_rollouts": 2, "rollout.frame_draws": 1},
    )
    collector = large.collector(config)
    rollout = collector.batch(large.params, 1)
    assert rollout.arrays.weight.tolist() == [1, 1]
    index = np.asarray(rollout.arrays.answers.prompts.feature_index)
    for b, record in enumerate(rollout.records):
        shown = (record.frames >= 0).sum(-1).reshape(-1)
        assert ((index[b] >= 0).sum(-1) == 2 * shown).all()  # two of four tokens
    assert rollout.arrays.measures["counterfactual"].shape == (2, 1, 1)


def test_masks_are_of_images(large):
    episodes = large.episodes(changed(large.config, **{"frames.mode": "video"}))
    keep = np.ones((1, 1, 1, K, TOKENS), bool)
    selection = Selection(np.zeros((1, 1, 1, K), int), keep=keep)
    with pytest.raises(ValueError, match=r"config\.frames\.mode=image"):
        episodes._frame_sets(selection)


# --- video mode -----------------------------------------------------------------------------------

HEIGHT, WIDTH = 56, 84  # pixels: a grid of 4 × 6 patches
GRID_TOKENS = 6
COUNTS = {"v0": 5, "v1": 8, "v2": 12}


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Three videos at odd times; 24 patches a frame, and an odd number of previews."""
    folder = tmp_path_factory.mktemp("video")
    reader = noise_videos(folder / "records", COUNTS, height=HEIGHT, width=WIDTH, uneven=True)
    config = tiny_config(folder)
    config.frames.mode, config.frames.preview = "video", 3
    config.frames.preview_patches = config.frames.key_patches = 24
    questions = [
        Question(f"q{v}", f"v{v}", "what colour is the cup ?", ("red", "blue"), 0) for v in range(3)
    ]
    return tiny_run(config, reader, questions)


@pytest.fixture(scope="module")
def encode(video):
    """Patches of U units to features [U·M, D]."""
    system = video.system
    program = jax.jit(lambda mllm, x: frame_features(system, system.mllm(mllm), x))
    return lambda pixels, grids: np.asarray(
        program(video.params["mllm"], Patches(pixels[None], grids[None]))
    )[0]


@pytest.mark.parametrize("time", ["uniform", "true"])
def test_an_episode_in_video_mode(video, encode, time, monkeypatch):
    system, params = video.system, video.params["mllm"]
    episodes = video.episodes(changed(video.config, **{"frames.time": time}))
    (batch,) = episodes.batches(3)
    assert batch["preview"][0].shape == (3, 2, 2, 24, 14, 14, 3)
    rows, plain = [], episodes.assembler.row
    monkeypatch.setattr(
        episodes.assembler, "row", lambda *args: rows.append((args, plain(*args))) or rows[-1][1]
    )
    weight = np.ones(3, np.float32)
    reasoned = episodes.reason(params, batch, 0, rollouts=2, temperature=1.0, weight=weight)
    shown = [min(3, n) for n in COUNTS.values()]
    for b, (args, _) in enumerate(rows):
        assert len(args[1]) == -(-shown[b] // 2)
        times = batch["preview_times"][b][: shown[b]]
        even = 2 * batch["duration"][b] / shown[b]
        want = tuple(times[::2]) if time == "true" else even
        assert args[3] == pytest.approx(want)
    rows.clear()

    # Draws that share the pair (0, 1), and frame 3 in pairs that differ; the second video loses
    # its last pick, the third has none in one draw.
    frames = np.array(
        [
            [[0, 1, 2, 3], [1, 0, 3, 4]],
            [[5, 1, 2, -1], [0, 1, 7, 6]],
            [[-1] * 4, [11, 10, 9, 3]],
        ]
    )
    answers = episodes.answer(
        params, batch, Selection(frames[:, None]), 0, temperature=1.0, weight=weight
    )
    assert weight.all() and not episodes.failures and len(rows) == 6
    assert np.isfinite(answers.features).all() and np.isfinite(reasoned.completed.features).all()
    pairs = [
        [[(0, 1), (2, 3)], [(0, 1), (3, 4)]],
        [[(1, 2), (5, 5)], [(0, 1), (6, 7)]],
        [[], [(3, 9), (10, 11)]],
    ]
    features = np.asarray(answers.features).reshape(3, -1, GRID_TOKENS, 64)
    assert features.shape[1] == 4  # slots: two draws of two pairs
    for i, (args, row) in enumerate(rows):
        b, g = divmod(i, 2)
        steps = pairs[b][g]
        places = row["feature_index"][row["feature_index"] >= 0].reshape(len(steps), GRID_TOKENS)
        assert (np.diff(places, axis=1) == 1).all() and (places[:, 0] % GRID_TOKENS == 0).all()
        if not steps:
            assert args[3] == (() if time == "true" else pytest.approx(2 * batch["duration"][b]))
            continue
        if time == "true":
            assert args[3] == pytest.approx([batch["timestamps"][b][pair[0]] for pair in steps])
        else:
            count = (frames[b, g] >= 0).sum()
            assert args[3] == pytest.approx(2 * batch["duration"][b] / count)
        # The features are those of these pairs of stored frames.
        picked = video.reader.frames(f"v{b}", batch["frame_index"][b][np.ravel(steps)])
        cut, grid = to_patches(picked, system, 24)
        want = encode(cut.reshape(len(steps), 2, *cut.shape[1:]), grid[::2])
        got = features[b, places[:, 0] // GRID_TOKENS].reshape(want.shape)
        np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
    # The shared pair was encoded once.
    assert rows[0][1]["feature_index"].max() < 3 * GRID_TOKENS
    first = [r["feature_index"][r["feature_index"] >= 0][0] for _, r in rows[:2]]
    assert first == [0, 0]
