"""What an evaluation wrote, read back."""

import json

import pytest

from msjoe_jax.errors import UserError
from msjoe_jax.report.evaluation_folder import LONGEST_REPLY, read_evaluation, read_samples
from tests.support.evaluation_folder import write_evaluation


def change(folder, line, **fields):
    """Changes fields of a line, counted from 1."""
    file = folder / "samples.jsonl"
    lines = file.read_text().split("\n")
    lines[line - 1] = json.dumps(json.loads(lines[line - 1]) | fields)
    file.write_text("\n".join(lines))


def test_an_evaluation_is_read(tmp_path):
    read = read_evaluation(write_evaluation(tmp_path, questions=6))
    assert [arm.key for arm in read.arms][:3] == [("blind", 0), ("uniform", 4), ("uniform", 8)]
    assert read.arms[1].name == "uniform @ 4" and read.arms[1].questions == 5  # one was dropped
    assert len(read.samples) == 6 * 7 and len(read.looks) == 2
    row = read.samples[2]
    assert (row.key, row.id, row.video, row.gold) == (("uniform", 8), "q0000", "video-0", "B")
    assert row.tokens == 8 * 64 and row.prompt_tokens == 210 + 8 * 64 and len(row.times) == 8
    assert row.seconds == {
        "query": 0.1,
        "similarity": 0.2,
        "sampler": 0.30000000000000004,
        "answer": 0.4,
    }
    assert row.groups == {"duration": ("short",), "domain": ("domain 0",)}
    dropped = read.samples[1]
    assert dropped.score is None and dropped.dropped.startswith("prompt too long")


def test_arms_of_one_label_are_told_apart(tmp_path):
    file = write_evaluation(tmp_path, questions=6) / "summary.json"
    summary = json.loads(file.read_text())
    for arm in summary["arms"]:
        arm["label"] = "joint" if arm["arm"] in ("joint", "topk") else arm["label"]
    file.write_text(json.dumps(summary))
    names = {arm.arm: arm.label for arm in read_evaluation(tmp_path).arms}
    assert names["joint"] == "joint (joint)" and names["topk"] == "joint (topk)"
    assert names["uniform"] == "uniform"


def test_groups_may_be_several_and_replies_are_cut(tmp_path):
    write_evaluation(tmp_path, questions=6)
    change(tmp_path, 1, groups={"type": ["a", "b"]}, reply="x" * 5000, seconds=None, covered=None)
    row = next(read_samples(tmp_path / "samples.jsonl"))
    assert row.groups == {"type": ("a", "b")} and len(row.reply) == LONGEST_REPLY + 1
    assert row.seconds is None and row.covered is None


@pytest.mark.parametrize("name", ["summary.json", "samples.jsonl"])
def test_a_folder_that_is_none_is_refused(tmp_path, name):
    (write_evaluation(tmp_path, questions=6) / name).unlink()
    with pytest.raises(UserError, match=f"no {name} there; name a folder that msjoe evaluate"):
        read_evaluation(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"score": "high"}, "samples.jsonl:3: field 'score' is 'high', not a number"),
        ({"arm": None}, "samples.jsonl:3: field 'arm' is null"),
        ({"finished": "no"}, "samples.jsonl:3: field 'finished' is 'no', not true or false"),
        ({"seconds": {"query": "1"}}, "samples.jsonl:3: seconds: field 'query'"),
        ({"tokens": ["a"]}, "samples.jsonl:3: field 'tokens'"),
        ({"groups": [1]}, "samples.jsonl:3: field 'groups'"),
    ],
)
def test_a_damaged_row_is_named(tmp_path, fields, message):
    write_evaluation(tmp_path, questions=6)
    change(tmp_path, 3, **fields)
    with pytest.raises(UserError) as error:
        read_evaluation(tmp_path)
    assert message in str(error.value)


def test_a_torn_line_is_named(tmp_path):
    file = write_evaluation(tmp_path, questions=6) / "samples.jsonl"
    file.write_text(file.read_text()[:-40])
    with pytest.raises(UserError, match=r"samples.jsonl:42: not JSON"):
        read_evaluation(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": 2}, "format 2; this reads 1"),
        ({"arms": {}}, "field 'arms' is {}, not a list"),
        ({"arms": [{"arm": "a"}]}, "summary.json: arms[0]: field 'questions' is missing"),
    ],
)
def test_a_damaged_summary_is_named(tmp_path, fields, message):
    file = write_evaluation(tmp_path, questions=6) / "summary.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    with pytest.raises(UserError) as error:
        read_evaluation(tmp_path)
    assert message in str(error.value)
