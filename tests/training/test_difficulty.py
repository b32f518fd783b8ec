"""Pass rates of questions, of answers that the test gives in the model's place."""

import dataclasses

import numpy as np
import pytest

from msjoe_jax.data.questions import load_questions
from msjoe_jax.rollout.results import Completed
from msjoe_jax.training.difficulty import measure_difficulty
from tests.support.system import colour_questions, noise_videos, tiny_run, with_damage
from tests.support.tiny import tiny_config

COUNT, SAMPLES, BATCH = 5, 4, 2  # the last batch is filled up
pytestmark = pytest.mark.usefixtures("quick_compilation")


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

        def complete(*_, **__):
            texts = [
                [replied(question, n < right[int(question.id[1:])]) for n in range(SAMPLES)]
                for question in episodes.batch_questions(batch)
            ]
            ends = np.ones((len(texts), SAMPLES), bool)
            return Completed(None, None, None, None, texts, ends, 0)

        episodes.complete = complete
        return answer(mllm, batch, selection, update, **how)

    episodes.answer = answers
    rated = measure_difficulty(
        file,
        episodes,
        run.params,
        samples=SAMPLES,
        temperature=0.7,
        task="jsonl",
        batch_size=BATCH,
        inputs=inputs or {"questions": "these"},
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


def test_what_is_there_is_read_and_not_measured(made, tmp_path):
    file = tmp_path / "questions.jsonl"
    rated, *_ = measured(made, file, [1] * COUNT)
    again, _, shown = measured(made, file, [2] * COUNT)
    assert again == rated and not shown


def test_a_question_that_cannot_be_asked_has_no_rate(made, tmp_path):
    """One with damaged frames, and one whose prompt is too long."""
    reader = with_damage(made.reader, tmp_path / "records", {"v1": 4})
    asked = list(made.questions)
    asked[2] = dataclasses.replace(asked[2], question="what colour is the cup ? " * 20)
    run = dataclasses.replace(made, reader=reader, questions=asked)
    rated, episodes, _ = measured(run, tmp_path / "questions.jsonl", [2] * COUNT)
    assert [question.difficulty for question in rated] == [0.5, None, None, 0.5, 0.5]
    assert {failure["question"] for failure in episodes.failures} == {"q1", "q2"}
