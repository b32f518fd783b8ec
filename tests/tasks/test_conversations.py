"""Conversations of every trainer's form: each turn is a question, or refused with a reason."""

import pytest

from msjoe_jax.tasks import TASKS
from msjoe_jax.tasks.reading import read_values
from msjoe_jax.tasks.rows import Row
from tests.support.benchmarks import CONVERSATIONS, as_json


def read(*values):
    form = TASKS["conversations"].form
    assert form is not None
    return read_values(form, "f", [Row(f"row {i}", i, dict(v)) for i, v in enumerate(values)])


def test_each_form_and_each_turn(tmp_path):
    questions = TASKS["conversations"].read(as_json(tmp_path / "f.json", CONVERSATIONS))
    assert [(q.video, q.question, q.options, q.letter) for q in questions] == [
        ("v1", "What is seen?", ("Shore.", "forest.", "Grass."), "B"),
        ("v1", "And then?", ("it ends", "it goes on"), "A"),
        ("v2", "Who?", ("he", "she"), "B"),
        ("v3", "Which?", ("one", "two", "three"), "C"),
        ("v4", "Where?", ("in", "out"), "B"),
        ("v5", "When?", ("now", "then"), ""),
        ("v6", "Why?", ("x", "y"), "A"),
    ]
    assert len({q.id for q in questions}) == 7
    assert questions[0].extra["groups"] == {"data_source": "0_30_s"}
    assert questions[2].extra["file"] == "data/v2.avi"


def test_an_id_of_a_video_for_all_its_rows():
    """As VideoChat2's lists have it: `id` is the video's, and says nothing of the question."""
    rows = [
        {"id": "nextqa-1", "video": "1.mp4",
         "conversations": [{"from": "human", "value": f"<video>\n{i}?\n(A) x\n(B) y"},
                           {"from": "gpt", "value": "Answer: (B) y."}]}
        for i in range(3)
    ]  # fmt: skip
    reading = read(*rows, rows[0])
    assert [q.letter for q in reading.questions] == ["B"] * 3 and len(reading.duplicated) == 1
    assert not reading.refused


def turn(asked, reply, **more):
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]
    return {"messages": messages, "videos": ["v.mp4"], **more}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (turn("<video>Why is it funny?", "It is."), "field 'options' has no options"),
        (turn("Why?\nA. x\nB. y", "C"), "field 'messages' is 'C', not one of the options AB"),
        ({"query": "Why?\nA. x\nB. y", "response": "C", "video": "v"}, "field 'response' is 'C'"),
        (turn("Why?\nA. x\nB. y", "I do not know"), "field 'messages' is 'I do not know'"),
        (turn("Why?\nA. x\nB. y", "A", videos=["1.jpg", "2.jpg"]), "names 2 videos"),
        (turn("Why?\nA. x\nB. y", "A", videos=[]), "field 'videos' (or 'video') is missing"),
        (turn("Why?\nA. x\nB. y", "A", videos=[{"frames": 3}]), "field 'video'"),
        (turn("A. x\nB. y", "A"), "field 'question' holds no question"),
        ({"messages": [], "videos": ["v.mp4"]}, "field 'messages' holds no question of a user"),
        ({"conversations": [3, {"from": 1}]}, "field 'conversations' holds no question"),
        ({"videos": ["v.mp4"]}, "field 'messages' holds no question"),
        ({"query": 3, "videos": ["v.mp4"]}, "field 'question'"),
    ],
)
def test_what_is_no_question_names_the_field(values, said):
    reading = read(values)
    assert not reading.questions and said in reading.refused[0].reason
