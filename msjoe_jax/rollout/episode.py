"""The steps of an episode for a batch of questions: reason, score and select, answer.

Reason: the MLLM sees previews and writes queries. Score: each query gets a row of similarities with
the candidate frames. Select: K of them are chosen. Answer: the MLLM sees those and replies; grading
the reply is left to a task (tasks/).

A question whose prompt is too long or whose frames cannot be read is dropped from the batch by
weight 0 and reported; it never stops a run.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from msjoe_jax.models.params import Params
from msjoe_jax.rollout.batches import Batch, full_weight
from msjoe_jax.rollout.candidates import BatchCandidates
from msjoe_jax.rollout.episode_batches import EpisodeBatches, PromptRows
from msjoe_jax.rollout.generate import Sampling
from msjoe_jax.rollout.programs import ANSWER, REASON, Patches, Seeds
from msjoe_jax.rollout.results import Completed, Queries, Reasoned, Selected
from msjoe_jax.runtime.machine import fetch
from msjoe_jax.selectors import SELECTORS
from msjoe_jax.selectors.base import Selection
from msjoe_jax.text import prompts


class Episodes(EpisodeBatches):
    """The steps of an episode; for the arguments see `EpisodeBatches`."""

    # --- reason ------------------------------------------------------------------------------

    def reason(
        self,
        mllm: Params,
        batch: Batch,
        update: int,
        *,
        rollouts: int,
        temperature: float,
        weight: Float[np.ndarray, "B"],
    ) -> Reasoned:
        """Writes queries from the previews.

        Args:
          mllm, batch, update, rollouts, temperature, weight: as of `begin_reason`.
        """
        return self.begin_reason(
            mllm, batch, update, rollouts=rollouts, temperature=temperature, weight=weight
        )()

    def begin_reason(
        self,
        mllm: Params,
        batch: Batch,
        update: int,
        *,
        rollouts: int,
        temperature: float,
        weight: Float[np.ndarray, "B"],
    ) -> Callable[[], Reasoned]:
        """Begins to write queries from the previews; the result waits for them.

        Args:
          mllm: parameters of the MLLM.
          batch: from the pipeline.
          update: number of the update, from which random choices derive.
          rollouts: I, replies to each question.
          temperature: 0 is greedy.
          weight: set to 0 where a prompt is too long.
        """
        c = self.text.prompt
        rows, patches = self.preview_prompts(batch, weight)
        finish = self.begin(
            REASON,
            mllm,
            rows,
            patches,
            self.seeds(batch, update),
            samples=rollouts,
            sampling=self.text.sampling(c.query_tokens, temperature),
        )

        def result() -> Reasoned:
            completed = finish()
            replies = [
                [
                    prompts.parse_queries(
                        completed.texts[b][i],
                        question.question,
                        max_queries=c.max_queries,
                        think=c.think,
                        finished=bool(completed.finished[b, i]),
                    )
                    for i in range(rollouts)
                ]
                for b, question in enumerate(self.batch_questions(batch))
            ]
            return Reasoned(completed, replies)

        return result

    # --- score and select --------------------------------------------------------------------

    def select(
        self,
        params: dict[str, Params],
        batch: Batch,
        queries: Queries,
        update: int,
        *,
        selector: str,
        draws: int = 1,
        sample: bool = False,
        weight: Float[np.ndarray, "B"] | None = None,
    ) -> Selected:
        """Scores the frames against the queries and lets a selector choose.

        Args:
          params: parameters of mllm, clip and sampler.
          batch: from the pipeline.
          queries: B × I lists of texts.
          update: number of the update, from which random choices derive.
          selector: a name of SELECTORS.
          draws: J, selections for each list.
          sample: whether a trained selector draws (training) or takes its top K (evaluation).
          weight: set to 0 for questions whose prompts or frames a selector cannot use; None: such
            questions are reported only.
        """
        candidates = self.candidates(
            params, batch, queries, update, draws=draws, sample=sample, weight=weight
        )
        selection = self.choose(candidates, selector, self.config.frames.key)
        return Selected(
            similarity=candidates.on_devices.similarity,
            query_mask=candidates.on_devices.row_mask,
            frame_mask=batch["frame_mask"],
            selection=selection,
            query_embeddings=candidates.network_inputs()[-1] if sample else None,
        )

    def candidates(
        self,
        params: dict[str, Params],
        batch: Batch,
        queries: Queries,
        update: int,
        *,
        draws: int = 1,
        sample: bool = False,
        weight: Float[np.ndarray, "B"] | None = None,
    ) -> BatchCandidates:
        """Returns a batch as selectors see it.

        Args:
          params, batch, queries, update, draws, sample, weight: as of `select`.
        """
        return BatchCandidates(
            self,
            params,
            batch,
            queries,
            update=update,
            draws=draws,
            sample=sample,
            weight=full_weight(batch) if weight is None else weight,
        )

    def choose(self, candidates: BatchCandidates, selector: str, k: int) -> Selection:
        """Lets a selector of SELECTORS choose at most k frames for each draw."""
        return SELECTORS[selector].select(candidates, k)

    # --- answer ------------------------------------------------------------------------------

    def answer(
        self,
        mllm: Params,
        batch: Batch,
        selection: Selection,
        update: int,
        *,
        temperature: float,
        weight: Float[np.ndarray, "B"],
        samples: int = 1,
    ) -> Completed:
        """Answers every question from each of its G = I·J sets of frames.

        Args:
          mllm: parameters.
          batch: of the pipeline.
          selection: the frames to show.
          update: of the run; its random choices derive from it.
          temperature: 0 is greedy.
          weight: set to 0 where a prompt is too long or a frame unreadable.
          samples: answers to each set.
        """
        shown = self.answer_prompts(batch, selection, weight)
        return self.begin_answer(
            mllm, batch, shown, update, temperature=temperature, samples=samples
        )()

    def begin_answer(
        self,
        mllm: Params,
        batch: Batch,
        shown: tuple[PromptRows, Patches],
        update: int,
        *,
        temperature: float,
        samples: int = 1,
    ) -> Callable[[], Completed]:
        """Begins to answer the prompts of `answer_prompts`; the result waits for the replies.

        Args:
          mllm, batch, update, temperature, samples: as of `answer`.
          shown: what `answer_prompts` has returned.
        """
        return self.begin(
            ANSWER,
            mllm,
            *shown,
            self.seeds(batch, update),
            samples=samples,
            sampling=self.text.sampling(self.text.prompt.answer_tokens, temperature),
        )

    # --- what the steps share ----------------------------------------------------------------

    def complete(
        self,
        place: int,
        mllm: Params,
        rows: PromptRows,
        patches: Patches,
        seeds: Seeds,
        *,
        samples: int,
        sampling: Sampling,
    ) -> Completed:
        """Draws replies to each of B × G prompts and fetches them.

        Args:
          place, mllm, rows, patches, seeds, samples, sampling: as of `begin`.
        """
        return self.begin(place, mllm, rows, patches, seeds, samples=samples, sampling=sampling)()

    def begin(
        self,
        place: int,
        mllm: Params,
        rows: PromptRows,
        patches: Patches,
        seeds: Seeds,
        *,
        samples: int,
        sampling: Sampling,
    ) -> Callable[[], Completed]:
        """Begins to draw replies to each of B × G prompts; the result waits for them.

        Args:
          place: of the step in the method, from which keys derive (see rollout/programs.py).
          mllm: parameters of the MLLM.
          rows: prompts from an `Assembler`.
          patches: of the frames that the prompts show.
          seeds: from `seeds`.
          samples: replies to each prompt.
          sampling: how replies are drawn, and their length.
        """
        stacked = self.stack(rows)
        on_device = self.put(patches)
        completions, features = self.programs.complete(
            mllm, stacked, on_device, seeds, place=place, samples=samples, sampling=sampling
        )
        kind = "reason" if place == REASON else "answer"
        ended = self.clock.follow(kind, completions.tokens)

        def result() -> Completed:
            fetched = fetch((completions.tokens, completions.mask, completions.finished))
            ended()
            B, G = fetched[0].shape[:2]
            tokens, mask, finished = (x.reshape(B, G * samples, *x.shape[3:]) for x in fetched)
            texts = [
                [self.text.decode(t, m) for t, m in zip(tokens[b], mask[b], strict=True)]
                for b in range(B)
            ]
            return Completed(
                prompts=stacked,
                patches=on_device,
                features=features,
                completions=completions,
                texts=texts,
                finished=finished,
                num_tokens=int(mask.sum()),
            )

        return result
