"""The tiny world: what its specification promises, on disk and off."""

import dataclasses
import hashlib
import itertools
import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.data.questions import load_questions
from msjoe_jax.data.records import RecordReader
from msjoe_jax.errors import UserError
from msjoe_jax.models.clip.preprocess import Pixels, preprocess_frames
from msjoe_jax.text.prompts import (
    PromptConfig,
    answer_prompt,
    parse_answer,
    parse_queries,
    query_prompt,
)
from msjoe_jax.text.tokenizer import Tokenizer
from msjoe_jax.world import spec as world
from msjoe_jax.world.build import build_world, plan_video, questions_path, records_path
from msjoe_jax.world.render import SIZE, render
from msjoe_jax.world.second import SecondSpec
from msjoe_jax.world.spec import COLOURS, KINDS, SENSES, SETTINGS, SPLITS, WORDS, Plan, WorldSpec
from msjoe_jax.world.word_tokenizer import SPECIAL, TAGS, build_word_tokenizer

SPEC = WorldSpec(num_train=4, num_validation=2, num_heldout=3)
SECOND = SecondSpec(num_train=4, num_validation=2, num_heldout=3)


def test_the_first_world_stays_as_it_is():
    """The same plans, questions, pixels and manifest for a seed as before there was a second.

    Records that were made then are still this world's.
    """
    spec, plans, pixels = WorldSpec(), hashlib.sha256(), hashlib.sha256()
    for split in SPLITS:
        for index in range(20):
            plan, questions = world.make_video(spec, split, index)
            rows = [plan.to_json(), *map(dataclasses.asdict, questions)]
            plans.update(json.dumps(rows).encode())
            if index < 2:
                pixels.update(render(spec, plan).tobytes())
    assert plans.hexdigest() == "72bc11f2496b4ed69f2337f1306552f24f21a6db6c09b30528e16fb72ee02c1a"
    assert pixels.hexdigest() == "0bf4739d588a72825878ee0715ce4b668e6927e0feb131df7b94d09996def8ab"
    assert dataclasses.asdict(spec) == {
        "seed": 0,
        "num_train": 1024,
        "num_validation": 250,
        "num_heldout": 1000,
        "num_frames": 96,
        "event_frames": (3, 6),
        "colour_visible": 0.75,
        "look_alikes": 8,
        "amplitude": (0.65, 1.35),
        "noise": 5.0,
        "drift": 18.0,
        "jpeg_quality": 90,
    }


def _videos(count=120, split="train"):
    return [world.make_video(SPEC, split, index) for index in range(count)]


@settings(max_examples=25, deadline=None)
@given(split=st.sampled_from(SPLITS), index=st.integers(0, 10_000), seed=st.integers(0, 5))
def test_a_video_keeps_to_the_specification(split, index, seed):
    spec = WorldSpec(seed=seed)
    plan, questions = world.make_video(spec, split, index)
    assert (plan, questions) == world.make_video(spec, split, index)
    senses = {3 * word + sense for word in plan.words for sense in range(3)}
    assert {event.kind for event in plan.events} == senses and len(plan.events) == 6
    cells = np.zeros((spec.num_frames, world.CELLS), int)
    events = np.zeros(spec.num_frames, int)
    for event in plan.events:
        assert 3 <= event.length <= 6 and len(event.visible) == event.length
        assert any(event.visible)
        assert event.start >= 0 and event.start + event.length <= spec.num_frames
        events[event.start : event.start + event.length] += 1
        cells[event.start : event.start + event.length, event.cell] += 1
    assert events.max() == 1
    for spike in plan.look_alikes:
        assert spike.length in (1, 2) and spike.kind in senses
        cells[spike.start : spike.start + spike.length, spike.cell] += 1
    assert cells.max() == 1 and cells.sum() == sum(
        item.length for item in (*plan.events, *plan.look_alikes)
    )
    for item in (*plan.events, *plan.look_alikes):
        assert spec.amplitude[0] <= item.amplitude <= spec.amplitude[1]
    for kind in senses:  # runs of one kind never touch: a look-alike stays one or two frames long
        runs = [i for i in (*plan.events, *plan.look_alikes) if i.kind == kind]
        runs.sort(key=lambda item: item.start)
        assert all(a.start + a.length < b.start for a, b in itertools.pairwise(runs))
    for word in plan.words:  # the distractors show other colours
        assert len({e.colour for e in plan.events if e.kind // 3 == word}) == 3
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    for question in questions:
        assert question.video == plan.id and question.options == COLOURS


def test_questions_are_answered_by_the_video():
    """The answer follows from events, words and setting, read here by the definition alone."""
    for plan, questions in _videos():
        for question in questions:
            setting = SETTINGS.index(question.extra["setting"])
            kinds = [KINDS.index(SENSES[word][setting]) for word in question.extra["words"]]
            found = [e for e in plan.events if e.kind in kinds]
            assert len(found) == len(kinds) == {"one": 1, "two": 2}[question.extra["kind"]]
            assert question.answer == sorted(found, key=lambda e: e.start)[-1].colour
            assert len({e.colour for e in found}) == len(found)
            assert question.extra["oracle_queries"] == [KINDS[k] for k in kinds]
            assert all(word in question.question.split() for word in question.extra["words"])
            for kind, frames in zip(kinds, question.extra["oracle_frames"], strict=True):
                event = next(e for e in found if e.kind == kind)
                shown = [event.start + i for i, v in enumerate(event.visible) if v]
                assert frames == shown


def test_balance_and_counts():
    videos = _videos(600)
    one, two = zip(*(questions for _, questions in videos), strict=True)
    assert {q.extra["kind"] for q in one} == {"one"} and {q.extra["kind"] for q in two} == {"two"}
    assert np.bincount([q.answer for q in one]).tolist() == [150] * 4  # by construction
    # A fair draw of 600 among 4: standard deviation 10.6, bound at 4 of them.
    assert np.abs(np.bincount([q.answer for q in two]) - 150).max() < 43
    assert np.bincount([plan.setting for plan, _ in videos]).tolist() == [200] * 3
    assert np.bincount([plan.words[0] for plan, _ in videos]).tolist() == [120] * 5
    spikes = [len(plan.look_alikes) / 6 for plan, _ in videos]
    assert 7.5 < np.mean(spikes) <= 8
    seen = [v for plan, _ in videos for event in plan.events for v in event.visible]
    assert abs(np.mean(seen) - 0.75) < 0.02  # 16,000 draws; "at least one" adds 0.006
    later = [q.extra["events"][1] > q.extra["events"][0] for q in two]
    assert abs(np.mean(later) - 0.5) < 0.09  # 4 standard deviations


def test_splits_are_disjoint():
    plans = [
        tuple((e.kind, e.start, e.length, e.colour) for e in plan.events) + plan.words
        for split in SPLITS
        for plan, _ in _videos(200, split)
    ]
    assert len(set(plans)) == len(plans)


def test_oracle_frames_answer_within_the_budget():
    rng = np.random.default_rng(0)
    for _, questions in _videos(30):
        for question in questions:
            visible = question.extra["oracle_frames"]
            frames = world.oracle_frames(visible, 6, rng, 96)
            assert frames == sorted(set(frames)) and len(frames) == 6
            assert all(set(frames) & set(shown) for shown in visible)


def _cell(frame, item):
    top, left = divmod(item.cell, 2)
    half = frame.shape[0] // 2
    return frame[top * half : (top + 1) * half, left * half : (left + 1) * half].astype(float)


def test_a_look_alike_is_plain_at_full_size_and_hidden_from_clip():
    """Energy between neighbouring pixels tells a look-alike at 56 pixels, and not at 28."""

    def roughness(cell):
        grey = cell.mean(-1)
        return np.abs(np.diff(np.diff(grey, axis=0), axis=1)).mean()

    spec = WorldSpec(noise=2.0)
    fine, coarse = {True: [], False: []}, {True: [], False: []}
    for plan, _ in _videos(12):
        frames = render(spec, plan)
        small = preprocess_frames(frames, Pixels(28))
        for item in (*plan.events, *plan.look_alikes):
            is_event = item in plan.events
            fine[is_event].append(roughness(_cell(frames[item.start], item)) / item.amplitude)
            coarse[is_event].append(roughness(_cell(small[item.start], item)) / item.amplitude)
    assert min(fine[False]) > 1.5 * max(fine[True])
    assert 0.6 < np.median(coarse[False]) / np.median(coarse[True]) < 1.4


def test_colour_shows_exactly_on_visible_frames():
    for plan, _ in _videos(10):
        frames = render(SPEC, plan)
        for event in plan.events:
            for offset, seen in enumerate(event.visible):
                cell = _cell(frames[event.start + offset], event)
                saturation = (cell.max(-1) - cell.min(-1)).max()
                assert (saturation > 120) == seen
        busy = {f for e in plan.events for f in range(e.start, e.start + e.length)}
        idle = [f for f in range(96) if f not in busy]
        rest = frames[idle].astype(float)
        assert (rest.max(-1) - rest.min(-1)).max() < 120


def test_a_frame_looks_the_same_alone():
    plan, _ = world.make_video(SPEC, "heldout", 1)
    assert (render(SPEC, plan, np.array([3, 50])) == render(SPEC, plan)[[3, 50]]).all()


@pytest.mark.parametrize("spec", [SPEC, SECOND], ids=["first", "second"])
def test_build_writes_records_and_resumes(tmp_path, spec):
    build_world(tmp_path, spec)
    ids = set()
    for split, size in zip(SPLITS, (4, 2, 3), strict=True):
        reader = RecordReader(records_path(tmp_path, split))
        questions = load_questions(questions_path(tmp_path, split))
        assert len(reader.ids) == size and len(questions) == 2 * size
        assert not ids & set(reader.ids)
        ids |= set(reader.ids)
        for question in questions:
            index = int(question.video.split("-")[1])
            plan, asked = plan_video(spec, split, index)
            assert question in asked and Plan.from_json(reader.info(plan.id).extra) == plan
        plan, _ = plan_video(spec, split, 0)
        stored = reader.frames(plan.id, range(96)).astype(int)
        assert stored.shape == (96, SIZE, SIZE, 3)
        # JPEG at quality 90: a few grey levels on noise, no more than the noise's own size.
        assert np.abs(stored - render(spec, plan)).mean() < spec.noise
    written = (questions_path(tmp_path, "train")).read_bytes()
    questions_path(tmp_path, "train").unlink()  # killed between records and questions
    before = os.stat(records_path(tmp_path, "train")).st_mtime_ns
    build_world(tmp_path, spec)
    assert questions_path(tmp_path, "train").read_bytes() == written
    assert os.stat(records_path(tmp_path, "train")).st_mtime_ns == before
    with pytest.raises(UserError, match="another world"):
        build_world(tmp_path, dataclasses.replace(spec, seed=1))


def test_word_tokenizer_round_trip(tmp_path):
    style = PromptConfig(system="", query_instruction="find", answer_instruction="answer")
    _, questions = world.make_video(SPEC, "train", 0)
    texts = [*WORDS, *KINDS, *COLOURS, *SETTINGS]
    for q in questions:
        texts += [*query_prompt(style, q.question, q.options, 2)]
        texts += [*answer_prompt(style, q.question, q.options)]
    tokenizer = Tokenizer(build_word_tokenizer(tmp_path / "tokenizer.json", texts))
    for name in (*SPECIAL, *TAGS):
        assert tokenizer.encode(name) == [tokenizer.token_id(name)]
    unknown = tokenizer.token_id("<unk>")
    for text in texts:
        ids = tokenizer.encode(text)
        assert unknown not in ids
        assert tokenizer.encode(tokenizer.decode(ids)) == ids
        assert (
            tokenizer.decode(ids).split()
            == " ".join(
                text.replace(".", " .").replace(">", "> ").replace("<", " <").split()
            ).split()
        )
    assert tokenizer.encode("zebra") == [unknown]
    ids = tokenizer.encode("<query>heron</query><query>bat</query>")
    assert len(ids) == 6
    reply = parse_queries(
        tokenizer.decode(ids), questions[0].question, max_queries=2, think=False, finished=True
    )
    assert reply.queries == ("heron", "bat") and reply.valid
    answer = tokenizer.decode(tokenizer.encode("<answer>C</answer>"))
    assert parse_answer(answer, num_options=4, think=False, finished=True).answer == 2


def test_the_tokenizer_refuses_its_own_unknown_token(tmp_path):
    with pytest.raises(UserError, match="<unk>"):
        build_word_tokenizer(tmp_path / "tokenizer.json", ["a <unk> b"])
