"""Figures: of one answered question, and of the validations of a training."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLUMNS = 8  # frames per row of the contact sheet: K = 32 makes four rows, which fit a screen
KEY_COLOUR = "tab:red"


def keyframe_figure(
    timestamps: Float[np.ndarray, "T"],
    logits: Float[np.ndarray, "T"],
    similarity: Float[np.ndarray, "Q T"],
    queries: Sequence[str],
    frames: Sequence[UInt8[np.ndarray, "h w 3"]],
    selected: Int[np.ndarray, "K"],
    title: str = "",
) -> Figure:
    """Draws a contact sheet of the key frames over the logits and similarities that chose them.

    Args:
      timestamps: of all candidate frames, in seconds.
      logits: the sampler's; non-finite ones (padding) are left out of the curve.
      similarity: CLIP cosine of each query with each frame.
      queries: the text of each row.
      frames: the key frames, in the order of `selected`.
      selected: indices into the T candidate frames.
      title: text at the top, such as the question.
    """
    order = np.argsort(np.asarray(timestamps)[np.asarray(selected, int)], kind="stable")
    selected = np.asarray(selected, int)[order]
    frames = [frames[i] for i in order]
    sheet_rows = -(-len(frames) // COLUMNS)
    heights = [1.1] * sheet_rows + [1.6, 0.34 * len(queries) + 0.5]
    figure = Figure(figsize=(12, sum(heights) + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(sheet_rows + 2, COLUMNS, height_ratios=heights)
    for place in range(sheet_rows * COLUMNS):
        axes = figure.add_subplot(grid[place // COLUMNS, place % COLUMNS])
        axes.set_axis_off()
        if place < len(frames):
            axes.imshow(frames[place])
            axes.set_title(clock(timestamps[selected[place]]), fontsize=8, pad=2)
    curve = figure.add_subplot(grid[-2, :])
    _draw_logits(curve, np.asarray(timestamps), np.asarray(logits), selected)
    rows = figure.add_subplot(grid[-1, :], sharex=curve)
    _draw_similarity(rows, np.asarray(timestamps), np.asarray(similarity), queries, selected)
    if title:
        # parse_math off, here and below: a "$" in a question is a dollar.
        figure.suptitle(textwrap.fill(title, 130), fontsize=10, parse_math=False)
    return figure


def validation_figure(
    updates: Sequence[int], curves: Mapping[str, Sequence[float]], chosen: int | None, title: str
) -> Figure:
    """Draws accuracy on the validation split over the updates of a training.

    Args:
      updates: at which it was validated.
      curves: accuracies by the label of the arm.
      chosen: the update with the best, marked; None: none is.
      title: text at the top.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for label, values in curves.items():
        axes.plot(updates, values, marker="o", markersize=3, label=label)
    if chosen is not None:
        axes.axvline(chosen, color=KEY_COLOUR, linestyle=":", label=f"best: update {chosen}")
    axes.set_xlabel("update")
    axes.set_ylabel("validation accuracy")
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    axes.set_title(title, fontsize=10, parse_math=False)
    return figure


def timeline_figure(
    timestamps: Float[np.ndarray, "T"],
    logits: Float[np.ndarray, "T"],
    similarity: Float[np.ndarray, "Q T"],
    queries: Sequence[str],
    selected: Int[np.ndarray, "K"],
) -> Figure:
    """Draws `keyframe_figure` without its contact sheet, for pages that show the frames themselves.

    Args:
      timestamps: of the candidate frames, in seconds.
      logits: of the candidate frames.
      similarity: a row for each query.
      queries: their texts.
      selected: the candidates that were chosen.
    """
    heights = [1.6, 0.34 * len(queries) + 0.5]
    figure = Figure(figsize=(11, sum(heights) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    curve, rows = figure.subplots(2, 1, sharex=True, height_ratios=heights)
    _draw_logits(curve, np.asarray(timestamps), np.asarray(logits), np.asarray(selected, int))
    _draw_similarity(rows, np.asarray(timestamps), np.asarray(similarity), queries, selected)
    return figure


def figure_to_image(figure: Figure, dpi: int = 100) -> UInt8[np.ndarray, "h w 3"]:
    """Renders a figure to pixels."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _draw_logits(
    axes: Axes,
    timestamps: Float[np.ndarray, "T"],
    logits: Float[np.ndarray, "T"],
    selected: Int[np.ndarray, "K"],
) -> None:
    curve = np.where(np.isfinite(logits), logits, np.nan)
    axes.plot(timestamps, curve, color="tab:blue", linewidth=0.8)
    axes.plot(timestamps[selected], curve[selected], "o", color=KEY_COLOUR, markersize=4)
    for time in timestamps[selected]:
        axes.axvline(time, color=KEY_COLOUR, alpha=0.25, linewidth=0.8)
    axes.set_ylabel("sampler logit", fontsize=8)
    axes.tick_params(labelsize=8, labelbottom=False)


def _draw_similarity(
    axes: Axes,
    timestamps: Float[np.ndarray, "T"],
    similarity: Float[np.ndarray, "Q T"],
    queries: Sequence[str],
    selected: Int[np.ndarray, "K"],
) -> None:
    # Cells reach half-way to the neighbouring frames, so that uneven timestamps stay true to time.
    middles = (timestamps[1:] + timestamps[:-1]) / 2
    half = (timestamps[1] - timestamps[0]) / 2 if len(timestamps) > 1 else 0.5
    edges = np.concatenate([timestamps[:1] - half, middles, timestamps[-1:] + half])
    bands = np.arange(len(queries) + 1)
    mesh = axes.pcolormesh(edges, bands, similarity, cmap="viridis")
    axes.invert_yaxis()
    # Markers on the edge, not lines across: a line would hide the column of the chosen frame.
    edge = np.zeros(len(selected))
    axes.plot(timestamps[selected], edge, "v", color=KEY_COLOUR, markersize=4, clip_on=False)
    labels = [textwrap.fill(textwrap.shorten(query, 64, placeholder="…"), 36) for query in queries]
    axes.set_yticks(bands[:-1] + 0.5, labels, fontsize=7, parse_math=False)
    axes.tick_params(axis="x", labelsize=8)
    axes.xaxis.set_major_formatter(lambda seconds, _: clock(seconds))
    axes.set_xlabel("time", fontsize=8)
    # Outside the axes, so that they stay as wide as the curve above.
    bar = axes.figure.colorbar(mesh, cax=axes.inset_axes((1.01, 0.0, 0.012, 1.0)))
    bar.ax.tick_params(labelsize=7)


def clock(seconds: float) -> str:
    """Formats seconds as "mm:ss", or "h:mm:ss" from an hour on; tenths only if they are not 0."""
    if seconds < 0:  # an axis tick before the first frame
        return ""
    minutes, tenths = divmod(round(float(seconds) * 10), 600)
    hours, minutes = divmod(minutes, 60)
    seconds_text = f"{tenths / 10:04.1f}" if tenths % 10 else f"{tenths // 10:02d}"
    return f"{hours}:{minutes:02d}:{seconds_text}" if hours else f"{minutes:02d}:{seconds_text}"
