"""CG-Bench: clue intervals are the evidence."""

import pytest

from msjoe_jax.tasks import TASKS
from msjoe_jax.tasks.scoring import Said, score
from tests.support.benchmarks import CG_BENCH, as_json, as_parquet, table

TASK = TASKS["cg_bench"]


@pytest.mark.parametrize("name", ["f.json", "f.parquet", "f.tsv"])
def test_rows(tmp_path, name):
    file = tmp_path / name
    if name.endswith("tsv"):
        table(file, [list(CG_BENCH[0].values())], list(CG_BENCH[0]))
    else:
        (as_json if name.endswith("json") else as_parquet)(file, CG_BENCH)
    (q,) = TASK.read(file)
    assert (q.id, q.video, q.letter, len(q.options)) == ("7", "uid_1", "G", 7)
    assert q.evidence == ((12.0, 15.0), (100.5, 101.0))
    assert TASK.groups(q) == {"domain": "Sports", "sub_category": "Counting"}
    result = score(TASK, "lmms-eval", [q], {"7": Said("G")})
    assert result["totals"]["cgbench_accuracy"] == 100
    assert result["totals"]["domain"] == {"Sports": 100.0}
    # lmms-eval looks for A to N here, and takes the pronoun for an option.
    wrong = score(TASK, "lmms-eval", [q], {"7": Said("I think it is G, he")})
    assert (wrong["right"], wrong["unparsed"]) == (0, 0)


def test_the_authors_script_takes_any_of_the_letters_named(tmp_path):
    read = TASK.read(as_json(tmp_path / "f.json", CG_BENCH))
    for reply, right in {
        "Based on the frames, A is wrong; I pick G": 1,
        '```json\n{"result": "A"}\n``` not G': 0,
        "A or B": 0,
    }.items():
        result = score(TASK, "official", read, {"7": Said(reply)})
        assert (result["right"], result["unparsed"]) == (right, 0)
    assert score(TASK, "prefixes", read, {"7": Said("Based on it, I pick G")})["right"] == 0


def test_intervals_that_cannot_be_read_are_told(tmp_path, capsys):
    (q,) = TASK.read(as_json(tmp_path / "f.json", [{**CG_BENCH[0], "clue_intervals": "late"}]))
    assert q.evidence == () and "'clue_intervals' cannot be read: 1" in capsys.readouterr().out
