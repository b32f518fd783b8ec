"""A batch as selectors and signals see it; expensive values are computed on first use."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from msjoe_jax import signals
from msjoe_jax.models.params import Params
from msjoe_jax.rollout.batches import Batch
from msjoe_jax.rollout.frames import units_of
from msjoe_jax.rollout.key_frames import FrameSet, ShownUnit
from msjoe_jax.rollout.programs import ASK
from msjoe_jax.runtime.machine import fetch, here
from msjoe_jax.selectors import SELECTORS
from msjoe_jax.selectors.base import Ask, Selection, in_time_order
from msjoe_jax.text import prompts

if TYPE_CHECKING:
    from msjoe_jax.rollout.episode import Episodes


class BatchCandidates:
    """Implements `selectors.base.Candidates` and `signals.base.SignalInputs` for one batch."""

    def __init__(
        self,
        episodes: "Episodes",
        params: dict[str, Params],
        batch: Batch,
        queries: Sequence[Sequence[tuple[str, ...]]],
        *,
        update: int,
        draws: int,
        sample: bool,
        weight: Float[np.ndarray, "B"],
    ):
        self._episodes, self._params, self._batch = episodes, params, batch
        self._update, self._sample, self._weight = update, sample, weight
        self.questions = episodes.batch_questions(batch)
        self.queries = queries
        self.num_draws = draws
        self.frame_mask: Bool[np.ndarray, "B T"] = batch["frame_mask"]
        self.frame_index = batch["frame_index"]
        self.timestamps = batch["timestamps"]
        self.reader = episodes.reader
        self.smooth = episodes.config.smooth

    @functools.cached_property
    def _tokens(self) -> tuple[np.ndarray, np.ndarray]:
        return self._episodes.text.clip_rows(self.queries)

    @functools.cached_property
    def on_devices(self) -> "_OnDevices":
        """The arrays of all hosts."""
        return _OnDevices(self)

    @property
    def embeddings(self) -> Float[Array | np.ndarray, "B T E"]:
        """CLIP's embeddings of the candidate frames."""
        return here(self.on_devices.embeddings)

    @property
    def similarity(self) -> Float[Array | np.ndarray, "B I Q T"]:
        """The rows of S, 0 where masked."""
        return here(self.on_devices.similarity)

    @property
    def query_mask(self) -> Bool[Array | np.ndarray, "B I Q"]:
        """Which rows of S count."""
        return here(self.on_devices.row_mask)

    def text_embeddings(self) -> Float[Array | np.ndarray, "B I Q E"]:
        """CLIP's embeddings of the queries, not normalised."""
        return here(self.on_devices.text_embeddings())

    def embed_queries(self) -> Float[Array, "B I Q E"]:
        """Computes CLIP's embeddings of the queries; `Episodes.cut_queries` gets those cut."""
        self._note_cut("clip")
        tokens = self._episodes.put(self._tokens[0])
        return self._episodes.programs.embed_queries(self._params["clip"], tokens)

    def embed_queries_by_siglip(self) -> Float[Array, "B I Q E"]:
        """Computes SigLIP's embeddings of the queries; likewise."""
        self._note_cut("siglip")
        program = self._episodes.programs.embed_siglip_queries
        assert program is not None
        rows = self._episodes.text.siglip_rows(self.queries, self._tokens[1])
        return program(self._params["siglip"], self._episodes.put(rows))

    def _note_cut(self, model: str) -> None:
        text, cut = self._episodes.text, self._episodes.cut_queries
        for question, rows, weight in zip(self.questions, self.queries, self._weight, strict=True):
            if weight:
                cut.update((question.id, q) for row in rows for q in row if text.is_cut(q, model))

    @functools.cached_property
    def keys(self) -> Array | None:
        """Keys of the draws [B, I, J]; None in evaluation."""
        if not self._sample:
            return None
        seeds = self._episodes.seeds(self._batch, self._update)
        return self._episodes.programs.draw_keys(
            seeds, rollouts=len(self.queries[0]), draws=self.num_draws
        )

    def network_logits(self) -> Float[Array, "B I T"]:
        """Computes the trained network's logits, −inf where masked."""
        return self._episodes.programs.frame_logits(self._params["sampler"], *self.network_inputs())

    def network_inputs(self) -> tuple[Array | None, ...]:
        """Returns what the trained network reads, as of `rl.batch.input_rows`."""
        network = SELECTORS[self._episodes.system.network].network
        assert network is not None
        arrays = self.on_devices
        read: tuple[Array | None, ...] = (None, None)
        if network.needs_embeddings:
            read = (arrays.embeddings, arrays.text_embeddings())
        return (arrays.similarity, arrays.row_mask, arrays.frame_mask, *read)

    def choose(self, logits: Float[Array | np.ndarray, "B I T"], k: int) -> Selection:
        """Chooses frames by the configured law of draws, or the top k in evaluation."""
        draw = self._episodes.programs.choose_frames(
            self._episodes.put(logits),
            self.on_devices.frame_mask,
            self.keys,
            law=self._episodes.config.law,
            draws=self.num_draws,
            k=k,
        )
        return Selection(frames=in_time_order(draw), draw=draw, logits=logits)

    def frames(self, question: int, indices: Sequence[int]) -> UInt8[np.ndarray, "n H W 3"]:
        """Reads candidate frames of one question, as they are stored."""
        numbers = self.frame_index[question][np.asarray(indices, int)]
        return self.reader.frames(self.questions[question].video, numbers)

    def ask(self, prompts_: Sequence[Sequence[Ask]]) -> list[list[str]]:
        """Returns the MLLM's greedy replies; every question has equally many prompts."""
        episodes, c = self._episodes, self._episodes.text.prompt
        sets = [[self._frame_set(ask.frames) for ask in row] for row in prompts_]
        texts = [
            [episodes.text.chat.turns(c.system, prompts.plain(ask.text)) for ask in row]
            for row in prompts_
        ]
        rows, patches = episodes.frame_prompts(self._batch, texts, sets, self._weight)
        completed = episodes.complete(
            ASK,
            self._params["mllm"],
            rows,
            patches,
            episodes.seeds(self._batch, self._update),
            samples=1,
            sampling=episodes.text.sampling(c.query_tokens, 0.0),
        )
        return completed.texts

    def _frame_set(self, frames: Sequence[int]) -> FrameSet:
        """Makes the frame set of a prompt, in the given order."""
        episodes = self._episodes
        units = units_of([int(frame) for frame in frames], episodes.per_unit)
        shown = [ShownUnit(unit, episodes.config.frames.key_patches) for unit in units]
        return FrameSet(list(frames), shown, [None] * len(shown))

    def attention(self, layer: int) -> Float[np.ndarray, "B T"]:
        """Computes the attention of reason's last prompt token to each preview, 0 elsewhere."""
        episodes = self._episodes
        rows, patches = episodes.preview_prompts(self._batch, self._weight)
        stacked = episodes.stack(rows)
        weights = fetch(
            episodes.programs.attention(
                self._params["mllm"], stacked, episodes.put(patches), layer=layer
            )
        )[:, 0]
        index = fetch(stacked.feature_index)[:, 0]
        per_unit = patches.pixels.shape[-4] // episodes.vision.merge**2
        out = np.zeros(self.frame_mask.shape, np.float32)
        for b in range(len(out)):
            previews = self._batch["preview_index"][b][self._batch["preview_mask"][b]]
            candidates = self.frame_index[b][self.frame_mask[b]]
            for token in np.flatnonzero(index[b] >= 0):
                unit = index[b, token] // per_unit
                frames = previews[unit * episodes.per_unit : (unit + 1) * episodes.per_unit]
                for frame in frames:  # the candidate that is this frame, or the nearest one
                    place = int(np.abs(candidates - frame).argmin())
                    out[b, place] += weights[b, token] / len(frames)
        return out


class _OnDevices:
    """The arrays of a batch of all hosts, as selectors and signals may ask for them."""

    def __init__(self, candidates: BatchCandidates):
        _, mask = candidates._tokens
        self._candidates, self._put = candidates, candidates._episodes.put
        arrays = (mask, candidates.frame_mask, candidates._batch["embeddings"])
        self.query_mask, self.frame_mask, self.embeddings = self._put(arrays)

    def text_embeddings(self) -> Float[Array, "B I Q E"]:
        return self._texts

    @functools.cached_property
    def _texts(self) -> Float[Array, "B I Q E"]:
        return self._candidates.embed_queries()

    @functools.cached_property
    def siglip(self) -> "_OfSiglip":
        return _OfSiglip(self._candidates)

    @functools.cached_property
    def _rows(self) -> tuple[Array, Array]:
        names = self._candidates._episodes.config.signals
        return signals.similarity(names, _SignalInputs(self._candidates), self._put)

    @property
    def similarity(self) -> Float[Array, "B I S·Q T"]:
        return self._rows[0]

    @property
    def row_mask(self) -> Bool[Array, "B I S·Q"]:
        return self._rows[1]


class _OfSiglip:
    """What the signal `siglip` asks for."""

    def __init__(self, candidates: BatchCandidates):
        params, put = candidates._params["siglip"], candidates._episodes.put
        self.embeddings = put(candidates._batch["siglip_embeddings"])
        self.scale_and_bias = params["logit_scale"], params["logit_bias"]
        self.text_embeddings = candidates.embed_queries_by_siglip


class _SignalInputs:
    """The same batch with one row of the query mask per query, not one per query and signal."""

    def __init__(self, candidates: BatchCandidates):
        self._candidates = candidates

    def __getattr__(self, name: str) -> Any:
        return getattr(self._candidates, name)

    @property
    def query_mask(self) -> Array | np.ndarray:
        return here(self._candidates.on_devices.query_mask)
