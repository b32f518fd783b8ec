"""What counts as an input of a phase, and what does not."""

import dataclasses

from msjoe_jax.config import base, read_config
from msjoe_jax.data.questions import Question
from msjoe_jax.phase_inputs import (
    RATES,
    settings_of,
    start_inputs,
    weights_inputs,
    without_rates,
)
from msjoe_jax.phase_models import make_models
from msjoe_jax.runtime.digest import differences
from msjoe_jax.runtime.machine import make_machine
from msjoe_jax.training.config import TrainingConfig
from tests.support.tiny import tiny_config, tiny_model_folder
from tests.text.test_chat import OTHER

QUESTIONS = [Question(f"q{i}", "v", "?", ("a", "b"), 0, i / 4) for i in range(3)]


def test_settings_are_told_without_paths():
    c = base()
    before = settings_of(read_config(c), "mllm", "frames")
    c.mllm.checkpoint = c.mllm.tokenizer = "elsewhere"
    assert settings_of(read_config(c), "mllm", "frames") == before
    c.frames.key += 1
    assert settings_of(read_config(c), "mllm", "frames") != before


def test_rates_of_a_finished_training_make_no_other_model():
    c = base()
    parts = {"trained": {"phases": ["joint"], **read_config(c).parts("optimizer")}, "frames": {}}
    kept = without_rates(parts)
    assert kept["trained"]["phases"] == ["joint"]
    optimizer = dataclasses.asdict(read_config(c).optimizer)
    assert kept["trained"]["optimizer"].keys() == optimizer.keys() - set(RATES)
    assert without_rates({"frames": {}}) == {"frames": {}}


def test_pass_rates_count_where_a_training_goes_by_them():
    plain, weighed = TrainingConfig(), TrainingConfig(difficulty_weight=1.0)
    other = [dataclasses.replace(question, difficulty=0.1) for question in QUESTIONS]
    for training, differ in ((plain, False), (weighed, True)):
        inputs = [start_inputs(training, {"mllm": "x"}, [], q) for q in (QUESTIONS, other)]
        assert (inputs[0] != inputs[1]) is differ
    assert start_inputs(plain, {"mllm": "x"}, ["pretrain"], QUESTIONS) != inputs[0]
    assert start_inputs(plain, {"mllm": "y"}, [], QUESTIONS) != start_inputs(
        plain, {"mllm": "x"}, [], QUESTIONS
    )


def test_another_chat_template_is_noticed(tmp_path):
    folder, config = tiny_model_folder(tmp_path), tiny_config(tmp_path)
    config.mllm.checkpoint = config.clip.checkpoint = str(folder)
    made = []
    for template in ("", OTHER, OTHER, OTHER.replace("USER", "User")):
        if template:
            (folder / "mllm" / "chat_template.jinja").write_text(template)
        read = read_config(config)
        models = make_models(read, make_machine(read.mesh))
        made.append(weights_inputs({"mllm": "x"}, models.system, models.text))
    without, first, again, edited = made
    assert first == again
    assert differences(first, without)[0].endswith("is built-in)")
    (line,) = differences(first, edited)
    assert line.startswith(f"chat template (was {first['chat template']}, is ")
