"""Episodes without models: who chose and who answered decide every reply."""

import types
from typing import Any

import numpy as np

from msjoe_jax.data.questions import Question
from msjoe_jax.evaluation.arms import arm_of
from msjoe_jax.rollout.frames import FrameConfig
from msjoe_jax.rollout.results import EpisodeConfig
from msjoe_jax.selectors.base import Selection
from msjoe_jax.text.chat import BUILT_IN
from msjoe_jax.text.prompts import PromptConfig

CANDIDATES = 512
PARAMS = {
    name: {"mllm": f"{name} mllm", "sampler": f"{name} sampler", "clip": "clip"}
    for name in ("base", "pretrain", "joint")
}


def load(name, model):
    return PARAMS[name][model]


def arms_of(names):
    return {name: arm_of(name, PARAMS) for name in names}


def question(name, video="v", **extra):
    return Question(name, video, "what colour?", ("red", "blue"), 1, extra=extra)


class FakeEpisodes:
    """Answers B where `right(question, mllm, sampler, selector, query)` holds, else A.

    The chosen frame is the number of such a four in `made`. Drops the question "bad", and under a
    selector those of `extra.bad_for`.
    """

    def __init__(self, questions, right):
        self.questions, self.right = questions, right
        self.machine = types.SimpleNamespace(rows=np.arange)  # one host with one device
        self.system = types.SimpleNamespace(abstract=dict.fromkeys(("mllm", "clip", "sampler")))
        self.config = EpisodeConfig(FrameConfig(candidates=CANDIDATES, key=2))
        self.text = types.SimpleNamespace(
            prompt=PromptConfig(), chat=BUILT_IN, cut_note="{} queries cut".format
        )
        self.reader = types.SimpleNamespace(infos=lambda _: [])
        self.cut_queries: set[tuple[str, str]] = set()
        self.failures: list[dict[str, str]] = []
        self.reasoned: list[str] = []
        self.answered: list[tuple[str, int]] = []  # mllm, K
        self.made: list[tuple[str, ...]] = []

    def batches(self, size, order=None, rows=None, with_embeddings=True):
        places = np.arange(len(self.questions)) if order is None else order
        for start in range(0, len(places), size):
            index = np.resize(places[start:], size)
            valid = np.arange(start, start + size) < len(places)
            mark = np.arange(size)
            preview = {"preview": (mark, mark), "preview_mask": mark, "preview_times": mark}
            yield {
                "index": np.where(valid, index, 0),
                "valid": valid,
                "error": np.full(size, ""),
                "duration": mark,
                "timestamps": np.tile(np.arange(CANDIDATES), (size, 1)),
                **preview,
            }

    def batch_questions(self, batch):
        return [self.questions[i] for i in batch["index"]]

    def with_key_frames(self, number):
        return self

    def reason(self, mllm, batch, update, *, rollouts, temperature, weight):
        assert (rollouts, temperature) == (1, 0.0)
        self.reasoned.append(mllm)
        return types.SimpleNamespace(queries=[[(f"by {mllm}",)]] * len(batch["index"]))

    def candidates(self, params, batch, queries, update, *, weight) -> Any:
        asked = self.batch_questions(batch)
        self.cut_queries |= {(q.id, row[0][0]) for q, row in zip(asked, queries, strict=True)}
        by = params["mllm"], params["sampler"]

        def again(weight, draws, sample, signal):
            return types.SimpleNamespace(
                on_devices=types.SimpleNamespace(reads=0, seconds=0.0),
                remembered=0.0,
                by=by,
                queries=queries,
                draws=draws,
            )

        return types.SimpleNamespace(again=again, timed=False)

    def choose(self, candidates, selector, k):
        B = len(candidates.queries)
        frames = np.full((B, 1, candidates.draws, k), -1, np.int32)
        for b, row in enumerate(candidates.queries):
            four = (*candidates.by, selector, row[0][0])
            if four not in self.made:
                self.made.append(four)
            frames[b, :, :, 0] = self.made.index(four)
        return Selection(frames=frames)

    def with_subtitles(self, question):
        return question

    def answer_prompts(self, batch, selection, weight, texts):
        chosen = [
            self.made[row[0, 0, 0]] if row[0, 0, 0] >= 0 else None for row in selection.frames
        ]
        for b, asked in enumerate(self.batch_questions(batch)):
            selector = chosen[b] and chosen[b][2]
            if asked.id == "bad" or (selector and asked.extra.get("bad_for") == selector):
                if weight[b]:
                    self.failures.append({"question": asked.id, "error": f"no {selector}"})
                weight[b] = 0
        rows = [[{"segments": np.ones(3)}] for _ in texts]
        return rows, (chosen, selection.frames.shape[-1])

    def begin_answer(self, mllm, batch, shown, update, *, temperature):
        assert temperature == 0.0
        chosen, number = shown[1]
        self.answered.append((mllm, number))
        texts = []
        for asked, by in zip(self.batch_questions(batch), chosen, strict=True):
            letter = "B" if by and self.right(asked, *by) else "A"
            texts.append([f"<answer>{letter}</answer>"])
        return lambda: types.SimpleNamespace(texts=texts, finished=np.ones((len(texts), 1), bool))
