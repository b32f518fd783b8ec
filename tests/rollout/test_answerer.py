"""One question about one video file: what comes back agrees with itself, bad input is one line."""

import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image

import msjoe_jax
from msjoe_jax.commands.predecode import predecode
from msjoe_jax.data.predecode import DecodeSettings
from msjoe_jax.data.questions import Subtitle
from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.sources import VideoSource
from msjoe_jax.errors import UserError
from msjoe_jax.rollout import episode_batches
from msjoe_jax.rollout.answerer import VIDEO_ID, Answer, write_records
from msjoe_jax.text import prompts
from msjoe_jax.text.prompts import LETTERS, parse_answer, parse_queries
from tests.support.tiny import TINY_FRAMES, TINY_PROMPT, tiny_model_folder, tiny_video

QUESTION, OPTIONS = "what colour is the cup ?", ("red", "blue", "green")


@pytest.fixture(scope="module")
def answerer(tmp_path_factory):
    return msjoe_jax.load(tiny_model_folder(tmp_path_factory.mktemp("answerer")))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return tiny_video(tmp_path_factory.mktemp("video") / "v.mp4", frames=100)  # 20 s


@pytest.fixture(scope="module")
def answer(answerer, video) -> Answer:
    return answerer.answer(video, QUESTION, OPTIONS)


def test_the_duration_is_the_decoders(tmp_path):
    """10.2 s, of which eleven frames a second apart are kept."""
    video = tiny_video(tmp_path / "v.mp4", frames=51)
    assert write_records(video, tmp_path / "records") == 0
    info = RecordReader(tmp_path / "records").info(VIDEO_ID)
    assert (info.num_frames, info.duration) == (11, 10.2)


def test_frames_and_times_are_the_videos(answer):
    """Twenty frames a second apart, of which sixteen are candidates."""
    T, K = TINY_FRAMES.candidates, TINY_FRAMES.key
    assert (answer.info.num_frames, answer.info.duration, answer.damaged) == (20, 20.0, 0)
    centres = [int((i + 0.5) * 20 / T) for i in range(T)]
    assert answer.timestamps.tolist() == centres
    assert answer.selected.shape == (K,)
    np.testing.assert_array_equal(answer.times, answer.timestamps[np.sort(answer.selected)])
    assert (np.diff(answer.times) > 0).all()
    assert [time for time, _ in answer.key_frames] == answer.times.tolist()
    assert [time for time, _ in answer.previews] == [5, 15]
    assert answer.frames.shape == (K, 64, 64, 3) and answer.frames.dtype == np.uint8
    for frame, (_, jpeg) in zip(answer.frames, answer.key_frames, strict=True):
        np.testing.assert_array_equal(frame, np.asarray(Image.open(io.BytesIO(jpeg))))
    # The pictures of the file brighten with time.
    assert (np.diff(answer.frames.reshape(K, -1).mean(-1)) > 0).all()


def test_the_choice_is_the_best_of_the_logits(answer):
    T, K = TINY_FRAMES.candidates, TINY_FRAMES.key
    assert answer.logits.shape == (T,) and np.isfinite(answer.logits).all()
    best = np.argsort(-answer.logits, kind="stable")[:K]
    assert answer.selected.tolist() == best.tolist()  # the best first
    assert answer.similarity.shape == (len(answer.queries), T)
    assert (np.abs(answer.similarity) <= 1 + 1e-6).all()  # cosines, up to rounding


def test_replies_are_read_from_their_text(answer):
    """The verbatim texts, their end tokens left out, give the very replies."""
    told = {
        name: text.removesuffix("<|im_end|>").removesuffix("<|endoftext|>")
        for name, text in (("query", answer.query_text), ("answer", answer.answer_text))
    }
    ended = {name: told[name] != getattr(answer, f"{name}_text") for name in told}
    queries = parse_queries(
        told["query"],
        QUESTION,
        max_queries=TINY_PROMPT.max_queries,
        think=False,
        finished=ended["query"],
    )
    assert answer.query_reply == queries and answer.queries == queries.queries
    reply = parse_answer(
        told["answer"], num_options=len(OPTIONS), think=False, finished=ended["answer"]
    )
    assert answer.answer_reply == reply
    if reply.answer is None:
        assert answer.letter is None and answer.option is None
    else:
        assert answer.letter == LETTERS[reply.answer]
        assert answer.option == OPTIONS[reply.answer]


def test_a_letter_names_its_option(answerer, video, monkeypatch):
    """Whatever the untrained model says, as if it had answered with the second option."""
    decode = type(answerer.text).decode
    monkeypatch.setattr(
        type(answerer.text),
        "decode",
        lambda self, tokens, mask: (
            "<answer>B</answer>"
            if len(tokens) == TINY_PROMPT.answer_tokens
            else decode(self, tokens, mask)
        ),
    )
    got = answerer.answer(video, QUESTION, OPTIONS)
    assert (got.letter, got.option, got.answer_reply.answer) == ("B", "blue", 1)


def test_a_query_that_clip_cuts_is_told_of(answerer, answer, video):
    """Nothing can be read of the untrained model's reply: the question stands in."""
    long = answerer.answer(video, f"what {QUESTION}", OPTIONS)
    assert long.queries == (f"what {QUESTION}",) and answer.queries == (QUESTION,)
    context = answerer.text.clip_context
    assert long.cut_note.startswith(f"queries cut at CLIP's {context} tokens: 1;")
    assert answer.cut_note == ""


def test_it_answers_alike_again_and_steps_can_be_watched(answerer, answer, video):
    seen = []

    @contextlib.contextmanager
    def watch(step):
        seen.append(step)
        yield

    again = answerer.answer(video, QUESTION, OPTIONS, watch=watch)
    assert seen == ["decode", "embed frames", "reason", "score and select", "answer"]
    assert (again.answer_text, again.query_text) == (answer.answer_text, answer.query_text)
    np.testing.assert_array_equal(again.logits, answer.logits)
    np.testing.assert_array_equal(again.selected, answer.selected)


def test_answer_reads_the_subtitles_of_its_key_frames(answerer, video, monkeypatch):
    seen, plain = [], prompts.answer_prompt

    def answer_prompt(*given):
        seen.append(given[4])
        return plain(*given)

    monkeypatch.setattr(episode_batches.prompts, "answer_prompt", answer_prompt)
    lines = [Subtitle(0, 99, "red cup"), Subtitle(200, 201, "dog")]
    answerer.answer(video, QUESTION, OPTIONS, subtitles=lines)
    assert seen[0] == ("red cup",)
    seen.clear()
    answerer.answer(video, QUESTION, OPTIONS)
    assert set(seen) == {()}


@pytest.mark.parametrize("frames", [1, 13])  # one picture; 3 candidates, fewer than K
def test_a_short_video_is_shown_whole(answerer, tmp_path, frames):
    got = answerer.answer(tiny_video(tmp_path / "v.mp4", frames), QUESTION, OPTIONS)
    count = -(-frames // 5)
    assert sorted(got.selected.tolist()) == list(range(count))
    assert len(got.key_frames) == len(got.frames) == len(got.timestamps) == count
    assert len(got.previews) == min(count, TINY_FRAMES.preview)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"options": ("red",)}, "options: 1 given; 2 to 26 are needed"),
        ({"options": ("red",) * 27}, "options: 27 given"),
        ({"question": "cup " * 96}, "prompt too long: .*; shorten the question or its options"),
        ({"video": "none.mp4"}, "none.mp4: cannot be opened .No such file"),
        ({"video": "page.html"}, "page.html: cannot be opened"),
    ],
)
def test_bad_input_is_one_line(answerer, video, tmp_path, change, words):
    (tmp_path / "page.html").write_text("<html></html>")
    how = {"video": video, "question": QUESTION, "options": OPTIONS} | change
    if isinstance(how["video"], str):
        how["video"] = tmp_path / how["video"]
    with pytest.raises(UserError, match=words) as error:
        answerer.answer(**how)
    assert "\n" not in str(error.value)


def test_a_folder_that_holds_no_models_is_refused(tmp_path):
    with pytest.raises(UserError, match="nothing: no checkpoint there"):
        msjoe_jax.load(tmp_path / "nothing")


@pytest.mark.parametrize("part", [{}, {"start": 0.4}, {"start": 1.0, "end": 2.2}])
def test_a_question_and_a_list_see_the_same_video(tmp_path, part):
    """51 frames at five a second last 10.2 s, in a part of the file as in all of it."""
    tiny_video(tmp_path / "http:x.mp4", 51)
    (tmp_path / "list.jsonl").write_text(json.dumps({"id": "video", "video": "http:x.mp4", **part}))
    predecode(tmp_path / "list.jsonl", tmp_path / "listed", DecodeSettings(), 1)
    write_records(VideoSource(str(tmp_path / "http:x.mp4"), **part), tmp_path / "asked")
    listed, asked = (RecordReader(tmp_path / name).info("video") for name in ("listed", "asked"))
    want = part.get("end", 10.2) - part.get("start", 0)
    assert listed.duration == asked.duration == pytest.approx(want)
    np.testing.assert_array_equal(listed.timestamps, asked.timestamps)
    first, second = (
        RecordReader(tmp_path / name).frame_bytes("video", range(listed.num_frames))
        for name in ("listed", "asked")
    )
    assert first == second
