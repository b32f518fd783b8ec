"""What a batch's columns share, and what their seconds say."""

import types

import numpy as np
import pytest

from msjoe_jax.evaluation.columns import columns_of
from msjoe_jax.evaluation.steps import Steps, Watch, queries_of
from msjoe_jax.selectors.base import Selection
from tests.support.fake_episodes import PARAMS, FakeEpisodes, arms_of, question


def steps_of(episodes, **params):
    batch = next(iter(episodes.batches(len(episodes.questions))))
    sets = {name: PARAMS[name] for name in params.get("sets", ("joint",))}
    return Steps(episodes, batch, sets, lambda *_: batch, Watch(), params.get("looked_at", ()))


def column(name, budget=4):
    return columns_of(arms_of([name]), (budget,))[0]


def test_queries_that_need_no_model():
    asked = question("a", oracle_queries=["cup", "dog"])
    assert queries_of("oracle", asked) == ("cup", "dog")
    assert queries_of("question", asked) == ("what colour?",)
    assert queries_of("none", asked) == ("",)


def test_the_same_prompts_are_answered_once_and_drop_the_same():
    episodes = FakeEpisodes([question("a"), question("bad"), question("c")], lambda *_: True)
    steps = steps_of(episodes)
    weights = [np.ones(3, np.float32) for _ in range(3)]
    chosen = [
        steps.select(column(name), weights[i]) for i, name in enumerate(["joint", "msjoe", "topk"])
    ]
    replies = [
        steps.answer(column("joint"), one.draws[0], w)
        for one, w in zip(chosen, weights, strict=True)
    ]
    assert len(episodes.reasoned) == 1  # three columns search for what it wrote
    assert len(episodes.answered) == 2  # joint's frames are msjoe's
    assert [w.tolist() for w in weights] == [[1, 0, 1]] * 3
    assert replies[0].texts == replies[1].texts == ["<answer>B</answer>"] * 3
    assert replies[0].prompt_tokens == [4, 4, 4]  # three before the last


def test_other_words_or_frames_are_asked_anew():
    episodes = FakeEpisodes([question("a")], lambda *_: True)
    steps, weight = steps_of(episodes), np.ones(1, np.float32)
    chosen = steps.select(column("joint"), weight).draws[0]
    for name in ("joint", "joint:shuffled", "joint:subtitles"):
        steps.answer(column(name), chosen, weight)
    # Without subtitles in the record nothing changes; the options' order may be the own one.
    shuffled = steps.answer(column("joint:shuffled"), chosen, weight).asked[0].order != (0, 1)
    assert len(episodes.answered) == 1 + shuffled
    steps.answer(column("joint", 8), steps.select(column("joint", 8), weight).draws[0], weight)
    assert episodes.answered[-1] == ("joint mllm", 8)


def test_a_watch_knows_what_was_compiled(monkeypatch):
    watch = Watch(4)
    try:
        value, seconds = watch(lambda: 7)
        assert value == 7 and seconds is not None and seconds >= 0
        assert watch.of_a_question(8.0) == 2.0 and watch.of_a_question(None) is None

        def compiles():
            watch._compiled.count += 1

        assert watch(compiles) == (None, None)
    finally:
        watch.close()
    assert Watch()(lambda: 7) == (7, None) and Watch().of_a_question(1.0) is None


@pytest.mark.parametrize("read", (False, True))
def test_seconds_of_what_was_computed_before_are_charged_again(monkeypatch, read):
    """S takes 6 s for three questions at its first use, and every column that reads it pays."""
    episodes = FakeEpisodes([question("a"), question("b"), question("c")], lambda *_: True)
    steps = steps_of(episodes, sets=("base",))
    arrays = types.SimpleNamespace(reads=0, seconds=0.0)
    plain = episodes.candidates

    def candidates(*arguments, **named):
        made = plain(*arguments, **named)
        again = made.again

        def shared(*arguments, **named):
            one = again(*arguments, **named)
            one.on_devices = arrays
            return one

        made.again = shared
        return made

    choose, ticks = episodes.choose, iter((6.5, 0.5))

    def slow(candidates, selector, k):
        if read:
            arrays.reads, arrays.seconds = arrays.reads + 1, 6.0
        return choose(candidates, selector, k)

    class Clock:
        timed = True

        def __call__(self, function):
            return function(), next(ticks) if read else 0.5

        def of_a_question(self, seconds):
            return None if seconds is None else seconds / 3

    monkeypatch.setattr(episodes, "candidates", candidates)
    monkeypatch.setattr(episodes, "choose", slow)
    steps._watch = Clock()
    weight = np.ones(3, np.float32)
    first, second = (steps.select(column("topk_question", k), weight).seconds for k in (2, 4))
    expected = {"query": 0.0, "similarity": 2.0 if read else 0.0, "sampler": 0.5 / 3}
    assert first == pytest.approx(expected) and second == pytest.approx(expected)


def test_perfect_replies_name_what_shows_the_answer_among_what_they_were_asked_about():
    asked = [question("a", oracle_frames=[[3, 4], [9]]), question("b")]
    steps = steps_of(FakeEpisodes(asked, lambda *_: True))
    steps.batch["frame_index"] = steps.batch["timestamps"]
    frames = np.array([[[[1, 2, 5, 7]]], [[[1, -1, -1, -1]]]])
    shown = np.isin(steps.batch["timestamps"], [3, 8, 9])[:, None]
    selection = Selection(frames=frames, asked=shown)
    assert [steps._nameable(b, selection) for b in (0, 1)] == [2 / 4, None]  # b has no evidence
    assert steps._nameable(0, selection._replace(frames=frames[:, :, :, :1])) == 1.0
    assert steps._nameable(0, Selection(frames=frames)) is None
