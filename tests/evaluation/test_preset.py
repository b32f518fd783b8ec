"""A preset changes what it says, no more; anchors stand beside what they can be compared with."""

import dataclasses
import types

import pytest

from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.preset import (
    SETS,
    anchor_lines,
    anchors_of,
    applied,
    lines_of,
    preset_of,
)
from msjoe_jax.rollout.frames import FrameConfig
from msjoe_jax.tasks import TASKS
from msjoe_jax.tasks.presets import Anchor
from msjoe_jax.text.prompts import PromptConfig

FRAMES = FrameConfig(key=32)
WORDS = types.SimpleNamespace(encode=str.split)  # a token a word
VISION = types.SimpleNamespace(patch=14, merge=2, temporal_patch=2)
SYSTEM = types.SimpleNamespace(mllm_config=types.SimpleNamespace(vision=VISION))


def of(task, frames=FRAMES, **prompt):
    text = types.SimpleNamespace(prompt=PromptConfig(**prompt), tokenizer=WORDS)
    return applied(preset_of(task), frames, SYSTEM, text)


def test_what_a_preset_sets_and_what_it_leaves():
    frames, prompt, changed = of("video_mme", think=True, system="be brief")
    assert frames == dataclasses.replace(FRAMES, key_patches=1200)
    assert changed["frames.key_patches"] == [1024, 1200]
    assert changed["prompt.think"] == [True, False] and changed["prompt.answer_tokens"] == [64, 16]
    assert prompt.system == "be brief" and prompt.query_tokens == PromptConfig().query_tokens
    room = "prompt.answer_prompt_tokens"
    assert set(changed) <= {*SETS, room}
    lead, words = PromptConfig().answer_instruction, TASKS["video_mme"].preset
    more = len(f"{words.before} {words.instruction}".split()) - len(lead.split())
    more -= len(PromptConfig().think_instruction.split())
    assert changed[room] == [8704, 8704 + 32 * (300 - 256) + max(0, more)]


def test_pixels_of_a_pair_are_those_of_a_frame():
    video = dataclasses.replace(FRAMES, mode="video", key=33)
    grown = of("lvbench", video)[2]["prompt.answer_prompt_tokens"]
    assert grown[1] - grown[0] >= 17 * (300 - 256)
    small = of("lvbench", dataclasses.replace(FRAMES, key_patches=2048))
    assert small[0].key_patches == 1200
    assert small[1].answer_prompt_tokens < 8704 + 100  # fewer pixels need no more room
    assert of("cg_bench")[0] == FRAMES


def test_what_is_told():
    frames, _, changed = of("cg_bench")
    lines = lines_of("cg_bench", preset_of("cg_bench"), changed, frames)
    assert lines[0] == "preset of cg_bench (lmms-eval 65ef07d, cgbench), greedy:"
    assert "  config.prompt.answer_tokens: 64 → 16" in lines
    assert "  pixels of a frame: it sets none" in lines
    assert any("3600 candidates, 16 previews, frames as mode=image" in line for line in lines)
    with pytest.raises(UserError, match="the task tspo_10k is usually asked in no one way"):
        preset_of("tspo_10k")


def row(arm, gold, official, **fields):
    return {
        "arm": arm,
        "selector": arm.partition(":")[0],
        "budget": 32,
        "shuffled": False,
        "subtitles": False,
        "tiers": "",
        "dropped": None,
        "gold": gold,
        "extracted": {"strict": "A", "official": official},
        "groups": {},
        **fields,
    }


def preset(*anchors):
    return dataclasses.replace(TASKS["lvbench"].preset, anchors=anchors)


RULES = ("strict", "official")


def test_an_anchor_stands_beside_uniform_frames_of_its_number():
    rows = [row("uniform", "A", "A"), row("uniform", "B", "B"), row("uniform_ends", "A", "B")]
    left = [row("topk", "A", "A"), row("uniform", "A", "A", budget=16)]
    left += [row("uniform", "A", "A", dropped="too long"), row("uniform", None, "A")]
    left += [row("uniform:shuffled", "A", "A", shuffled=True)]
    of_32 = preset(Anchor("all", 32, 37.6, 37.6, "them"), Anchor("all", 64, 38, 39, "them"))
    first, second = anchors_of(of_32, rows + left, RULES)
    assert first["here"] == {
        "uniform": {"questions": 2, "percent": {"strict": 50.0, "official": 100.0}},
        "uniform_ends": {"questions": 1, "percent": {"strict": 100.0, "official": 0.0}},
    }
    assert (first["low"], first["high"], first["frames"], second["here"]) == (37.6, 37.6, 32, {})
    assert anchor_lines(of_32, [first, second]) == [
        "anchor: untrained Qwen2.5-VL-7B, all, 32 uniform frames: 37.6 % (them)",
        "  here uniform@32 of 2 questions: strict 50.0, official 100.0 %",
        "  here uniform_ends@32 of 1 questions: strict 100.0, official 0.0 %",
        "anchor: untrained Qwen2.5-VL-7B, all, 64 uniform frames: 38 to 39 % (them)",
        "  here: no such row; it needs --arms=uniform --frames=64",
    ]
    assert anchor_lines(preset(), []) == ["anchor: none is published for this task"]


def test_an_anchor_of_a_group_and_one_over_groups():
    rows = [row("uniform", gold, "A", groups={"kind": kind}) for kind, gold in
            (("long", "A"), ("short", "B"), ("short", "B"), ("short", "A"))]  # fmt: skip
    of_long = Anchor("long", 32, 1, 2, "them", group=("kind", "long"))
    over = Anchor("mean", 32, 1, 2, "them", mean_over="kind")
    none = Anchor("medium", 32, 1, 2, "them", group=("kind", "medium"))
    made = preset(of_long, over, none)
    found = anchors_of(made, rows, RULES)
    assert found[0]["here"]["uniform"] == {
        "questions": 1, "percent": {"strict": 100.0, "official": 100.0},
    }  # fmt: skip
    assert found[1]["here"]["uniform"]["percent"]["strict"] == pytest.approx(100 * (1 + 1 / 3) / 2)
    assert anchor_lines(made, found)[-1].endswith("--frames=32 and questions of kind medium")
