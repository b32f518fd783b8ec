"""Lengths of prompts that are counted are those of the prompts that episodes make."""

import numpy as np
import pytest

from msjoe_jax.config import read_config
from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader, RecordWriter
from msjoe_jax.rollout.batches import full_weight
from msjoe_jax.rollout.prompt_lengths import PromptLengths
from msjoe_jax.selectors.base import Selection
from msjoe_jax.selectors.fixed import uniform_frames
from tests.support.embeddings import write_embeddings
from tests.support.system import EMBEDDING, tiny_run
from tests.support.tiny import tiny_config

# (height, width), number of frames: wide, tall, too elongated for the budget, fewer than are shown.
VIDEOS = {"a": (28, 90, 9), "b": (100, 30, 5), "c": (8, 200, 7), "d": (40, 40, 1), "e": (56, 56, 3)}
TEXTS = ["what colour is the cup ?", "what ?", "is the blue cup the green kitchen dog ? white"]
OPTIONS = [("red", "blue"), ("red", "blue", "green dog", "white"), ("the kitchen", "dog", "cup")]


def made(folder, **fields):
    with RecordWriter(folder / "records") as writer:
        for name, (height, width, count) in VIDEOS.items():
            frame = np.full((height, width, 3), 90, np.uint8)
            spoken = [[t, t + 0.2, f"cup {t}"] for t in range(0, count, 2)]
            frames = ((float(t), frame) for t in range(count))
            writer.add(name, frames, extra={"subtitles": spoken})
    rows = {name: np.ones((count, EMBEDDING)) for name, (_, _, count) in VIDEOS.items()}
    write_embeddings(folder / "records", "random", rows.items())
    config = tiny_config(folder)
    config.update_from_flattened_dict(fields)
    asked = [
        Question(f"q{i}", name, TEXTS[i % 3], OPTIONS[i % 3], 0) for i, name in enumerate(VIDEOS)
    ]
    return tiny_run(config, RecordReader(folder / "records"), asked)


@pytest.mark.parametrize(
    ("shown", "mode", "subtitles"),
    [((2, 4), "image", False), ((2, 4), "video", True), ((3, 5), "image", True),
     ((3, 5), "video", False), ((0, 1), "image", False), ((0, 1), "video", False)],
)  # fmt: skip
def test_counted_as_made(tmp_path, mode, shown, subtitles):
    fields = {"frames.mode": mode, "frames.preview": shown[0], "frames.key": shown[1]}
    fields["prompt.subtitles"] = subtitles
    run = made(tmp_path, **fields)
    episodes, config = run.episodes(), read_config(run.config)
    batch = next(iter(episodes.batches(len(VIDEOS))))
    weight = full_weight(batch)
    queries, _ = episodes.preview_prompts(batch, weight)
    chosen = uniform_frames(batch["frame_mask"], config.frames.key)[:, None, None]
    answers, _ = episodes.answer_prompts(batch, Selection(frames=chosen), weight)
    blind, _ = episodes.answer_prompts(batch, Selection(frames=np.full_like(chosen, -1)), weight)
    assert weight.all() and not episodes.failures
    text, system = episodes.text, run.system
    assert text.tokenizer is not None
    lengths = PromptLengths(
        config.frames, config.prompt, system.family, system.mllm_config, text.tokenizer, text.chat
    )
    counts = set()
    for question, *rows in zip(run.questions, queries, answers, blind, strict=True):
        video = run.reader.info(question.video)
        want = [int(row[0]["segments"].sum()) for row in rows]
        counted = [f(question, video) for f in (lengths.query, lengths.answer, lengths.blind)]
        assert counted == want
        counts.add(tuple(counted))
    assert len(counts) > 2
