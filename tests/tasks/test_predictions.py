"""Other people's predictions in the forms that exist, found by id, row or text."""

import json

import pytest

from msjoe_jax.data.questions import Question
from msjoe_jax.errors import UserError
from msjoe_jax.tasks import TASKS
from msjoe_jax.tasks.matching import match
from msjoe_jax.tasks.predictions import questions_within, read_predictions
from tests.support.benchmarks import (
    LVBENCH_LMMS,
    MLVU_DEV,
    VIDEO_MME,
    as_json,
    as_lines,
    as_parquet,
    table,
)

ASKED = [
    Question(f"q{i}", f"v{i}", f"What is {i}?", ("x", "y"), 0, extra={"row": i}) for i in range(3)
]


def found(path, questions=ASKED):
    predictions, faults = read_predictions(path)
    return match(predictions, questions, faults)


def texts(matched):
    return {name: p.text for name, p in matched.replies.items()}


@pytest.mark.parametrize(
    "rows",
    [
        {"q0": "A", "q1": "(B)"},
        [{"question_id": "q0", "response": "A"}, {"question_id": "q1", "response": "(B)"}],
        [{"id": "q0", "answer": "A"}, {"id": "q1", "answer": "(B)"}],
        [{"id": "q0", "answer": "B", "pred": "A"}, {"id": "q1", "answer": "B", "pred": "(B)"}],
        [{"uid": "q0", "option": "A"}, {"uid": "q1", "option": "(B)"}],
        {"results": [{"id": "q0", "prediction": "A"}, {"id": "q1", "prediction": "(B)"}]},
        {"q0": {"pred": "A"}, "q1": {"pred": "(B)"}},
    ],
)
def test_ids_and_replies_under_many_names(tmp_path, rows):
    matched = found(as_json(tmp_path / "f.json", rows))
    assert texts(matched) == {"q0": "A", "q1": "(B)"} and not matched.unmatched


@pytest.mark.parametrize("name", ["f.csv", "f.tsv"])
def test_tables(tmp_path, name):
    rows = [["q0", "A man, I think\nso A"], ["q1", ""], ["other", "B"]]
    matched = found(table(tmp_path / name, rows, ["id", "reply"]))
    assert texts(matched) == {"q0": rows[0][1], "q1": ""}
    assert matched.unmatched == [f"{tmp_path / name}: row 3: other"]


def test_video_mmes_nested_form(tmp_path):
    task = TASKS["video_mme"]
    questions = task.read(as_lines(tmp_path / "q.jsonl", VIDEO_MME))
    rows = [{"id": q.id, "answer": "B", "score": 0.0, "question": q} for q in questions]
    nested = json.loads(task.submission(rows))
    nested[1]["missing"] = True
    nested[0]["questions"][0]["response"] = "The answer is C."
    matched = found(as_json(tmp_path / "f.json", nested), questions)
    assert texts(matched) == {"001-1": "The answer is C.", "001-2": "B", "001-3": "B", "601-1": "B"}
    assert [p.missing for p in matched.replies.values()] == [False, False, False, True]


def test_right_answers_are_not_taken_for_replies(tmp_path):
    """A reply that is null beside the right answer, and a file of questions given by mistake."""
    task = TASKS["video_mme"]
    questions = task.read(as_lines(tmp_path / "q.jsonl", VIDEO_MME))
    rows = [{"id": q.id, "answer": "B", "score": 0.0, "question": q} for q in questions]
    nested = json.loads(task.submission(rows))
    for video in nested:
        for question in video["questions"]:
            question["response"] = None
    for file in (as_json(tmp_path / "f.json", nested), tmp_path / "q.jsonl"):
        with pytest.raises(UserError, match="no row has a reply under one of filtered_resps"):
            read_predictions(file)
    some = [{"id": "q0", "answer": "A", "pred": "B"}, {"id": "q1", "answer": "A", "pred": None}]
    assert texts(found(as_json(tmp_path / "g.json", some))) == {"q0": "B", "q1": ""}


def sample(number, row, reply, **others):
    """A line of lmms-eval's samples_TASK.jsonl."""
    return {
        "doc_id": number, "doc": row, "target": row.get("answer"), "arguments": {},
        "resps": [[f"<think>x</think>{reply}"]], "filtered_resps": [reply], **others,
    }  # fmt: skip


def test_samples_of_lmms_eval_by_the_id_of_their_row(tmp_path):
    samples = [
        sample(i, row, "B", videomme_perception_score={"question_id": row["question_id"]})
        for i, row in enumerate(VIDEO_MME)
    ]
    questions = TASKS["video_mme"].read(as_lines(tmp_path / "q.jsonl", VIDEO_MME[::-1]))
    file = as_lines(tmp_path / "samples.jsonl", samples)
    matched = found(file, questions)
    assert set(matched.replies) == {row["question_id"] for row in VIDEO_MME}
    assert not matched.other_gold and matched.replies["001-1"].text == "B"
    within = questions_within(TASKS["video_mme"].form, file).questions
    assert [(q.id, q.letter) for q in within] == [
        (row["question_id"], row["answer"]) for row in VIDEO_MME
    ]


def test_samples_without_an_id_by_row_or_by_text(tmp_path):
    """LVBench's rows have none; a row number of another file is not believed."""
    rows = [LVBENCH_LMMS[0], {**LVBENCH_LMMS[0], "question": "Another?", "answer": "A"}]
    questions = TASKS["lvbench"].read(as_parquet(tmp_path / "q.parquet", rows))
    matched = found(
        as_lines(tmp_path / "f.jsonl", [sample(i, row, "D") for i, row in enumerate(rows)]),
        questions,
    )
    assert set(matched.replies) == {q.id for q in questions} and not matched.other_gold
    turned = [sample(1 - i, row, row["answer"]) for i, row in enumerate(rows)]
    matched = found(as_lines(tmp_path / "g.jsonl", turned), questions)
    assert [matched.replies[q.id].text for q in questions] == ["D", "A"]
    bare = [{"doc_id": i, "target": "DB"[i], "filtered_resps": "C"} for i in range(2)]
    matched = found(as_lines(tmp_path / "h.jsonl", bare), questions)
    assert len(matched.replies) == 2 and len(matched.other_gold) == 1  # D is right, B is not A


def test_older_logs_and_mlvus_own_results(tmp_path):
    questions = TASKS["mlvu_dev"].read(as_parquet(tmp_path / "q.parquet", MLVU_DEV[:1]))
    log = {"args": {"model": "x"}, "logs": [sample(0, MLVU_DEV[0], "C")]}
    assert texts(found(as_json(tmp_path / "f.json", log), questions)) == {"q0": "C"}
    own = {
        "acc_dict": {"plotQA": [1, 2]},
        "res_list": [
            {
                "pred": "C) Green",
                "gt": "(C) Green",
                "question": "Question: What color is the man?\nOptions:\n(A) Yellow\n(B) Red\n"
                "(C) Green\n(D) Blue",
                "question_type": "plotQA",
                "video": "/share/video/plotQA/movie101_66.mp4",
            }
        ],
    }
    matched = found(as_json(tmp_path / "g.json", own), questions)
    assert texts(matched) == {"q0": "C) Green"} and not matched.other_gold


def test_repeats_faults_and_ends_are_counted(tmp_path):
    file = tmp_path / "f.jsonl"
    as_lines(
        file,
        [
            {"id": "q0", "reply": "A", "finish_reason": "length"},
            {"id": "q0", "reply": "B", "finish_reason": "stop"},
            {"id": "q1", "reply": "B", "finished": False},
            {"id": "q2", "reply": None, "dropped": "the prompt is too long"},
        ],
    )
    with file.open("a") as lines:
        lines.write("torn {\n")
    matched = found(file)
    assert texts(matched) == {"q0": "B", "q1": "B", "q2": ""} and matched.repeated == 1
    assert [matched.replies[f"q{i}"].cut for i in range(3)] == [False, True, None]
    assert [matched.replies[f"q{i}"].missing for i in range(3)] == [False, False, True]
    assert len(matched.unreadable) == 1 and "f.jsonl:5" in matched.unreadable[0]


def test_own_samples_of_one_arm(tmp_path):
    rows = [{"id": "q0", "arm": arm, "budget": 8, "reply": "A"} for arm in ("uniform", "joint")]
    file = as_lines(tmp_path / "f.jsonl", rows)
    with pytest.raises(UserError, match=r"rows of 2 arms \(joint@8, uniform@8 …\); choose with"):
        read_predictions(file)
    with pytest.raises(UserError, match=r"--arm=join: .* has joint@8, uniform@8"):
        read_predictions(file, "join")
    for arm in ("joint", "joint@8"):
        (one,), _ = read_predictions(file, arm)
        assert one.values["arm"] == "joint"
    assert texts(found(as_lines(tmp_path / "g.jsonl", rows[:1]))) == {"q0": "A"}


def test_the_whole_reply_and_what_another_tool_read_of_it(tmp_path):
    """lmms-eval scores the filtered one; Video-R1's own scripts score the output."""
    whole = "<think>x</think><answer>B</answer>"
    rows = [
        {"id": "q0", "resps": [[whole]], "filtered_resps": ["B"]},
        {"id": "q1", "output": whole, "prediction": "B"},
        {"id": "q2", "output": {"tokens": 3}, "prediction": "B"},
    ]
    read, _ = read_predictions(as_json(tmp_path / "f.json", rows))
    assert [(p.text, p.whole) for p in read] == [("B", whole), (whole, whole), ("B", "B")]


def test_result_files_of_qwens_own_evaluation(tmp_path):
    whole = "<think>x</think>B"
    row = {"question_id": "q0", "annotation": {"question": "What is 0?", "answer": "A"},
           "task": "VideoMME", "result": {"gen": "B", "gen_raw": whole}}  # fmt: skip
    matched = found(as_lines(tmp_path / "f.jsonl", [row]))
    assert texts(matched) == {"q0": "B"} and matched.replies["q0"].whole == whole
    assert not matched.other_gold


def test_a_rows_own_id_comes_before_one_within_it(tmp_path):
    rows = [
        {"question_id": "q1", "meta": {"id": "q0"}, "pred": "A"},
        {"meta": {"id": "q2"}, "pred": "B"},
        {"id": "none", "meta": {"id": "q0"}, "pred": "C"},
    ]
    matched = found(as_json(tmp_path / "f.json", rows))
    assert texts(matched) == {"q1": "A", "q2": "B"} and len(matched.unmatched) == 1


@pytest.mark.parametrize("number", ["²", "①", "-1", "1.0", True, None, [1]])
def test_what_is_no_row_number_is_none(tmp_path, number):
    file = as_lines(tmp_path / "f.jsonl", [{"doc_id": number, "pred": "A"}])
    assert read_predictions(file)[0][0].doc == -1


def test_a_file_without_predictions(tmp_path):
    with pytest.raises(UserError, match="no predictions in it"):
        read_predictions(as_json(tmp_path / "f.json", []))
    with pytest.raises(UserError, match=r"holds no questions; give --task=NAME:FILE"):
        questions_within(TASKS["lvbench"].form, as_json(tmp_path / "g.json", {"55": "A"}))
