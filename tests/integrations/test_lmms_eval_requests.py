"""What the plug-in reads of lmms-eval's prompts: question, options, and what is left out."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.errors import UserError
from msjoe_jax.integrations.lmms_eval_requests import read_request, split_text
from msjoe_jax.text.characters import LETTERS

# The shapes of prompts in lmms-eval 0.7.3's tasks, with the record's `question` where they have it.
PROMPTS = [
    (  # videomme: an instruction before the question, another after the options
        "Select the best answer.\nWhat is red?\nA. a cup\nB. a hat\n\nThe letter directly.",
        "What is red?",
        ("What is red?", ("a cup", "a hat"), ("Select the best answer.", "The letter directly.")),
    ),
    (  # lvbench: letters in brackets
        "What is red?\n(A) a cup\n(B) a hat\n(C) none\nAnswer the question with the option letter",
        "What is red?",
        (
            "What is red?",
            ("a cup", "a hat", "none"),
            ("Answer the question with the option letter",),
        ),
    ),
    (  # mlvu: the record's question holds the options
        "What is red?\n(A) a cup\n(B) a hat\nOnly give the best option.\nBest option: (",
        "What is red?\n(A) a cup\n(B) a hat",
        ("What is red?", ("a cup", "a hat"), ("Only give the best option.", "Best option: (")),
    ),
    (  # qwen3_vl's wording of videomme; a question of two lines
        "Question: What is red?\nIn the hall.\nOptions:\nA) a cup\nB) a hat\nLetter only.",
        "What is red?\nIn the hall.",
        (
            "What is red?\nIn the hall.",
            ("a cup", "a hat"),
            ("Question:", "Options:", "Letter only."),
        ),
    ),
    (  # nothing stated: all before the options is the question
        "Subtitles:\nA. Smith: hello\nWho spoke?\nA: one\nB: two",
        None,
        ("Subtitles:\nA. Smith: hello\nWho spoke?", ("one", "two"), ()),
    ),
    ("Describe the video.\nA. one", "x", ("Describe the video.\nA. one", (), ())),
]


@pytest.mark.parametrize("text,stated,want", PROMPTS)
def test_prompts_are_split(text, stated, want):
    assert split_text(text, stated) == want


WORDS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P")), min_size=1, max_size=12)


@given(WORDS, st.lists(WORDS, min_size=2, max_size=26), st.sampled_from(["{}. ", "({}) ", "{}: "]))
def test_question_and_options_come_back(question, options, form):
    lines = [form.format(letter) + text for letter, text in zip(LETTERS, options, strict=False)]
    got = split_text("\n".join(["Q " + question, *lines, "reply with the letter"]), "Q " + question)
    assert got == ("Q " + question, tuple(options), ("reply with the letter",))


@given(st.text(max_size=200), st.one_of(st.none(), st.text(max_size=20)))
def test_any_text_is_split_and_nothing_is_lost(text, stated):
    question, options, rest = split_text(text, stated)
    assert len(options) != 1
    kept = "".join([question, *options, *rest])
    letters = {c: kept.count(c) for c in set(kept) if c.isalpha() and c not in LETTERS}
    assert all(text.count(c) == count for c, count in letters.items())


def messages(*contents: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(contents)}]


def test_a_request_shows_one_video():
    text = {"type": "text", "text": "Who?\nA. one\nB. two"}
    asked = read_request(messages({"type": "video", "url": "v.mp4"}, text), {"question": "Who?"})
    assert asked == ("v.mp4", "Who?", ("one", "two"), ())
    two = [{"type": "video", "url": "a.mp4"}, {"type": "image", "url": object()}]
    with pytest.raises(UserError, match="shows video, image of object; take a task whose"):
        read_request(messages(*two, text), {})
    with pytest.raises(UserError, match="shows nothing"):
        read_request(messages(text), {})
