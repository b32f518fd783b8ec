"""docs/own_videos.md, followed to the letter from an empty folder."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import av
import numpy as np
import pytest
import torch

from msjoe_jax.config import read_config
from msjoe_jax.config_files import load_config
from msjoe_jax.data.questions import load_questions
from msjoe_jax.data.records import RecordReader
from msjoe_jax.phase_models import make_models
from msjoe_jax.rollout.prompt_lengths import PromptLengths
from msjoe_jax.runtime.machine import make_machine
from msjoe_jax.world.build import build_world, questions_path, records_path
from msjoe_jax.world.spec import WorldSpec
from tests.support.commands import PYTHON, ROOT
from tests.support.layouts import clip_5
from tests.support.material import QWEN, VIDEOS, needs_material
from tests.support.qwen_oracle import TEXT_SIZES, VISION_SIZES, reference
from tests.support.torch_stubs import declare_torchvision_ops

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "own_videos.md"
GOLDEN = ROOT / "tests" / "golden" / "tiny_base"  # the demo's base model, see test_meshes.py


def blocks(kind: str = "") -> list[str]:
    """The blocks of code of one kind, in the order of the page."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    return [text for name, text in found if name == kind]


def commands() -> list[str]:
    """The commands of the page, a line each."""
    lines = "".join(blocks()).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip()]


def follow(line: str, folder: pathlib.Path) -> str:
    """Runs a command in a shell, where `msjoe` and `python` are this environment's."""
    tools = folder.parent / f"{folder.name}-bin"
    if not tools.exists():
        tools.mkdir()
        (tools / "msjoe").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m msjoe_jax "$@"\n')
        (tools / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        for tool in tools.iterdir():
            tool.chmod(0o755)
    # With the compiler's own optimising, as its user has it: models of real shape compute a while.
    environment = PYTHON | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "XLA_FLAGS": ""}
    done = subprocess.run(
        line, shell=True, cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


# --- as printed -----------------------------------------------------------------------------------


def publish_qwen(folder: pathlib.Path) -> None:
    """A small Qwen2.5-VL as transformers saves it, with the published files around it."""
    config = json.loads((QWEN / "config.json").read_text())
    text = {**TEXT_SIZES, "vocab_size": config["vocab_size"], "max_position_embeddings": 128000}
    vision = {**VISION_SIZES, "patch_size": 14, "window_size": 112}
    module: Any = reference(text, vision)
    for name in ("image", "video", "vision_start", "vision_end"):
        setattr(module.config, f"{name}_token_id", config[f"{name}_token_id"])
    end_replies(module, config["eos_token_id"])
    module.save_pretrained(folder)
    for file in QWEN.iterdir():
        if not file.name.startswith("model") and file.name != "config.json":
            shutil.copy(file, folder)


def end_replies(module: Any, end: int) -> None:
    """Makes the end of a reply likely after any text, or every one would go on to its limit.

    One channel of all texts is large, and only the end's row of the head reads it: with the other
    152,000 logits near 0, whose sum weighs as much as one of 12, a reply ends after a few tokens.
    """
    with torch.no_grad():
        module.model.language_model.embed_tokens.weight[:, 0] = 20.0
        module.model.language_model.norm.weight[:] = 1.0
        module.lm_head.weight *= 0.1
        module.lm_head.weight[:, 0] = 0.0
        module.lm_head.weight[end] = 0.0
        module.lm_head.weight[end, 0] = 11.2 / len(module.lm_head.weight[end]) ** 0.5


def publish_clip(folder: pathlib.Path) -> None:
    """A small CLIP; its words are few, since no published tokenizer of a CLIP is at hand."""
    declare_torchvision_ops()
    folder.mkdir()
    clip_5(folder)


def bring(folder: pathlib.Path) -> None:
    """Puts what the page says that one brings into an empty folder."""
    (asked,) = blocks("json")
    (folder / "questions.jsonl").write_text(asked)
    (folder / "videos").mkdir()
    for name in {json.loads(line)["video"] for line in asked.splitlines()}:
        (file,) = VIDEOS.glob(f"{name}.*")
        shutil.copy(file, folder / "videos")
    publish_qwen(folder / "Qwen2.5-VL-7B-Instruct")
    publish_clip(folder / "clip-vit-large-patch14")


@needs_material
def test_the_page_as_printed(tmp_path):
    """Small random models of the published shape: nothing is learned, and every step is gone."""
    folder = tmp_path / "empty"
    folder.mkdir()
    bring(folder)
    downloads, steps = [
        [line for line in commands() if line.startswith("hf ") is wanted]
        for wanted in (True, False)
    ]
    assert len(downloads) == 2
    assert [line.split()[1] for line in steps] == ["init", "-m", "evaluate", "ask", "export"]
    printed = [follow(line, folder) for line in steps]
    init, main, evaluate, ask, _ = printed
    assert "next: python -m msjoe_jax.main --config=own/own.py --workdir=own/run" in init
    assert f"{steps[1]}\n" in init.replace("next: ", "")
    for split in ("train", "heldout"):
        assert f"own/{split}.jsonl: " in init
    # What a user is told: computed fields, what is dropped, accuracies with valid replies.
    assert re.search(r"^config\.prompt\.answer_prompt_tokens=\d+: the longest prompt", main, re.M)
    assert "dropped" not in main
    assert re.search(r"^difficulty: [\d.]+ of the replies are right, [\d.]+% are valid", main, re.M)
    run = folder / "own" / "run"
    table = json.loads((run / "eval.json").read_text())
    assert all(row["valid"] is not None for row in table["arms"].values())
    assert not (run / "joint" / "dropped.jsonl").read_text()
    again = json.loads((run / "final-evaluation" / "eval.json").read_text())["arms"]
    assert list(again) == ["blind", "uniform", "topk_queries", "joint"]
    assert again["joint"]["accuracy"] == table["arms"]["joint"]["accuracy"]
    assert "joint minus this" in evaluate and "valid" in evaluate
    assert "report in answer.html" in ask and (folder / "answer.html").stat().st_size > 10_000
    assert (folder / "exported" / "model.safetensors").exists() or list(
        (folder / "exported").glob("*.safetensors")
    )


def test_the_page_names_commands_and_files_that_are_there():
    """Without real files at hand this much is checked."""
    from msjoe_jax.commands import COMMANDS

    used = {line.split()[1] for line in commands() if line.startswith("msjoe ")}
    assert {"init", "evaluate", "ask", "export"} <= used <= set(COMMANDS)
    (asked,) = blocks("json")
    rows = [json.loads(line) for line in asked.splitlines()]
    assert len(rows) == 4 == len({row["video"] for row in rows})


# --- with a model that has something to measure ---------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Videos of the tiny world as files, its questions, and the demo's model as it is published."""
    folder = tmp_path_factory.mktemp("world")
    build_world(folder / "made", WorldSpec(0, 10, 1, 1))
    reader = RecordReader(records_path(folder / "made", "train"), "")
    (folder / "videos").mkdir()
    for name in reader.ids:
        frames = reader.frames(name, range(reader.info(name).num_frames))
        write_video(folder / "videos" / f"{name}.mkv", frames)
    shutil.copy(questions_path(folder / "made", "train"), folder / "questions.jsonl")
    shutil.copytree(GOLDEN, folder / "published")
    return folder


def write_video(file: pathlib.Path, frames: np.ndarray) -> None:
    """A frame a second, without loss."""
    with av.open(str(file), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=1)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        for frame in frames:
            image = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))


# The words that the demo's model knows.
WORDING = {
    "prompt.system": "",
    "prompt.query_instruction": "find",
    "prompt.answer_instruction": "answer",
    "prompt.max_queries": 2,
    "prompt.query_tokens": 8,
    "prompt.answer_tokens": 4,
    "rollout.answer_temperature": 0.5,
    "sampler.width": 8,
    "sampler.depth": 1,
    "difficulty.samples": 4,
    "rollout.query_rollouts": 2,
    "rollout.frame_draws": 1,
}


def main(folder: pathlib.Path, workdir: str, **fields: Any) -> str:
    values = {**WORDING, **{name.replace("__", "."): value for name, value in fields.items()}}
    flags = " ".join(f'"--config.{name}={value}"' for name, value in values.items())
    line = f"python -m msjoe_jax.main --config=own/own.py --workdir={workdir} {flags}"
    return follow(line, folder)


@pytest.mark.soak
def test_a_model_that_can_answer_is_measured_trained_and_judged(world):
    """By `main` and by `msjoe evaluate` alike; what a run says it drops is what it drops."""
    line = "msjoe init --videos=videos --questions=questions.jsonl --updates=1"
    printed = follow(f"{line} --model=published --clip=published/clip", world)
    assert "own/train.jsonl: questions 16, videos 8" in printed
    edited = (world / "own" / "own.py").read_text()
    edited = re.sub(r"^key_frames = \d+", "key_frames = 6", edited, flags=re.M)
    (world / "own" / "own.py").write_text(edited)
    printed = main(world, "own/run", phases="('difficulty','joint','evaluate')")
    found = re.search(r"difficulty: ([\d.]+) of the replies are right, ([\d.]+)% are", printed)
    assert found and float(found[1]) > 0.2 and float(found[2]) > 90
    rates = [q.difficulty for q in load_questions(world / "own/run/difficulty/questions.jsonl")]
    assert np.isclose(np.mean([r for r in rates if r is not None]), float(found[1]), atol=6e-4)
    validated = (world / "own/run/joint/validation.jsonl").read_text().splitlines()
    assert all(json.loads(row)["valid"]["joint"] > 0.9 for row in validated)
    table = json.loads((world / "own/run/eval.json").read_text())["arms"]
    follow("msjoe evaluate --checkpoint=own/run/final --config=own/own.py", world)
    again = json.loads((world / "own/run/final-evaluation/eval.json").read_text())["arms"]
    for field in ("accuracy", "valid", "questions"):
        assert again["joint"][field] == table["joint"][field]
    assert table["joint"]["valid"] > 0.9


@pytest.mark.soak
def test_what_is_counted_is_what_is_dropped(world):
    """One epoch of all questions; some prompts are longer than the others by their options."""
    if not (world / "own").exists():
        line = "msjoe init --videos=videos --questions=questions.jsonl --updates=1"
        follow(f"{line} --model=published --clip=published/clip", world)
    values = load_config(str(world / "own" / "own.py"))
    values.update_from_flattened_dict(WORDING)
    config = read_config(values)
    models = make_models(config, make_machine(config.mesh))
    text, system = models.text, models.system
    lengths = PromptLengths(
        config.frames, text.prompt, system.family, system.mllm_config, text.tokenizer, text.chat
    )
    reader, train = (
        RecordReader(world / "own/records", ""),
        load_questions(world / "own/train.jsonl"),
    )
    tokens = [lengths.answer(question, reader.info(question.video)) for question in train]
    limit = max(tokens) - 1
    fields = {"rollout__questions": len(train), "phases": "('joint',)", "joint__steps": 1}
    fields |= {"prompt__answer_prompt_tokens": limit, "data__max_dropped": 0.99}
    printed = main(world, "own/drop", **fields)
    counted = re.search(
        rf"^joint: (\d+) of 16 questions dropped: \1 by the answer prompt \(longest {limit + 1} "
        rf"tokens, limit config\.prompt\.answer_prompt_tokens={limit}\)",
        printed,
        re.M,
    )
    assert counted, printed
    rows = (world / "own/drop/joint/dropped.jsonl").read_text().splitlines()
    assert 0 < int(counted[1]) == len(rows) < 16
    assert all(json.loads(row)["error"].startswith("prompt too long: ") for row in rows)
