"""Batches of questions, by Grain: in a given order; the state is one counter.

A batch is a dict of arrays, B = the rows that are made here, T = num_candidates, n = num_preview:

    index [B] int32         position in `questions`
    copy [B] int32          0 but where the batch holds the question already: how many times
    valid [B] bool          False on rows that only fill the last batch (copies of question 0)
                            and on those whose previews cannot be read (black frames) or whose
                            video or embeddings cannot (the row of another question: stand_in.py)
    error [B] str           why they cannot be read, "" if they can be and on filling rows
    embeddings [B, T, D]    float32, zero where padded; absent if not `with_embeddings`
    siglip_embeddings       likewise, of a SigLIP; absent if the reader has none
    frame_mask [B, T]       True on candidates; a video of more than T frames is thinned to T
    frame_index [B, T]      each candidate's frame number in the record folder, 0 where padded
    timestamps [B, T]       seconds, float32; `duration` [B] likewise
    preview                 preview_fn(uint8 [n, H, W, 3]), stacked; by default the frames
    preview_mask, preview_index [B, n]; preview_times [B, n] in seconds

Candidates and previews lie at `uniform_indices`. The last batch is filled up. The iterator's
get_state() is a count of batches, whatever the host or the threads; its next element after
set_state(state) is the one that came after get_state().
"""

from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np
from jaxtyping import Int

from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.stand_in import with_stand_ins
from msjoe_jax.errors import UserError

THREADS = 2  # of the host, that make batches
READ_AHEAD = 2  # batches made before they are asked for


def uniform_indices(count: int, total: int) -> Int[np.ndarray, "n"]:
    """Computes n = min(count, total) indices below `total`: the centres of n equal bins.

    The centre of bin i is (i + ½)·total/n, rounded down; so one preview of a video is its middle,
    not its start.
    """
    n = min(count, total)
    return (2 * np.arange(n) + 1) * total // (2 * max(n, 1))


def make_pipeline(
    questions: Sequence[Question],
    reader: RecordReader,
    *,
    batch_size: int,
    num_candidates: int,
    num_preview: int,
    preview_fn: Callable[[np.ndarray], Any] | None = None,
    with_embeddings: bool = True,
    order: Int[np.ndarray, "n"] | None = None,
    rows: Int[np.ndarray, "b"] | None = None,
) -> grain.IterDataset:
    """Makes batches (see above) of questions with their candidate and preview frames.

    Args:
      questions: the questions.
      reader: the record folder that holds their videos.
      batch_size: over all hosts.
      num_candidates: T, the most candidate frames of a video; a longer one is thinned.
      num_preview: n, the number of preview frames.
      preview_fn: makes what the model takes of the preview frames, uint8 [n, H, W, 3]; by default
        they stay frames, which must then be of one size in all videos.
      with_embeddings: whether to read CLIP embeddings, and a SigLIP's if the reader has one.
      order: positions in `questions` in which to go through them, with any repetitions; None:
        once, as they stand.
      rows: those of each batch that are made, ascending; None: all. Several hosts with rows of
        their own make the batches of one host between them.

    Raises:
      UserError: there are no questions, or the reader lacks all of their videos, or embeddings.
    """
    _check(questions, reader, batch_size, with_embeddings)
    there = set(reader.ids)

    def read_row(question: Question) -> dict[str, Any]:
        if question.video not in there:
            raise UserError(f"not in {reader.directory}")
        row = _candidates(question, reader, num_candidates, with_embeddings)
        return row | _previews(question, reader, num_preview, preview_fn)

    row_of = with_stand_ins(questions, read_row)

    def make_row(item: tuple[int, int, bool]) -> dict[str, Any]:
        index, copy, valid = item
        row = row_of(questions[index])
        error = row["error"] if valid else ""
        row |= {"valid": np.bool_(valid and not error), "error": np.str_(error)}
        return {"index": np.int32(index), "copy": np.int32(copy), **row}

    order = np.arange(len(questions)) if order is None else order
    held = np.arange(batch_size) if rows is None else rows
    made = grain.MapDataset.source(_Items(order, batch_size, held)).map(make_row)
    batches = made.batch(len(held), drop_remainder=True)
    return batches.to_iter_dataset(grain.ReadOptions(THREADS, READ_AHEAD))


class _Items:
    """A source of (index, copy, valid) of some rows of each batch, the last batch filled up."""

    def __init__(self, order: Int[np.ndarray, "n"], batch_size: int, rows: Int[np.ndarray, "b"]):
        self.order, self.batch_size, self.rows = order, batch_size, rows

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size) * len(self.rows)

    def __getitem__(self, item: int) -> tuple[int, int, bool]:
        batch, row = divmod(item, len(self.rows))
        place = batch * self.batch_size + int(self.rows[row])
        if place >= len(self.order):
            return 0, 0, False
        index = self.order[place]
        before = self.order[place - place % self.batch_size : place]
        return int(index), int(np.sum(before == index)), True


def _check(
    questions: Sequence[Question],
    reader: RecordReader,
    batch_size: int,
    with_embeddings: bool,
) -> None:
    if not questions:
        raise UserError("no questions to make batches of")
    if batch_size <= 0:
        raise UserError(f"batch_size {batch_size} must be positive")
    if not {question.video for question in questions} & set(reader.ids):
        first = questions[0]  # a few may be missing: their questions are dropped, and told of
        raise UserError(
            f"question {first.id}: video {first.video!r} is not in {reader.directory}, nor is "
            f"that of any of the {len(questions)} questions"
        )
    if with_embeddings and reader.clip is None:
        raise UserError(f"{reader.directory}: no CLIP embeddings; embed the folder first")


def _candidates(
    question: Question, reader: RecordReader, num_candidates: int, with_embeddings: bool
) -> dict[str, Any]:
    info = reader.info(question.video)
    indices = uniform_indices(num_candidates, info.num_frames)
    frame_index = np.zeros(num_candidates, np.int32)
    frame_index[: len(indices)] = indices
    frame_mask = np.arange(num_candidates) < len(indices)
    row: dict[str, Any] = {
        "frame_mask": frame_mask,
        "frame_index": frame_index,
        "timestamps": np.where(frame_mask, info.timestamps[frame_index], 0).astype(np.float32),
        "duration": np.float32(info.duration),
    }
    if with_embeddings:
        for model, name in (("clip", "embeddings"), ("siglip", "siglip_embeddings")):
            embeddings = reader.embeddings(question.video, model)
            if embeddings is not None:  # CLIP's is there: _check has seen to it
                row[name] = np.zeros((num_candidates, embeddings.shape[1]), np.float32)
                row[name][: len(indices)] = embeddings[indices]
    return row


def _previews(
    question: Question,
    reader: RecordReader,
    num_preview: int,
    preview_fn: Callable[[np.ndarray], Any] | None,
) -> dict[str, Any]:
    info = reader.info(question.video)
    indices = uniform_indices(num_preview, info.num_frames)
    # A video shorter than the previews repeats its last frame under a False mask.
    index = np.concatenate([indices, np.repeat(indices[-1:], num_preview - len(indices))])
    error = ""
    try:
        frames = reader.frames(question.video, index)
    except Exception as damage:  # one unreadable frame: the row says so and keeps its shapes
        error = f"previews unreadable: {damage}"
        frames = np.zeros((num_preview, info.height, info.width, 3), np.uint8)
    return {
        "error": error,
        "preview": frames if preview_fn is None else preview_fn(frames),
        "preview_mask": np.arange(num_preview) < len(indices),
        "preview_index": index.astype(np.int32),
        "preview_times": info.timestamps[index].astype(np.float32),
    }
