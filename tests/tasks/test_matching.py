"""Predictions find their question by id only where the text agrees, else by text."""

import pytest

from msjoe_jax.data.questions import Question
from msjoe_jax.tasks import TASKS
from msjoe_jax.tasks.matching import match
from msjoe_jax.tasks.predictions import read_predictions
from tests.support.benchmarks import MLVU_DEV, VIDEO_R1, as_json, as_lines

TEXTS = ("How many red socks hang there?", "Who decorates the tree first?", "What is seen last?")
ASKED = [
    Question(f"{i}", f"v{i}", text, ("x", "y"), i % 2, extra={"row": i - 1, "id_field": "n"})
    for i, text in enumerate(TEXTS, 1)
]


def found(path, questions=ASKED):
    predictions, faults = read_predictions(path)
    return match(predictions, questions, faults)


def texts(matched):
    return {name: p.text for name, p in matched.replies.items()}


def test_the_id_of_another_question_is_not_believed(tmp_path):
    """A row's own text decides: with its video, or alone where it names none."""
    rows = [
        {"id": "1", "question": TEXTS[0], "pred": "A"},
        {"id": "2", "question": TEXTS[2], "pred": "B"},
        {"id": "3", "question": "Another one?", "pred": "C"},
        {"id": "3", "question": TEXTS[1], "video": "v9.mp4", "pred": "D"},
    ]
    file = as_json(tmp_path / "f.json", rows)
    matched = found(file)
    assert texts(matched) == {"1": "A", "3": "B"}
    assert matched.unmatched == [
        f"{file}: row 3: 3: has the text of another question",
        f"{file}: row 4: 3: has the text of another question",
    ]


@pytest.mark.parametrize("field", ["index", "id", "question_id"])
def test_rows_that_are_numbered_from_0(tmp_path, field):
    rows = [{field: i, "question": text, "pred": "ABC"[i]} for i, text in enumerate(TEXTS)]
    matched = found(as_json(tmp_path / "f.json", rows))
    assert texts(matched) == {"1": "A", "2": "B", "3": "C"} and not matched.unmatched


def test_an_index_alone_names_only_what_was_read_by_index(tmp_path):
    file = as_json(tmp_path / "f.json", [{"index": 1, "pred": "A"}])
    assert not found(file).replies and len(found(file).unmatched) == 1
    by_index = [
        Question(q.id, q.video, q.question, q.options, q.answer, extra={"id_field": "index"})
        for q in ASKED
    ]
    assert texts(found(file, by_index)) == {"1": "A"}


def test_the_same_text_in_other_clothes(tmp_path):
    """Placeholders, options, case, blanks, signs and a prompt around it."""
    rows = [
        {"id": "1", "problem": f"<image>\n{TEXTS[0]}\n(A) x\n(B) y", "pred": "A"},
        {"id": "2", "question": "who  decorates the tree, first", "pred": "B"},
        {"id": "3", "question": f"See this. Question: {TEXTS[2]} Be short.", "pred": "C"},
    ]  # fmt: skip
    asked = [*ASKED[:2], Question("3", "v3", "What is seen at the very end?", ("x", "y"), 0)]
    rows[2]["question"] = rows[2]["question"].replace(TEXTS[2], asked[2].question)
    matched = found(as_json(tmp_path / "f.json", rows), asked)
    assert texts(matched) == {"1": "A", "2": "B", "3": "C"} and not matched.unmatched


def test_lmms_evals_row_numbers_of_another_order_by_the_prompt(tmp_path):
    samples = [
        {"doc_id": i, "target": "A", "filtered_resps": [letter], "input": f"Look.\n{text}\nA. x"}
        for i, (letter, text) in enumerate(zip("ABC", TEXTS[::-1], strict=True))
    ]
    samples.append({"doc_id": 0, "filtered_resps": ["D"], "input": "Select the best answer …"})
    longer = [
        Question(q.id, q.video, q.question + " Look well.", q.options, q.answer, extra=q.extra)
        for q in ASKED
    ]
    for sample in samples[:3]:
        sample["input"] = sample["input"].replace("?", "? Look well.")
    assert texts(found(as_lines(tmp_path / "f.jsonl", samples[:3]), longer)) == {
        "3": "A", "2": "B", "1": "C",
    }  # fmt: skip
    # A prompt that a log has cut off tells nothing.
    assert texts(found(as_lines(tmp_path / "g.jsonl", samples[3:]), longer)) == {"1": "D"}


def test_the_video_tells_texts_apart_that_are_alike(tmp_path):
    alike = [Question(v, v, TEXTS[0], ("x", "y"), 0) for v in ("v1", "v2", "v3")]
    rows = [
        {"question": TEXTS[0], "video_path": "/x/v2.mp4", "pred": "A"},
        {"question": TEXTS[0], "videos": ["/x/v3.mp4"], "pred": "B"},
        {"question": TEXTS[0], "pred": "C"},
    ]
    matched = found(as_json(tmp_path / "f.json", rows), alike)
    assert texts(matched) == {"v2": "A", "v3": "B"}
    assert matched.unmatched == [f"{tmp_path / 'f.json'}: row 3: no id: fits several questions"]


def test_mlvus_question_text_under_question_id(tmp_path):
    rows = [
        {**MLVU_DEV[0], "question_id": f"Q{i}", "question": f"{text}\n(A) x\n(B) y",
         "candidates": ["x", "y"], "answer": "A"}
        for i, text in enumerate(TEXTS)
    ]  # fmt: skip
    questions = TASKS["mlvu_dev"].read(as_json(tmp_path / "q.json", rows))
    samples = [
        {"doc_id": 2 - i, "target": "A", "filtered_resps": ["ABC"[i]],
         "mlvu_percetion_score": {"question_id": row["question"], "answer": "A"}}
        for i, row in enumerate(rows)
    ]  # fmt: skip
    matched = found(as_lines(tmp_path / "f.jsonl", samples), questions)
    assert texts(matched) == {"Q0": "A", "Q1": "B", "Q2": "C"}


def test_questions_alike_are_told_apart_by_options_and_right_answer(tmp_path):
    """In the form of MLVU's own results, which have no ids."""
    twin = [
        Question("a", "v", TEXTS[0], ("one", "two"), 0),
        Question("b", "v", TEXTS[0], ("two", "one"), 1),
        Question("c", "v", TEXTS[0], ("two", "one"), 0),
        Question("d", "w", TEXTS[1], ("two", "one"), 0),
        Question("e", "x", TEXTS[1], ("two", "one"), 0),
    ]

    def row(first, second, gold, reply):
        asked = f"Question: {TEXTS[0]}\nOptions:\n(A) {first}\n(B) {second}"
        return {"pred": reply, "gt": gold, "question": asked, "video": "/x/v.mp4"}

    rows = [
        row("two", "one", "(A) two", "C"),
        row("two", "one", "(B) one", "B"),
        row("one", "two", "(A) one", "A"),
        {"question": TEXTS[1], "pred": "E"},
    ]
    matched = found(as_json(tmp_path / "f.json", rows), twin)
    assert texts(matched) == {"a": "A", "b": "B", "c": "C"}
    assert not matched.other_gold and matched.repeated == 0
    assert matched.unmatched[0].endswith("row 4: no id: fits several questions")


@pytest.mark.parametrize(
    ("row", "other"),
    [
        ({"answer": "B"}, True),
        ({"answer": "A"}, False),
        ({"right_answer": "B", "answer": "x"}, True),
        ({"answer": "x"}, False),
        ({"solution": "<answer>A</answer>"}, False),
        ({"solution": "<answer>B</answer>"}, True),
        ({"correct_choice": 0}, False),
        ({"target": "1"}, True),
        ({"target": "0"}, False),
        ({"gold": "-1"}, False),  # kept secret
        ({"gt": "(B) y"}, True),
        ({"doc": {"answer": "B"}}, True),
        ({"answer": "red"}, True),  # no option at all
        ({"options": ["y", "x"], "answer": "x"}, True),  # its letters mean other options
        ({}, False),
    ],
)
def test_a_rows_own_right_answer(tmp_path, row, other):
    question = Question("1", "v", TEXTS[0], ("x", "y"), 0)
    file = as_json(tmp_path / "f.json", [{"id": "1", "pred": "A", **row}])
    matched = found(file, [question])
    assert texts(matched) == {"1": "A"} and bool(matched.other_gold) == other
    secret = [Question("1", "v", TEXTS[0], ("x", "y"), None)]
    assert not found(file, secret).other_gold


@pytest.mark.parametrize(
    ("options", "other"),
    [(["A. x", "B. y"], False), (["y", "x"], True), (["x", "z"], False), (["x", "y", "z"], False)],
)
def test_options_in_another_order_are_told(tmp_path, options, other):
    """The row's B is the question's A; options that are written otherwise are not compared."""
    rows = [{"id": "1", "question": TEXTS[0], "options": options, "pred": "B"}]
    file = as_json(tmp_path / "f.json", rows)
    matched = found(file)
    assert texts(matched) == {"1": "B"}
    assert matched.other_order == [f"{file}: row 1: 1"] * other


def test_a_reply_under_answer_is_no_right_answer(tmp_path):
    matched = found(as_json(tmp_path / "f.json", [{"id": "1", "answer": "A"}]))
    assert texts(matched) == {"1": "A"} and not matched.other_gold


def test_result_files_of_video_r1(tmp_path):
    """The rows beside a list of final accuracies; the reply is the whole output."""
    (q,) = TASKS["video_r1"].read(as_json(tmp_path / "q.json", VIDEO_R1))
    output = "<think>A man</think>\n<answer>C</answer>"
    row = {**VIDEO_R1[0], "output": output, "prediction": "C", "reward": 1.0}
    content = {"results": [row], "final_acc": [{"mean_acc": 1.0}]}
    matched = found(as_json(tmp_path / "f.json", content), [q])
    assert texts(matched) == {"11": output} and not matched.other_gold
