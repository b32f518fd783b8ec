"""A model folder is judged as it was trained: its frames, its prompts, its three models."""

import json

import pytest
from etils import epath

from msjoe_jax.commands.evaluate import config_of_folder, evaluate_folder
from msjoe_jax.config import base
from msjoe_jax.data.questions import save_questions
from msjoe_jax.errors import UserError
from tests.support.commands import command
from tests.support.system import colour_questions, noise_videos
from tests.support.tiny import TINY_FRAMES, TINY_PROMPT, clip_of, tiny_model_folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    model = tiny_model_folder(folder)
    reader = noise_videos(folder / "records", {"a": 6, "b": 9}, clip=clip_of(model))
    save_questions(folder / "questions.jsonl", colour_questions(reader.ids, 3))
    noise_videos(folder / "others", {"a": 6, "b": 9}, clip="another")
    return folder


def config_of(made, config=None, arms=("uniform", "joint"), records="records"):
    files = str(made / records), str(made / "questions.jsonl")
    return config_of_folder(str(made / "model"), config or base(), *files, arms)


def test_frames_and_prompts_are_the_folders_and_all_else_the_configs(made):
    given = base()
    given.frames.key, given.prompt.query_instruction, given.evaluate.batch = 9, "look", 7
    given.data.heldout_records = "elsewhere"
    config = config_of(made, given)
    assert config.frames == TINY_FRAMES and config.prompt == TINY_PROMPT
    assert config.mllm.dtype == "float32" and config.sampler.width == 8
    assert {config.mllm.checkpoint, config.clip.checkpoint, config.sampler.checkpoint} == {
        str(made / "model")
    }
    assert (config.evaluate.batch, config.evaluate.arms) == (7, ("uniform", "joint"))
    assert config.data.heldout_records == str(made / "records")


def test_slips_are_one_line(made, tmp_path):
    with pytest.raises(UserError, match="--arms=joynt is not one of blind, uniform, "):
        config_of(made, arms=("joynt",))
    with pytest.raises(UserError, match=r"config\.data\.heldout_records is not set"):
        config_of_folder(str(made / "model"), base(), "", "", ())
    with pytest.raises(UserError, match="no checkpoint there"):
        config_of_folder(str(tmp_path), base(), "", "", ())
    with pytest.raises(UserError, match="msjoe predecode"):
        evaluate_folder(config_of(made, records="others"), epath.Path(tmp_path / "w"))
    done = command("evaluate")
    assert done.returncode == 2 and "--checkpoint=DIR is missing" in done.stderr


@pytest.mark.slow
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
