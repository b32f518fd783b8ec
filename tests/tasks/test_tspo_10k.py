"""TSPO-10K: options in the original question, small letters, rows without an id."""

from msjoe_jax.tasks import TASKS
from tests.support.benchmarks import TSPO_10K, as_lines


def test_rows(tmp_path, capsys):
    read = TASKS["tspo_10k"].read(as_lines(tmp_path / "f.jsonl", [*TSPO_10K, TSPO_10K[0]]))
    assert [(q.video, q.question, q.options, q.letter) for q in read] == [
        ("208", "What is seen?", ("Shore.", "forest.", "Grass.", "sea."), "B"),
        ("209", "What is seen?", ("Shore.", "forest.", "Grass.", "sea."), "B"),
    ]
    assert [TASKS["tspo_10k"].groups(q)["type"] for q in read] == ["general", "specific"]
    assert "3 rows: 2 questions, 1 duplicated, 0 refused" in capsys.readouterr().out
