"""The second world: what its specification promises, counted and seen."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.world_placement import missing
from msjoe_jax.errors import UserError
from msjoe_jax.selectors.fixed import oracle_frames
from msjoe_jax.world import second
from msjoe_jax.world.render import render
from msjoe_jax.world.second import SecondSpec, make_video
from msjoe_jax.world.spec import (
    COLOURS,
    KINDS,
    SENSES,
    SETTINGS,
    SPLITS,
    Plan,
    apparent_kinds,
    question_text,
)

SPEC = SecondSpec()


@pytest.fixture(scope="module")
def videos():
    return [make_video(SPEC, "train", index) for index in range(240)]


@settings(max_examples=20, deadline=None)
@given(split=st.sampled_from(SPLITS), index=st.integers(0, 10_000), seed=st.integers(0, 5))
def test_a_video_holds_everything(split, index, seed):
    spec = SecondSpec(seed=seed)
    plan, questions = make_video(spec, split, index)
    assert (plan, questions) == make_video(spec, split, index)
    held = json.loads(json.dumps(plan.to_json()))
    assert Plan.from_json(held) == plan
    assert not [*missing(2, held, [question.extra for question in questions])]
    targets = plan.targets(plan.words)
    assert len({event.colour for event in targets}) == 3
    for word, target in zip(plan.words, targets, strict=True):
        (other,) = (e for e in plan.events if e.kind // 3 == word and e != target)
        assert other.colour != target.colour
    for question in questions:
        assert question.video == plan.id and question.options == COLOURS


def test_questions_are_answered_by_the_video(videos):
    """The answer follows from events, words and setting, read here by the definition alone."""
    for plan, questions in videos:
        assert len({question.id for question in questions}) == 2
        for question in questions:
            setting = SETTINGS.index(question.extra["setting"])
            kinds = [KINDS.index(SENSES[word][setting]) for word in question.extra["words"]]
            found = [next(e for e in plan.events if e.kind == kind) for kind in kinds]
            assert len(found) == {"one": 1, "two": 2, "three": 3}[question.extra["kind"]]
            assert question.answer == max(found, key=lambda e: e.start).colour
            assert question.extra["oracle_queries"] == [KINDS[kind] for kind in kinds]
            shown = question.extra["oracle_frames"]
            assert shown == [e.visible_frames for e in found]
            chosen = set(oracle_frames(shown, 6, range(96)))
            assert all(chosen & set(frames) for frames in shown)


def test_three_words_have_their_wording():
    assert question_text([0, 1, 2]) == (
        "what colour is whichever of crane , bat and jack comes last ?"
    )


def test_questions_and_answers_are_balanced(videos):
    for of_video in zip(*(questions for _, questions in videos), strict=True):
        kinds = [q.extra["kind"] for q in of_video]  # of all first questions, and of all second
        for name, share in {"one": 0.3, "two": 0.4, "three": 0.3}.items():
            assert abs(kinds.count(name) - 240 * share) <= 3
    asked = [q for _, questions in videos for q in questions]
    # A fair draw of 480 among 4: standard deviation 9.5, bound at 4 of them.
    assert np.abs(np.bincount([q.answer for q in asked]) - 120).max() < 38
    assert np.bincount([plan.setting for plan, _ in videos]).tolist() == [80] * 3
    assert np.bincount([plan.words[0] for plan, _ in videos]).tolist() == [48] * 5
    last = [np.argmax(q.extra["events"], 0)[0] for q in asked if len(q.extra["events"]) == 3]
    assert np.bincount(last).min() > len(last) / 3 - 4 * (len(last) * 2 / 9) ** 0.5


@pytest.mark.parametrize(
    ("two", "three", "pairs"),
    [(0.5, 0.0, {(1, 2), (2, 1)}), (0.5, 0.5, {(2, 3), (3, 2)}), (0.0, 0.5, {(1, 3), (3, 1)})],
)
def test_shares_at_their_ends(two, three, pairs):
    spec = dataclasses.replace(SPEC, two_events=two, three_events=three)
    found = [
        tuple(len(q.extra["words"]) for q in make_video(spec, "train", index)[1])
        for index in range(16)
    ]
    assert set(found) == pairs and abs(found.count(min(pairs)) - 8) <= 1


def test_splits_are_disjoint():
    plans = [
        tuple((e.kind, e.start, e.length, e.colour) for e in make_video(SPEC, split, i)[0].events)
        for split in SPLITS
        for i in range(40)
    ]
    assert len(set(plans)) == len(plans)


def test_colours_at_random_and_fewer_look_alikes():
    spec = dataclasses.replace(SPEC, late_colour=False, plateaus=0, flickers=1, look_alikes=2)
    plans = [make_video(spec, "train", index)[0] for index in range(60)]
    seen = [v for plan in plans for event in plan.events for v in event.visible]
    assert abs(np.mean(seen) - 0.75) < 0.05 and all(any(e.visible) for p in plans for e in p.events)
    for plan in plans:
        forms = [item.form for item in plan.look_alikes]
        assert (forms.count("flicker"), forms.count("short"), len(forms)) == (6, 12, 18)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match=r"config\.world: 96 frames do not hold 9 plateaus, 2 fl"):
        make_video(dataclasses.replace(SPEC, plateaus=9), "train", 0)


def test_frames_show_look_alikes_where_the_plan_says(videos):
    """A look-alike's checkerboard is there in its own frames, and not in those between a flicker's.

    Neighbouring pixels of its cell differ there more than in any event; see test_spec.py.
    """
    spec = dataclasses.replace(SPEC, noise=2.0)
    for plan, _ in videos[:4]:
        frames = render(spec, plan).astype(float).mean(-1)
        for item in plan.look_alikes:
            top, left = divmod(item.cell, 2)
            cell = frames[:, top * 28 : top * 28 + 28, left * 28 : left * 28 + 28]
            rough = np.abs(np.diff(np.diff(cell, axis=1), axis=2)).mean((1, 2))
            assert rough[list(item.frames)].min() > 12 * item.amplitude
            span = range(item.start, item.start + item.length)
            if between := sorted(set(span) - set(item.frames)):
                assert item.form == "flicker" and rough[between].max() < 12 * item.amplitude
            for frame in span:
                assert (item.kind in apparent_kinds(plan, frame)) == (frame in item.frames)


def test_forms_are_named_in_records_alone_of_this_world(videos):
    rows = videos[0][0].to_json()["look_alikes"]
    assert {row["form"] for row in rows} == set(second.FORMS)
    for row in rows:
        assert row["frames"][0] == row["start"] and row["stride"] == 1 + (row["form"] == "flicker")
        assert row["frames"][-1] == row["start"] + row["length"] - 1
