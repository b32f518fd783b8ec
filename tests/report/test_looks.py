"""Looks as files hold them."""

import json

import numpy as np
import pytest

from msjoe_jax.errors import UserError
from msjoe_jax.report.looks import read_look, read_looks
from tests.support.evaluation_folder import write_evaluation


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A look as JSON."""
    folder = write_evaluation(tmp_path_factory.mktemp("looks"), looks=1, candidates=20)
    return json.loads(next((folder / "looks").iterdir()).read_text())


def read(tmp_path, content):
    file = tmp_path / "q-0.json"
    file.write_text(json.dumps(content))
    return read_look(file)


def test_a_look_is_read(tmp_path, good):
    look = read(tmp_path, good)
    assert (look.id, look.gold, look.video) == ("q0000", "B", "video-0")
    assert look.times.tolist() == good["times"] and look.evidence == ((20.0, 36.0),)
    assert np.array_equal(look.similarity["joint"], good["similarity"]["joint"])
    assert set(look.similarity) == {"topk", "joint"} and set(look.logits) == {"joint"}
    assert look.frames["joint@4"] == tuple(good["frames"]["joint@4"])
    assert set(look.thumbnails) == {int(place) for place in good["thumbnails"]}
    assert [look.is_evidence(place) for place in (9, 10, 18, 19)] == [False, True, True, False]


def test_what_may_be_absent_may_be_absent(tmp_path, good):
    bare = {name: good[name] for name in ("id", "question", "options", "video", "times", "frames")}
    look = read(tmp_path, bare | {"gold": None})
    assert (look.gold, look.evidence, look.thumbnails, look.similarity) == ("", (), {}, {})
    numbers = [None, *good["logits"]["joint"][1:]]
    assert np.isnan(read(tmp_path, good | {"logits": {"joint": numbers}}).logits["joint"][0])


def test_rows_of_several_signals_are_named(tmp_path, good):
    rows = good["similarity"]["joint"]
    look = read(tmp_path, good | {"similarity": {"joint": rows + rows, "topk": None}})
    assert look.similarity["joint"].shape == (4, 20) and "topk" not in look.similarity
    assert look.queries["joint"][::2] == ("a red cube (signal 1)", "a red cube (signal 2)")
    assert look.queries["topk"] == tuple(good["queries"]["topk"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times": [2.0, 1.0]}, "field 'times'"),
        ({"times": "soon"}, "field 'times' is 'soon', not a list"),
        (
            {"frames": {"joint@4": [20]}},
            "frames: field 'joint@4' is [20], not a list of candidates",
        ),
        ({"frames": {"joint@4": [-1]}}, "frames: field 'joint@4'"),
        ({"logits": {"joint": [1.0]}}, "logits: field 'joint' is [1.0], not 20 numbers"),
        ({"similarity": {"joint": [[0.1] * 20]}}, "not 2 rows, one a query, of 20 numbers"),
        ({"similarity": {"joint": [["a"] * 20] * 2}}, "not made of numbers"),
        ({"evidence": [[1.0]]}, "field 'evidence'"),
        ({"thumbnails": {"1": "<script>"}}, "thumbnails: field '1' is not a JPEG in base64"),
        ({"thumbnails": {"1": "aGVsbG8="}}, "thumbnails: field '1' is not a JPEG in base64"),
        ({"question": 3}, "field 'question' is 3, not a text"),
    ],
)
def test_damage_is_named(tmp_path, good, change, message):
    with pytest.raises(UserError) as error:
        read(tmp_path, good | change)
    assert "q-0.json" in str(error.value) and message in str(error.value)


@pytest.mark.parametrize("place", ["20", "-1", "x", "1 onload=x"])
def test_a_picture_of_no_candidate_is_refused(tmp_path, good, place):
    picture = next(iter(good["thumbnails"].values()))
    with pytest.raises(UserError, match="is no candidate from 0 to 19"):
        read(tmp_path, good | {"thumbnails": {place: picture}})


def test_looks_come_in_the_order_of_their_names(tmp_path):
    write_evaluation(tmp_path, looks=3)
    assert [look.id for look in read_looks(tmp_path)] == ["q0000", "q0001", "q0002"]
    assert read_looks(tmp_path / "nothing") == []
