"""`msjoe inspect`: one answer a flag, JSON, a page, or one line that says why not."""

import json

import pytest

from msjoe_jax.commands.inspect import Wanted, inspect
from msjoe_jax.data.questions import Question, save_questions
from msjoe_jax.errors import UserError
from msjoe_jax.report.inspection import as_json
from tests.support.commands import command
from tests.support.records import write_flat
from tests.support.run_folder import write_run


@pytest.fixture
def data(tmp_path):
    write_flat(tmp_path / "r", {"a": 30, "b": 4}, shard_bytes=1)
    asked = [Question(f"q{n}", "ab"[n % 2], "?", ("x", "y"), 0, n / 4, evidence=((1.0, 2.0),))
             for n in range(4)]  # fmt: skip
    save_questions(tmp_path / "q.jsonl", asked)
    return {"records": str(tmp_path / "r"), "questions": str(tmp_path / "q.jsonl")}


def test_flags_that_do_not_go_together(data):
    for given, said in (
        ({}, "give --records=DIR"),
        ({"run": "x", **data}, "give --records=DIR"),
        ({"run": "x", "checkpoint": "y"}, "give --records=DIR"),
        ({"video": "a", "questions": data["questions"]}, "--video=a needs --records"),
        ({"question": "q1", "records": data["records"]}, "--question=q1 needs --questions"),
        ({"question": "q1", "questions": data["questions"]}, "--question=q1 needs --records"),
        ({"questions": data["questions"], "verify": True}, "--verify needs --records"),
        ({**data, "task": "zz"}, "--task=zz is none of"),
        ({**data, "question": "zz"}, "no question 'zz' among 4"),
        ({**data, "video": "zz"}, "no video 'zz'"),
        ({"records": "/none"}, "no such record folder"),
        ({"run": "/none"}, "no config.json there"),
        ({"checkpoint": "/none"}, "no checkpoint in /none"),
    ):
        with pytest.raises(UserError, match=said):
            inspect(Wanted(**given))


def test_records_and_questions_together(data):
    found = inspect(Wanted(**data, question="q1", video="a", frames=4, verify=True))
    parts = as_json(found.parts)
    assert parts["questions"]["questions"] == 4 and parts["records"]["videos"] == 2
    assert parts["records"]["damaged_shards"] == 0 and found.wrong == []
    assert [sheet["question"] for sheet in parts["sheets"]] == ["a", "q1"]
    assert inspect(Wanted(records=data["records"])).title == f"Records {data['records']}"


@pytest.mark.slow
def test_the_command_prints_json_writes_a_page_and_ends_with_1_for_damage(data, tmp_path):
    flags = [f"--{name}={value}" for name, value in data.items()]
    done = command("inspect", *flags, "--question=q0", f"--html={tmp_path / 'p.html'}")
    assert done.returncode == 0 and "QUESTIONS" in done.stdout and "page in" in done.stdout
    assert (tmp_path / "p.html").read_text().count("data:image/jpeg") > 4
    frames = tmp_path / "r" / "frames-00000.arrayrecord"
    frames.write_bytes(frames.read_bytes()[:100])
    done = command("inspect", f"--records={data['records']}", "--verify", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["damaged_shards"]["count"] == 1
    done = command("inspect", f"--records={tmp_path}")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


@pytest.mark.slow
def test_a_run_on_the_terminal(tmp_path):
    done = command("inspect", f"--run={write_run(tmp_path / 'run')}")
    assert done.returncode == 0 and "HELD-OUT QUESTIONS" in done.stdout
