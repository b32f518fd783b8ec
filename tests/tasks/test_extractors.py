"""Letters found in replies, with the quirks by which published numbers were made."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.tasks import TASKS
from msjoe_jax.tasks.extractors import (
    before_bracket,
    legacy,
    letters_of,
    lmms_eval,
    longvideobench,
    lower_case,
    strict,
    tag_or_whole,
    tagged,
    video_mme_v2,
)
from msjoe_jax.tasks.multiple_choice import rules_of

EXTRACTORS = [
    strict, tagged, legacy, longvideobench, video_mme_v2, before_bracket, lower_case, tag_or_whole,
    lmms_eval,
]  # fmt: skip
THOUGHT = "<think>A man enters.</think>"

# reply: strict, legacy (official), lmms-eval's of April 2026
REPLIES = {
    "C": ("C", "C", "C"),
    "C.": ("C", "C", "C"),
    " (C) ": ("C", "C", "C"),
    "**C**": ("C", "C", "C"),
    "C. A dog": ("", "C", "C"),
    "<answer>C</answer>": ("C", "C", "C"),
    "<answer> C </answer>\n": ("C", "C", "C"),
    "<Answer>C</Answer>": ("", "A", "A"),  # a tag of another spelling is none, and has a capital
    "<answer>C</answer><answer>D</answer>": ("", "C", "D"),
    "<answer>C. A dog</answer>": ("", "C", "C"),
    "<answer>E</answer>": ("", "", ""),
    # The legacy rule's missing commas: "Best" has a B, "Answer" an A, "Based" a B.
    "Answer: C": ("", "A", "C"),
    "Best option: (C)": ("", "B", "C"),
    "The best option is C": ("", "C", "C"),
    "The correct option is C": ("", "C", "C"),
    "The answer is C": ("", "C", "C"),
    "Based on the video, C.": ("", "B", "C"),
    # lmms-eval's: the article A is an option, and the last letter wins within a kind.
    "A man enters": ("", "A", "A"),
    "The answer is B because D": ("", "B", "D"),
    "The answer is B because D is wrong": ("", "B", "D"),
    "The answer is: (C) A dog": ("", "C", "A"),
    f"{THOUGHT}<answer>D</answer>": ("D", "A", "A"),
    f"{THOUGHT}D": ("D", "A", "D"),
    "<think>A man enters. It must be D": ("", "A", "D"),
    "I do not know": ("", "", ""),
    "Dogs": ("", "D", "D"),
    "": ("", "", ""),
}


@pytest.mark.parametrize("reply", REPLIES)
def test_one_reply_three_letters(reply):
    found = tuple(extract(reply, "ABCD") for extract in (strict, legacy, lmms_eval))
    assert found == REPLIES[reply]


def test_priorities_of_lmms_eval():
    """Higher ones in front: start, end, phrase, (X), X., X:, X), X and a space."""
    for reply, want in {
        "B. or (C) but the answer is D, or A": "B",
        "say (C) A": "A",
        "say the answer is D not (C) again": "C",  # the phrase takes the last letter behind it
        "say (C), or B. then": "C",
        "say B. or C: then": "B",
        "say B: or C) then": "B",
        "say B) or C then": "B",
        "say B or C then": "C",
        "xBxCx": "C",
        "정답은 C 입니다": "C",
        "答案是C": "C",
        "i choose B here": "B",
    }.items():
        assert lmms_eval(reply, "ABCD") == want, reply


def test_prefixes_of_other_benchmarks():
    for reply, (lvb, v2) in {
        "Best option: (C)": ("C", "C"),
        "Answer: C": ("A", "C"),
        "Final Answer: C": ("A", "C"),
        "D. A book": ("D", "D"),
    }.items():
        assert (longvideobench(reply, "ABCD"), video_mme_v2(reply, "ABCDEFGH")) == (lvb, v2)
    # A letter that the scorer knows and the question has not: of no option, not the next one.
    assert longvideobench("E, or B", "ABC") == "" and legacy("E, or B", "ABC") == "B"


def test_mlvus_own_check_and_tspos_reward():
    for reply, want in {
        "C) A dog": "C",
        "(C) A dog": "C",
        "C": "C",
        "C. A dog": "",
        ")": "",
    }.items():
        assert before_bracket(reply, "ABCDEF") == want
    for reply, want in {
        "c": "C",
        "It is (d).": "D",
        "Answer C": "C",
        "a dog": "A",
        "x": "",
    }.items():
        assert lower_case(reply, "ABCD") == want
    tags = {"C": "C", "x <answer> C\n</answer>": "C", "C.": "", "<answer>CD</answer>": ""}
    for reply, want in tags.items():
        assert tag_or_whole(reply, "ABCD") == want


@pytest.mark.parametrize("letter", "ABCDEFGHIJ")
def test_letters_are_those_of_the_questions_options(letter):
    """Six options of MLVU's test split, eight of Video-MME-v2's, whatever a scorer's constant."""
    letters = letters_of(10)
    for extract in EXTRACTORS:
        reply = f"<answer>{letter}</answer>" if extract is tagged else letter
        assert extract(reply, letters) == letter
        assert extract(reply, "AB") in ("", letter if letter in "AB" else "")


PARTS = st.sampled_from(
    ["<answer>", "</answer>", "<think>", "</think>", "The answer is", "Best option:", "(", ")", ".",
     ":", " ", "\n", *"ABCDEFGH", "a", "b", "İ", "答案是", "option"]
)  # fmt: skip
TEXTS = st.text(max_size=40) | st.lists(PARTS, max_size=12).map("".join)


@given(TEXTS, st.integers(1, 26))
def test_never_a_letter_outside_the_options(text, num_options):
    letters = letters_of(num_options)
    for extract in EXTRACTORS:
        found = extract(text, letters)
        assert found == "" or (len(found) == 1 and found in letters)
    for task in TASKS.values():
        for rule in rules_of(task).values():
            assert rule.extract(text, letters) in ("", *letters)


@given(TEXTS)
def test_what_is_tagged_is_strict_too(text):
    assert not (found := tagged(text, "ABCD")) or strict(text, "ABCD") == found
