"""What pictures of a few questions show: times, scores, logits, chosen frames, thumbnails."""

import base64
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from msjoe_jax.data.pipeline import uniform_indices
from msjoe_jax.data.questions import Question
from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.evaluator import Outcome
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.runtime.digest import digest
from msjoe_jax.runtime.files import write_whole

THUMBNAIL = 160  # pixels of the longer side, at most
EVEN = 16  # thumbnails evenly over the video, beside those of chosen frames
QUALITY = 80  # of the JPEGs


def spread(questions: Sequence[Question], number: int) -> list[str]:
    """Returns the ids of so many questions, evenly spread over the file."""
    return [questions[place].id for place in uniform_indices(number, len(questions))]


def look_file(name: str) -> str:
    """Returns the file of a question; its id may hold what no file's name can."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in name)
    return f"{plain[:40]}-{digest(name)[:8]}.json"


def write_looks(folder: epath.Path, outcome: Outcome, episodes: Episodes) -> None:
    """Writes a file for each question that was looked at; those of earlier evaluations go."""
    if folder.exists():
        folder.rmtree()
    infos = {info.id: info for info in episodes.reader.infos(q.video for q in episodes.questions)}
    for question, entries, looks in zip(
        episodes.questions, outcome.entries, outcome.looks, strict=True
    ):
        if not (looks and entries and question.video in infos):
            continue
        info = infos[question.video]
        numbers = uniform_indices(episodes.config.frames.candidates, info.num_frames)
        frames = {
            column.key: entries[column.key][0]["frames"]
            for column in outcome.columns
            if column.key in entries
        }
        shown = {int(t) for t in uniform_indices(EVEN, len(numbers))}.union(*frames.values())
        content = {
            "id": question.id,
            "question": question.question,
            "options": list(question.options),
            "gold": question.letter or None,
            "video": question.video,
            "times": [round(float(time), 3) for time in info.timestamps[numbers]],
            **{
                name: {arm: look[name] for arm, look in looks.items()}
                for name in ("queries", "similarity", "logits")
            },
            "frames": frames,
            "evidence": [list(window) for window in question.evidence],
            "thumbnails": _thumbnails(episodes, question.video, numbers, sorted(shown)),
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / look_file(question.id), json.dumps(content, ensure_ascii=False))


def _thumbnails(
    episodes: Episodes, video: str, numbers: np.ndarray, candidates: Sequence[int]
) -> dict[str, str]:
    """Returns small pictures of candidates as base64 of JPEG; what is unreadable is left out."""
    try:
        frames = episodes.reader.frames(video, numbers[np.array(candidates, int)])
    except UserError as error:
        print(f"looks: no pictures of {video}: {error}")
        return {}
    pictures: dict[str, Any] = {}
    for candidate, frame in zip(candidates, frames, strict=True):
        image, data = Image.fromarray(frame), io.BytesIO()
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        image.save(data, "JPEG", quality=QUALITY)
        pictures[str(candidate)] = base64.b64encode(data.getvalue()).decode()
    return pictures
