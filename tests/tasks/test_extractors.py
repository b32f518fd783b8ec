"""Letters found in replies, with the quirks by which published numbers were made."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.tasks import TASKS
from msjoe_jax.tasks.extractors import (
    OTHER,
    before_bracket,
    cg_bench,
    easyvideor1,
    legacy,
    letters_of,
    lmms_eval,
    lmms_eval_v2,
    longvideobench,
    lower_case,
    one_option_said,
    polish_answer,
    strict,
    tag_or_whole,
    tagged,
    video_mme_v2,
    whole,
)
from msjoe_jax.tasks.multiple_choice import rules_of

# Of the question's own letters alone, and of a scorer's constant.
EXTRACTORS = [
    strict, tagged, legacy, before_bracket, tag_or_whole, lmms_eval, whole, polish_answer,
]  # fmt: skip
CONSTANT = [longvideobench, video_mme_v2, lower_case, easyvideor1, cg_bench, lmms_eval_v2]
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
    # A letter that the scorer knows and the question has not: a wrong answer, not the next letter.
    assert longvideobench("E, or B", "ABC") == "E" and legacy("E, or B", "ABC") == "B"


def test_mlvus_own_check_and_tspos_reward():
    for reply, want in {
        "C) A dog": "C",
        "(C) A dog": "",  # check_ans compares "(C" with "C"
        "C ) A dog": "",
        " C\n": "C",  # its code strips a reply before
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
        "E) no, (B)": "E",  # a to e, whatever the question has
    }.items():
        assert lower_case(reply, "ABCD") == want
    # Neither "f" nor the right answer f are found: the reward compares False with False.
    assert lower_case("F", "ABCDEF") == "F" == lower_case("hm", "ABCDEF")


def test_video_r1s_first_tag_as_it_is_spelled():
    for reply, want in {
        "C": "C",
        "x <answer> C\n</answer>": "C",
        "C.": "",
        "<answer>CD</answer>": "",
        "<answer>A</answer> wait <answer>B</answer>": "A",
        "<think><answer>A</answer></think><answer>B</answer>": "A",
        "<ANSWER>B</ANSWER>": "",
        "<answer></answer>B": "",
        "<answer>\n</answer>": "",
    }.items():
        assert tag_or_whole(reply, "ABCD") == want, reply


def test_easyvideor1s_extract_answer():
    """In its order: tag, what is stated, after the thought, chosen, the last lines."""
    for reply, want in {
        "<answer>b.</answer>": "B",
        "<answer>AB</answer> I pick C": OTHER,  # "AB" is part of "ABCDEFGHIJ"
        "<answer>B. red</answer>\nSo the answer is: C": "C",
        "The answer is A, no. Therefore, the final answer is: C": "C",
        "the answer is a dog": "A",
        "答案是 C": "C",
        "答案是C吧": "",  # a letter and a sign of Chinese are one word
        "so</think>\n\nd": "D",
        "so</think>\nB. red, I choose C": "B",
        "so</think>\nred, I choose option C": "C",
        "It is long.\n(C)": "C",
        "It is long.\nC)": "C",
        "It is long.\nb\nA dog is red": "B",
        "maybe C.": "C",
        "It is more than thirty letters, maybe C.": "",
        "答案是İ": OTHER,
        "J": "J",  # a letter from A to J, whatever the question has
        "<ANSWER>C</ANSWER>": "",
        "": "",
    }.items():
        assert easyvideor1(reply, "ABCD") == want, reply


def test_cg_benchs_script():
    for reply, want in {
        '```json\n{"result": "G"}\n```': "G",
        '```json\n{"result": G}\n```': "G",  # quotes are put around names
        '```json\n{"result": "G. some"}\n``` or G': OTHER,
        '```json\n{"answer": "G"}\n``` or B': "GB",  # no result: the letters of the whole reply
        '```json\n{"result": "G"}': "G",
        "Based on it, A is wrong; I pick G": "AG",
        "I pick GA": "",
    }.items():
        assert cg_bench(reply, "ABCDEFG") == want, reply


def test_lvbenchs_script_and_its_polish_answer():
    for reply, (same, polished) in {
        "D": ("D", "D"),
        "D.": ("", "D"),
        "(D)": ("", "D"),
        " D": ("", "D"),
        "D) red": ("", "D"),
        "Carefully seen: (D)": ("", "D"),
        "The answer is B": ("", ""),
        "Better (red) B": ("", ""),
        "d": ("", ""),
        "": ("", ""),
        "()": ("", ""),
    }.items():
        assert (whole(reply, "ABCD"), polish_answer(reply, "ABCD")) == (same, polished), reply


def test_lmms_evals_own_rule_for_video_mme_v2():
    """As of 0.7.3: the last line, the beginning, phrases, bold; then an option's text."""
    for reply, want in {
        "b": "B",
        "A man walks": "",
        "(B)": "",
        "B. or\n**c**.": "C",
        "a) red": "A",
        "**B** is it": "B",
        "**B**. is it": "B",
        "The answer is A, or the answer: (C), option would be c": "C",
        "My answer: **D**, sure": "D",
        "It shows **C**": "C",
        "It shows **C** not **D**": "",
        "The answer is apples": "",
        "": "",
    }.items():
        assert lmms_eval_v2(reply, "ABCDEFGH") == want, reply
    options = ("Red.", "a dog", "")
    assert one_option_said("RED it is", options[:2]) == "A"
    assert one_option_said("a dog, red", options[:2]) == "" == one_option_said("x", options[:2])
    assert one_option_said("x", options) == "C"  # an empty text is part of any


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
def test_letters_and_nothing_else(text, num_options):
    letters = letters_of(num_options)
    for extract in EXTRACTORS:
        found = extract(text, letters)
        assert found == "" or (len(found) == 1 and found in letters)
    for task in TASKS.values():
        for rule in rules_of(task).values():
            assert set(rule.extract(text, letters)) <= {*string.ascii_uppercase, OTHER}


@pytest.mark.parametrize("extract", CONSTANT)
def test_a_constant_set_is_looked_for_whatever_the_question_has(extract):
    assert extract("D", "ABCD") == extract("D", "AB") == "D"


@given(TEXTS)
def test_what_is_tagged_is_strict_too(text):
    assert not (found := tagged(text, "ABCD")) or strict(text, "ABCD") == found
