"""Accuracy of every way to choose the frames, on the same held-out questions, with intervals."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from tqdm import tqdm

from msjoe_jax.data.pipeline import make_pipeline
from msjoe_jax.data.questions import Question, load_questions
from msjoe_jax.data.records import RecordReader
from msjoe_jax.errors import UserError
from msjoe_jax.models.params import Params
from msjoe_jax.rollout.episode import Batch, Episodes, time_ordered
from msjoe_jax.rollout.frames import preview_fn
from msjoe_jax.rollout.programs import Programs


@dataclasses.dataclass(frozen=True)
class Arm:
    """One row of the table.

    mllm, sampler: names of parameter sets; queries: `policy` (stage 1, greedy), `question` (the
    bare question), `oracle` or `none`; selector: as in `programs.select`, or `oracle` (frames that
    show the answer, where the question record names them), or `blind` (no frames);
    own_previews: False shows stage 1 the previews of another video.
    """

    label: str
    mllm: str = "base"
    queries: str = "none"
    selector: str = "uniform"
    sampler: str = "base"
    own_previews: bool = True


ARMS = {
    "blind": Arm("no frames", selector="blind"),
    "uniform": Arm("uniform"),
    "topk_question": Arm("top-k by the question", queries="question", selector="topk"),
    "topk_question_smooth": Arm(
        "top-k by the question, smoothed", queries="question", selector="topk_smooth"
    ),
    "topk_queries": Arm("top-k by the queries", queries="policy", selector="topk"),
    "topk_queries_smooth": Arm(
        "top-k by the queries, smoothed", queries="policy", selector="topk_smooth"
    ),
    "pretrained": Arm("pre-trained sampler", "base", "policy", "sampler", "pretrain"),
    "joint": Arm("joint", "joint", "policy", "sampler", "joint"),
    "joint_question": Arm(
        "joint, the question as the one query", "joint", "question", "sampler", "joint"
    ),
    "joint_other_previews": Arm(
        "joint, previews of another video", "joint", "policy", "sampler", "joint", False
    ),
    "joint_topk": Arm("joint MLLM, top-k", "joint", "policy", "topk", "joint"),
    "joint_topk_smooth": Arm("joint MLLM, top-k smoothed", "joint", "policy", "topk_smooth"),
    "joint_uniform": Arm("joint MLLM, uniform", "joint"),
    "oracle_queries": Arm("oracle queries, top-k smoothed", "base", "oracle", "topk_smooth"),
    "oracle": Arm("oracle frames", selector="oracle"),
}


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(x, kind) for x in value)


# What an arm reads of a question's `extra`: field, form in words, test (of it and of max_queries).
_EXTRAS: dict[str, tuple[str, str, Callable[[Any, int], bool]]] = {
    "oracle_queries": (
        "oracle_queries",
        "1 to config.prompt.max_queries texts",
        lambda found, most: _is_list(found, str) and len(found) <= most,
    ),
    "oracle": (
        "oracle_frames",
        "lists of frame numbers",
        lambda found, _: _is_list(found, list) and all(_is_list(f, int) or not f for f in found),
    ),
}


def wilson(right: float, count: int) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion."""
    if count == 0:
        return 0.0, 1.0
    z, p = 1.96, right / count
    middle = p + z * z / (2 * count)
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return (middle - half) / scale, (middle + half) / scale


def paired_difference(
    a: Float[np.ndarray, "n"], b: Float[np.ndarray, "n"]
) -> tuple[float, float, float]:
    """Mean of a − b over the same questions and its 95 % interval (normal, paired)."""
    difference = np.asarray(a, float) - np.asarray(b, float)
    mean, half = float(difference.mean()) if len(difference) else 0.0, 1.0
    if len(difference) > 1:
        half = 1.96 * float(difference.std(ddof=1)) / math.sqrt(len(difference))
    return mean, mean - half, mean + half


def _oracle_frames(question: Question, k: int, candidates: Sequence[int]) -> list[int]:
    """Up to k candidates that show the answer, the targets taking turns, filled up with others.

    `candidates` are the frame numbers that the video's candidates have in its record.
    """
    place = {int(frame): t for t, frame in enumerate(candidates)}
    named = question.extra.get("oracle_frames", [])
    piles = [[place[frame] for frame in frames if frame in place] for frames in named]
    if not named:
        raise UserError(
            f"question {question.id}: extra.oracle_frames is missing; leave the selector oracle out"
        )
    chosen: list[int] = []
    while any(piles) and len(chosen) < k:
        for pile in piles:
            if pile and len(chosen) < k and (frame := pile.pop(0)) not in chosen:
                chosen.append(frame)
    others = [t for t in range(len(candidates)) if t not in set(chosen)]
    step = max(1, len(others) // max(1, k - len(chosen)))
    return sorted(chosen + others[::step][: k - len(chosen)])


def _other_previews(batch: Batch, questions: Sequence[Question]) -> Batch:
    """The batch with each question's previews taken from the next question of another video."""
    videos, n = [question.video for question in questions], len(questions)
    if n and len(set(videos)) == 1:
        raise UserError("previews of another video: a batch of evaluation holds one video only")
    later = [[j % n for j in range(b + 1, b + n)] for b in range(n)]
    order = [next(j for j in later[b] if videos[j] != videos[b]) for b in range(n)]
    pixels, grids = batch["preview"]
    # `duration` too: in video mode it spaces the previews in time, and stage 1 reads no other.
    moved = {key: batch[key][order] for key in ("preview_mask", "preview_times", "duration")}
    return {**batch, "preview": (pixels[order], grids[order]), **moved}


class Evaluator:
    """Answers questions under arms; greedy throughout, so that two runs agree."""

    def __init__(
        self,
        config: ConfigDict,
        programs: Programs,
        questions: Sequence[Question],
        reader: RecordReader,
        params: Mapping[str, dict[str, Params]],
    ):
        self.episodes = Episodes(config, programs, reader, questions)
        self.config, self.system, self.params = config, programs.system, params
        self.questions, self.reader = questions, reader

    def run(self, names: Sequence[str]) -> dict[str, Float[np.ndarray, "n"]]:
        """1.0 or 0.0 for each question (NaN: dropped) under each arm."""
        size = min(self.config.evaluate.batch, len(self.questions))
        batches = make_pipeline(
            self.questions,
            self.reader,
            batch_size=size,
            num_candidates=self.config.frames.candidates,
            num_preview=self.config.frames.preview,
            preview_fn=preview_fn(self.config, self.system.qwen.vision),
            shuffle=False,
            num_epochs=1,
        )
        right = {name: np.full(len(self.questions), np.nan) for name in names}
        total = -(-len(self.questions) // size)
        for batch in tqdm(batches, total=total, desc="evaluate", unit="batch"):
            replies: dict[tuple[str, bool], Any] = {}
            for name in names:
                weight = batch["valid"].astype(np.float32)
                frames = self._frames(ARMS[name], batch, replies, weight)
                answers = self.episodes.answer(
                    self.params[ARMS[name].mllm]["mllm"],
                    batch,
                    frames,
                    0,
                    temperature=0.0,
                    weight=weight,
                )
                kept = weight > 0
                right[name][batch["index"][kept]] = answers.correct[kept, 0]
        return right

    def _frames(
        self, arm: Arm, batch: Batch, replies: dict[tuple[str, bool], Any], weight: np.ndarray
    ) -> np.ndarray:
        questions, k = self.episodes.batch_questions(batch), self.config.frames.key
        if arm.selector == "blind":
            return np.full((len(questions), 1, k), -1, np.int32)
        if arm.selector == "oracle":
            kept = zip(questions, batch["frame_index"], batch["frame_mask"], strict=True)
            rows = [_oracle_frames(q, k, index[mask]) for q, index, mask in kept]
            return np.array([[row + [-1] * (k - len(row))] for row in rows], np.int32)
        if arm.queries == "policy":
            key = arm.mllm, arm.own_previews
            if key not in replies:
                replies[key] = self.episodes.reason(
                    self.params[arm.mllm]["mllm"],
                    batch if arm.own_previews else _other_previews(batch, questions),
                    0,
                    rollouts=1,
                    temperature=0.0,
                    weight=weight,
                )
            tokens, mask = replies[key].tokens, replies[key].mask
        else:
            texts = {
                "none": lambda q: ("",),
                "question": lambda q: (q.question,),
                "oracle": lambda q: tuple(q.extra["oracle_queries"]),
            }[arm.queries]
            tokens, mask = self.episodes.query_tokens([[texts(q)] for q in questions])
        params = self.params[arm.sampler]
        selection = self.episodes.select(
            params, batch, tokens, mask, 0, selector=arm.selector, draws=1
        )
        return time_ordered(selection.draw)


def check_selectors(names: Sequence[str], sets: Collection[str]) -> None:
    """Raises UserError if a name is no arm, or an arm needs a parameter set that `sets` lacks."""
    for name in names:
        if name not in ARMS:
            raise UserError(f"config.evaluate.selectors: {name!r} is not one of {', '.join(ARMS)}")
        for part in (ARMS[name].mllm, ARMS[name].sampler):
            if part not in sets:
                raise UserError(f"selector {name} needs the stage {part!r}, which was not run")


def load_heldout(
    config: ConfigDict, *, embedded: bool = True
) -> tuple[list[Question], RecordReader]:
    """The held-out questions and their records, with all that the selectors will ask of them.

    `embedded` False: CLIP's embeddings of the frames are still to come.

    Raises:
      UserError: an unset or unreadable field of `config.data`, a question whose video is not among
        the records, or that lacks what `config.evaluate.selectors` need.
    """
    for name in ("heldout_questions", "heldout_records"):
        if not config.data[name]:
            raise UserError(f"config.data.{name} is not set, and the stage evaluate reads it")
    questions = load_questions(config.data.heldout_questions)
    questions = questions[: config.evaluate.limit or None]
    reader = RecordReader(config.data.heldout_records)
    make_pipeline(  # for its checks: it reads nothing until batches are taken
        questions,
        reader,
        batch_size=1,
        num_candidates=config.frames.candidates,
        num_preview=config.frames.preview,
        with_embeddings=embedded,
    )
    for name in config.evaluate.selectors:
        if wanted := _EXTRAS.get(name):
            field, form, fits = wanted
            for question in questions:
                if not fits(question.extra.get(field), config.prompt.max_queries):
                    raise UserError(
                        f"question {question.id}: extra.{field} must be {form}; leave the "
                        f"selector {name} out"
                    )
    return questions, reader


def evaluate(
    config: ConfigDict,
    workdir: pathlib.Path,
    programs: Programs,
    params: Mapping[str, dict[str, Params]],
) -> dict[str, Any]:
    """Evaluates `config.evaluate.selectors`, prints the table, writes `eval.json`.

    `params` holds the sets that arms name: base, pretrain, joint; an arm whose set is absent is an
    error. `eval_questions.jsonl` holds every question's outcome, for paired intervals.

    Raises:
      UserError: unknown selector, or as `load_heldout`.
    """
    names = list(config.evaluate.selectors)
    check_selectors(names, params)
    questions, reader = load_heldout(config)
    right = Evaluator(config, programs, questions, reader, params).run(names)
    table = {}
    for name in names:
        kept = right[name][~np.isnan(right[name])]
        table[name] = {
            "accuracy": float(kept.mean()) if len(kept) else 0.0,
            "ci95": list(wilson(float(kept.sum()), len(kept))),
            "questions": len(kept),
        }
        if name != "joint" and "joint" in right:
            both = ~np.isnan(right[name]) & ~np.isnan(right["joint"])
            mean, low, high = paired_difference(right["joint"][both], right[name][both])
            table[name]["joint_minus"] = {"difference": mean, "ci95": [low, high]}
    result = {"selectors": table, "frames": int(config.frames.key), "seed": int(config.seed)}
    _write(workdir / "eval.json", json.dumps(result, indent=2) + "\n")
    rows = [
        {"id": q.id, **{n: None if np.isnan(right[n][i]) else right[n][i] for n in names}}
        for i, q in enumerate(questions)
    ]
    _write(workdir / "eval_questions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    print(format_table(table))
    return result


def _write(path: pathlib.Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


def format_table(table: Mapping[str, Mapping[str, Any]]) -> str:
    """The table as text, one selector a line."""
    lines = [f"{'selector':32} {'accuracy':>8}   {'95 % interval':15} joint minus this (paired)"]
    for name, row in table.items():
        low, high = row["ci95"]
        line = f"{ARMS[name].label:32} {row['accuracy']:8.3f}   [{low:.3f}, {high:.3f}]"
        if "joint_minus" in row:
            d, (a, b) = row["joint_minus"]["difference"], row["joint_minus"]["ci95"]
            line += f"  {d:+.3f} [{a:+.3f}, {b:+.3f}]"
        lines.append(line)
    return "\n".join(lines)
