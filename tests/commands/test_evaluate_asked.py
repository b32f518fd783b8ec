"""The config of a model folder: frames and prompts are the folder's, all else is as given."""

import dataclasses

import pytest

from msjoe_jax.commands import evaluate_asked
from msjoe_jax.commands.evaluate_asked import Wanted, config_of, unused
from msjoe_jax.config import base
from msjoe_jax.data.questions import save_questions
from msjoe_jax.errors import UserError
from msjoe_jax.rollout.model_folder import read_settings
from msjoe_jax.selectors import networks
from tests.support.system import colour_questions, noise_videos
from tests.support.tiny import TINY_FRAMES, TINY_PROMPT, clip_of, tiny_model_folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate_asked")
    model = tiny_model_folder(folder)
    reader = noise_videos(folder / "records", {"a": 6}, clip=clip_of(model))
    save_questions(folder / "questions.jsonl", colour_questions(reader.ids, 1))
    return folder


def wanted(made, **fields):
    files = {"records": str(made / "records"), "questions": str(made / "questions.jsonl")}
    return Wanted(
        **{"checkpoint": str(made / "model"), "arms": ("uniform", "joint"), **files, **fields}
    )


def test_frames_and_prompts_are_the_folders_and_all_else_the_configs(made):
    given = base()
    given.frames.key, given.prompt.query_instruction, given.evaluate.batch = 9, "look", 7
    given.data.heldout_records = "elsewhere"
    config = config_of(wanted(made, looks=3), given)
    assert config.frames == TINY_FRAMES and config.prompt == TINY_PROMPT
    assert config.mllm.dtype == "float32" and config.sampler.width == 8
    assert {config.mllm.checkpoint, config.clip.checkpoint, config.sampler.checkpoint} == {
        str(made / "model")
    }
    assert (config.evaluate.batch, config.evaluate.arms) == (7, ("uniform", "joint"))
    assert config.evaluate.looks == 3
    assert config.data.heldout_records == str(made / "records")
    longer = config_of(wanted(made, candidates=24), base())
    assert longer.frames == dataclasses.replace(TINY_FRAMES, candidates=24)


@pytest.mark.parametrize("network", sorted({*networks()} - {"msjoe"}))
def test_a_folder_of_any_network_needs_nothing_of_the_config(made, network, monkeypatch):
    """The one slip of a folder that is said to have another network are the weights it has."""
    settings = read_settings(made / "model")
    settings["sampler"] = dataclasses.replace(settings["sampler"], network=network)
    monkeypatch.setattr(evaluate_asked, "read_settings", lambda _: settings)
    with pytest.raises(UserError) as error:
        config_of(wanted(made), base())
    (line,) = error.value.lines
    assert "holds another architecture" in line


def test_a_preset_is_for_tasks_that_have_one(made):
    words = "--preset: the task jsonl is usually asked in no one way; video_mme, video_mme_v2, "
    with pytest.raises(UserError, match=words):
        config_of(wanted(made, preset=True), base())


def test_fields_that_do_not_count_are_told(made):
    fields = ("evaluate.batch", "frames.key", "prompt.think", "mllm.dtype", "mesh.data")
    lines = unused(wanted(made), fields)
    assert [line.partition(":")[0] for line in lines] == [
        "config.frames.key", "config.prompt.think", "config.mllm.dtype",
    ]  # fmt: skip
    assert lines[0].endswith("model states its own (--frames sets budgets)")
    words = "--preset and --config.prompt.think both set that field: leave one out"
    with pytest.raises(UserError, match=words):
        unused(wanted(made, preset=True), fields)
