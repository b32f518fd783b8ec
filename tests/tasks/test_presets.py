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
    assert style.answer_tokens == preset.max_new_tokens and not list(style.slips())


# As the benchmark's task in lmms-eval, or its own script, asks with these options.
WORDS = {
    "video_mme": "Select the best answer to the following multiple-choice question based on the "
    "video and the subtitles. Respond with only the letter (A, B, C, or D) of the correct option."
    "\nWho?\nA. he\nB. she\nAnswer with the option's letter from the given choices directly.",
    "longvideobench": "Who?\nA. he\nB. she\n"
    "Answer with the option's letter from the given choices directly.",
    "lvbench": "Who?\n(A) he\n(B) she\nAnswer the question with the option letter.",
    "mlvu_dev": "Who?\n(A) he\n(B) she\nOnly give the best option.\nBest option: (",
}


@pytest.mark.parametrize("name", WORDS)
def test_the_prompt_is_the_benchmarks_word_for_word(name):
    style = PRESETS[name].prompt(PromptConfig(answer_lead="x", answer_option="{text} {letter}"))
    for options in (["he", "she"], ["A. he", "B. she"]):
        before, after = answer_prompt(style, "Who?", options, lambda system, body: (system, body))
        assert (before, after) == (PromptConfig().system, WORDS[name])


def test_pixels_become_patches():
    assert PRESETS["lvbench"].key_patches(14, 1024) == 1200  # 300 visual tokens of 28 pixels a side
    assert PRESETS["cg_bench"].key_patches(14, 1024) == 1024


def test_anchors_are_published_percentages():
    lvb = PRESETS["longvideobench"].anchors[1]
    assert lvb.describe() == "validation, 64 uniform frames: 58.9 to 59 % (DIG, TSPO, A.I.R.)"
    assert PRESETS["lvbench"].anchors[0].describe().startswith("all, 32 uniform frames: 37.6 %")
    for preset in PRESETS.values():
        assert all(0 < a.low <= a.high < 100 and a.frames > 0 for a in preset.anchors)
