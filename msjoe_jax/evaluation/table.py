"""The table of an evaluation: accuracy of every arm, with intervals, over all and by group."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from msjoe_jax.evaluation.statistics import cluster_difference, cluster_interval

Scores = Float[np.ndarray, "n"]
Videos = Shaped[np.ndarray, "n"]


def make_table(
    labels: Mapping[str, str],
    scores: Mapping[str, Scores],
    groups: Sequence[Mapping[str, str]],
    valid: Mapping[str, Scores],
    videos: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """Makes a row for every arm.

    Args:
      labels: the arms' names in the table.
      scores: score of every question under every arm, NaN where it was dropped.
      groups: group of every question, by kind.
      valid: 1 where the reply was valid, 0 where not, as `scores`.
      videos: of every question; intervals are over them, since questions of one video are alike.

    Returns:
      Arm → label, accuracy, its interval, share of valid replies, questions; against `joint` of the
      same number of frames, where it is among the arms, the paired difference; and the same
      accuracy for each group.
    """
    table: dict[str, dict[str, Any]] = {}
    of_video = np.asarray(videos, object)
    for name, row in scores.items():
        table[name] = {"label": labels[name], **_accuracy(row, valid[name], of_video)}
        _, at, budget = name.partition("@")
        if name != (joint := f"joint{at}{budget}") and joint in scores:
            mean, low, high = cluster_difference(scores[joint], row, videos)
            table[name]["joint_minus"] = {"difference": mean, "ci95": [low, high]}
        if by_group := _by_group(row, valid[name], groups, of_video):
            table[name]["groups"] = by_group
    return table


def _accuracy(scores: Scores, valid: Scores, videos: Videos) -> dict[str, Any]:
    asked = ~np.isnan(scores)
    counted = scores[asked]
    return {
        "accuracy": float(counted.mean()) if len(counted) else None,
        "ci95": list(cluster_interval(counted, videos[asked])),
        "valid": float(valid[asked].mean()) if len(counted) else None,
        "questions": len(counted),
    }


def _by_group(
    scores: Scores, valid: Scores, groups: Sequence[Mapping[str, str]], videos: Videos
) -> dict[str, Any]:
    kinds = sorted({kind for row in groups for kind in row})
    out: dict[str, Any] = {}
    for kind in kinds:
        names = np.array([row.get(kind, "") for row in groups])
        out[kind] = {
            name: _accuracy(scores[names == name], valid[names == name], videos[names == name])
            for name in sorted(set(names) - {""})
        }
    return out


def format_table(table: Mapping[str, Mapping[str, Any]]) -> str:
    """Formats the table as text: one line per arm, its groups below it."""
    width = max([32, *(len(row["label"]) for row in table.values())])
    head = f"{'arm':{width}} {'accuracy':>8}   {'95 % interval':15} {'valid':>6}"
    against = any("joint_minus" in row for row in table.values())
    lines = [head + "  joint minus this (paired)" * against]
    for row in table.values():
        line = _line(row["label"], row, width)
        if "joint_minus" in row:
            d, (a, b) = row["joint_minus"]["difference"], row["joint_minus"]["ci95"]
            line += f"  {d:+.3f} [{a:+.3f}, {b:+.3f}]"
        lines.append(line)
        for kind, by_name in row.get("groups", {}).items():
            lines += [_line(f"  {kind} {name}", part, width) for name, part in by_name.items()]
    return "\n".join(lines)


def _line(label: str, row: Mapping[str, Any], width: int) -> str:
    low, high = row["ci95"]
    if row["accuracy"] is None:
        return f"{label:{width}} {'–':>8}   no question"
    return f"{label:{width}} {row['accuracy']:8.3f}   [{low:.3f}, {high:.3f}]  {row['valid']:6.1%}"
