"""Uses of an episode's programs: reason, score, select and answer with abstract arguments."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from msjoe_jax.rl.batch import RolloutBatch
from msjoe_jax.rollout.collect import RolloutConfig
from msjoe_jax.rollout.generate import Sampling
from msjoe_jax.rollout.programs import ANSWER, REASON, Programs, Seeds
from msjoe_jax.rollout.results import EpisodeConfig
from msjoe_jax.rollout.shapes import abstract_batch
from msjoe_jax.runtime.mesh import with_shardings
from msjoe_jax.runtime.program import Program, Use
from msjoe_jax.selectors import SELECTORS
from msjoe_jax.selectors.fixed import best_frames
from msjoe_jax.signals import masked
from msjoe_jax.signals.clip import cosine
from msjoe_jax.signals.siglip import scaled_logits
from msjoe_jax.text.prompts import PromptConfig

Tree = Any  # of `jax.ShapeDtypeStruct` with shardings
Held = dict[str, Tree]  # what is alive, by what it is


class EpisodeUses:
    """The uses of an episode's programs, for B questions, I lists of queries and J draws of each.

    Args:
      programs: of the system.
      config: of the episodes.
      prompt: lengths of prompts and replies.
      end_ids: that end a reply.
    """

    def __init__(
        self,
        programs: Programs,
        config: EpisodeConfig,
        prompt: PromptConfig,
        end_ids: tuple[int, ...],
    ) -> None:
        self.programs, self.config, self.prompt, self.end_ids = programs, config, prompt, end_ids
        self.system, self.machine = programs.system, programs.machine
        self._shapes = functools.cache(self._batch_shapes)

    def rows(self, tree: Tree) -> Tree:
        """Lays shapes by rows, and scalars whole."""
        machine = self.machine
        places = jax.tree.map(lambda x: machine.by_rows if x.ndim else machine.whole, tree)
        return with_shardings(tree, places)

    def batch(self, rollout: RolloutConfig, encode_in_step: bool = False) -> RolloutBatch:
        """Returns the arrays of a batch."""
        return self.rows(self._shapes(rollout, encode_in_step))

    def _batch_shapes(self, rollout: RolloutConfig, encode_in_step: bool) -> RolloutBatch:
        return abstract_batch(
            self.system, self.config.frames, self.prompt, rollout, encode_in_step=encode_in_step
        )

    def patches(self, rollout: RolloutConfig) -> tuple[Tree, Tree]:
        """Returns the patches of previews and of key frames."""
        batch = self.batch(rollout, encode_in_step=True)
        return batch.queries.visual, batch.answers.visual

    def seeds(self, questions: int) -> Seeds:
        """Returns what the random choices of B questions derive from."""
        number: Any = jax.ShapeDtypeStruct((), jnp.uint32)
        numbers: Any = jax.ShapeDtypeStruct((questions,), jnp.uint32)
        return self.rows(Seeds(number, number, numbers))

    def reasoning(
        self, phase: str, rollout: RolloutConfig, mllm: Tree, held: Held, *, temperature: float
    ) -> Use:
        """Lists reason: I replies to each question.

        Args:
          phase: of the run.
          rollout: B and I.
          mllm: the parameters.
          held: what is alive.
          temperature: of the replies.
        """
        prompts = self.batch(rollout).queries.prompts
        return Use(
            phase,
            self.programs.complete,
            (mllm, prompts, self.patches(rollout)[0], self.seeds(rollout.questions)),
            {
                "place": REASON,
                "samples": rollout.query_rollouts,
                "sampling": self._sampling(self.prompt.query_tokens, temperature),
            },
            held,
            "reason",
        )

    def answering(
        self,
        phase: str,
        rollout: RolloutConfig,
        mllm: Tree,
        held: Held,
        *,
        samples: int,
        temperature: float,
    ) -> Use:
        """Lists answer: `samples` replies to each of a question's frame sets.

        Args:
          phase: of the run.
          rollout: B, I and J; one more set with the counterfactual.
          mllm: the parameters.
          held: what is alive.
          samples: replies to each set.
          temperature: of the replies.
        """
        sets = rollout.query_rollouts * rollout.frame_draws + rollout.counterfactual
        prompts = self.batch(dataclasses.replace(rollout, query_rollouts=sets, frame_draws=1))
        return Use(
            phase,
            self.programs.complete,
            (
                mllm,
                prompts.answers.prompts,
                self.patches(rollout)[1],
                self.seeds(rollout.questions),
            ),
            {
                "place": ANSWER,
                "samples": samples,
                "sampling": self._sampling(self.prompt.answer_tokens, temperature),
            },
            held,
            "answer",
        )

    def _sampling(self, tokens: int, temperature: float) -> Sampling:
        return Sampling(tokens, self.end_ids, self.system.banned_ids(), temperature)

    def _floats(self, *shape: int) -> Any:
        return self.rows(jax.ShapeDtypeStruct(shape, jnp.float32))

    def _scoring(
        self, signal: str, params: Tree, frames: Any, lists: int
    ) -> Iterator[tuple[Any, ...]]:
        """Lists the programs of a signal's rows with their arguments.

        Args:
          signal: clip or siglip.
          params: of its model.
          frames: its embeddings of the candidates [B, T, E].
          lists: of queries, to each question.
        """
        siglip, (B, _, E), Q = self.system.siglip, frames.shape, self.prompt.max_queries
        texts = self._floats(B, lists, Q, E)

        def tokens(context: int) -> Tree:
            return self.rows(jax.ShapeDtypeStruct((B, lists, Q, context), jnp.int32))

        if signal == "clip":
            yield self.programs.embed_queries, params, tokens(self.system.clip_config.context)
            yield cosine, texts, frames
            return
        assert siglip is not None and self.programs.embed_siglip_queries is not None
        yield self.programs.embed_siglip_queries, params, tokens(siglip.sizes.context)
        yield scaled_logits, texts, frames, params["logit_scale"], params["logit_bias"]

    def selection(
        self,
        phase: str,
        rollout: RolloutConfig,
        params: Held,
        held: Held,
        selectors: list[str],
        sample: bool,
    ) -> Iterator[Use]:
        """Lists score and select.

        Args:
          phase: of the run.
          rollout: B, I and J.
          params: of CLIP, SigLIP and the sampler.
          held: what is alive.
          selectors: names of SELECTORS.
          sample: whether a trained selector draws.
        """
        B, I, J = rollout.questions, rollout.query_rollouts, rollout.frame_draws
        T, own = self.config.frames.candidates, self.batch(rollout)
        query_mask, frame_mask = self.rows(
            (
                jax.ShapeDtypeStruct((B, I, self.prompt.max_queries), jnp.bool_),
                jax.ShapeDtypeStruct((B, T), jnp.bool_),
            )
        )
        widths = {"clip": self.system.clip_config.embed_dim}
        if siglip := self.system.siglip:
            widths["siglip"] = siglip.sizes.embed_dim
        embeddings = {name: self._floats(B, T, width) for name, width in widths.items()}
        held = {**held, "the batch's embeddings": embeddings}

        def use(program: Program, *arguments: Tree, **choices: Any) -> Use:
            return Use(phase, program, arguments, choices, held)

        network = SELECTORS[self.system.network].network
        assert network is not None
        asked = any(SELECTORS[name].network for name in selectors)
        read = (None, None)
        if network.needs_embeddings:
            read = (embeddings["clip"], self._floats(*query_mask.shape, widths["clip"]))
        for name, frames in embeddings.items():
            scoring = list(self._scoring(name, params[name], frames, I))
            if name in self.system.signals:
                yield from itertools.starmap(use, scoring)
            elif name == "clip" and network.needs_embeddings and (asked or sample):
                yield use(*scoring[0])
        rows = [self._floats(*query_mask.shape, T) for _ in self.system.signals]
        yield use(masked, rows, query_mask, frame_mask)
        if asked:
            yield use(
                self.programs.frame_logits,
                params["sampler"],
                own.similarity,
                own.query_mask,
                frame_mask,
                *read,
            )
            keys = None
            if sample:
                choices = {"rollouts": I, "draws": J}
                seeds = self.seeds(B)
                yield use(self.programs.draw_keys, seeds, **choices)
                keys = jax.eval_shape(
                    lambda s: self.programs.draw_keys.function(s, **choices), seeds
                )
            yield use(
                self.programs.choose_frames,
                self._floats(B, I, T),
                frame_mask,
                None if keys is None else self.rows(keys),
                law=self.config.law,
                draws=J,
                k=self.config.frames.key,
            )
        widths = {"topk": 1, "topk_smooth": self.config.smooth}
        for width in (width for name, width in widths.items() if name in selectors):
            scores = (own.similarity, own.query_mask, frame_mask)
            yield use(best_frames, *scores, width=width, draws=J, k=self.config.frames.key)
