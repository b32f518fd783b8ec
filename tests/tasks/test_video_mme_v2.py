"""Video-MME-v2: groups of four, and what they are worth."""

import itertools

import pytest

from msjoe_jax.tasks import TASKS
from msjoe_jax.tasks.scoring import Said, score
from msjoe_jax.tasks.video_mme_v2 import logic, relevance
from tests.support.benchmarks import as_parquet, table, video_mme_v2

TASK = TASKS["video_mme_v2"]
CHAIN, PAIR_INSIDE, PAIR_FIRST = "[1, 2, 3, 4]", "[1, [2, 3], 4]", "[[1, 2], 3, 4]"
GOLD = "ABCH"
ROWS = [
    *video_mme_v2("001", "relevance", "None"),
    *video_mme_v2("002", "logic", PAIR_INSIDE),
    *video_mme_v2("003", "logic", "[[1,2],3,4]"),
]


@pytest.fixture
def questions(tmp_path):
    return TASK.read(as_parquet(tmp_path / "f.parquet", ROWS))


def replies(**letters):
    return {
        f"{video[1:]}-{i}": Said(letter)
        for video, four in letters.items()
        for i, letter in enumerate(four, 1)
    }


def test_rows(questions):
    assert len(questions) == 12 and questions[3].letter == "H" and len(questions[0].options) == 8
    assert questions[0].video == "001" and questions[0].options[7] == "thing h"
    assert TASK.groups(questions[0]) == {
        "group_type": "relevance",
        "level": "2",
        "second_head": "Order",
        "third_head": "Sequence",
    }


def test_a_table_of_the_authors_with_another_structure_is_refused(tmp_path, capsys):
    names = list(ROWS[0])
    rows = [[row[name] for name in names] for row in ROWS]
    rows[11][names.index("group_structure")] = "[1, 2]"
    read = TASK.read(table(tmp_path / "f.tsv", rows, names))
    assert len(read) == 11 and "field 'group_structure' is '[1, 2]'" in capsys.readouterr().out


@pytest.mark.parametrize(("right", "want"), enumerate([0, 6.25, 25, 56.25, 100]))
def test_relevance(right, want):
    for points in set(itertools.permutations([1] * right + [0] * (4 - right))):
        assert relevance(points) == want


@pytest.mark.parametrize(
    ("structure", "points", "want"),
    [
        (CHAIN, "0111", 0), (CHAIN, "1011", 100 / 16), (CHAIN, "1101", 25), (CHAIN, "1110", 56.25),
        (CHAIN, "1111", 100),
        (PAIR_INSIDE, "0111", 0), (PAIR_INSIDE, "1001", 100 / 12), (PAIR_INSIDE, "1010", 400 / 12),
        (PAIR_INSIDE, "1011", 400 / 12), (PAIR_INSIDE, "1100", 400 / 12),
        (PAIR_INSIDE, "1110", 700 / 12), (PAIR_INSIDE, "1111", 100),
        (PAIR_FIRST, "0011", 0), (PAIR_FIRST, "0111", 10), (PAIR_FIRST, "1011", 10),
        (PAIR_FIRST, "1101", 20), (PAIR_FIRST, "1110", 50), (PAIR_FIRST, "1111", 100),
    ],
)  # fmt: skip
def test_logic(structure, points, want):
    assert logic([int(x) for x in points], structure) == pytest.approx(want)


def test_the_mean_over_groups(questions):
    said = replies(v001="ABCA", v002="AACA", v003="AACH")
    totals = score(TASK, "lmms-eval", questions, said)["totals"]
    assert totals["overall"] == pytest.approx((56.25 + 400 / 12 + 10) / 3)
    assert totals["group_type"] == {
        "logic": pytest.approx((400 / 12 + 10) / 2),
        "relevance": 56.25,
    }
    assert totals["level"] == {"2": totals["overall"]} and totals["groups"] == 3
    assert totals["plain accuracy"] == pytest.approx(100 * 8 / 12)


def test_unparsed_replies_by_the_authors_script_and_by_lmms_eval(questions):
    """The script gives −1 point, which a run of logic takes for right."""
    said = replies(v001="ABC?", v002="A?CH", v003="ABCH")
    official, lmms = (
        score(TASK, name, questions, said)["totals"]["group_type"]
        for name in ("official", "lmms-eval")
    )
    assert official == {"logic": 100.0, "relevance": 25.0}
    assert lmms == {"logic": pytest.approx((400 / 12 + 100) / 2), "relevance": 56.25}


def test_the_plain_accuracy_is_of_valid_replies_in_the_authors_script(questions):
    said = replies(v001="ABC?", v002="A?CH", v003="AAAA")
    official, lmms = (
        score(TASK, name, questions, said)["totals"] for name in ("official", "lmms-eval")
    )
    assert official["plain accuracy"] == 70  # 7 of the 10 with a letter
    everything = official["plain accuracy, unparsed replies counted as wrong"]
    assert everything == lmms["plain accuracy"] == pytest.approx(100 * 7 / 12)


def test_lmms_eval_by_version(questions):
    """0.7.3 reads small letters and options' texts; before it read as the authors' script."""
    said = replies(v001=["a", "It is thing b", "C", "A man, H"])
    rules = ("lmms-eval", "lmms_eval_before", "official")
    right = [score(TASK, rule, questions, said)["right"] for rule in rules]
    assert right == [3, 1, 1]


def test_levels_of_a_table_with_gaps(tmp_path):
    """As pandas writes whole numbers beside missing ones."""
    rows = [{**row, "level": row["level"] and f"{row['level']}.0"} for row in ROWS[:4]]
    names = list(rows[0])
    cells = [["" if row[name] is None else row[name] for name in names] for row in rows]
    read = TASK.read(table(tmp_path / "f.tsv", cells, names))
    assert {TASK.groups(q)["level"] for q in read} == {"2"}


def test_a_group_that_is_not_whole(questions):
    said = replies(v001="ABCH")
    del said["001-1"]
    totals = score(TASK, "lmms-eval", questions, said)["totals"]
    assert totals["groups that are not whole"] == 1 and totals["overall"] == 56.25


def test_submission(questions):
    rows = [{"id": q.id, "answer": q.letter, "score": 1.0, "question": q} for q in questions[:2]]
    assert TASK.submission(rows).decode() == "question_id\tprediction\n001-1\tA\n001-2\tB\n"
