"""`msjoe score`: other people's files, without any model."""

import json

import pytest

from msjoe_jax.commands.score import lines_of, score_file
from msjoe_jax.errors import UserError
from msjoe_jax.tasks import TASKS
from tests.support.benchmarks import (
    LONGVIDEOBENCH,
    LVBENCH,
    MLVU_DEV,
    VIDEO_MME,
    as_json,
    as_lines,
    as_parquet,
)
from tests.support.commands import command, program


@pytest.fixture
def lvbench(tmp_path):
    return "lvbench:" + as_lines(tmp_path / "video_info.meta.jsonl", LVBENCH)


def test_the_command_prints_a_sheet_and_the_result_as_its_last_line(lvbench, tmp_path):
    replies = {"55": "D", "56": "B", "999": "A"}
    done = command(
        "score", f"--task={lvbench}", f"--predictions={as_json(tmp_path / 'p.json', replies)}",
        "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    result = json.loads(last)
    assert "3 rows: 3 questions, 0 duplicated, 0 refused" in lines[0]
    text = "\n".join(lines)
    assert "asked 3, answered 2, unanswered 1" in text and "unmatched 1" in text
    assert f"unmatched: {tmp_path / 'p.json'}: '999': 999" in text
    assert "question_type: KIR 100.000, Rea 100.000, Sum 0.000" in text
    assert result["extractor"] == "official" and result["rules"]["official"]["accuracy"] == 0.5
    assert result["sheet"]["unmatched"] == 1 and result["groups"]["KIR"]
    assert set(result["rules"]) == {"strict", "official", "lmms-eval", "polish_answer", "prefixes"}


def test_no_model_and_no_jax():
    program(
        """
        import sys
        import msjoe_jax.commands.score
        heavy = {"jax", "flax", "tensorflow", "orbax", "torch"} & set(sys.modules)
        assert not heavy, heavy
        """
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"task": "none"}, "--task=none is not one of jsonl, video_mme"),
        ({"task": "lvbench"}, "p.json: holds no questions; give --task=NAME:FILE"),
        ({"task": "jsonl"}, "--task=jsonl:FILE"),
        ({"task": "lvbench:no.jsonl"}, "no.jsonl: cannot be read"),
        ({"extractor": "lenient"}, "--extractor=lenient is not one of strict, official, lmms-eval"),
        ({"draw_unparsed": 1}, "--draw_unparsed: none of the rules of lvbench draws letters"),
        ({"predictions": "no.json"}, "no.json: cannot be read"),
    ],
)
def test_what_cannot_be_used_is_one_line(lvbench, tmp_path, flags, said):
    given = {"task": lvbench, "predictions": as_json(tmp_path / "p.json", {"55": "D"})}
    with pytest.raises(UserError) as error:
        score_file(**{**given, **flags})
    assert said in str(error.value) and len(error.value.lines) == 1


def test_what_the_rows_say_of_their_questions_is_told(lvbench, tmp_path):
    rows = [
        {"uid": "55", "question": "What year appears?", "answer": "C", "response": "D"},
        {"uid": "56", "question": "When does he leave?", "answer": "A", "response": "A"},
    ]
    file = as_json(tmp_path / "p.json", rows)
    result = score_file(lvbench, file)
    assert (result["sheet"]["answered"], result["sheet"]["other_right_answer"]) == (1, 1)
    told = "\n".join(lines_of(result))
    assert "other right answer 1, other option order 0, unmatched 1" in told
    assert f"other right answer: {file}: row 1: 'C', and D of 55" in told
    assert f"unmatched: {file}: row 2: 56: has the text of another question" in told


def test_predictions_for_other_questions_are_refused(lvbench, tmp_path):
    file = as_json(tmp_path / "p.json", {"x1": "D"})
    with pytest.raises(UserError, match=r"none of its 1 predictions .* such as '55', '56'.*x1"):
        score_file(lvbench, file)
    done = command("score", f"--task={lvbench}", f"--predictions={file}")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    done = command("score", "--task=lvbench")
    assert done.returncode == 2 and "--predictions=FILE are needed" in done.stderr


def test_video_mmes_official_file_needs_no_annotations(tmp_path, capsys):
    """Their script's number: replies without a letter are left out of the denominator."""
    task = TASKS["video_mme"]
    questions = task.read(as_lines(tmp_path / "q.jsonl", VIDEO_MME))
    replies = ["Best option: (A)", "B.", "nothing", "D"]
    rows = [
        {"id": q.id, "answer": "", "reply": reply, "question": q}
        for q, reply in zip(questions, replies, strict=True)
    ]
    (tmp_path / "p.json").write_bytes(task.submission(rows))
    result = score_file("video_mme", str(tmp_path / "p.json"))
    assert result["rules"]["official"]["totals"]["overall"] == pytest.approx(200 / 3)
    assert result["rules"]["lmms-eval"]["totals"]["overall"] == 75
    assert result["rules"]["strict"]["accuracy"] == 0.5
    assert f"{tmp_path / 'p.json'}: 4 rows: 4 questions" in capsys.readouterr().out


def test_a_mean_over_tasks_has_its_own_interval(tmp_path):
    task = "mlvu_dev:" + as_parquet(
        tmp_path / "q.parquet",
        [{**row, "video_name": f"{i % 7}.mp4", "question_id": f"{i}", "task_type": "ab"[i % 2]}
         for i, row in enumerate(MLVU_DEV * 10)],
    )  # fmt: skip
    replies = {str(i): "C" if i % 3 else "A" for i in range(30)}
    result = score_file(task, as_json(tmp_path / "p.json", replies))
    official = result["rules"]["official"]
    low, high = official["macro_ci95"]
    assert low < official["totals"]["macro (M-Avg)"] / 100 < high
    assert "macro (M-Avg)" in "\n".join(lines_of(result))


def test_unparsed_replies_are_drawn_where_asked(tmp_path):
    task = "longvideobench:" + as_json(tmp_path / "q.json", LONGVIDEOBENCH)
    file = as_json(tmp_path / "p.json", {row["id"]: "?" for row in LONGVIDEOBENCH})
    plain, drawn = (score_file(task, file, draw_unparsed=seed) for seed in (None, 3))
    assert plain["rules"]["official"]["accuracy"] == 0
    assert drawn["rules"]["official"]["unparsed"] == 3 == plain["rules"]["official"]["unparsed"]
    assert drawn["rules"]["official"]["of_parsed"] is not None
    assert "by the seed 3" in "\n".join(lines_of(drawn))


def test_our_own_samples_are_read_strictly_and_say_what_was_seen(lvbench, tmp_path):
    rows = [
        {"id": "55", "arm": "joint", "budget": 8, "reply": "<answer>D</answer>", "times": [16.0]},
        {"id": "56", "arm": "joint", "budget": 8, "reply": "Answer: A", "times": [16.0],
         "finished": False},
        {"id": "113", "arm": "joint", "budget": 8, "reply": "B", "times": [1.0]},
    ]  # fmt: skip
    result = score_file(lvbench, as_lines(tmp_path / "samples.jsonl", rows))
    assert result["extractor"] == "strict" and result["rules"]["strict"]["right"] == 2
    assert (result["sheet"]["tagged"], result["sheet"]["cut_off"]) == (1, 1)
    assert result["covered"] == {"share": 0.5, "questions": 2}
    assert "evidence shown: 0.500 of 2" in "\n".join(lines_of(result))
