"""LongVideoBench: JSON and parquet, secret answers, replies without a letter."""

import json

import pytest

from msjoe_jax.tasks import TASKS
from msjoe_jax.tasks.scoring import Said, score
from tests.support.benchmarks import LONGVIDEOBENCH, as_json, as_parquet, longvideobench_parquet

TASK = TASKS["longvideobench"]


def test_json_and_parquet_are_the_same(tmp_path):
    read = TASK.read(as_json(tmp_path / "lvb_val.json", LONGVIDEOBENCH))
    assert [(q.id, q.video, q.letter, len(q.options)) for q in read] == [
        ("86CxyhFV9MI_0", "86CxyhFV9MI", "C", 5), ("86CxyhFV9MI_1", "86CxyhFV9MI", "B", 4),
        ("86CxyhFV9MI_2", "86CxyhFV9MI", "A", 3),
    ]  # fmt: skip
    rows = longvideobench_parquet(LONGVIDEOBENCH)
    assert rows[2]["option3"] == "N/A"
    assert TASK.read(as_parquet(tmp_path / "f.parquet", rows)) == read
    assert TASK.groups(read[0])["duration_group"] == "15"
    assert read[0].extra["starting_timestamp_for_subtitles"] == 0


@pytest.mark.parametrize("secret", [{}, {"correct_choice": -1}, {"correct_choice": None}])
def test_the_test_split_has_no_answers(tmp_path, secret):
    rows = [{k: v for k, v in row.items() if k != "correct_choice"} | secret
            for row in LONGVIDEOBENCH]  # fmt: skip
    read = TASK.read(as_json(tmp_path / "lvb_test_wo_gt.json", rows))
    assert [q.answer for q in read] == [None] * 3
    result = score(TASK, "official", read, {q.id: Said("A") for q in read})
    assert result["accuracy"] is None and result["totals"] == {}
    rows = [{"id": q.id, "answer": "A", "score": float("nan"), "question": q} for q in read]
    assert json.loads(TASK.submission(rows)) == {q.id: "A" for q in read}


def test_replies_without_a_letter_are_counted_and_only_drawn_if_asked(tmp_path):
    read = TASK.read(as_json(tmp_path / "f.json", LONGVIDEOBENCH))
    said = {read[0].id: Said("C"), read[1].id: Said("no idea"), read[2].id: Said("E")}
    result = score(TASK, "official", read, said)
    assert result["unparsed"] == 1  # E is a letter of the scorer's, though not of the question's
    assert result["totals"]["lvb_acc"] == pytest.approx(1 / 3)
    expected = result["totals"]["lvb_acc expected with random draws"]
    assert expected == pytest.approx((1 + 1 / 4) / 3)
    drawn = [
        score(TASK, "official", read, said, draw_unparsed=seed)["totals"]["lvb_acc"]
        for seed in range(600)
    ]
    assert sum(drawn) / len(drawn) == pytest.approx(expected, abs=0.03)
    assert drawn[:5] == [
        score(TASK, "official", read, said, draw_unparsed=seed)["totals"]["lvb_acc"]
        for seed in range(5)
    ]
