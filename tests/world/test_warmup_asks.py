"""What the tiny MLLM is shown of selectors' prompts, against the plan of a video."""

import numpy as np
import pytest

from msjoe_jax.selectors.replies import read_frames, read_scores, read_segment
from msjoe_jax.world import warmup_asks
from msjoe_jax.world.spec import WorldSpec, make_video


@pytest.fixture(scope="module")
def plan():
    return make_video(WorldSpec(), "train", 5)[0]


def test_relevance_is_of_the_target_alone(plan):
    (target,) = plan.targets(plan.words[:1])
    levels = warmup_asks.relevance(plan, plan.words[:1], range(96))
    for t, level in enumerate(levels):
        inside = target.start <= t < target.start + target.length
        shows = t in target.visible_frames
        assert level == (5 if shows else 2 if inside else 0)
    assert 5 in levels and 0 in levels


def test_replies_say_the_levels():
    levels = [0, 5, 5, 2, 0, 5, 0, 0]
    assert warmup_asks.scores_reply(levels) == '{"1-2": 5, "3": 2, "5": 5}'
    assert warmup_asks.segment_reply(levels) == "<segment>0-6</segment>"
    assert warmup_asks.frames_reply(levels, 2) == "<frames>1, 2</frames>"
    assert warmup_asks.scores_reply([0] * 8) == "{}"
    assert warmup_asks.segment_reply([0] * 8) == "<segment>whole</segment>"
    assert warmup_asks.frames_reply([2] * 8, 2) == "<frames>none</frames>"


def test_every_reply_can_be_read_and_says_what_is_shown(plan):
    rng = np.random.default_rng(0)
    texts = set()
    for _ in range(60):
        frames = sorted(rng.permutation(96)[:8].tolist())
        (first, scores), (second, other) = warmup_asks.ask_and_reply(plan, frames, 6, rng)
        read = read_scores(scores, 8)
        shown = {t for a, b in read for t in range(a, b + 1)}
        best = {i for i in shown if max(v for (a, b), v in read.items() if a <= i <= b) == 5}
        if "<segment>" in second:
            a, b = read_segment(other, 8)
            assert not shown or (a <= min(shown) and b >= max(shown))
        else:
            assert set(read_frames(other, 8)) == best
        texts |= {first, second}
    assert len(texts) > 4


def test_windows_are_successive_frames_of_the_video(plan):
    rng = np.random.default_rng(1)
    found = [warmup_asks.choose_window(plan, 96, 8, rng) for _ in range(400)]
    windows = [w for w in found if w]
    assert 0.3 < len(windows) / 400 < 0.5
    for w in windows:
        assert w == list(range(w[0], w[0] + 8)) and w[0] >= 0 and w[-1] < 96
    events = {t for e in plan.events for t in range(e.start, e.start + e.length)}
    share = np.mean([bool(events & set(w)) for w in windows])
    by_chance = np.mean([bool(events & set(range(s, s + 8))) for s in range(89)])
    assert share > by_chance
