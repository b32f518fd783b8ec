"""Which splits a run reads, and what is said of long videos before hours are spent."""

import pytest

from msjoe_jax.config import read_config
from msjoe_jax.data.questions import save_questions
from msjoe_jax.errors import UserError
from msjoe_jax.phase_data import (
    check_records,
    heldout_split,
    splits_of,
    tell_thinned,
    validation_split,
)
from tests.support.system import colour_questions, noise_videos
from tests.support.tiny import tiny_config

OWN = {"clip": "random"}  # the embeddings that the records have


@pytest.fixture
def config(tmp_path):
    """A run that trains, validates and evaluates on one folder of videos of 5 and 40 frames."""
    reader = noise_videos(tmp_path / "records", {"short": 5, "long": 40}, height=8, width=8)
    save_questions(tmp_path / "questions.jsonl", colour_questions(reader.ids, 4))
    config = tiny_config(tmp_path)
    for split in ("train", "validation", "heldout"):
        config.data[f"{split}_records"] = str(tmp_path / "records")
        config.data[f"{split}_questions"] = str(tmp_path / "questions.jsonl")
    config.phases, config.validate_every = ("joint", "evaluate"), 1
    config.frames.candidates = 20
    return config


def test_the_splits_that_phases_read(config):
    assert splits_of(read_config(config)) == ["train", "validation", "heldout"]
    config.validate_every = 0
    assert splits_of(read_config(config)) == ["train", "heldout"]
    config.phases = ("evaluate",)
    assert splits_of(read_config(config)) == ["heldout"]
    assert validation_split(read_config(config), OWN) is None


def test_thinned_videos_are_told_a_line_a_split(config, capsys):
    tell_thinned(read_config(config))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all("40" in line and "candidates" in line for line in lines)
    config.frames.candidates = 40
    tell_thinned(read_config(config))
    assert capsys.readouterr().out == ""


def test_splits_are_limited_and_of_the_runs_clip(config):
    config.validation_limit, config.evaluate.limit = 3, 2
    made = read_config(config)
    split = validation_split(made, OWN)
    assert split is not None and len(split[0]) == 3
    assert len(heldout_split(made, OWN)[0]) == 2
    check_records(made, OWN, {"clip": "base"})
    with pytest.raises(UserError, match="records"):
        check_records(made, {"clip": "another"}, {"clip": "base"})
    folders = {"clip": "base", "siglip": "models/siglip"}
    with pytest.raises(UserError, match=r"no SigLIP embeddings.*--siglip=models/siglip"):
        check_records(made, {**OWN, "siglip": "own"}, folders)
