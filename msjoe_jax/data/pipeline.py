"""Questions to batches, by Grain: the order depends on the seed alone, the state is one counter."""

from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np
from jaxtyping import Int

from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader
from msjoe_jax.errors import UserError


def uniform_indices(count: int, total: int) -> Int[np.ndarray, "n"]:
    """n = min(count, total) indices below `total`: the centres of n equal bins, rounded down.

    The centre of bin i is (i + ½)·total/n, so one preview of a video is its middle, not its start.
    """
    n = min(count, total)
    return (2 * np.arange(n) + 1) * total // (2 * max(n, 1))


def host_shard(num_hosts: int, host_index: int) -> slice:
    """The rows of the shuffled global order that host `host_index` reads: every num_hosts-th.

    Applied after the shuffle, with equal batches a host, it makes the union of the hosts' k-th
    batches the k-th batch of a single host: how many hosts there are does not change the training.
    """
    if not 0 <= host_index < num_hosts:
        raise UserError(
            f"host_index {host_index} must be from 0 to num_hosts - 1 = {num_hosts - 1}"
        )
    return slice(host_index, None, num_hosts)


def _row(
    question: Question,
    reader: RecordReader,
    num_candidates: int,
    num_preview: int,
    preview_size: tuple[int, int] | None,
    preview_fn: Callable[[np.ndarray], Any],
    with_embeddings: bool,
) -> dict[str, Any]:
    info = reader.info(question.video)
    chosen = uniform_indices(num_candidates, info.num_frames)
    frame_index = np.zeros(num_candidates, np.int32)
    frame_index[: len(chosen)] = chosen
    frame_mask = np.arange(num_candidates) < len(chosen)
    shown = uniform_indices(num_preview, info.num_frames)
    preview_mask = np.arange(num_preview) < len(shown)
    # A video shorter than the previews repeats its last frame under a False mask.
    preview_index = np.concatenate([shown, np.repeat(shown[-1:], num_preview - len(shown))])
    error = ""
    try:
        previews = reader.frames(question.video, preview_index, preview_size)
    except Exception as damage:  # one unreadable frame: the row says so and keeps its shapes
        error = f"previews unreadable: {damage}"
        size = preview_size or (info.height, info.width)
        previews = np.zeros((num_preview, *size, 3), np.uint8)
    row = {
        "frame_mask": frame_mask,
        "frame_index": frame_index,
        "timestamps": np.where(frame_mask, info.timestamps[frame_index], 0).astype(np.float32),
        "duration": np.float32(info.duration),
        "error": error,
        "preview": preview_fn(previews),
        "preview_mask": preview_mask,
        "preview_index": preview_index.astype(np.int32),
        "preview_times": info.timestamps[preview_index].astype(np.float32),
    }
    if with_embeddings:
        embeddings = reader.embeddings(question.video)
        assert embeddings is not None  # make_pipeline has checked
        row["embeddings"] = np.zeros((num_candidates, embeddings.shape[1]), np.float32)
        row["embeddings"][: len(chosen)] = embeddings[chosen]
    return row


def make_pipeline(
    questions: Sequence[Question],
    reader: RecordReader,
    *,
    batch_size: int,
    num_candidates: int,
    num_preview: int,
    preview_size: tuple[int, int] | None = None,
    preview_fn: Callable[[np.ndarray], Any] | None = None,
    with_embeddings: bool = True,
    seed: int = 0,
    shuffle: bool = True,
    order: Int[np.ndarray, "n"] | None = None,
    num_epochs: int | None = None,
    num_hosts: int = 1,
    host_index: int = 0,
    threads: int = 2,
    read_ahead: int = 2,
) -> grain.IterDataset:
    """Batches of questions with their candidate frames' embeddings and their preview frames.

    Elements are dicts of arrays, B = batch_size // num_hosts, T = num_candidates, n = num_preview:

        index [B] int32         position in `questions`
        valid [B] bool          False on rows that only fill the last batch (copies of question 0)
                                and on those whose previews cannot be read (black frames)
        error [B] str           why they cannot be read, "" if they can be and on filling rows
        embeddings [B, T, D]    float32, zero where padded; absent if not `with_embeddings`
        frame_mask [B, T]       True on candidates; a video of more than T frames is thinned to T
        frame_index [B, T]      each candidate's frame number in the record folder, 0 where padded
        timestamps [B, T]       seconds, float32; `duration` [B] likewise
        preview                 preview_fn(uint8 [n, H, W, 3]), stacked; by default the frames
        preview_mask, preview_index [B, n]; preview_times [B, n] in seconds

    Candidates and previews lie at `uniform_indices`. Each epoch has its own order, given by the
    seed. With `num_epochs` the last batch is filled up, else the stream never ends and its batches
    run across epochs. The iterator's get_state() is a count of batches, whatever the host or the
    threads; its next element after set_state(state) is the one that came after get_state().

    Args:
        batch_size: global, over all hosts.
        order: positions in `questions` in which an epoch goes through them, with any repetitions
            (see data/curriculum.py), in place of the shuffle.
        preview_size: (H, W) to which the previews are resized; None keeps the stored size, which
            must then be the same for all videos unless `preview_fn` makes it so.
        threads, read_ahead: host threads that make batches and how many batches they run ahead.

    Raises UserError on no questions, a video that the reader lacks, or absent embeddings.
    """
    if not questions:
        raise UserError("no questions to make batches of")
    if batch_size <= 0 or batch_size % num_hosts:
        raise UserError(f"batch_size {batch_size} must be a positive multiple of {num_hosts} hosts")
    known = set(reader.ids)
    for question in questions:
        if question.video not in known:
            raise UserError(
                f"question {question.id}: video {question.video!r} is not in {reader.directory}"
            )
    if with_embeddings and reader.clip is None:
        raise UserError(f"{reader.directory}: no CLIP embeddings; embed the folder first")

    def make_row(item: tuple[int, bool]) -> dict[str, Any]:
        index, valid = item
        row = _row(
            questions[index],
            reader,
            num_candidates,
            num_preview,
            preview_size,
            preview_fn or (lambda frames: frames),
            with_embeddings,
        )
        error = row["error"] if valid else ""
        row |= {"valid": np.bool_(valid and not error), "error": np.str_(error)}
        return {"index": np.int32(index), **row}

    epoch = range(len(questions)) if order is None else order.tolist()
    items = grain.MapDataset.source([(i, True) for i in epoch]).seed(seed)
    if shuffle and order is None:
        items = items.shuffle()
    items = items.repeat(num_epochs)
    missing = -len(items) % batch_size
    if num_epochs is not None and missing:
        filler = grain.MapDataset.source([(0, False)] * missing)
        items = grain.MapDataset.concatenate([items, filler])
    rows = items[host_shard(num_hosts, host_index)].map(make_row)
    batches = rows.batch(batch_size // num_hosts, drop_remainder=True)
    return batches.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, read_ahead))
    )
