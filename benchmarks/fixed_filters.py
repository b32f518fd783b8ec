"""Finds the best fixed filter over time on a run's validation questions, of 180.

    python -m benchmarks.fixed_filters --run=runs/v2

A filter is what a sampler could be without learning (msjoe_jax/selectors/filtered.py). Each is
judged by coverage: the share of questions of which it takes, for every event that they ask about, a
frame that shows it, when it searches for the record's own oracle queries. So the choice needs no
MLLM, and none of the queries that a training has yet to find; and the rival that is chosen is as
strong as right queries make it. Prints the best and what `topk`, `topk_smooth` and `uniform`
cover, and writes all to `filters.json` in the run's folder.
"""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
from absl import app, flags, logging
from jaxtyping import Bool, Float, Int

from msjoe_jax.data.questions import Question, load_questions
from msjoe_jax.data.records import RecordReader
from msjoe_jax.rollout.answerer import Answerer
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.rollout.results import EpisodeConfig
from msjoe_jax.runtime.files import write_whole
from msjoe_jax.runtime.machine import fetch
from msjoe_jax.selectors.filtered import FilterConfig, filter_rows, pick
from msjoe_jax.selectors.fixed import uniform_frames

WIDTHS, BACKGROUNDS, SHIFTS = (1, 3, 5, 7, 9), (0, 9, 15), (0, 1, 2)
APART, TURNS = (0, 4), (False, True)
BATCH = 50  # questions at a time
NAMED = {"topk": FilterConfig(1), "topk_smooth": FilterConfig(3)}


def grid() -> list[FilterConfig]:
    """Returns the filters that are tried, the plainest first."""
    return [
        FilterConfig(*numbers)
        for numbers in itertools.product(WIDTHS, BACKGROUNDS, SHIFTS, APART, TURNS)
    ]


def covered(question: Question, frames: Sequence[int]) -> bool:
    """Says whether the frames show every event that a question asks about."""
    return all(set(frames) & set(shown) for shown in question.extra["oracle_frames"])


class Scored:
    """Questions with the rows of S of their oracle queries.

    Args:
      questions: each about a video.
      rows: of S, with zeros where a question has fewer queries.
      counts: which rows there are.
      mask: the candidates of each video, whose frames are those of its record.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        rows: Float[np.ndarray, "N Q T"],
        counts: Bool[np.ndarray, "N Q"],
        mask: Bool[np.ndarray, "N T"],
    ):
        self.questions, self.rows, self.counts, self.mask = questions, rows, counts, mask

    def _share(self, frames: Int[np.ndarray, "N k"]) -> float:
        pairs = zip(self.questions, frames.tolist(), strict=True)
        return float(np.mean([covered(question, row) for question, row in pairs]))

    def uniform(self, k: int) -> float:
        """Computes the coverage of evenly spaced frames."""
        return self._share(uniform_frames(self.mask, k))

    def coverage(self, filters: Sequence[FilterConfig], k: int) -> list[float]:
        """Computes the coverage of each filter."""
        shares, made = [], {}
        for one in filters:
            key = one.width, one.background, one.shift
            if key not in made:
                made = {key: filter_rows(self.rows, self.mask, one)}
            indices, valid = pick(made[key], self.counts, self.mask, k, one)
            shares.append(self._share(np.where(valid, indices, -1)))
        return shares


def score(run: pathlib.Path) -> tuple[Scored, int]:
    """Scores a run's validation questions by the CLIP of its base models.

    Returns:
      The questions, and K of the run.
    """
    logging.set_verbosity(logging.ERROR)  # Orbax reports every file it reads
    model = Answerer(run / "base")
    data = json.loads((run / "config.json").read_text())["data"]
    records = data["validation_records"] or str(run / "world" / "validation")
    questions = load_questions(
        data["validation_questions"] or run / "world" / "questions-validation.jsonl"
    )
    config = EpisodeConfig(model.frames, signals=model.system.signals)
    episodes = Episodes(config, model.programs, model.text, RecordReader(records), questions)
    parts = list(_rows(episodes, model))
    order = np.concatenate([part[0] for part in parts])
    rows, counts, mask = (np.concatenate([part[i] for part in parts]) for i in (1, 2, 3))
    return Scored([questions[i] for i in order], rows, counts, mask), model.frames.key


def _rows(episodes: Episodes, model: Answerer) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields of each batch the numbers of its questions, S, its mask and the candidates."""
    most = model.text.prompt.max_queries
    for batch in episodes.batches(BATCH):
        questions = episodes.batch_questions(batch)
        queries = [[tuple(q.extra["oracle_queries"][:most])] for q in questions]
        candidates = episodes.candidates(model.params, batch, queries, 0)
        rows, counts = fetch((candidates.similarity, candidates.query_mask))
        valid = batch["valid"]
        yield batch["index"][valid], rows[valid, 0], counts[valid, 0], batch["frame_mask"][valid]


def best_filter(scored: Scored, k: int) -> tuple[FilterConfig, list[float]]:
    """Returns the filter of the grid that covers most, of equals the plainest, and all shares."""
    filters = grid()
    shares = scored.coverage(filters, k)
    return filters[int(np.argmax(shares))], shares


def flags_of(chosen: FilterConfig) -> list[str]:
    """Returns the flags of a run that uses a filter."""
    fields = dataclasses.asdict(chosen)
    return [f"--config.evaluate.filter.{name}={value}" for name, value in fields.items()]


def main() -> None:
    """Defines the flags and prints the best."""
    run = flags.DEFINE_string("run", "runs/v2", "Folder of a run whose base models are there.")

    def start(_: Sequence[str]) -> None:
        folder = pathlib.Path(run.value)
        scored, k = score(folder)
        chosen, shares = best_filter(scored, k)
        named = dict(zip(NAMED, scored.coverage([*NAMED.values()], k), strict=True))
        named["uniform"] = scored.uniform(k)
        for name, share in {**named, "the best filter": max(shares)}.items():
            print(f"{name}: {share:.3f} of {len(scored.questions)} questions")
        print(" ".join(flags_of(chosen)))
        rows = [
            dataclasses.asdict(one) | {"coverage": share}
            for one, share in zip(grid(), shares, strict=True)
        ]
        text = json.dumps({"best": dataclasses.asdict(chosen), "named": named, "filters": rows})
        write_whole(folder / "filters.json", text + "\n")

    app.run(start)


if __name__ == "__main__":
    main()
