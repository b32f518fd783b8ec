"""The README's pictures, from an untrained tiny model and made-up videos."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from msjoe_jax.commands import pictures
from msjoe_jax.data.questions import Question, save_questions
from msjoe_jax.data.records import RecordWriter
from msjoe_jax.errors import UserError
from tests.support.commands import command
from tests.support.embeddings import write_embeddings
from tests.support.tiny import clip_of, tiny_model_folder

STEPS = ["reason", "score", "select", "answer"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What a finished run leaves: config, data and models."""
    folder = tmp_path_factory.mktemp("run")
    shutil.move(tiny_model_folder(folder), folder / "final")
    rng = np.random.default_rng(0)
    with RecordWriter(folder / "records") as writer:
        for name, count in (("long", 20), ("short", 3)):
            writer.add(name, enumerate(rng.integers(0, 256, (count, 32, 32, 3), np.uint8)))
    rows = (("long", rng.normal(size=(20, 32))), ("short", rng.normal(size=(3, 32))))
    write_embeddings(folder / "records", clip_of(folder / "final"), rows)
    asked = [Question(v, v, "what colour is the $cup ?", ("red", "blue"), 1) for v, _ in rows]
    save_questions(folder / "questions.jsonl", asked)
    data = {
        "task": "jsonl",
        "heldout_questions": str(folder / "questions.jsonl"),
        "heldout_records": str(folder / "records"),
    }
    (folder / "config.json").write_text(json.dumps({"data": data}))
    return folder


def drawn(file):
    """A picture that is not blank."""
    pixels = np.asarray(Image.open(file).convert("RGB"))
    return min(pixels.shape[:2]) > 300 and pixels.std() > 10


def test_the_pipeline_names_the_steps_and_needs_no_run(tmp_path):
    pictures.make_pictures("", -1, str(tmp_path / "new"))
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["pipeline.png"]
    assert drawn(tmp_path / "new" / "pipeline.png")
    texts = [text.get_text() for text in pictures.pipeline_figure().axes[0].texts]
    assert [text for text in texts if text in STEPS] == STEPS
    assert not any("stage" in text for text in texts)


@pytest.mark.soak
def test_validations_of_a_training_are_curves(run, tmp_path):
    (run / "joint").mkdir()
    rows = [{"step": 0, "joint": 0.1, "joint_uniform": 0.3}]
    rows += [{"step": n, "joint": 0.1 * n, "joint_uniform": 0.3} for n in (2, 4, 6)]
    (run / "joint" / "validation.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    pictures.make_pictures(str(run), 0, str(tmp_path))
    assert drawn(tmp_path / "validation-joint.png")
    axes = pictures.curves_of(rows, "joint").axes[0]
    named = {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
    assert named["joint"] == pytest.approx([0.1, 0.2, 0.4, 0.6])
    assert {"joint MLLM, uniform", "best: update 6"} < named.keys()


@pytest.mark.parametrize("number", [0, -1])  # more candidates than K; fewer frames than K
def test_a_rollout_of_a_finished_run(run, tmp_path, number):
    pictures.make_pictures(str(run), number, str(tmp_path))
    assert drawn(tmp_path / "rollout.png") and drawn(tmp_path / "pipeline.png")


def test_a_run_on_evidence_searches_for_the_bare_question(run, tmp_path, monkeypatch):
    """It shows what it learned, and asks for no queries, as it had none in training."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    config = json.loads((run / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rollout": {"queries": "question"}}))
    (folder / "evidence").mkdir()
    rows = [{"step": n, "covered": 0.1 * n, "precision": 0.05 * n, "loss": 1.0} for n in (1, 2, 3)]
    text = "".join(json.dumps(row) + "\n" for row in [*rows, {"step": 3, "memory": 1.0}])
    (folder / "evidence" / "metrics.jsonl").write_text(text)
    monkeypatch.setattr(pictures.Episodes, "reason", lambda *_, **__: pytest.fail("it reasoned"))
    seen = []
    keyframes = pictures.keyframe_figure

    def keep(times, logits, similarity, queries, *others, **more):
        seen.append((queries, similarity.shape[0]))
        return keyframes(times, logits, similarity, queries, *others, **more)

    monkeypatch.setattr(pictures, "keyframe_figure", keep)
    pictures.make_pictures(str(folder), 0, str(tmp_path))
    assert seen == [(["what colour is the $cup ?"], 1)]
    assert drawn(tmp_path / "evidence.png") and drawn(tmp_path / "rollout.png")
    axes = pictures.evidence_curves(rows).axes[0]
    assert [list(line.get_ydata()) for line in axes.get_lines()] == [
        pytest.approx([0.1, 0.2, 0.3]), pytest.approx([0.05, 0.1, 0.15])
    ]  # fmt: skip


def test_a_question_that_is_none(run, tmp_path):
    with pytest.raises(UserError, match="--question=2: the run has 2 held-out questions"):
        pictures.make_pictures(str(run), 2, str(tmp_path))
    with pytest.raises(UserError, match="no run there"):
        pictures.make_pictures(str(tmp_path / "none"), 0, str(tmp_path))


@pytest.mark.slow
def test_what_is_wrong_with_the_flags_is_one_line(tmp_path):
    for flags, words in (((), "--out=DIR"), (("--run=none", f"--out={tmp_path}"), "no run there")):
        done = command("pictures", *flags)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert words in done.stderr
