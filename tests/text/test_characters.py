"""What is seen of a text, and options' own letters."""

import re
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.text.characters import LETTERS, MAX_STACK, visible, without_letters


def test_the_visible_by_the_character_database():
    """Signs are seen; controls, formats and separators are not, but for those that have a shape."""
    blanks = "\u115f\u1160\u3164\uffa0\u2800\U0001d159"  # by category letters and symbols
    shaped = re.compile(
        "[\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd\U00013430-\U0001345f]"
    )
    for character in map(chr, range(0x20000)):
        kind = unicodedata.category(character)
        if kind[0] in "LNPS":
            assert bool(visible(character)) == (character not in blanks), ascii(character)
        elif kind[0] in "ZM" or kind in ("Cc", "Cf"):
            has_shape = kind == "Cf" and shaped.match(character) is not None
            assert bool(visible(character)) == has_shape, ascii(character)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=12))
def test_the_visible_of_any_text_is_all_that_is_visible(text):
    seen = visible(text)
    assert visible(seen) == seen == " ".join(seen.split())
    assert seen == unicodedata.normalize("NFC", seen)
    assert visible(f"\u200b {text}\ufe0f\xa0") == seen


@pytest.mark.parametrize(
    "first, second",
    [
        ("A. Apples.", "B. Pears."),
        ("A.Apples.", "B.Pears."),
        ("(A) Apples.", "(B) Pears."),
        ("( a ) Apples.", "( b )Pears."),
        ("[A] Apples.", "[B]: Pears."),
        ("A) Apples.", "B)Pears."),
        ("a) Apples.", "b) Pears."),
        ("A.) Apples.", "B.) Pears."),
        ("A: Apples.", "B : Pears."),
        ("A - Apples.", "B – Pears."),
        ("A、Apples.", "B、Pears."),
        ("A．Apples.", "B．Pears."),
        ("Ａ．Apples.", "Ｂ．Pears."),
        ("（A）Apples.", "（B）Pears."),
        ("A：Apples.", "Ｂ）Pears."),
        ("\ufeffA.\tApples.", " B.  Pears."),
        ("(A) Apples.", "b. Pears."),
    ],
)
def test_options_lose_letters_of_their_own(first, second):
    assert without_letters([first, second]) == ["Apples.", "Pears."]


def test_letters_are_taken_even_where_they_may_be_a_name():
    assert without_letters(["A. Lincoln", "B. Obama"]) == ["Lincoln", "Obama"]
    assert without_letters(["A. A. Milne", "B. B. King"]) == ["A. Milne", "B. King"]  # once only


def test_any_number_of_options():
    labelled = [f"{letter}. {n}" for n, letter in enumerate(LETTERS)]
    assert without_letters(labelled) == [str(n) for n in range(26)]
    assert without_letters([*labelled, "more"]) == [*labelled, "more"]
    # A single one may be a name, and there is no order to tell by.
    assert without_letters(["A. Lincoln"]) == ["A. Lincoln"] and without_letters([]) == []


@pytest.mark.parametrize(
    "options", [["A.1", "B.2"], ["(A)pple", "(B)anana"], ["A.é", "B.ü"], ["A)nd", "B)ut"]]
)
def test_what_would_lose_text_is_no_letter(options):
    assert without_letters(options) == options


def test_letters_before_other_scripts_are_taken():
    assert without_letters(["(A)苹果", "(B)梨"]) == ["苹果", "梨"]
    assert without_letters(["A.да", "B.нет"]) == ["да", "нет"]


def test_stacks_of_accents_are_cut_in_linear_time():
    """A hundred thousand of them took ten seconds of sorting."""
    began = time.process_time()
    seen = visible("a" + "\u0301\u0327\u0316" * 100_000)
    assert time.process_time() - began < 5 and len(seen) <= 1 + MAX_STACK
    assert visible("e\u0301") == "é"


@pytest.mark.parametrize(
    "options",
    [
        ("A. Apples.", "Pears."),
        ("Apples.", "B. Pears."),
        ("B. Apples.", "A. Pears."),
        ("A. Apples.", "C. Pears."),
        ("A. Apples.", "A. Pears."),
        ("A.", "B."),
        ("(A)", "(B)"),
        ("A.", "B. x"),
        ("A. \u200b", "B. x"),
        ("A. same", "B. same"),
        ("A. same", "B. sa\u200bme"),
        ("1. x", "2. y"),
        ("(i) x", "(ii) y"),
        ("А. x", "Б. y"),  # Cyrillic
        ("A man", "B movie"),
        ("A-frame", "B-side"),
        ("A.D.", "B.C."),
        ("A.M. Smith", "B.B. King"),
        ("A:B", "B:A"),
        ("A, x", "B, y"),
        ("Apples. x", "Bears. y"),
        ("red", "blue"),
    ],
)
def test_options_keep_what_is_no_letter_of_all(options):
    assert without_letters(options) == options


def test_long_options_are_read_in_linear_time():
    began = time.process_time()
    for head in ("", "\u200b", "(", "A", "A.", "(A)", "A ."):
        for fill in (" ", "A", ".", "\u200b", "\u200b "):
            without_letters([head + fill * 50_000 + "!"])
    assert time.process_time() - began < 5  # quadratic would take minutes
