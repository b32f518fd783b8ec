"""Uses of an episode's programs: reason, score, select and answer with abstract arguments."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from msjoe_jax.rl.batch import RolloutBatch
from msjoe_jax.rollout.collect import RolloutConfig
from msjoe_jax.rollout.episode_batches import LENGTHS, answer_tokens_of
from msjoe_jax.rollout.frames import frames_per_unit
from msjoe_jax.rollout.generate import Sampling
from msjoe_jax.rollout.programs import ANSWER, ASK, REASON, Programs, Seeds
from msjoe_jax.rollout.results import EpisodeConfig
from msjoe_jax.rollout.selector_uses import Chosen, arguments_of, choose_once
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


class Pick(NamedTuple):
    """A choice of frames: by a name of SELECTORS, k of them, J times; sample: at random."""

    selector: str
    k: int
    draws: int = 1
    sample: bool = False


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
        self._chosen = functools.cache(
            lambda name, k: choose_once(name, k, programs, config, prompt)
        )

    def showing(self, number: int, several_sizes: bool = False) -> Self:
        """Returns the same for answers from so many frames.

        Prompts of fewer frames are as long as the config's with as much text, at the step that a
        run computes them at.

        Args:
          number: of frames.
          several_sizes: whether frames may have sizes of their own.
        """
        frames, prompt = self.config.frames, self.prompt
        if number == frames.key:
            return self
        merge, per_unit = self.system.mllm_config.vision.merge, frames_per_unit(frames, self.system)
        limit = answer_tokens_of(prompt, frames, number, merge, per_unit)
        step = prompt.length_step or -(-limit // LENGTHS)
        fewer = max(0, frames.key - number) // per_unit * (frames.key_patches // merge**2)
        length = min(limit, -(-max(limit - fewer, 1) // step) * step)
        most = max(frames.candidates, number) if several_sizes else frames.candidates
        shown = dataclasses.replace(frames, key=number, candidates=most)
        config = dataclasses.replace(self.config, frames=shown)
        prompt = dataclasses.replace(prompt, answer_prompt_tokens=length)
        return type(self)(self.programs, config, prompt, self.end_ids)

    def choosing(self, pick: Pick) -> Chosen:
        """Returns what a choice shows and asks for."""
        return self._chosen(pick.selector, pick.k)

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
        step: str = "answer",
    ) -> Use:
        """Lists answer: `samples` replies to each of a question's frame sets.

        Args:
          phase: of the run.
          rollout: B, I and J; one more set with the counterfactual.
          mllm: the parameters.
          held: what is alive.
          samples: replies to each set.
          temperature: of the replies.
          step: the name of the use in its phase.
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
            step,
        )

    def asking(
        self, phase: str, rollout: RolloutConfig, mllm: Tree, held: Held, pick: Pick
    ) -> Iterator[Use]:
        """Lists what a selector runs of the MLLM, with its own prompts at their longest.

        Args:
          phase: of the run.
          rollout: B.
          mllm: the parameters.
          held: what is alive.
          pick: the choice of frames.
        """
        tokens = self.prompt.selector_prompt_tokens or self.prompt.answer_prompt_tokens
        replies = self.prompt.selector_tokens or self.prompt.query_tokens
        B = rollout.questions
        for call in self.choosing(pick).calls:
            program, (_, *arrays) = arguments_of(
                call, self.programs, B, tokens, mllm, self.seeds(B)
            )
            choices = dict(call.choices)
            if call.program == "complete":
                sampling = self._sampling(replies, 0.0)
                choices = {"place": ASK, "samples": 1, "sampling": sampling}
            kind = "ask" if call.program == "complete" else call.program
            step = f"{pick.selector} {kind} ({call.prompts} × {call.units} frames)"
            yield Use(phase, program, (mllm, *map(self.rows, arrays)), choices, held, step)

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
        picks: Sequence[Pick],
        trains: bool = False,
    ) -> Iterator[Use]:
        """Lists score and select.

        Args:
          phase: of the run.
          rollout: B and I.
          params: of CLIP, SigLIP and the sampler.
          held: what is alive.
          picks: the choices of frames.
          trains: whether what the network reads is kept for its training.
        """
        B, I = rollout.questions, rollout.query_rollouts
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
        by_network = [pick for pick in picks if SELECTORS[pick.selector].network]
        read = (None, None)
        if network.needs_embeddings:
            read = (embeddings["clip"], self._floats(*query_mask.shape, widths["clip"]))
        for name, frames in embeddings.items():
            scoring = list(self._scoring(name, params[name], frames, I))
            if name in self.system.signals:
                yield from itertools.starmap(use, scoring)
            elif name == "clip" and network.needs_embeddings and (by_network or trains):
                yield use(*scoring[0])
        rows = [self._floats(*query_mask.shape, T) for _ in self.system.signals]
        yield use(masked, rows, query_mask, frame_mask)
        scores = (own.similarity, own.query_mask, frame_mask)
        if by_network:
            yield use(self.programs.frame_logits, params["sampler"], *scores, *read)
            all_keys: dict[int, Any] = {}
            for draws in dict.fromkeys(pick.draws for pick in by_network if pick.sample):
                make = functools.partial(self.programs.draw_keys.function, rollouts=I, draws=draws)
                yield use(self.programs.draw_keys, self.seeds(B), rollouts=I, draws=draws)
                all_keys[draws] = self.rows(jax.eval_shape(make, self.seeds(B)))
            for pick in dict.fromkeys(pick._replace(selector="") for pick in by_network):
                yield use(
                    self.programs.choose_frames,
                    self._floats(B, I, T),
                    frame_mask,
                    all_keys[pick.draws] if pick.sample else None,
                    law=self.config.law,
                    draws=pick.draws,
                    k=pick.k,
                )
        widths = {"topk": 1, "topk_smooth": self.config.smooth}
        for pick in (pick for pick in picks if pick.selector in widths):
            width = widths[pick.selector]
            yield use(best_frames, *scores, width=width, draws=pick.draws, k=pick.k)
