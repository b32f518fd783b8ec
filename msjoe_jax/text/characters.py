"""How texts look: their visible characters, and the letters that options bring with them."""

import re
import unicodedata
from collections.abc import Sequence

MAX_STACK = 30  # combining marks on a character, as Unicode's stream-safe format has it
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

# Unicode's default ignorable code points (joiners, directions, variation selectors, fillers),
# controls that are no white space, annotation marks, noncharacters and the null note head.
_INVISIBLE = (
    "\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufdd0-\ufdef\ufe00-\ufe0f\ufeff\ufff0-\ufffb"
    "\ufffe\uffff\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_INVISIBLES = re.compile(f"[{_INVISIBLE}]")
_BLANKS = re.compile("[\u2800\u3164\uffa0]")  # of Braille and Hangul: as wide as a letter


def visible(text: str) -> str:
    """Returns what is seen of a text, so that texts that look alike are equal.

    Invisible characters are left out, white space is one space, and accents are composed (NFC). A
    text of nothing but combining marks is empty too.
    """
    seen = _BLANKS.sub(" ", _short_stacks(_INVISIBLES.sub("", text)))
    seen = " ".join(unicodedata.normalize("NFC", seen).split())
    return seen if any(unicodedata.category(c)[0] not in "MZ" for c in seen) else ""


def _short_stacks(text: str) -> str:
    """Cuts stacks of combining marks, whose sorting by NFC takes the square of their height."""
    height, kept = 0, []
    for c in text:
        height = height + 1 if unicodedata.combining(c) else 0
        if height <= MAX_STACK:
            kept.append(c)
    return "".join(kept)


# An option's own letter: "(A) x", "A. x", "A) x", "A: x", "A - x" and their full-width forms.
# "A.D.", "A:B" and "A.1" have none: no lone letter and no digit may follow a bare point or colon,
# nor "(A)pple": no small letter a bracket.
_LETTER = r"([A-Za-zＡ-Ｚａ-ｚ])\s*"
_LABEL = re.compile(
    rf"[\s{_INVISIBLE}]*(?:[(（\[【]\s*{_LETTER}[)）\]】](?![a-z])[.:．：、]?"
    rf"|{_LETTER}(?:[.:]?[)）](?![a-z])|[．：、。]|[.:](?!\d)(?![^\W\d_](?![^\W_]))"
    r"|(?<=\s)[-–—](?=\s)))\s*"
)


def without_letters(options: Sequence[str]) -> Sequence[str]:
    """Takes away the options' own letters, if all have them in order.

    The options stay as they are where one would be left empty or two alike, or is the only one.
    """
    if len(options) < 2:
        return options
    rest = []
    for letter, text in zip(LETTERS, options, strict=False):
        label = _LABEL.match(text)
        if not label or unicodedata.normalize("NFKC", label[1] or label[2]).upper() != letter:
            return options
        rest.append(text[label.end() :])
    seen = set(map(visible, rest))
    return rest if "" not in seen and len(seen) == len(options) else options
