"""Rollout batches: independence of order and threads, refill, and the options of a batch."""

import dataclasses

import jax
import numpy as np
import pytest

from msjoe_jax.rollout.collect import RolloutConfig
from msjoe_jax.selectors.fixed import uniform_frames
from msjoe_jax.tasks import TASKS
from msjoe_jax.tasks.base import Grade, Task
from tests.support.system import (
    changed,
    colour_questions,
    noise_videos,
    same_rollouts,
    tiny_run,
)
from tests.support.tiny import tiny_config

VIDEOS, B, I, J, K = 6, 4, 2, 2, 4
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An untrained tiny system, and videos of which the first has fewer frames than K."""
    folder = tmp_path_factory.mktemp("collect")
    reader = noise_videos(folder / "records", {f"v{v}": 3 + 3 * v for v in range(VIDEOS)})
    config = tiny_config(folder)
    config.rollout.questions, config.rollout.query_rollouts = B, I
    config.rollout.frame_draws = J
    return tiny_run(config, reader, colour_questions(reader.ids, 2 * VIDEOS))


@pytest.fixture(scope="module")
def plain(made):
    """One rollout batch and the pipeline's batch it came from."""
    batch = next(made.stream())
    return batch, made.collector(batches=[batch]).batch(made.params, 5)


# --- one seed, the update, the question -----------------------------------------------------------


def test_the_order_of_the_batch_does_not_matter(made, plain):
    batch, before = plain
    order = [2, 0, 3, 1]
    shuffled = jax.tree.map(lambda x: x[order], batch)
    after = made.collector(batches=[shuffled]).batch(made.params, 5)
    ids = [record.question.id for record in after.records]
    assert ids == [before.records[b].question.id for b in order]
    same_rollouts(after, before)


def test_another_update_or_seed_draws_anew(made, plain):
    batch, before = plain
    for config, update in ((made.config, 6), (changed(made.config, seed=1), 5)):
        other = made.collector(config, [batch]).batch(made.params, update)
        pairs = zip(before.records, other.records, strict=True)
        assert any((a.draws != b.draws).any() for a, b in pairs)


def test_parts_in_threads_are_the_batch(made, plain):
    batch, before = plain
    config = changed(made.config, **{"rollout.waves": 2})
    after = made.collector(config, [batch]).batch(made.params, 5)
    ids = [record.question.id for record in after.records]
    assert ids == [record.question.id for record in before.records]
    same_rollouts(after, before)
    assert (after.query_tokens, after.answer_tokens) == (before.query_tokens, before.answer_tokens)


# --- options of a batch ---------------------------------------------------------------------------


def test_the_counterfactual_shows_uniform_frames(made, plain):
    batch, before = plain
    config = changed(made.config, **{"rollout.counterfactual": True})
    work, shown = made.collector(config, [batch]), []
    episodes = work.roll_out.episodes
    prompts = episodes.answer_prompts
    episodes.answer_prompts = lambda *args: shown.append(args[1]) or prompts(*args)
    after = work.batch(made.params, 5)
    frames = shown[0].frames.reshape(B, -1, K)
    assert len(shown) == 1 and frames.shape == (B, I * J + 1, K)
    for b, record in enumerate(after.records):
        count = int(record.frame_mask.sum())
        uniform = frames[b, -1][frames[b, -1] >= 0]
        assert len(uniform) == min(K, count) and (np.diff(uniform) > 0).all()
        if count >= K:
            bins = uniform * K // count
            assert bins.tolist() == list(range(K))
        np.testing.assert_array_equal(frames[b, :-1].reshape(I, J, K), record.frames)
    assert after.arrays.measures["counterfactual"].shape == (B, 1, 1)
    assert "counterfactual" not in before.arrays.measures
    same_rollouts(after, before)  # the other sets do not notice


def test_the_question_searches(made, plain):
    batch, _ = plain
    config = changed(made.config, **{"rollout.queries": "question"})
    after = made.collector(config, [batch]).batch(made.params, 5)
    similarity, mask = jax.device_get((after.arrays.similarity, after.arrays.query_mask))
    assert mask.tolist() == [[[True, False]] * I] * B  # one query: the question
    np.testing.assert_array_equal(similarity[:, 0], similarity[:, 1])  # of all rollouts alike
    assert np.abs(similarity[:, 0, 0]).max() > 0
    assert not np.asarray(after.arrays.queries.mask).any()  # replies without a part teach nothing


@pytest.mark.parametrize("selector", ["uniform", "topk", "topk_smooth", "filtered"])
def test_a_selector_that_draws_nothing_repeats_itself(made, plain, selector):
    """Every list of queries has J equal choices, which are also its draws."""
    batch, _ = plain
    config = changed(made.config, **{"rollout.selector": selector})
    after = made.collector(config, [batch]).batch(made.params, 5)
    for record in after.records:
        assert (record.frames == record.frames[:, :1]).all()
        np.testing.assert_array_equal(np.sort(record.draws), np.sort(record.frames))
        count = int(record.frame_mask.sum())
        assert (record.frames >= 0).sum(-1).tolist() == [[min(K, count)] * J] * I
        assert np.isneginf(record.logits[:, ~record.frame_mask]).all()


def test_a_task_grades_the_replies(made, plain, monkeypatch):
    """By question and reply; the measures are its scores, in the order of the draws."""
    batch, before = plain
    seen = []

    def grade(question, reply):
        seen.append((question.id, reply.text, reply.finished, reply.think))
        return Grade(score=(len(seen) % 5) / 4, valid=len(seen) % 2 == 0)

    monkeypatch.setitem(TASKS, "toy", Task(read=lambda path: [], grade=grade, groups=lambda q: {}))
    config = changed(made.config, **{"data.task": "toy"})
    after = made.collector(config, [batch]).batch(made.params, 5)
    assert [text for _, text, *_ in seen] == [t for r in before.records for t in r.answers]
    ids = [record.question.id for record in before.records]
    assert [name for name, *_ in seen] == [name for name in ids for _ in range(I * J)]
    ends = np.asarray(before.arrays.answers.finished).reshape(-1).tolist()
    assert [(finished, think) for *_, finished, think in seen] == [(end, False) for end in ends]
    numbers = np.arange(1, B * I * J + 1)
    measures = jax.device_get(after.arrays.measures)
    np.testing.assert_allclose(measures["correct"], (numbers % 5 / 4).reshape(B, I, J))
    np.testing.assert_allclose(measures["answer_valid"], (numbers % 2 == 0).reshape(B, I, J))
    assert [record.correct.tolist() for record in after.records] == measures["correct"].tolist()


def test_choices_of_a_batch_that_do_not_go_together():
    def slips(**fields):
        return list(RolloutConfig(**fields).slips())

    assert not slips(questions=6, waves=3)
    assert slips(questions=6, waves=4) == ["waves=4 does not divide config.rollout.questions=6"]
    assert "nothing to train on" in slips(selector="blind")[0]


def test_a_share_of_questions_is_shown_uniform_frames(made, plain):
    """They have no draw, their queries are masked, and the others are as without."""
    batch, before = plain
    config = changed(made.config, **{"rollout.uniform_share": 0.5})
    after = made.collector(config, [batch]).batch(made.params, 5)
    marked = np.asarray(after.arrays.uniform) == 1
    assert 0 < marked.sum() < len(marked)  # by these ids and this seed
    for b, (old, new) in enumerate(zip(before.records, after.records, strict=True)):
        assert new.uniform == marked[b]
        if marked[b]:
            want = uniform_frames(batch["frame_mask"][b : b + 1], K)[0]
            assert (new.frames == want).all() and (new.draws == -1).all()
        else:
            np.testing.assert_array_equal(new.draws, old.draws)
            assert new.answers == old.answers
    masks = np.asarray(after.arrays.queries.mask).any((1, 2, 3))
    np.testing.assert_array_equal(masks, ~marked)


def test_copies_in_a_batch_roll_out_independently(made):
    """Their keys differ; the first has those of the question alone."""
    number = len(made.questions) - 1
    order = np.array([number, 0, number, number])
    batch = next(iter(made.episodes().batches(B, order)))
    rollout = made.collector(batches=[batch]).batch(made.params, 5)
    assert [record.copy for record in rollout.records] == [0, 0, 1, 2]
    draws = [record.draws.tolist() for record in rollout.records]
    assert draws[0] != draws[2] != draws[3] != draws[0]
    alone = next(iter(made.episodes().batches(B, np.array([1, 2, 3, number]))))
    again = made.collector(batches=[alone]).batch(made.params, 5)
    assert again.records[3].draws.tolist() == draws[0]


# --- lengths --------------------------------------------------------------------------------------


def test_shorter_prompts_change_shapes_only(made, plain):
    batch, before = plain
    config = changed(made.config, **{"prompt.length_step": 24})
    after = made.collector(config, [batch]).batch(made.params, 5)
    short, long = (x.arrays.queries.prompts.tokens.shape[-1] for x in (after, before))
    assert short < long and short % 24 == 0
    same_rollouts(after, before)


@pytest.mark.soak
def test_parts_of_different_length_join(made, plain):
    """Waves, and a refill: some prompts cut to a step, others of full length."""
    batch, _ = plain
    asked = list(made.questions)
    for i in batch["index"][1::2]:
        asked[i] = dataclasses.replace(asked[i], question="what colour is the cup ? " * 7)
    longer = dataclasses.replace(made, questions=asked)
    cut = changed(made.config, **{"prompt.length_step": 24})
    before = longer.collector(batches=[batch]).batch(made.params, 5)
    in_waves = changed(cut, **{"rollout.waves": 2})
    waves = longer.collector(in_waves, [batch]).batch(made.params, 5)
    short = made.collector(cut, [batch]).batch(made.params, 5)
    extra = longer.collector(cut, [batch]).batch(made.params, 5)
    for part in ("queries", "answers"):
        lengths = [getattr(x.arrays, part).prompts.tokens.shape[-1] for x in (short, extra)]
        assert lengths[0] < lengths[1] == 96
    rows = np.array([1, 3, 0, 0], np.int32)
    arrays = made.collector(cut, [])._replace_rows(
        short.arrays, extra.arrays, rows, rows, np.int32(2)
    )
    records = [(short, extra)[b % 2].records[b] for b in range(B)]
    refilled = short._replace(arrays=arrays, records=records)
    for after in (waves, refilled):
        same_rollouts(after, before)
        for part in ("queries", "answers"):
            left, right = (getattr(x.arrays, part).prompts for x in (after, before))
            jax.tree.map(np.testing.assert_array_equal, left, right)
