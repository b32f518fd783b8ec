"""M-RoPE positions of a prompt: time, height and width of every token, on the host.

Two rules for what follows a video (of images both say the same):

- `released`, the default: it starts at the largest position so far + 1. So do Qwen's own training
  code and `get_rope_index` of transformers up to 5.2, and so were the published weights trained.
- `transformers-5.3`: it starts at the larger side of the grid, as in transformers since 5.3. After
  a video longer than it is wide that gives text the positions which the video itself holds.

Versions of 2025 (4.57, say) also cut the seconds to whole numbers; here they are real numbers.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from msjoe_jax.models.qwen2_5_vl.config import QwenConfig

RELEASED, SINCE_5_3 = POSITION_RULES = ("released", "transformers-5.3")


def mrope_positions(
    token_ids: Int[np.ndarray, "L"],
    grids: Sequence[tuple[int, int, int]],
    *,
    image_token_id: int,
    video_token_id: int,
    merge: int,
    tokens_per_second: int,
    second_per_grid: Sequence[float | Sequence[float]] | None = None,
    rule: str = RELEASED,
) -> Int[np.ndarray, "3 L"]:
    """Computes the (time, height, width) position of every token of one unpadded prompt.

    Text advances all three by one. Image or video tokens of a grid lie at its start plus
    (time step, merged row, merged column); a video's time step counts `tokens_per_second` times
    the seconds of a grid step, rounded down. Decoding continues one past the last text token.

    Args:
      token_ids: the prompt with one placeholder token per visual token.
      grids: (time, height, width) in patches of every image and video, in order of appearance.
      image_token_id, video_token_id: the placeholders.
      merge: patches on a side of a visual token.
      tokens_per_second: temporal positions of a second of video.
      second_per_grid: seconds between the time steps of every video, in order, or the time of each
        of its steps in seconds, never falling, of which only the distance from the first counts;
        1 between steps if None.
      rule: one of POSITION_RULES.

    Raises:
      ValueError: placeholders and grids do not match, or a video's times are too few or fall.
    """
    seconds = iter(second_per_grid) if second_per_grid is not None else None
    columns: list[np.ndarray] = []
    start = at = 0
    for number, (steps, height, width) in enumerate(grids):
        is_placeholder = np.isin(token_ids[at:], (image_token_id, video_token_id))
        text = int(is_placeholder.argmax()) if is_placeholder.any() else len(token_ids) - at
        columns.append(np.tile(start + np.arange(text), (3, 1)))
        at, start = at + text, start + text

        rows, cols = height // merge, width // merge
        length = steps * rows * cols
        token = token_ids[at] if at < len(token_ids) else None
        if (
            token is None
            or length == 0
            or (token_ids[at : at + length] != token).any()
            or (at + length > len(token_ids))
        ):
            raise ValueError(
                f"grid {number}, {(steps, height, width)}, needs {length} placeholders at {at}"
            )
        times = np.arange(steps)
        if token == video_token_id:
            second = 1.0 if seconds is None else next(seconds, None)
            if second is None:
                raise ValueError("second_per_grid has fewer entries than there are videos")
            times = _time_steps(second, steps, tokens_per_second)
        offsets = np.meshgrid(times, np.arange(rows), np.arange(cols), indexing="ij")
        columns.append(start + np.stack(offsets).reshape(3, -1))
        at, end = at + length, int(columns[-1].max()) + 1
        start = start + max(rows, cols) if rule == SINCE_5_3 else end

    if np.isin(token_ids[at:], (image_token_id, video_token_id)).any():
        raise ValueError(f"placeholders after position {at} belong to none of {len(grids)} grids")
    columns.append(np.tile(start + np.arange(len(token_ids) - at), (3, 1)))
    return np.concatenate(columns, axis=1)


def prompt_positions(
    config: QwenConfig,
    token_ids: Int[np.ndarray, "L"],
    grids: Sequence[tuple[int, int, int]],
    seconds: Sequence[float | Sequence[float]],
    rule: str = RELEASED,
) -> Int[np.ndarray, "3 L"]:
    """Computes `mrope_positions` by a model's sizes.

    Args:
      config: the sizes.
      token_ids, grids, rule: as there.
      seconds: `second_per_grid` there.
    """
    return mrope_positions(
        token_ids,
        grids,
        image_token_id=config.image_token_id,
        video_token_id=config.video_token_id,
        merge=config.vision.merge,
        tokens_per_second=config.tokens_per_second,
        second_per_grid=seconds,
        rule=rule,
    )


def _time_steps(
    second: float | Sequence[float], steps: int, tokens_per_second: int
) -> Int[np.ndarray, "steps"]:
    """Positions of a video's steps from its start, in float32, as the reference multiplies."""
    if isinstance(second, (int, float)):
        interval = np.float32(tokens_per_second) * np.float32(second)
        return (np.arange(steps, dtype=np.float32) * interval).astype(np.int64)
    times = np.asarray(second, np.float64)
    if times.shape != (steps,) or (np.diff(times) < 0).any():
        raise ValueError(f"a video of {steps} steps needs as many times, none before the last")
    elapsed = (times - times[0]).astype(np.float32)
    return (elapsed * np.float32(tokens_per_second)).astype(np.int64)
