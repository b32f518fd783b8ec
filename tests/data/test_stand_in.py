"""Questions of unreadable videos get another question's row, and the reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.data.questions import Question
from msjoe_jax.data.stand_in import with_stand_ins
from msjoe_jax.errors import UserError


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.data())
def test_rows(readable, data):
    questions = [Question(f"q{i}", f"v{i}", "?", ("a",), 0) for i in range(len(readable))]
    asked = []

    def read(question):
        asked.append(question.id)
        number = int(question.id[1:])
        if not readable[number]:
            raise (ValueError, OSError, UserError)[number % 3](f"damage {number}")
        return {"value": number, "error": ""}

    row = with_stand_ins(questions, read)
    for number in data.draw(st.lists(st.integers(0, len(readable) - 1))):
        asked.clear()
        if readable[number]:
            assert row(questions[number]) == {"value": number, "error": ""}
            assert asked == [f"q{number}"]
        elif any(readable):
            error = f"video unreadable: damage {number}"
            assert row(questions[number]) == {"value": readable.index(True), "error": error}
        else:
            words = f"none of the {len(readable)} questions' videos can be read: damage 0"
            with pytest.raises(UserError, match=words):
                row(questions[number])
