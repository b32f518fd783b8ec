"""The report of a run, with questions from its logs and pictures from its records."""

import base64
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from msjoe_jax.data.questions import load_questions
from msjoe_jax.data.records import RecordReader, RecordWriter
from msjoe_jax.errors import UserError
from msjoe_jax.rollout.log import logits_of, similarity_of
from msjoe_jax.run_report import (
    FIRST,
    LAST,
    look_of,
    report_lines,
    sampled_rows,
    write_run_report,
)
from tests.support.evaluation_folder import NASTY
from tests.support.run_folder import FRAMES, K, write_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture
def folder(made, tmp_path):
    """A copy, to be changed."""
    return shutil.copytree(made, tmp_path / "run")


def first_row(folder):
    return sampled_rows(folder / "joint" / "rollouts.jsonl")[0][1]


def change_data(folder, **fields):
    """Changes the paths in the config of a run."""
    config = json.loads((folder / "config.json").read_text())
    config["data"] |= fields
    (folder / "config.json").write_text(json.dumps(config))


def data_of(folder):
    questions = {q.id: q for q in load_questions(folder / "questions.jsonl")}
    return questions, RecordReader(folder / "records", clip="")


def test_a_report_shows_questions_with_their_frames(made):
    page = write_run_report(made).read_text()
    assert page.count("What is shown?") == FIRST + LAST
    assert [f"update {step}</p>" in page for step in range(1, 6)] == [
        True,
        False,
        False,
        True,
        True,
    ]
    assert "joint: questions as it trained" in page and "data:image/jpeg" in page
    assert "<script" not in page and "&lt;script&gt;" in page
    assert write_run_report(made).read_text() == page


def test_a_look_is_what_the_log_says(made):
    row = first_row(made)
    look, head = look_of(row, {"sampler": {"signals": ["clip"]}}, data_of(made))
    assert look.id == row["id"] and look.gold == "A" and look.options == ("a dog", NASTY)
    assert list(look.frames) == [f"queries {i}, draw {j}" for i in (1, 2) for j in (1, 2)]
    assert look.frames["queries 2, draw 1"] == tuple(row["selected"][1][0])
    assert look.queries["queries 1"] == ("a red cube", NASTY)
    # Two of the four rows are of queries.
    assert np.array_equal(look.similarity["queries 1"], similarity_of(row)[0][:2])
    assert np.array_equal(look.logits["queries 2"], logits_of(row)[1])
    assert len(look.times) == FRAMES and (np.diff(look.times) > 0).all()
    assert head.count("✓ right") == 3 and head.count("✗ wrong") == 1


def test_pictures_are_the_frames_that_were_chosen(made):
    row = first_row(made)
    look, _ = look_of(row, {}, data_of(made))
    assert set(look.thumbnails) == {place for chosen in look.frames.values() for place in chosen}
    shades = np.linspace(0, 255, FRAMES)
    for place, text in look.thumbnails.items():
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
        assert pixels.shape == (36, 160, 3)  # of 72 × 320
        assert abs(pixels.mean() - shades[place]) < 3


def test_signals_have_rows_of_their_own(made):
    row = first_row(made)
    look, _ = look_of(row, {"sampler": {"signals": ["clip", "siglip"]}}, None)
    assert look.queries["queries 1"][2] == "siglip: a red cube"
    assert np.array_equal(look.similarity["queries 1"], similarity_of(row)[0])


def test_frames_that_ran_out_are_none(made):
    row = first_row(made)
    row["selected"][0][0][-1] = -1
    look, _ = look_of(row, {}, None)
    assert len(look.frames["queries 1, draw 1"]) == K - 1 and look.thumbnails == {}


def test_without_its_data_a_run_has_a_report_that_says_so(folder):
    change_data(folder, train_records=str(folder / "none"))
    page = write_run_report(folder).read_text()
    assert "Without questions and pictures: " in page and "data:image/jpeg" not in page
    assert "Question q1" in page and "queries 1, draw 1" in page


def test_a_long_log_is_sampled_and_its_torn_end_left_out(folder):
    log = folder / "joint" / "rollouts.jsonl"
    with log.open("a") as file:
        file.write('{"step": 6, "id"')
    assert [(place, row["step"]) for place, row in sampled_rows(log)] == [(1, 1), (4, 4), (5, 5)]
    lines = log.read_text().split("\n")
    log.write_text("\n".join([*lines[:4], "{damaged", ""]))
    with pytest.raises(UserError, match=r"rollouts.jsonl:5: not JSON"):
        sampled_rows(log)
    log.write_text("\n".join([*lines[:4], '{"id": "q1"}', ""]))
    with pytest.raises(UserError, match=r"rollouts.jsonl:5: not a row of rollouts"):
        write_run_report(folder)


def test_a_video_that_is_gone_costs_its_pictures_alone(folder):
    with RecordWriter(folder / "others") as writer:
        writer.add("other", enumerate(np.zeros((FRAMES, 8, 8, 3), np.uint8)))
    change_data(folder, train_records=str(folder / "others"))
    page = write_run_report(folder).read_text()
    assert page.count("Without pictures: ") == FIRST + LAST and "What is shown?" in page


def test_a_run_that_is_done_is_not_undone_by_its_report(folder):
    assert report_lines(folder) == [f"report in {folder / 'report.html'}"]
    (folder / "joint" / "metrics.jsonl").write_text("{damaged\n")
    (line,) = report_lines(folder)
    assert line.startswith("no report of the run could be written: ") and "metrics.jsonl:1" in line


def test_the_tiny_world_of_a_run_is_found(folder):
    """Where the config leaves its paths empty, as the demo's does."""
    (folder / "world").mkdir()
    shutil.move(folder / "questions.jsonl", folder / "world" / "questions-train.jsonl")
    shutil.move(folder / "records", folder / "world" / "train")
    change_data(folder, train_questions="", train_records="")
    assert "data:image/jpeg" in write_run_report(folder).read_text()
