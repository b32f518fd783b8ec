"""What a training tells people: rows, a warning, a picture; what stops it."""

import json
import types
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from msjoe_jax.config import base, read_config
from msjoe_jax.errors import UserError
from msjoe_jax.rollout.log import RolloutRecord
from msjoe_jax.text.prompts import QueryReply
from msjoe_jax.training.reporting import DroppedQuestions, MetricReporter, show_rollout
from tests.support.system import changed, colour_questions, noise_videos, with_damage


class Bar:
    def __init__(self):
        self.lines, self.shown = [], []

    def write(self, text):
        self.lines.append(text)

    def metrics(self, **values):
        self.shown.append(values)


class Writer:
    def __init__(self):
        self.rows, self.told, self.pictures = [], [], []

    def scalars(self, update, values):
        self.rows.append((update, values))

    def texts(self, update, texts):
        self.told.append((update, texts["rollout"]))

    def images(self, update, images):
        self.pictures.append((update, images["key_frames"]))


def reporter(**fields):
    run = read_config(changed(base(), **fields)).training_run("joint")
    return MetricReporter(run, Writer(), Bar())


METRICS = {"reward": 0.5, "rewards/accuracy": 0.25, "rewards/answer_format": 0.75}


def test_rows_hold_plain_numbers_every_so_many_updates():
    report = reporter(log_every=2)
    for update in range(1, 6):
        report(update, {**METRICS, "n": jnp.float32(update)})
    assert [update for update, _ in report.writer.rows] == [2, 4]
    assert report.writer.rows[0][1] == {**METRICS, "n": 2.0}
    assert all(type(x) is float for x in report.writer.rows[0][1].values())
    assert (
        report.bar.shown == [{"reward": 0.5, "right": 0.25, "valid": 0.75}] * 2
        and not report.bar.lines
    )


def test_skipped_updates_beyond_the_limit_stop_the_run():
    report = reporter(**{"optimizer.max_skipped": 2})
    report(4, {**METRICS, "skipped_updates": 2})
    with pytest.raises(UserError, match="joint update 5: 3 updates had a gradient that is not"):
        report(5, {**METRICS, "skipped_updates": 3})
    assert [update for update, _ in report.writer.rows] == [4]


@pytest.mark.parametrize(
    "skipped, start, hint", [((4, 5), 8, True), ((3, 4, 5), 8, False), ((4, 5), 0, False)]
)
def test_a_checkpoint_after_which_nothing_works_is_named(skipped, start, hint):
    """`skipped`: counts by update, after 3 in the checkpoint."""
    report = reporter(**{"optimizer.max_skipped": 4})
    report.start, report.skipped = start, 3
    with pytest.raises(UserError) as caught:
        for update, count in enumerate(skipped, start + 1):
            report(update, {**METRICS, "skipped_updates": count})
            assert report.finite == (count == 3)
    line = "if they are lower already, remove joint/checkpoints/8"
    assert str(caught.value).endswith(line) == hint


@pytest.mark.parametrize(
    "fields, warned",
    [
        ({"objective.likelihood": "marginal"}, 1),
        ({"objective.likelihood": "plackett_luce"}, 0),
        ({"objective.likelihood": "marginal", "joint.train_sampler": False}, 0),
    ],
)
def test_spread_logits_are_warned_of_once(fields, warned):
    report = reporter(**fields)
    for update, spread in enumerate((1.9, 2.1, 2.2), 1):
        report(update, {**METRICS, "sampler/logit_std": spread})
    assert len(report.bar.lines) == warned
    assert not warned or "joint update 2: the logits' std is above 2.0" in report.bar.lines[0]


# --- dropped questions ----------------------------------------------------------------------------


def failed(*names, error="prompt too long: 130 tokens"):
    return [{"question": name, "video": f"of {name}", "error": error} for name in names]


def kept(*weights):
    return any(weights)


def log_rows(folder):
    lines = (folder / "dropped.jsonl").read_text().splitlines()
    return [(row["step"], row["id"]) for row in map(json.loads, lines)]


def test_dropped_questions_are_logged_each_time_and_named_once(tmp_path):
    bar = Bar()
    with DroppedQuestions("joint", tmp_path, 0, bar) as dropped:
        for update in (1, 2, 3):
            failures = failed("a", "b") if update < 3 else []
            failures += failed("a", error=f"frames unreadable: {update}")
            dropped(update, failures, kept(0, 1))
            assert failures == [] and dropped.count == 3 * min(update, 2) + (update == 3)
    assert log_rows(tmp_path) == [
        *[(update, name) for update in (1, 2) for name in "aba"],
        (3, "a"),
    ]
    assert bar.lines == [
        "joint update 1: question a of video of a dropped: prompt too long: 130 tokens",
        "joint update 1: question b of video of b dropped: prompt too long: 130 tokens",
        "joint update 1: question a of video of a dropped: frames unreadable: 1",
        "joint: 2 questions dropped: 2 prompt too long, 1 frames unreadable (dropped.jsonl)",
    ]
    first = json.loads((tmp_path / "dropped.jsonl").read_text().splitlines()[0])
    error = "prompt too long: 130 tokens"
    assert first == {"step": 1, "id": "a", "video": "of a", "error": error}


def test_a_resumed_run_counts_on(tmp_path):
    for start, updates in ((0, (1, 2, 3)), (1, (2, 3, 4))):
        bar = Bar()
        with DroppedQuestions("joint", tmp_path, start, bar) as dropped:
            for update in updates:
                dropped(update, failed(f"q{update}"), kept(1))
            assert dropped.count == updates[-1]
    assert log_rows(tmp_path) == [(n, f"q{n}") for n in (1, 2, 3, 4)]
    assert len(bar.lines) == 4 and bar.lines[-1].startswith("joint: 4 questions dropped: 4 prompt")


def test_where_none_is_dropped_nothing_is_said(tmp_path):
    bar = Bar()
    with DroppedQuestions("joint", tmp_path, 0, bar) as dropped:
        dropped(1, [], kept(1, 1))
        dropped(2, [], kept())
    assert bar.lines == [] and log_rows(tmp_path) == []


@pytest.mark.parametrize(
    "start, usable, ends",
    [
        (0, "0", 1),  # nothing of the run can be used
        (0, "1000", 4),
        (0, "1001001000", 10),
        (0, "100100", None),
        (5, "00", None),  # the run before had usable questions
        (5, "000", 3),
    ],
)
def test_batches_of_which_nothing_is_left(tmp_path, start, usable, ends):
    """One of them ends no run that can learn; a disk that is gone does."""
    ended = None
    with DroppedQuestions("joint", tmp_path, start, Bar()) as dropped:
        for number, weight in enumerate(usable, 1):
            try:
                dropped(start + number, failed("a"), kept(0, float(weight)))
            except UserError as error:
                assert "every question of the batch was dropped, the last because: pr" in str(error)
                ended = number
                break
    assert ended == ends


# --- a rollout for people -------------------------------------------------------------------------

I, J, K, T = 2, 2, 3, 6


@pytest.fixture
def records():
    """Of the video v0 with five frames, of which every other is a candidate, and of v1."""
    out = []
    for b, question in enumerate(colour_questions(["v0", "v1"], 2)):
        mask = np.arange(T) < 3
        frames = np.broadcast_to(np.array([0, 2, -1]), (I, J, K))
        out.append(
            RolloutRecord(
                question=question,
                replies=[QueryReply(("red cup", "dog"), 2, True), QueryReply(("dog",), 0, False)],
                similarity=np.full((I, 2, T), 0.5, np.float32),
                logits=np.where(mask, np.arange(T), -np.inf)[None].repeat(I, 0),
                frames=frames,
                draws=frames[..., ::-1],
                frame_mask=mask,
                frame_index=np.array([0, 2, 4, 0, 0, 0]),
                timestamps=np.array([0, 20, 40, 0, 0, 0], np.float32),
                answers=[f"answer {b}{n}" for n in range(I * J)],
                correct=np.zeros((I, J), np.float32),
                weight=1.0,
            )
        )
    return out


@pytest.fixture
def reader(tmp_path):
    return noise_videos(tmp_path / "records", {"v0": 5, "v1": 5})


def shown(reader, records):
    writer, episodes = Writer(), types.SimpleNamespace(reader=reader)
    drop: Any = episodes
    show_rollout(writer, 7, drop, records)
    return writer.told, writer.pictures


def test_the_first_question_that_was_not_dropped_is_shown(reader, records):
    ((update, text),), ((again, picture),) = shown(reader, records)
    assert update == again == 7
    assert text.splitlines() == [
        "question  what colour is the cup ?",
        "options   red | blue | green | white   (right: A)",
        "queries   red cup | dog   (form ok)",
        "frames    0 s, 40 s",
        "answer    answer 00",
    ]
    assert picture.ndim == 3 and picture.shape[-1] == 3 and picture.dtype == np.uint8
    dropped = [records[0]._replace(weight=0.0), records[1]]
    ((_, text),), pictures = shown(reader, dropped)
    assert "right: B" in text and "answer 10" in text and len(pictures) == 1


def test_where_all_were_dropped_nothing_is_shown(reader, records):
    assert shown(reader, [record._replace(weight=0.0) for record in records]) == ([], [])
    assert shown(reader, []) == ([], [])


def test_frames_that_are_damaged_since_cost_the_picture_alone(reader, records, tmp_path):
    damaged = with_damage(reader, tmp_path / "damaged", {"v0": 4})
    told, pictures = shown(damaged, records)
    assert len(told) == 1 and not pictures
