"""A model folder is judged as it was trained: its frames, its prompts, its three models."""

import dataclasses
import json
import shutil

import pytest
from etils import epath

from msjoe_jax.commands import evaluate
from msjoe_jax.commands.convert import convert
from msjoe_jax.commands.evaluate import (
    Part,
    budgets_of,
    evaluate_parts,
    tasks_of,
)
from msjoe_jax.commands.evaluate_asked import Wanted, config_of
from msjoe_jax.config import base
from msjoe_jax.data.questions import save_questions
from msjoe_jax.errors import UserError
from msjoe_jax.phase_models import Models
from msjoe_jax.runtime.compile_counter import CompileCounter
from msjoe_jax.tasks import TASKS
from tests.support.commands import ROOT, command
from tests.support.processes import xla_flags
from tests.support.system import colour_questions, noise_videos
from tests.support.tiny import TINY_FRAMES, clip_of, tiny_model_folder

GOLDEN = ROOT / "tests" / "golden" / "tiny_base"  # published folders of the tiny world's models


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    model = tiny_model_folder(folder)
    reader = noise_videos(folder / "records", {"a": 6, "b": 9}, clip=clip_of(model))
    save_questions(folder / "questions.jsonl", colour_questions(reader.ids, 3))
    noise_videos(folder / "others", {"a": 6, "b": 9}, clip="another")
    return folder


def wanted(made, **fields):
    files = {"records": str(made / "records"), "questions": str(made / "questions.jsonl")}
    return Wanted(
        **{"checkpoint": str(made / "model"), "arms": ("uniform", "joint"), **files, **fields}
    )


def test_flags_are_read():
    assert budgets_of(["8", "16", "8"]) == (8, 16) and budgets_of([]) == ()
    assert tasks_of(["jsonl:gs://b/q.jsonl"]) == [("jsonl", "gs://b/q.jsonl")]
    for value in ("0", "-4", "four", ""):
        with pytest.raises(UserError, match=f"--frames={value}: give numbers of frames"):
            budgets_of([value])
    for values, words in (
        (["jsonl"], "give NAME:PATH"),
        (["nothing:q.jsonl"], "a name of jsonl"),
        (["jsonl:a", "jsonl:b"], "jsonl is given twice"),
    ):
        with pytest.raises(UserError, match=words):
            tasks_of(values)


def test_slips_are_one_line(made, tmp_path):
    with pytest.raises(UserError, match="arm 'joynt' is not one of blind, uniform, "):
        config_of(wanted(made, arms=("joynt",)), base())
    with pytest.raises(UserError, match="arm 'joint:upside': 'upside' is not one of policy, "):
        config_of(wanted(made, arms=("joint:upside",)), base())
    with pytest.raises(UserError, match=r"config\.data\.heldout_records is not set"):
        config_of(wanted(made, records="", questions=""), base())
    with pytest.raises(UserError, match="no checkpoint there"):
        config_of(wanted(made, checkpoint=str(tmp_path)), base())
    for fields, words in (
        ({"records": str(made / "others")}, "msjoe predecode"),
        ({"arms": ("joint_frames",)}, "joint_frames needs two MLLMs: .* --base=DIR"),
    ):
        asked = wanted(made, **fields)
        with pytest.raises(UserError, match=words):
            workdir = epath.Path(tmp_path / "w")
            evaluate_parts([Part(config_of(asked, base()), workdir, asked)], workdir)
    done = command("evaluate")
    assert done.returncode == 2 and "--checkpoint=DIR is missing" in done.stderr
    flags = (f"--checkpoint={made / 'model'}", "--selectors=nearest")
    done = command("evaluate", *flags)
    assert done.returncode == 2 and "--selectors=nearest is not one of msjoe, " in done.stderr


def test_several_tasks_take_the_models_and_the_programs_once(made, tmp_path, monkeypatch):
    """Two of equal shapes: the second loads and compiles nothing. Each asks in its own words."""
    questions = [json.loads(x) for x in (made / "questions.jsonl").read_text().splitlines()]
    rows = [{"video_name": q["video"], "question_id": q["id"], "task_type": "order", **q}
            for q in questions]  # fmt: skip
    (tmp_path / "mlvu.json").write_text(json.dumps(rows))
    loaded, compiled, counter = [], [], CompileCounter()

    def load(self, model):
        loaded.append(model.name)
        return whole(self, model)

    def evaluated(*args, **named):
        before = counter.count
        plain(*args, **named)
        compiled.append(counter.count - before)

    whole, plain = Models.load, evaluate.evaluate_arms
    monkeypatch.setattr(Models, "load", load)
    monkeypatch.setattr(evaluate, "evaluate_arms", evaluated)
    parts = []
    for task in ("mlvu_test", "mlvu_dev"):
        asked = wanted(made, task=task, questions=str(tmp_path / "mlvu.json"), preset=True)
        config = config_of(dataclasses.replace(asked, arms=("uniform", "topk")), base())
        parts.append(Part(config, epath.Path(tmp_path / task), asked))
    evaluate_parts(parts, epath.Path(tmp_path))
    counter.close()
    assert sorted(loaded) == ["clip", "mllm", "sampler"]
    assert compiled[0] > 0 == compiled[1]
    for name in ("mlvu_test", "mlvu_dev"):
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert summary["settings"]["extractor"] == "strict" and summary["task"] == name
        asked = summary["preset"]
        assert asked["set"]["prompt.answer_option"] == ["{letter}. {text}", "({letter}) {text}"]
        assert asked["set"]["frames.key_patches"] == [TINY_FRAMES.key_patches, 1200]
        assert len(asked["anchors"]) == len(TASKS[name].preset.anchors)
        assert (tmp_path / name / "report.html").exists()
        assert {row["dropped"] for row in rows_of(tmp_path / name)} == {None}
    file = tmp_path / "mlvu_dev" / "eval_rows.jsonl"
    header = json.loads(file.read_text().splitlines()[0])["inputs"]
    assert (header["preset"], header["extractor"]) == ("mlvu_dev", "strict")


def test_more_frames_than_the_folders_have_room(made, tmp_path, monkeypatch, capsys):
    """The limit of prompts grows with the budget: no question is called too long for it."""
    monkeypatch.setattr(evaluate, "evaluate_arms", lambda *_, **__: None)
    monkeypatch.setattr(evaluate, "write_evaluation_report", lambda _: "")
    asked = wanted(made, arms=("uniform",), budgets=(4, 9))
    config = config_of(asked, base())
    tight = dataclasses.replace(config.prompt, answer_prompt_tokens=48)  # 9 frames take 54
    part = Part(dataclasses.replace(config, prompt=tight), epath.Path(tmp_path), asked)
    evaluate_parts([part], epath.Path(tmp_path))
    assert "dropped" not in capsys.readouterr().out


def rows_of(folder):
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


@pytest.mark.soak
def test_arms_of_trainings_are_the_folders(made, tmp_path):
    flags = [f"--checkpoint={made / 'model'}/", f"--records={made / 'records'}"]
    flags += [f"--questions={made / 'questions.jsonl'}", "--arms=blind,uniform,pretrained,joint"]
    done = command("evaluate", *flags, f"--workdir={tmp_path / 'w'}")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "w" / "eval.json").read_text())
    assert list(result["arms"]) == ["blind", "uniform", "pretrained", "joint"]
    assert all(row["valid"] is not None for row in result["arms"].values())
    # One set of weights: the pre-trained sampler and the joint one are the same.
    assert result["arms"]["pretrained"]["accuracy"] == result["arms"]["joint"]["accuracy"]
    assert "joint minus this" in done.stdout and f"results in {tmp_path / 'w'}" in done.stdout
    assert len(rows_of(tmp_path / "w")) == 3 * 4


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Converted models of the tiny world, never trained together, and a config that names them."""
    folder = tmp_path_factory.mktemp("converted")
    convert(epath.Path(GOLDEN), epath.Path(folder / "mllm"))
    convert(epath.Path(GOLDEN / "clip"), epath.Path(folder / "clip"))
    reader = noise_videos(folder / "records", {"a": 6, "b": 9}, clip=clip_of(folder / "clip"))
    save_questions(folder / "questions.jsonl", colour_questions(reader.ids, 4))
    (folder / "config.py").write_text(
        "from msjoe_jax.config import base\n\n\ndef get_config():\n"
        "    c = base()\n"
        "    c.mllm.dtype, c.evaluate.batch = 'float32', 2\n"
        "    c.frames.candidates, c.frames.preview, c.frames.key = 16, 2, 2\n"
        "    c.frames.preview_patches = c.frames.key_patches = 16\n"
        "    c.prompt.query_prompt_tokens = c.prompt.answer_prompt_tokens = 160\n"
        "    c.prompt.query_tokens, c.prompt.answer_tokens = 8, 8\n"
        f"    c.clip.checkpoint = {str(folder / 'clip')!r}\n"
        f"    c.data.heldout_records = {str(folder / 'records')!r}\n"
        "    return c\n"
    )
    return folder


def judge(converted, workdir, *flags, **variables):
    return command(
        "evaluate",
        f"--checkpoint={converted / 'mllm'}",
        f"--config={converted / 'config.py'}",
        f"--task=jsonl:{converted / 'questions.jsonl'}",
        f"--workdir={workdir}",
        *flags,
        **variables,
    )


@pytest.mark.soak
def test_a_converted_model_is_a_baseline_on_one_device_or_two(converted, tmp_path):
    flags = ("--arms=blind", "--selectors=uniform,topk", "--frames=1,2", "--notimes")
    done = judge(converted, tmp_path / "one", *flags)
    assert done.returncode == 0, done.stderr
    done = judge(converted, tmp_path / "two", *flags, XLA_FLAGS=xla_flags(2))
    assert done.returncode == 0, done.stderr
    rows = rows_of(tmp_path / "one")
    assert rows == rows_of(tmp_path / "two") and len(rows) == 4 * 5
    assert {row["dropped"] for row in rows} == {None}
    summaries = [json.loads((tmp_path / n / "summary.json").read_text()) for n in ("one", "two")]
    assert summaries[0]["arms"] == summaries[1]["arms"]
    assert summaries[1]["machine"]["devices"] == {"cpu": 2}
    assert summaries[0]["checkpoint"]["mllm"] == str(converted / "mllm")
    shutil.rmtree(tmp_path / "two")
    refused = judge(converted, tmp_path / "two", "--arms=joint")
    assert refused.returncode == 2
    assert "joint chooses frames by a trained network, and " in refused.stderr
