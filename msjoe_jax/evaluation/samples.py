"""The rows of `samples.jsonl`: one for each question, arm, budget and draw."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from msjoe_jax.data.evidence import evidence_frames, has_evidence
from msjoe_jax.data.pipeline import uniform_indices
from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import VideoInfo
from msjoe_jax.evaluation.arms import scorer_note
from msjoe_jax.evaluation.columns import Column
from msjoe_jax.evaluation.evaluator import Outcome
from msjoe_jax.evaluation.kept_frames import kept_bits
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.rollout.frames import grid_of, units_of
from msjoe_jax.tasks import TASKS

STEPS = ("query", "similarity", "sampler", "answer")  # of a question, as they are timed


def sample_rows(
    outcome: Outcome, episodes: Episodes, task: str, extractor: str
) -> list[dict[str, Any]]:
    """Returns the rows, in the order of the questions.

    A dropped question has one row for each arm and budget, with the reason.

    Args:
      outcome: of the evaluation.
      episodes: over its questions.
      task: name of TASKS.
      extractor: by which `score` goes (see grading.py).
    """
    names = {c.key: names_of(c, episodes.config.signals) for c in outcome.columns}
    infos = {info.id: info for info in episodes.reader.infos(q.video for q in episodes.questions)}
    rows = []
    for question, entries in zip(episodes.questions, outcome.entries, strict=True):
        info = infos.get(question.video)
        known = _of_question(question, info, episodes, task) | {"extractor": extractor}
        for column in outcome.columns:
            for draw, entry in enumerate(entries.get(column.key, [None])):
                rows.append(
                    {
                        **known,
                        **names[column.key],
                        **_of_entry(question, info, entry, episodes),
                        "draw": draw,
                        "dropped": outcome.dropped.get(question.id),
                    }
                )
    return rows


def names_of(column: Column, signals: Sequence[str]) -> dict[str, Any]:
    """Returns what names a column: its arm, all that the arm is made of, and its budget.

    Args:
      column: of the evaluation.
      signals: of the config.
    """
    arm, note = column.arm, scorer_note(column.arm, signals)
    return {
        "arm": column.name,
        "label": f"{arm.label} ({note})" if note else arm.label,
        "selector": arm.selector,
        "queries_by": arm.queries,
        "scorer": arm.scorer or "+".join(signals),
        "mllm": arm.mllm,
        "sampler": arm.sampler,
        "answerer": arm.answered_by,
        "budget": column.budget,
        "sampled": arm.sampled,
        "tiers": arm.tiers,
        "shuffled": arm.shuffled,
        "subtitles": arm.subtitles,
    }


def _of_question(
    question: Question, info: VideoInfo | None, episodes: Episodes, task: str
) -> dict[str, Any]:
    frames = episodes.config.frames
    return {
        "id": question.id,
        "video": question.video,
        "task": task,
        "previews": frames.preview,
        "candidates": min(info.num_frames, frames.candidates) if info else 0,
        "duration": info.duration if info else None,
        "gold": question.letter or None,
        "seed": episodes.config.seed,
        "groups": TASKS[task].groups(question),
    }


def _of_entry(
    question: Question,
    info: VideoInfo | None,
    entry: Mapping[str, Any] | None,
    episodes: Episodes,
) -> dict[str, Any]:
    empty: dict[str, Any] = {name: [] for name in ("frames", "times", "tokens", "queries")}
    empty |= dict.fromkeys(("prompt_tokens", "score", "valid", "finished", "tagged", "covered"))
    empty |= dict.fromkeys(("seconds", "auc", "parsed", "named", "nameable"))
    empty |= {"reply": "", "answer": "", "extracted": {}}
    if entry is None:
        return empty
    seconds = {**entry["seconds"], "answer": entry["answer_seconds"]}
    said = {name: entry[name] for name in empty.keys() & entry.keys()} | {
        "frames": [],
        "seconds": seconds if any(x is not None for x in seconds.values()) else None,
    }
    if info is None:
        return empty | said
    candidates = uniform_indices(episodes.config.frames.candidates, info.num_frames)
    numbers = candidates[np.array(entry["frames"], int)]
    times = [float(time) for time in info.timestamps[numbers]]
    shown = {
        "frames": [int(number) for number in numbers],
        "times": times,
        "tokens": shown_tokens(entry, info, episodes),
        "covered": bool(evidence_frames(question, np.array(times), numbers).any())
        if has_evidence(question)
        else None,
    }
    return empty | said | shown


def shown_tokens(entry: Mapping[str, Any], info: VideoInfo, episodes: Episodes) -> list[int]:
    """Returns the visual tokens of each chosen frame as the prompt shows it.

    Of frames that are fused to one step of a video the first has the tokens of all.

    Args:
      entry: what is kept of a selection (see kept_frames.py).
      info: of the video.
      episodes: that showed it.
    """
    vision, images = episodes.vision, episodes.system.family.images
    number, most = len(entry["frames"]), episodes.config.frames.key_patches
    limits = [most] * number
    if entry["limits"]:
        limits = [min(most, max(1, tokens) * vision.merge**2) for tokens in entry["limits"]]
    shown = [0] * number
    for unit in units_of(range(number), episodes.per_unit):
        limit = min(limits[place] for place in unit)
        height, width = grid_of((info.height, info.width), vision, images, limit)
        tokens = height * width // vision.merge**2
        if entry["keep"]:
            tokens = int(kept_bits(entry["keep"][unit[0]])[:tokens].sum())
        shown[unit[0]] = tokens
    return shown
