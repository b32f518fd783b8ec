"""The config of one's own videos: what follows from the files that it names."""

import pathlib
import re
import runpy
import shutil

import pytest

from msjoe_jax.config import read_config
from msjoe_jax.config_check import check
from msjoe_jax.config_files import load_config
from msjoe_jax.data.questions import Question, load_questions, save_questions
from msjoe_jax.data.records import RecordReader
from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.arms import ARMS
from msjoe_jax.own import LENGTH_STEP, computed_lines, own_config
from msjoe_jax.phase_models import make_models
from msjoe_jax.phase_prompts import count_prompts, tell_dropped
from msjoe_jax.rollout.prompt_lengths import PromptLengths
from msjoe_jax.runtime.machine import make_machine
from tests.support.commands import ROOT
from tests.support.system import noise_videos
from tests.support.tiny import tiny_model_folder

WORDS = "what colour is the cup ? "


def questions(videos, repeats):
    return [
        Question(f"{video}-{n}", video, WORDS * n, ("red", "blue"), 0)
        for video in videos
        for n in repeats
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a model, records of several sizes and questions, and an own.py."""
    folder = tmp_path_factory.mktemp("own")
    tiny_model_folder(folder)
    noise_videos(folder / "train", {"a": 9, "b": 30}, height=60, width=200)
    noise_videos(folder / "heldout", {"c": 7}, height=40, width=40)
    save_questions(folder / "train.jsonl", questions("ab", (1, 5)))
    save_questions(folder / "heldout.jsonl", questions("c", (2, 120)))
    return folder


FIELDS = {
    "model": "model",
    "clip": "model",
    "records": "train",
    "questions": "train.jsonl",
    "heldout_records": "heldout",
    "heldout_questions": "heldout.jsonl",
    "updates": 7,
    "pretrain_updates": 3,
    "questions_per_update": 4,
    "key_frames": 5,
    "training": "full",
    "precision": "float32",
}


def own(home, **fields):
    return own_config(str(home / "own.py"), **{**FIELDS, **fields})


def test_it_passes_the_check_and_drops_nothing(home, capsys):
    config = check(own(home), 1)
    assert (config.joint.steps, config.pretrain.steps, config.frames.key) == (7, 3, 5)
    assert config.data.validation_questions == config.data.heldout_questions
    assert (config.final_model, config.mllm.param_dtype) == ("newest", "float32")
    models = make_models(config, make_machine(config.mesh))
    tell_dropped(config, models.system, models.text)
    assert not capsys.readouterr().out
    text, system = models.text, models.system
    lengths = PromptLengths(
        config.frames, text.prompt, system.family, system.mllm_config, text.tokenizer, text.chat
    )
    asked = load_questions(home / "heldout.jsonl")  # the longest are held out
    counted = count_prompts(asked, RecordReader(home / "heldout", ""), lengths, [ARMS["joint"]])
    for kind, tokens in counted.longest.items():
        assert 0 <= counted.limits[kind] - tokens < LENGTH_STEP
        assert counted.limits[kind] % LENGTH_STEP == 0 and tokens > 120 * 6


def test_frames_follow_from_the_records(home):
    config = read_config(own(home))
    assert config.frames.candidates == 30
    # Blocks of 28 pixels, of four patches each: 60 × 200 is nearest to 2 × 7 of them.
    assert config.frames.key_patches == config.frames.preview_patches == 56


def test_several_sets_stand_in_place_of_one(home):
    sets = {
        "long": {"records": "train", "questions": "train.jsonl", "weight": 3.0},
        "short": {"records": "train", "questions": "train.jsonl"},
    }
    config = check(own(home, records="", questions="", sets=sets), 1)
    one = check(own(home), 1)
    assert config.frames == one.frames and config.prompt == one.prompt
    assert config.data.train_records == config.data.train_questions == ""
    found = {n: (s.records, s.questions, s.weight) for n, s in config.data.train_sets.items()}
    assert found == {
        "long": (str(home / "train"), str(home / "train.jsonl"), 3.0),
        "short": (str(home / "train"), str(home / "train.jsonl"), 1.0),
    }
    with pytest.raises(UserError) as refused:
        own(home, questions="", sets={"long": {"records": ""}, "short": 1})
    words = [line.removeprefix(f"{home / 'own.py'}: ") for line in refused.value.lines]
    assert words[0] == "records is 'train', and sets stand in its place; leave one out"
    assert words[1:] == [
        f"sets[{name!r}] has no path as {field!r}"
        for name in sets
        for field in ("records", "questions")
    ]


def test_lora(home):
    config = check(own(home, training="lora", precision="bfloat16"), 1)
    assert config.mllm.lora_rank == 16 and config.mllm.param_dtype == "bfloat16"
    assert config.optimizer.mllm_lr == 1e-5


def test_what_is_computed_is_told_with_its_reason(home):
    config = own(home)
    lines = computed_lines(config.to_dict())
    assert "config.frames.candidates=30: the longest video has 30 frames" in lines
    assert any("of question c-120, has" in line for line in lines)
    assert len(lines) == len(set(lines)) >= 10
    config.frames.candidates = 20  # by a flag
    assert not any("candidates" in line for line in computed_lines(config.to_dict()))
    load_config("tiny")


def test_what_is_not_set_is_named_at_once():
    with pytest.raises(UserError) as refused:
        load_config("own")
    assert [line.split()[1] for line in refused.value.lines] == [
        *("model", "clip", "records", "questions", "heldout_records", "heldout_questions")
    ]
    assert all("msjoe init" in line for line in refused.value.lines)


def test_slips_are_one_line(home):
    with pytest.raises(UserError, match="training is 'qlora', not one of full, lora"):
        own(home, training="qlora")
    with pytest.raises(UserError, match=r"holds no clip|no checkpoint there"):
        own(home, clip="train")
    save_questions(home / "other.jsonl", questions("z", (1,)))
    with pytest.raises(UserError, match=r"question z-1: .*train has no video 'z'"):
        own(home, questions="other.jsonl")


def test_the_shipped_file_holds_a_dozen_fields_beside_the_user(home, tmp_path):
    """Filled in it is a config wherever it lies, and without a device of JAX."""
    text = (ROOT / "configs" / "own.py").read_text()
    assert set(re.findall(r"^(\w+) = ", text, re.M)) == set(FIELDS)
    for name, value in FIELDS.items():
        text = re.sub(rf"^{name} = \S+", f"{name} = {value!r}", text, flags=re.M)
    (home / "filled.py").write_text(text)
    config = runpy.run_path(str(home / "filled.py"))["get_config"]()
    assert config.data.train_records == str(home / "train")
    moved = shutil.copytree(home, tmp_path / "moved")
    assert load_config(f"{moved}/filled.py").mllm.checkpoint == str(moved / "model")
    assert pathlib.Path(config.mllm.checkpoint).is_dir() and RecordReader(home / "train", "").ids
