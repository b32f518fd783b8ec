"""Loads key frames on the host: groups them by prompt, reads and cuts each distinct one once."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader
from msjoe_jax.rollout.assemble import Frame
from msjoe_jax.rollout.batches import Batch, by_time
from msjoe_jax.rollout.frames import (
    FrameConfig,
    Unit,
    frames_per_unit,
    to_patches,
    unit_slots,
    units_of,
)
from msjoe_jax.rollout.system import System
from msjoe_jax.runtime import hosts

Drop = Callable[[int, str], None]  # (place in the batch, reason): drops its question


class ShownUnit(NamedTuple):
    """A unit that a prompt shows, and the most patches of each of its frames."""

    unit: Unit
    patches: int


@dataclasses.dataclass(frozen=True)
class FrameSet:
    """The frames of one prompt in time order.

    candidates: their indices; shown: the units of them; keep: of each unit the visual tokens that
    are shown, None: all.
    """

    candidates: list[int]
    shown: list[ShownUnit]
    keep: list[tuple[bool, ...] | None]


class EncodedFrames(NamedTuple):
    """Patches of U units a question, and where each unit lies.

    pixels [B, U, (t,) P, p, p, 3]; grids [B, U, 2] in patches; place: of each question, the slot of
    every unit.
    """

    pixels: UInt8[np.ndarray, "B U *t P p p 3"]
    grids: Int[np.ndarray, "B U 2"]
    place: list[dict[ShownUnit, int]]

    def frames(self, question: int, frame_set: FrameSet, merge: int) -> list[Frame]:
        """Returns the units of a set as the frames of a prompt."""
        rows = self.pixels.shape[-4] // merge**2
        out = []
        for unit, keep in zip(frame_set.shown, frame_set.keep, strict=True):
            slot = self.place[question][unit]
            height, width = (int(side) for side in self.grids[question, slot])
            visible = None if keep is None else keep[: height * width // merge**2]
            out.append(Frame(slot * rows, (height, width), visible))
        return out


def frame_sets(
    frames: Int[np.ndarray, "B G K"],
    tokens: Int[np.ndarray, "B G K"] | None,
    keep: Bool[np.ndarray, "B G K P"] | None,
    *,
    per_unit: int,
    patches: int,
    merge: int,
) -> list[list[FrameSet]]:
    """Groups the chosen frames of every prompt into the units that are encoded together.

    Args:
      frames, tokens, keep: as in `Selection`, J draws of I lists of queries being G prompts.
      per_unit: frames that are encoded together.
      patches: most patches of a frame; its `tokens` may lower that.
      merge: patches on a side of a visual token.
    """

    def of(b: int, g: int) -> FrameSet:
        order = by_time(frames[b, g])
        candidates = [int(frames[b, g, i]) for i in order]
        limits = [patches] * len(order)
        if tokens is not None:
            limits = [min(patches, max(1, int(tokens[b, g, i])) * merge**2) for i in order]
        units = units_of(candidates, per_unit)
        # The frames of a unit are of one size: the smallest budget among them.
        parts = [limits[u * per_unit : (u + 1) * per_unit] for u in range(len(units))]
        shown = [ShownUnit(unit, min(part)) for unit, part in zip(units, parts, strict=True)]
        keeps: list[tuple[bool, ...] | None] = [None] * len(shown)
        if keep is not None:
            keeps = [tuple(bool(x) for x in keep[b, g, i]) for i in order]
        return FrameSet(candidates, shown, keeps)

    B, G, _ = frames.shape
    return [[of(b, g) for g in range(G)] for b in range(B)]


class KeyFrameLoader:
    """A loader of the frames of a batch's prompts, which cuts each distinct unit once.

    `room`: for patches of a frame, see `most_patches`; None: the budget. Where frames have budgets
    of their own, there is room for the largest.
    """

    def __init__(
        self, config: FrameConfig, reader: RecordReader, system: System, room: int | None = None
    ):
        self.config, self.reader, self.system = config, reader, system
        self.room = room or config.key_patches
        self.per_unit = frames_per_unit(config, system)

    def load(
        self,
        batch: Batch,
        questions: Sequence[Question],
        sets: Sequence[Sequence[FrameSet]],
        drop: Drop,
        *,
        most: int = 0,
        room: int = 0,
    ) -> EncodedFrames:
        """Reads and cuts the frames; drops a question that has an unreadable frame.

        Args:
          batch: of the pipeline.
          questions: its questions.
          sets: the frames of every prompt.
          drop: drops a question.
          most: frames of a prompt at most, where that is known beforehand: shapes depend on it.
          room: for patches of a frame, where all frames have one budget that is not K's; 0: else.
        """
        distinct = [sorted({unit for one in row for unit in one.shown}) for row in sets]
        prompts = len(sets[0])
        reduced = not room and any(
            unit.patches != self.config.key_patches for row in distinct for unit in row
        )
        # A selector's own prompt may show more frames than an answer's.
        most = most or max(self.config.key, *(len(one.candidates) for row in sets for one in row))
        # The shapes are those of the whole batch, whatever this host has of it.
        of_hosts = hosts.gather((reduced, most), "the sizes of frames")
        reduced, most = map(max, zip(*of_hosts, strict=True))
        slots = unit_slots(dataclasses.replace(self.config, key=most), self.per_unit, prompts)
        vision, P = self.system.mllm_config.vision, room or self.room
        if reduced:  # one frame may be shown at several resolutions
            slots, P = prompts * -(-most // self.per_unit), self.config.key_patches
        B, p = len(distinct), vision.patch
        pixels = np.zeros((B, slots, self.per_unit, P, p, p, 3), np.uint8)
        grids = np.zeros((B, slots, 2), np.int32)
        candidates = [np.unique(np.array([u.unit for u in row], np.int32)) for row in distinct]
        frame_numbers = [batch["frame_index"][b][candidates[b]] for b in range(B)]
        for b, frames in enumerate(self._read(questions, frame_numbers, drop)):
            if not len(frames):  # a dropped question's units stand in as grey, so that rows line up
                grids[b, : len(distinct[b])] = vision.merge
                continue
            for budget in sorted({unit.patches for unit in distinct[b]}):
                slot = [u for u, unit in enumerate(distinct[b]) if unit.patches == budget]
                at = np.searchsorted(candidates[b], [distinct[b][u].unit for u in slot])
                patches, grid = to_patches(frames, self.system, budget, padded=P)
                pixels[b, slot], grids[b, slot] = patches[at], grid[at[:, 0]]
        place = [{unit: u for u, unit in enumerate(row)} for row in distinct]
        return EncodedFrames(pixels[:, :, 0] if self.per_unit == 1 else pixels, grids, place)

    def _read(
        self, questions: Sequence[Question], frame_numbers: Sequence[np.ndarray], drop: Drop
    ) -> list[np.ndarray]:
        requests = [(q.video, list(w)) for q, w in zip(questions, frame_numbers, strict=True)]
        try:
            return self.reader.gather(requests)
        except Exception:  # one unreadable frame: read question by question to find whose it is
            return [self._read_or_drop(b, *request, drop) for b, request in enumerate(requests)]

    def _read_or_drop(self, b: int, video: str, frame_numbers: list[int], drop: Drop) -> np.ndarray:
        try:
            return self.reader.frames(video, frame_numbers)
        except Exception as error:
            drop(b, f"frames unreadable: {error}")
            return np.zeros((0, 0, 0, 3), np.uint8)


def times_of(batch: Batch, question: int, frame_set: FrameSet) -> Float[np.ndarray, "n"]:
    """Returns the timestamps of a set's frames, in seconds."""
    return batch["timestamps"][question][frame_set.candidates]
