"""NExT-QA: a column for each option, indices as answers, ids of video and qid."""

import pytest

from msjoe_jax.tasks import TASKS
from msjoe_jax.tasks.base import Judged
from msjoe_jax.tasks.nextqa import totals
from msjoe_jax.tasks.reading import read_values
from msjoe_jax.tasks.rows import Row
from tests.support.benchmarks import NEXTQA, NEXTQA_COLUMNS, as_parquet, table


def test_the_authors_table_and_the_parquet_give_the_same(tmp_path):
    read = TASKS["nextqa"].read(table(tmp_path / "val.csv", NEXTQA, NEXTQA_COLUMNS))
    assert [(q.id, q.video, q.letter) for q in read] == [
        ("4010_6", "4010", "A"), ("4010_1", "4010", "E"), ("7508_6", "7508", "C"),
    ]  # fmt: skip
    assert read[0].options == ("two", "2", "0", "four", "none") and read[0].question == "how many"
    assert [q.extra["groups"] for q in read] == [
        {"type": "DC", "kind": "descriptive"}, {"type": "CW", "kind": "causal"},
        {"type": "TN", "kind": "temporal"},
    ]  # fmt: skip
    rows = [dict(zip(NEXTQA_COLUMNS, row, strict=True)) for row in NEXTQA]
    again = TASKS["nextqa"].read(as_parquet(tmp_path / "test.parquet", rows))
    assert [(q.id, q.options, q.answer) for q in again] == [
        (q.id, q.options, q.answer) for q in read
    ]
    judged = [Judged(q, "A") for q in read]
    assert totals(judged)["kind"] == {"causal": 0, "descriptive": 100, "temporal": 0}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer": "5"}, "field 'answer' is '5', not an index from 0 to 4"),
        ({"answer": "A"}, "field 'answer' is 'A', not an index"),
        ({"a4": "", "answer": 4}, "field 'answer_number' is 4, not the index of one of 4"),
        ({f"a{i}": "" for i in range(5)}, "has no options"),
        ({"video": ""}, "field 'video' is missing"),
    ],
)
def test_a_wrong_field_is_named(change, said):
    row = dict(zip(NEXTQA_COLUMNS, NEXTQA[0], strict=True)) | change
    form = TASKS["nextqa"].form
    assert form is not None
    reading = read_values(form, "f", [Row("row 1", 0, row)])
    assert not reading.questions and said in reading.refused[0].reason


def test_an_answer_that_is_kept_secret():
    row = dict(zip(NEXTQA_COLUMNS, NEXTQA[0], strict=True)) | {"answer": -1.0}
    form = TASKS["nextqa"].form
    assert form is not None
    assert read_values(form, "f", [Row("row 1", 0, row)]).questions[0].answer is None
