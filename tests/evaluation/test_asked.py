"""Options in another order and subtitles of the frames that are shown."""

import dataclasses

import pytest

from msjoe_jax.data.questions import Question, Subtitle
from msjoe_jax.evaluation.arms import Arm
from msjoe_jax.evaluation.asked import asked, subtitles_of

OPTIONS = ("A. red", "B. blue", "C. green", "D. white")
SHUFFLED, PLAIN = Arm("shuffled", shuffled=True), Arm("plain")
LINES = (Subtitle(0.0, 2.0, "a\ncup"), Subtitle(2.2, 3.0, "a dog"), Subtitle(9.0, 9.5, "a cup"))


def question(number, **fields):
    return Question(f"q{number}", "v", "what?", OPTIONS, number % 4, **fields)


@pytest.mark.parametrize("seed", range(3))
def test_the_right_option_stays_right_and_letters_lead_back(seed):
    orders = set()
    for number in range(20):
        put = asked(question(number), SHUFFLED, seed, [])
        plain = [option[3:] for option in OPTIONS]
        assert sorted(put.question.options) == sorted(plain)  # letters go: they say nothing now
        assert put.question.options[put.question.answer] == plain[number % 4]
        assert put.in_record(put.question.letter) == question(number).letter
        assert [put.in_record(letter) for letter in "ABCD"] == ["ABCD"[i] for i in put.order]
        assert put == asked(question(number), SHUFFLED, seed, [])
        orders.add(put.order)
    assert len(orders) > 5


def test_what_is_not_a_letter_stays():
    put = asked(question(0), SHUFFLED, 0, [])
    assert [put.in_record(text) for text in ("", "E", "a", "AB", "?")] == ["", "E", "a", "AB", "?"]


def test_a_question_without_answer_can_be_shuffled():
    put = asked(dataclasses.replace(question(0), answer=None), SHUFFLED, 0, [])
    assert put.question.answer is None


def test_plain_arms_ask_the_record():
    put = asked(question(1, subtitles=LINES), PLAIN, 0, [1.0])
    assert put.question == question(1, subtitles=LINES) and put.subtitles == ()
    assert put.order == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("times", "shown"),
    [
        ([], ()),
        ([1.0], ("a cup",)),
        ([2.4], ("a cup", "a dog")),  # half a second before, the first still stood
        ([2.6], ("a dog",)),
        ([1.0, 9.2], ("a cup",)),  # the same words once
        ([5.0], ()),
        ([3.5], ("a dog",)),
        ([3.6], ()),
    ],
)
def test_subtitles_of_the_moments_of_frames(times, shown):
    assert subtitles_of(question(0, subtitles=LINES), times) == shown
    assert (
        asked(question(0, subtitles=LINES), Arm("s", subtitles=True), 0, times).subtitles == shown
    )
