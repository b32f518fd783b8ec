"""Arms that are evaluated with the weights of a run."""

import dataclasses
import json

import numpy as np
import pytest
from etils import epath

from msjoe_jax.config import read_config
from msjoe_jax.data.questions import save_questions
from msjoe_jax.evaluation.arms import ARMS
from msjoe_jax.phase_evaluate import evaluate_arms
from msjoe_jax.phase_models import make_models, stored_weights
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.rollout.results import Completed
from msjoe_jax.runtime.digest import Remembered
from msjoe_jax.runtime.machine import make_machine
from tests.support.system import colour_questions, noise_videos
from tests.support.tiny import clip_of, tiny_config, tiny_model_folder


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A run whose model replies A, and from the third question on a bare C, which is no form."""
    model, config = tiny_model_folder(tmp_path), tiny_config(tmp_path)
    config.mllm.checkpoint = config.clip.checkpoint = config.sampler.checkpoint = str(model)
    reader = noise_videos(tmp_path / "records", {"a": 6, "b": 30}, clip=clip_of(model))
    save_questions(tmp_path / "questions.jsonl", colour_questions(reader.ids, 4))
    config.data.heldout_records = str(tmp_path / "records")
    config.data.heldout_questions = str(tmp_path / "questions.jsonl")
    config.evaluate.batch = 2

    def begin(self, place, mllm, rows, *_, samples, **__):
        made.append(place)
        text = "<answer>A</answer>" if len(made) == 1 else "C"
        texts = [[text] * samples] * len(rows)
        return lambda: Completed(None, None, None, None, texts, np.ones((len(rows), 1), bool), 0)

    made: list[int] = []
    monkeypatch.setattr(Episodes, "begin", begin)
    read = read_config(config)
    models = make_models(read, make_machine(read.mesh))
    weights = stored_weights(read, models, Remembered(epath.Path(tmp_path) / "digests.json"))
    return read, models, weights, made


def test_the_table_has_the_share_of_valid_replies(made, tmp_path, capsys):
    config, models, weights, asked = made
    arms, folder = {"uniform": ARMS["uniform"]}, epath.Path(tmp_path / "w")
    for _ in range(2):  # the second finds all rows there
        evaluate_arms(config, folder, models, {"base": weights}, arms)
        assert len(asked) == 2
    result = json.loads((folder / "eval.json").read_text())
    row = result["arms"]["uniform"]
    # Right options are A, B, C, D in turn; a bare letter counts, which it does not in training.
    assert (row["accuracy"], row["valid"], row["questions"]) == (0.5, 0.5, 4)
    assert result["extractor"] == "strict"
    assert (result["frames"], result["seed"]) == (4, 0)
    assert result["thinned"]["videos"] == 1 and result["thinned"]["longest"] == 30
    printed = capsys.readouterr().out
    assert " 50.0%" in printed and "accuracy by the extractor strict: the one answer tag" in printed
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert {row["extractor"] for row in rows} == {"strict"}
    assert [row["answer"] for row in rows] == ["A", "A", "C", "C"]
    assert [row["score"] for row in rows] == [
        float(row["extracted"]["strict"] == row["gold"]) for row in rows
    ]


@pytest.mark.parametrize("before", ["tag", None])
def test_rows_that_were_graded_by_another_extractor_are_made_again(made, tmp_path, capsys, before):
    config, models, weights, asked = made
    arms, folder = {"uniform": ARMS["uniform"]}, epath.Path(tmp_path / "w")
    evaluate_arms(config, folder, models, {"base": weights}, arms)
    file = folder / "eval_rows.jsonl"
    header, *rows = map(json.loads, file.read_text().splitlines())
    header["inputs"] |= {"extractor": before}
    header["inputs"] = {name: value for name, value in header["inputs"].items() if value}
    for row in rows:
        row["columns"]["uniform@4"][0]["score"] = 0.0
    file.write_text("".join(json.dumps(row) + "\n" for row in (header, *rows)))
    capsys.readouterr()
    evaluate_arms(config, folder, models, {"base": weights}, arms)
    said = f"made from other extractor (was {before or 'not stated'}, is strict); made again"
    assert said in capsys.readouterr().out and len(asked) == 4


def test_frames_of_another_tool_are_an_arm(made, tmp_path, capsys):
    """Two frames of each question, by seconds: shown as they are, whatever the budget."""
    config, models, weights, _ = made
    rows = [{"id": f"q{i}", "times": [1.2, 4.0]} for i in range(4)]
    file = tmp_path / "frames.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = epath.Path(tmp_path / "w")
    arms = {"uniform": ARMS["uniform"]}
    evaluate_arms(config, folder, models, {"base": weights}, arms, selection=str(file))
    assert "frames.jsonl: 8 frames of 4 questions" in capsys.readouterr().out
    samples = map(json.loads, (folder / "samples.jsonl").read_text().splitlines())
    own = [row for row in samples if row["arm"] == "selection"]
    assert [row["budget"] for row in own] == [2] * 4
    assert own[0]["times"] == [1.0, 4.0] and own[0]["label"] == "frames of frames.jsonl"


def test_a_missing_video_costs_its_questions_alone(made, tmp_path, capsys):
    """As some of a benchmark's are gone from the net: they are counted and told of, in all arms.

    So is a question whose right answer is secret.
    """
    config, models, weights, _ = made
    asked = colour_questions(["a", "gone"], 4)
    asked[0] = dataclasses.replace(asked[0], answer=None)
    save_questions(tmp_path / "questions.jsonl", asked)
    file = tmp_path / "frames.json"
    file.write_text(json.dumps({q.id: {"times": [1.0]} for q in asked if q.video == "a"}))
    folder, arms = epath.Path(tmp_path / "w"), {"uniform": ARMS["uniform"]}
    evaluate_arms(config, folder, models, {"base": weights}, arms, selection=str(file))
    printed = capsys.readouterr().out
    assert "2 of 4 questions are left out of all arms:" in printed
    assert f"  video unreadable: not in {config.data.heldout_records}: q1, q3" in printed
    summary = json.loads((folder / "summary.json").read_text())
    sheet = summary["sheet"]
    assert (sheet["questions"], sheet["asked"], sheet["missing_video"]) == (4, 2, 2)
    assert "1 of 4 questions have no right answer: asked, not scored" in printed
    assert {arm["questions"] for arm in summary["arms"]} == {1}
