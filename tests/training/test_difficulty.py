"""Pass rates of questions, of answers that the test gives in the model's place."""

import dataclasses
import re

import numpy as np
import pytest

from msjoe_jax.data.questions import load_questions, save_questions
from msjoe_jax.rollout.results import Completed
from msjoe_jax.training.difficulty import Asking, measure_difficulty
from tests.support.system import colour_questions, noise_videos, tiny_run, with_damage
from tests.support.tiny import tiny_config

COUNT, SAMPLES, BATCH = 5, 4, 2  # the last batch is filled up


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("difficulty")
    reader = noise_videos(folder / "records", {f"v{v}": 6 + v for v in range(COUNT)})
    asked = [
        dataclasses.replace(question, difficulty=None)
        for question in colour_questions(reader.ids, COUNT)
    ]
    return tiny_run(tiny_config(folder), reader, asked)


def replied(question, right):
    wrong = "A" if question.letter == "D" else "D"
    return f"<answer>{question.letter if right else wrong}</answer>"


def measured(run, file, right, inputs=None):
    """Question i is answered right `right[i]` times of SAMPLES; what the steps were asked for."""
    episodes, shown = run.episodes(), []
    answer = episodes.answer

    def answers(mllm, batch, selection, update, **how):
        shown.append((selection.frames, update, how["temperature"], how["samples"]))

        def begin(*_, **__):
            texts = [
                [replied(question, n < right[int(question.id[1:])]) for n in range(SAMPLES)]
                for question in episodes.batch_questions(batch)
            ]
            ends = np.ones((len(texts), SAMPLES), bool)
            return lambda: Completed(None, None, None, None, texts, ends, 0)

        episodes.begin = begin
        return answer(mllm, batch, selection, update, **how)

    episodes.answer = answers
    rated = measure_difficulty(
        file,
        episodes,
        lambda: run.params["mllm"],
        Asking(frames=4, samples=SAMPLES, temperature=0.7, task="jsonl", batch=BATCH),
        inputs or {"questions": "these"},
    )
    return rated, episodes, shown


def test_a_rate_is_the_share_of_right_answers(made, tmp_path):
    """From uniform frames; whatever stands in the row that fills the last batch."""
    right = [4, 0, 1, 2, 3]
    file = tmp_path / "deep" / "questions.jsonl"
    rated, episodes, shown = measured(made, file, right)
    assert [question.difficulty for question in rated] == [n / SAMPLES for n in right]
    assert [dataclasses.replace(q, difficulty=None) for q in rated] == made.questions
    assert load_questions(file) == rated and not episodes.failures
    assert len(shown) == 3
    for frames, update, temperature, samples in shown:
        assert (update, temperature, samples) == (0, 0.7, SAMPLES)
        assert frames.shape == (BATCH, 1, 1, 4) and (np.diff(frames) > 0).all()


def test_what_was_measured_is_said_with_the_share_of_valid_replies(made, tmp_path, capsys):
    measured(made, tmp_path / "questions.jsonl", [4, 0, 1, 2, 3])
    assert (
        "difficulty: 0.500 of the replies are right, 100.0% are valid (5 questions, 4 answers each)"
        in capsys.readouterr().out
    )


def test_what_is_there_from_the_same_inputs_is_read_and_not_measured(made, tmp_path, capsys):
    file = tmp_path / "questions.jsonl"
    rated, *_ = measured(made, file, [1] * COUNT)
    capsys.readouterr()
    again, _, shown = measured(made, file, [2] * COUNT)
    assert again == rated and not shown and capsys.readouterr().out == ""
    other, _, shown = measured(made, file, [2] * COUNT, inputs={"questions": "corrected"})
    assert [question.difficulty for question in other] == [0.5] * COUNT and len(shown) == 3
    assert load_questions(file) == other
    assert (
        "made from other questions (was these, is corrected); made again" in capsys.readouterr().out
    )


def test_a_file_that_does_not_say_what_it_was_made_from_is_made_again(made, tmp_path, capsys):
    file = tmp_path / "questions.jsonl"
    save_questions(file, [dataclasses.replace(q, difficulty=1.0) for q in made.questions])
    rated, *_ = measured(made, file, [1] * COUNT)
    assert [question.difficulty for question in rated] == [0.25] * COUNT
    assert load_questions(file) == rated
    assert "does not say what it was made from" in capsys.readouterr().out


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def test_a_killed_measurement_goes_on_with_the_missing_batches(made, tmp_path):
    right = [4, 0, 1, 2, 3]

    class Victim(dict):
        def __getitem__(self, index):
            if index == 2:  # in the second batch
                raise Killed
            return right[index]

    whole, *_ = measured(made, tmp_path / "whole" / "questions.jsonl", right)
    file = tmp_path / "killed" / "questions.jsonl"
    with pytest.raises(Killed):
        measured(made, file, Victim())
    assert not file.exists()
    with (file.parent / "rates.jsonl").open("a") as rows:
        rows.write('{"index": 2, "id": "q')
    rated, _, shown = measured(made, file, right)
    assert rated == whole and len(shown) == 2
    for name in ("questions.jsonl", "rates.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (file.parent / name).read_bytes()


def test_a_question_that_cannot_be_asked_has_no_rate(made, tmp_path, capsys):
    """One with damaged frames, and one whose prompt is too long."""
    reader = with_damage(made.reader, tmp_path / "records", {"v1": 4})
    asked = list(made.questions)
    asked[2] = dataclasses.replace(asked[2], question="what colour is the cup ? " * 20)
    run = dataclasses.replace(made, reader=reader, questions=asked)
    rated, episodes, _ = measured(run, tmp_path / "questions.jsonl", [2] * COUNT)
    printed = capsys.readouterr().out
    assert "2 of 5 questions have no pass rate:" in printed
    assert re.search(r"prompt too long: \d+ tokens, more than 96: q2", printed)
    assert [question.difficulty for question in rated] == [0.5, None, None, 0.5, 0.5]
    assert {failure["question"] for failure in episodes.failures} == {"q1", "q2"}
