"""Options, answers, names of videos and times in the forms that benchmarks have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.errors import UserError
from msjoe_jax.tasks.values import (
    in_order,
    read_answer,
    read_options,
    read_question,
    read_seconds,
    read_spans,
    split_options,
    video_id,
)

ABC = ["red", "green", "blue"]


@pytest.mark.parametrize("style", ["({}) {}", "{}. {}", "{}) {}", "{}: {}", " ({}) {}"])
def test_options_in_a_text(style):
    lines = [style.format(letter, text) for letter, text in zip("ABC", ABC, strict=True)]
    assert split_options("\n".join(["Which?", *lines])) == ("Which?", ABC)
    assert split_options("\n".join(["Which?", "Options:", *lines, ""])) == ("Which?", ABC)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("Which? (A) red (B) green", ("Which?", ["red", "green"])),
        # Letters within the question and within options are no options' own.
        ("Is (A) or (B) right?\n(A) (B) is\n(B) no", ("Is (A) or (B) right?", ["(B) is", "no"])),
        ("Why?\n(A) \n(B) There is\n(C) \n(D) x", ("Why?", ["", "There is", "", "x"])),
        ("A. Lincoln was what?", ("A. Lincoln was what?", [])),
        ("Which?\n(A) red", ("Which?\n(A) red", [])),
        ("Which?\n(B) red\n(C) green", ("Which?\n(B) red\n(C) green", [])),
    ],
)
def test_options_in_texts_that_mislead(text, want):
    assert split_options(text) == want


def test_options_own_letters():
    assert in_order(["A. 3.", "B. 1998.", "C. A. D. 12."]) == ["3.", "1998.", "A. D. 12."]
    assert in_order(["C. x", "A. y", "B. z"]) == ["y", "z", "x"]
    names = ["C. S. Lewis", "A. A. Milne", "B. B. King", "D. H. Lawrence"]
    assert in_order(names) == names
    for kept in (["A. x", "B. y", "D. z"], ["A. x", "y"], ["A. x", "A. y"], ["I. x", "V. y"]):
        assert in_order(kept) == kept


@pytest.mark.parametrize(
    ("value", "want"),
    [
        (ABC, ABC),
        (tuple(ABC), ABC),
        ("['red', 'green', \"blue's\"]", ["red", "green", "blue's"]),
        ('["red", "green"]', ["red", "green"]),
        ("A. red\nB. green\nC. blue", ABC),
        ({"A": "red", "C": "blue", "B": "green"}, ABC),
        ([3, 4.5], ["3", "4.5"]),
        (["", "x", "", "y"], ["", "x", "", "y"]),
    ],
)
def test_forms_of_options(value, want):
    assert read_options(value, "options") == want


@pytest.mark.parametrize(
    "value", ["", "red", [], ["x"], ["x", ""], ["x"] * 27, 3, "Q?\nA. x\nB. y"]
)
def test_what_are_no_options(value):
    with pytest.raises(UserError, match="field 'choices'"):
        read_options(value, "choices")


@pytest.mark.parametrize(
    ("value", "want"),
    [
        ("B", 1), ("b", 1), ("(B)", 1), ("B.", 1), ("B. green", 1), ("(C) blue", 2), (2, 2),
        (1.0, 1), ("<answer>c</answer>", 2), ("<answer> C </answer>", 2), ("blue", 2),
        ("B. Green.", 1), ("Blue.", 2),
        (None, None), ("@", None), (-1, None), ("-1", None), ("", None),
    ],
)  # fmt: skip
def test_forms_of_answers(value, want):
    assert read_answer(value, ABC, "answer") == want


@pytest.mark.parametrize("value", ["D", "B. blue", "yellow", 3, 7, True, "Bx", "AB", [1]])
def test_what_is_no_answer(value):
    with pytest.raises(UserError, match="field 'solution'"):
        read_answer(value, ABC, "solution")


def test_an_answer_that_is_a_letter_and_a_text():
    options = ["B", "C", "A", "D"]
    assert read_answer("A", options, "answer") == 0
    assert read_answer("A", options, "answer", by_text=True) == 2
    assert read_answer("1", ["3", "2", "5", "1"], "answer") == 3
    assert read_answer("x", ["x", "y", "x"], "answer") == 2  # as MLVU's own scorer
    assert read_answer("x.", ["x", "x."], "answer") == 1
    with pytest.raises(UserError):  # which of two?
        read_answer("X", ["x", "x."], "answer")


def test_options_in_a_text_of_other_trainers():
    """A line behind them that asks for a form is none of theirs; letters may be small or wide."""
    for ask in ("Please respond with only the letter.", "Answer with the option's letter.",
                "Your answer:", "Best option: ("):  # fmt: skip
        assert split_options(f"Why?\nOptions:\nA. x\nB. y\n{ask}") == ("Why?", ["x", "y"])
    assert split_options("Why?\nA. x\nB. y\nz") == ("Why?", ["x", "y\nz"])
    assert split_options("Why?\na. x\nb. y") == ("Why?", ["x", "y"])
    assert split_options("Why?\n(a) k\n(b) l\nA. x\nB. y")[1] == ["x", "y"]
    assert split_options("为什么？\nA．甲\nB．乙") == ("为什么？", ["甲", "乙"])
    assert split_options("为什么？\n（A）甲\n（B）乙") == ("为什么？", ["甲", "乙"])


def test_a_question_without_what_is_not_its_own():
    assert read_question("<image>\nWhich?\n(A) red\n(B) green", ["red", "green"]) == "Which?"
    other = "Which?\n(A) red\n(B) grey"
    assert read_question(other, ["red", "green"]) == other


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("86CxyhFV9MI.mp4", "86CxyhFV9MI"),
        ("./videos/a b/x.MKV", "x"),
        (r"C:\videos\x.mp4", "x"),
        ("a_-b.c1", "a_-b.c1"),
        ("1.5_speed.mp4", "1.5_speed"),
        ("001", "001"),
    ],
)
def test_ids_of_videos_are_names_of_files(name, want):
    assert video_id(name) == want


def test_times():
    assert [read_seconds(x) for x in ("7", "01:07", "83:12", "1:00:15", "1:00:15,5")] == [
        7, 67, 4992, 3615, 3615.5,
    ]  # fmt: skip
    for wrong in ("", "x", "1:2:3:4", "-1:00", "nan"):
        with pytest.raises(ValueError):
            read_seconds(wrong)


@pytest.mark.parametrize(
    ("value", "want"),
    [
        ("00:15-00:19", ((15, 19),)),
        ("00:15 – 1:00:19", ((15, 3619),)),
        ("00:15-00:19, 01:00-01:02", ((15, 19), (60, 62))),
        ("02:45", ((165, 165),)),
        ([[12, 15], [100.5, 101]], ((12, 15), (100.5, 101))),
        ("[[12, 15]]", ((12, 15),)),
        ([3, 4], ((3, 4),)),
        ([], ()),
        *((wrong, None) for wrong in ("somewhere", "00:19-00:15", [[4, 3]], [[1]], 3, "1-2-3")),
    ],
)
def test_spans(value, want):
    assert read_spans(value) == want


@given(st.text(max_size=40), st.lists(st.text(max_size=8), min_size=2, max_size=5))
def test_any_text_is_an_option_or_refused(text, options):
    try:
        index = read_answer(text, options, "answer")
    except UserError as error:
        assert "field 'answer'" in str(error)
    else:
        assert index is None or 0 <= index < len(options)
    asked, found = split_options(text)
    assert len(found) != 1 and isinstance(asked, str)
    read_spans(text)
