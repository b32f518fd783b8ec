"""Video-R1's and EasyVideoR1's JSON: options in any order, other kinds of rows refused."""

from msjoe_jax.tasks import TASKS
from msjoe_jax.tasks.multiple_choice import extracted
from tests.support.benchmarks import VIDEO_R1, as_json


def test_rows(tmp_path, capsys):
    assert TASKS["easyvideor1"].form is TASKS["video_r1"].form
    (q,) = TASKS["video_r1"].read(as_json(tmp_path / "f.json", VIDEO_R1))
    assert (q.id, q.video, q.letter) == ("11", "abc.def", "C")
    assert q.options == ("first", "second", "third", "fourth")
    assert TASKS["video_r1"].groups(q) == {"data_source": "LongVideo-Reason"}
    told = capsys.readouterr().out
    assert "3 rows: 1 questions, 0 duplicated, 2 refused" in told
    assert "row 2: field 'problem_type' is 'numerical', not multiple choice" in told
    assert "row 3: field 'data_type' is 'image', not video" in told


def test_each_has_the_rule_of_its_own_script(tmp_path):
    (q,) = TASKS["video_r1"].read(as_json(tmp_path / "f.json", VIDEO_R1[:1]))
    for reply, first, easy in (
        ("so</think>\n\nTherefore, the final answer is: C", "", "C"),
        ("B.", "", "B"),
        ("<answer>C</answer><answer>A</answer>", "C", "C"),
    ):
        assert extracted(TASKS["video_r1"], q, reply)["official"] == first
        assert extracted(TASKS["easyvideor1"], q, reply)["official"] == easy


def test_one_video_in_a_list_as_in_easyr1s_files(tmp_path, capsys):
    row = {
        "videos": ["/data/test_surveil_27.mp4"],
        "problem": "<image>Is it odd?\n(A) no\n(B) yes",
        "solution": "B",
    }
    two = {**row, "videos": ["a.mp4", "b.mp4"]}
    (q,) = TASKS["video_r1"].read(as_json(tmp_path / "f.json", [row, two]))
    assert (q.video, q.question, q.letter) == ("test_surveil_27", "Is it odd?", "B")
    assert "field 'videos' names 2 videos" in capsys.readouterr().out
