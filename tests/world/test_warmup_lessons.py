"""What the warm-up asks, demonstrates and describes, for videos of two words and of three."""

import numpy as np
import pytest

from msjoe_jax.world import second, warmup_lessons
from msjoe_jax.world.spec import COLOURS, KINDS, SENSES, WORDS, WorldSpec, kind_of, make_video

RNG = np.random.default_rng


@pytest.fixture(params=[1, 2], ids=["first", "second"])
def plan(request):
    if request.param == 1:
        return make_video(WorldSpec(), "train", 3)[0]
    return second.make_video(second.SecondSpec(), "train", 3)[0]


@pytest.mark.parametrize("words", [[4, 1], [4, 1, 2]], ids=["two", "three"])
def test_asked_words(words):
    hard = [warmup_lessons.asked_words(words, 0.0, RNG(i)) for i in range(20)]
    assert all(asked == [words[:1], words[:2], words] for asked in hard)
    easy = [warmup_lessons.asked_words(words, 1.0, RNG(i)) for i in range(20)]
    shorter = words if len(words) == 2 else words[1:]
    assert all(asked == [words[:1], words[1:2], shorter] for asked in easy)
    mixed = [warmup_lessons.asked_words(words, 0.3, RNG(i)) for i in range(400)]
    assert abs(np.mean([len(two) == 2 for _, two, _ in mixed]) - 0.55) < 0.1
    assert abs(np.mean([most == words for *_, most in mixed]) - 0.7 ** (len(words) - 2)) < 0.1


@pytest.mark.parametrize("words", [[4, 1], [4, 1, 2]], ids=["two", "three"])
def test_searched_words(words):
    numbers = [len(warmup_lessons.searched_words(words, RNG(i))) for i in range(600)]
    counts = np.bincount(numbers)[1:]
    assert len(counts) == len(words) and np.abs(counts / 600 - 1 / len(words)).max() < 0.09
    assert warmup_lessons.searched_words(words, RNG(0)) == words[: numbers[0]]


def test_demonstrated_queries():
    rng = RNG(0)
    drawn = [warmup_lessons.demonstrate(2, 1, rng) for _ in range(800)]
    word = WORDS[2]
    shares = {name: drawn.count(name) / 800 for name in set(drawn)}
    assert set(shares) == {word, *SENSES[word]}
    assert abs(shares[word] - 0.4) < 0.06 and abs(shares[SENSES[word][1]] - 0.3) < 0.06


def test_facts_are_of_what_is_shown(plan):
    targets = plan.targets(plan.words)
    frames = [event.visible_frames[0] for event in targets]
    rng, known = RNG(1), {e.kind: COLOURS[e.colour] for e in plan.events}
    for _ in range(20):
        facts = warmup_lessons.facts(plan, frames, rng)
        meanings = [fact for fact in facts if "<query>" in fact]
        assert sorted(meanings) == sorted(
            f"{WORDS[w]} <query> {KINDS[kind_of(w, plan.setting)]}" for w in plan.words
        )
        others = [fact for fact in facts if fact not in meanings]
        assert 0 < len(others) <= warmup_lessons.DESCRIBED
        for fact in others:
            name, *_, said = fact.split()
            kind = KINDS.index(name) if name in KINDS else kind_of(WORDS.index(name), plan.setting)
            letter = "ABCD"[COLOURS.index(known[kind])]
            assert kind in {e.kind for e in targets} and said in (known[kind], letter)
    assert len(warmup_lessons.facts(plan, [], rng)) == len(plan.words)
