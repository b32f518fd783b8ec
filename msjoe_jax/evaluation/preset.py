"""A benchmark's usual prompt and pixels in an evaluation, and its anchors beside the result."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from msjoe_jax.errors import UserError
from msjoe_jax.rollout.episode_batches import answer_tokens_of
from msjoe_jax.rollout.frames import FrameConfig, frames_per_unit
from msjoe_jax.rollout.system import System
from msjoe_jax.rollout.text import Text
from msjoe_jax.tasks import TASKS
from msjoe_jax.tasks.presets import Anchor, Preset
from msjoe_jax.text.characters import LETTERS
from msjoe_jax.text.prompts import PromptConfig, answer_prompt

UNIFORM = ("uniform", "uniform_left", "uniform_ends")  # selectors whose rows anchors stand beside
# Of the config: what a preset sets.
SETS = (
    *("prompt.answer_lead", "prompt.answer_option", "prompt.answer_instruction", "prompt.think"),
    *("prompt.answer_tokens", "frames.key_patches"),
)
Changed = dict[str, list[Any]]  # by field: what it was, what it is


def preset_of(task: str) -> Preset:
    """Returns the preset of a task.

    Raises:
      UserError: it has none.
    """
    preset = TASKS[task].preset
    if preset is None:
        names = ", ".join(name for name, one in TASKS.items() if one.preset)
        raise UserError(f"--preset: the task {task} is usually asked in no one way; {names} are")
    return preset


def applied(
    preset: Preset, frames: FrameConfig, system: System, text: Text
) -> tuple[FrameConfig, PromptConfig, Changed]:
    """Applies a preset; the longest prompt grows by what its pixels and words need more.

    Args:
      preset: of the task.
      frames: of the config.
      system: the models.
      text: with the config's prompt.

    Returns:
      Frames and prompt as the preset has them, and what differs.
    """
    vision, before = system.mllm_config.vision, text.prompt
    patches = preset.key_patches(vision.patch, frames.key_patches)
    shown, prompt = dataclasses.replace(frames, key_patches=patches), preset.prompt(before)
    per_unit = frames_per_unit(frames, system)
    room = [
        answer_tokens_of(
            before, dataclasses.replace(one, key=0), frames.key, vision.merge, per_unit
        )
        for one in (frames, shown)
    ]
    words = [
        sum(len(text.tokenizer.encode(part)) for part in answer_prompt(style, "?", LETTERS))
        for style in (before, prompt)
    ]
    more = max(0, room[1] - room[0]) + max(0, words[1] - words[0])
    prompt = dataclasses.replace(prompt, answer_prompt_tokens=before.answer_prompt_tokens + more)
    pairs: dict[str, tuple[Any, Any]] = {"frames": (frames, shown), "prompt": (before, prompt)}
    changed: Changed = {
        f"{group}.{field.name}": [getattr(one, field.name), getattr(other, field.name)]
        for group, (one, other) in pairs.items()
        for field in dataclasses.fields(other)
        if getattr(one, field.name) != getattr(other, field.name)
    }
    return shown, prompt, changed


def lines_of(task: str, preset: Preset, changed: Changed, frames: FrameConfig) -> list[str]:
    """Returns what is to be told of a preset before the evaluation.

    Args:
      task: whose it is.
      preset: it.
      changed: of `applied`.
      frames: likewise.
    """
    lines = [f"preset of {task} ({preset.source}), greedy:"]
    lines += [f"  config.{name}: {was!r} → {now!r}" for name, (was, now) in changed.items()]
    if not preset.max_pixels:
        lines.append("  pixels of a frame: it sets none")
    lines.append(
        f"  all else stays: {frames.candidates} candidates, {frames.preview} previews, frames as "
        f"mode={frames.mode}, the system turn and the prompt of reason"
    )
    if "<answer>" not in preset.instruction:
        lines.append(
            "  it asks for no answer tag, so that no reply has the form that `valid` means"
        )
    return lines


# --- anchors --------------------------------------------------------------------------------------


def anchors_of(
    preset: Preset, rows: Sequence[Mapping[str, Any]], rules: Sequence[str]
) -> list[dict[str, Any]]:
    """Returns the anchors of a preset, with what this evaluation gives in their place.

    Args:
      preset: of the task.
      rows: of samples.jsonl.
      rules: the task's, each of which reads the replies its own way.
    """
    uniform = [
        row
        for row in rows
        if row["selector"] in UNIFORM
        and not (row["shuffled"] or row["subtitles"] or row["tiers"])
        and row["dropped"] is None
        and row["gold"] is not None
    ]
    return [
        {
            **{field: getattr(anchor, field) for field in ("what", "low", "high", "source")},
            "frames": anchor.frames,
            "here": {
                arm: {
                    "questions": len(own),
                    "percent": {rule: _percent(anchor, own, rule) for rule in rules},
                }
                for arm in dict.fromkeys(row["arm"] for row in uniform)
                if (own := [row for row in uniform if row["arm"] == arm and _is_of(anchor, row)])
            },
        }
        for anchor in preset.anchors
    ]


def _is_of(anchor: Anchor, row: Mapping[str, Any]) -> bool:
    kind, name = anchor.group or ("", "")
    in_group = anchor.group is None or row["groups"].get(kind) == name
    return row["budget"] == anchor.frames and in_group


def _percent(anchor: Anchor, rows: Sequence[Mapping[str, Any]], rule: str) -> float:
    """Returns the percentage of right answers, or the mean of those of the anchor's groups."""
    parts: dict[str, list[bool]] = {}
    for row in rows:
        part = row["groups"].get(anchor.mean_over, "")
        parts.setdefault(part, []).append(row["extracted"][rule] == row["gold"])
    return 100 * float(np.mean([np.mean(part) for part in parts.values()]))


def anchor_lines(preset: Preset, found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Formats the anchors, of `anchors_of`, for people."""
    lines = []
    for anchor, entry in zip(preset.anchors, found, strict=True):
        lines.append(f"anchor: untrained Qwen2.5-VL-7B, {anchor.describe()}")
        for arm, here in entry["here"].items():
            each = ", ".join(f"{rule} {value:.1f}" for rule, value in here["percent"].items())
            lines.append(f"  here {arm}@{anchor.frames} of {here['questions']} questions: {each} %")
        if not entry["here"]:
            lines.append(
                f"  here: no such row; it needs --arms=uniform --frames={anchor.frames}"
                + (f" and questions of {' '.join(anchor.group)}" if anchor.group else "")
            )
    return lines or ["anchor: none is published for this task"]
