"""Video-R1's and EasyVideoR1's JSON: options in any order, other kinds of rows refused."""

from msjoe_jax.tasks import TASKS
from tests.support.benchmarks import VIDEO_R1, as_json


def test_rows(tmp_path, capsys):
    assert TASKS["easyvideor1"] is TASKS["video_r1"]
    (q,) = TASKS["video_r1"].read(as_json(tmp_path / "f.json", VIDEO_R1))
    assert (q.id, q.video, q.letter) == ("11", "abc.def", "C")
    assert q.options == ("first", "second", "third", "fourth")
    assert TASKS["video_r1"].groups(q) == {"data_source": "LongVideo-Reason"}
    told = capsys.readouterr().out
    assert "3 rows: 1 questions, 0 duplicated, 2 refused" in told
    assert "row 2: field 'problem_type' is 'numerical', not multiple choice" in told
    assert "row 3: field 'data_type' is 'image', not video" in told
