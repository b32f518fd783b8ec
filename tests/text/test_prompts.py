"""Prompts and replies: adversarial text never crashes, never scores, never forges a turn."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.text import prompts

STYLE = prompts.PromptConfig()
THINK = prompts.PromptConfig(think=True)

# Text in which tags, letters and blanks meet often, and anything at all.
PIECES = ["<query>", "</query>", "<answer>", "</answer>", "<think>", "</think>", "<", ">", "</"]
PIECES += ["A", "B", "Z", "a", " ", "\n", "x y", "é", "Ａ", "\u2028", "\x00", "<|im_end|>", "\\"]
replies = st.one_of(
    st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
)


def queries(text, *, max_queries=4, think=False, finished=True):
    return prompts.parse_queries(
        text, "who ?", max_queries=max_queries, think=think, finished=finished
    )


def answer(text, *, num_options=4, think=False, finished=True):
    return prompts.parse_answer(text, num_options=num_options, think=think, finished=finished)


@pytest.mark.parametrize(
    "text, found, valid",
    [
        ("<query>a bat</query>", ("a bat",), True),
        ("  <query> a \n bat </query>\n<query>the moon</query> ", ("a bat", "the moon"), True),
        ("<query>x</query><query>x</query>", ("x",), True),  # a repeat is kept once
        ("<query>月 é 🦇</query>", ("月 é 🦇",), True),
        # Read leniently, form broken:
        ("I look for <query>x</query>", ("x",), False),
        ("<query>x</query> done", ("x",), False),
        ("<query>x</query><query> </query>", ("x",), False),
        ("<query>x</query><query>a<b</query>", ("x",), False),
        ("<query>x</query><query>a>b</query>", ("x",), False),
        ("<query>outer<query>x</query></query>", ("x",), False),
        ("<query>x</query><query>y", ("x",), False),
        ("<think>t</think><query>x</query>", ("x",), False),
        ("<query>1</query><query>2</query><query>3</query><query>4</query><query>5</query>",
         ("1", "2", "3", "4"), False),
        # Nothing to read:
        ("", (), False),
        ("<query></query>", (), False),
        ("<query>\u2003\n</query>", (), False),
        ("<query>x</Query>", (), False),
        ("<query>x<|im_end|></query>", (), False),
        ("x", (), False),
    ],
)  # fmt: skip
def test_queries(text, found, valid):
    reply = queries(text)
    assert reply == prompts.QueryReply(found or ("who ?",), len(found), valid)


def test_an_unfinished_reply_keeps_its_queries_and_loses_its_form():
    assert queries("<query>x</query>", finished=False) == prompts.QueryReply(("x",), 1, False)
    assert answer("<answer>B</answer>", finished=False) == prompts.AnswerReply(1, False)


@pytest.mark.parametrize(
    "text, index",
    [
        ("<answer>B</answer>", 1),
        (" <answer>\nD </answer> ", 3),
        ("<answer>A</answer>", 0),
    ],
)
def test_right_form(text, index):
    assert answer(text) == prompts.AnswerReply(index, True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "B",
        "ABCD",
        "<answer></answer>",
        "<answer>ABCD</answer>",
        "<answer>A B</answer>",
        "<answer>A, B, C or D</answer>",
        "<answer>Bat</answer>",
        "<answer>B.</answer>",
        "<answer>b</answer>",
        "<answer>E</answer>",  # four options
        "<answer>Ａ</answer>",  # a full-width letter
        "<answer>А</answer>",  # Cyrillic
        "<answer>A</answer><answer>A</answer>",
        "<answer>A</answer><answer>B</answer>",
        "<answer><answer>A</answer></answer>",
        "<answer>A</answer><answer>",
        "<answer><b>A</b></answer>",
        "<answer>A",
        "A</answer>",
        "<ANSWER>A</ANSWER>",
        "<think><answer>A</answer></think><answer>A</answer>",
    ],
)
@pytest.mark.parametrize("think", [False, True])
def test_no_answer(text, think):
    assert answer(text, think=think) == prompts.AnswerReply(None, False)


@pytest.mark.parametrize(
    "text", ["It is <answer>C</answer>", "<answer>C</answer>!", "<answer>C</answer></answer>"]
)
def test_an_answer_among_other_words_counts_without_its_form(text):
    assert answer(text) == prompts.AnswerReply(2, False)


@pytest.mark.parametrize(
    "thought, valid",
    [
        ("<think>a\nb < c</think>\n", True),
        ("<think></think>", True),
        ("", False),
        ("<think>a", False),
        ("a</think>", False),
        ("<think>a<think>b</think></think>", False),
        ("<think>a</think><think>b</think>", False),
        ("a<think>b</think>", False),
    ],
)
def test_thought(thought, valid):
    assert queries(thought + "<query>x</query>", think=True).valid == valid
    assert answer(thought + "<answer>C</answer>", think=True) == prompts.AnswerReply(2, valid)
    if thought:
        assert not queries(thought + "<query>x</query>").valid
        assert not answer(thought + "<answer>C</answer>").valid


@settings(max_examples=400, deadline=None)
@given(replies, st.booleans(), st.booleans(), st.integers(1, 4))
def test_any_reply_has_a_meaning(text, think, finished, limit):
    reply = queries(text, max_queries=limit, think=think, finished=finished)
    assert 1 <= len(reply.queries) <= limit
    assert len(set(reply.queries)) == len(reply.queries)
    assert all(q == q.strip() and q and "<" not in q for q in reply.queries)
    assert reply.num_parsed == (0 if reply.queries == ("who ?",) else len(reply.queries))
    if reply.valid:
        assert finished and reply.num_parsed and text.count("<query>") == text.count("</query>")
    choice = answer(text, num_options=limit, think=think, finished=finished)
    assert choice.answer is None or (0 <= choice.answer < limit)
    if choice.valid:
        assert finished and f"{'ABCD'[choice.answer]}" in text and text.count("<answer>") == 1


def test_long_replies_are_read_in_linear_time():
    began = time.process_time()
    for body in ("<query>" + "a" * 50_000, "<query>" + " " * 50_000, "<think>" + "<" * 50_000):
        queries(body, think=True)
        queries(body)
        answer(body, think=True)
    assert time.process_time() - began < 5  # quadratic would take minutes


@given(st.text(), st.lists(st.text(), min_size=1, max_size=4), st.booleans())
@settings(max_examples=200, deadline=None)
def test_user_text_forges_no_turn(question, options, think):
    style = THINK if think else STYLE
    for ask in (prompts.answer_prompt(style, question, options),
                prompts.query_prompt(style, question, options, 4)):  # fmt: skip
        assert "".join(ask).count("<|") == 5  # system, user and assistant: the template's own


@pytest.mark.parametrize("token", ["<|im_end|>", "<|image_pad|>", "<<||im_start|>|>", "<|<|a|>|>"])
def test_special_tokens_in_user_text_are_broken_up(token):
    assert "<|" not in prompts.plain(token)
    asked = "".join(prompts.answer_prompt(STYLE, f"x {token}", [token]))
    assert asked.count(token) == "".join(prompts.answer_prompt(STYLE, "x", ["y"])).count(token)
    reply = prompts.parse_queries("", token, max_queries=4, think=False, finished=True)
    assert "<|" not in reply.queries[0]


def test_prompts_hold_what_they_should():
    head, tail = prompts.query_prompt(THINK, "why {max_queries} ?", ["a", "b"], 3)
    assert head.startswith("<|im_start|>system\n") and head.endswith("<|im_start|>user\n")
    assert "why {max_queries} ?\nA. a\nB. b\n" in tail and "up to 3 short" in tail
    assert THINK.think_instruction in tail and tail.endswith("<|im_start|>assistant\n")
    bare = prompts.PromptConfig(system="")
    assert prompts.query_prompt(bare, "q", [], 2)[0] == "<|im_start|>user\n"
    assert STYLE.think_instruction not in prompts.answer_prompt(STYLE, "q", ["a"])[1]
