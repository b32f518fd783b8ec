"""Presets ask with the benchmark's words."""

import pytest

from msjoe_jax.tasks import TASKS
from msjoe_jax.text.prompts import PromptConfig, answer_prompt

PRESETS = {name: task.preset for name, task in TASKS.items() if task.preset}


def test_every_benchmark_to_judge_by_has_one():
    assert set(PRESETS) == {
        "video_mme", "video_mme_v2", "longvideobench", "lvbench", "mlvu_dev", "mlvu_test",
        "cg_bench",
    }  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_the_prompt_has_its_words(name):
    preset = PRESETS[name]
    style = preset.prompt(PromptConfig(think=True))
    _, after = answer_prompt(style, "Who?", ["he", "she"])
    assert preset.before in after and preset.instruction in after and "<think>" not in after
    assert style.answer_tokens == preset.max_new_tokens
    told = "\n".join(preset.lines())
    assert preset.source in told and all(a.source in told for a in preset.anchors)


def test_anchors_are_published_percentages():
    lvb = PRESETS["longvideobench"].anchors[1]
    assert lvb.describe() == "validation, 64 uniform frames: 58.9 to 59 % (DIG, TSPO, A.I.R.)"
    assert PRESETS["lvbench"].anchors[0].describe().startswith("all, 32 uniform frames: 37.6 %")
    for preset in PRESETS.values():
        assert all(0 < a.low <= a.high < 100 and a.frames > 0 for a in preset.anchors)
