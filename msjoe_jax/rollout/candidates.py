"""A batch as selectors and signals see it; expensive values are computed on first use."""

import copy
import functools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from msjoe_jax import signals
from msjoe_jax.models.params import Params
from msjoe_jax.rollout.batches import Batch, question_number
from msjoe_jax.rollout.selector_prompts import SelectorPrompts
from msjoe_jax.runtime.machine import fetch, here
from msjoe_jax.runtime.program import Program
from msjoe_jax.selectors import SELECTORS
from msjoe_jax.selectors.base import Ask, Block, Selection, in_time_order

if TYPE_CHECKING:
    from msjoe_jax.rollout.episode import Episodes


class BatchCandidates:
    """Implements `selectors.base.Candidates` and `signals.base.SignalInputs` for one batch.

    Attributes:
      timed: whether S is waited for when it is computed, so that its seconds are known.
      remembered: seconds of replies and attention that were not computed again, but had been.
    """

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
        self.smooth, self.filter = episodes.config.smooth, episodes.config.filter
        self.frame_tokens = episodes.config.frames.key_patches // episodes.vision.merge**2
        self.timed, self.remembered = False, 0.0
        self._replies: dict[Any, _Remembered] = {}

    def again(
        self,
        weight: Float[np.ndarray, "B"],
        *,
        draws: int = 1,
        sample: bool = False,
        signal: str = "",
    ) -> "BatchCandidates":
        """Returns the same candidates for another selection; they share what either computes.

        Args:
          weight: set to 0 for questions whose prompts or frames a selector cannot use.
          draws: J, selections for each list of queries.
          sample: whether frames are drawn at random.
          signal: the one whose rows of S count; "": all.
        """
        other = copy.copy(self)
        other.__dict__.pop("keys", None)
        other.__dict__["on_devices"] = self.on_devices.of_signal(signal)
        other.num_draws, other._sample, other._weight = draws, sample, weight
        other.remembered = 0.0
        return other

    def _once(self, key: Any, compute: Callable[[], Any]) -> Any:
        """Returns what `compute` returned for this key before, and drops what was dropped then."""
        if key not in self._replies:
            before, start = self._weight.copy(), time.perf_counter()
            value = compute()
            seconds = time.perf_counter() - start
            self._replies[key] = _Remembered(value, (before > 0) & (self._weight == 0), seconds)
        else:
            self._weight[self._replies[key].dropped] = 0.0
            self.remembered += self._replies[key].seconds
        return self._replies[key].value

    @functools.cached_property
    def _tokens(self) -> tuple[np.ndarray, np.ndarray]:
        return self._episodes.text.clip_rows(self.queries)

    @functools.cached_property
    def on_devices(self) -> "_OnDevices | _OfSignal":
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

    def generator(self, question: int, queries: int, draw: int) -> np.random.Generator:
        """Returns the chance of one draw [b, i, j]; it is the host's, in evaluation too."""
        number = question_number(self.questions[question].id, int(self._batch["copy"][question]))
        return np.random.default_rng(
            [self._episodes.config.seed, self._update, number, queries, draw]
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

    def ask(self, prompts: Sequence[Sequence[Ask]]) -> list[list[str]]:
        """Returns the MLLM's greedy replies; every question has equally many prompts."""
        key = tuple(map(tuple, prompts))
        return self._once(key, lambda: self._prompts.ask(prompts))

    def room(self, texts: Sequence[str], label: str = "", tokens: int = 0) -> int:
        """Returns how many frames a prompt has room for, with the longest of these texts: ≥ 1."""
        return self._prompts.room(texts, label, tokens)

    @property
    def layers(self) -> int:
        """Layers of the MLLM's decoder."""
        return self._episodes.system.mllm_config.text.layers

    def option_attention(
        self, frames: Sequence[Sequence[int]], layer: int, tokens: int
    ) -> list[Float[np.ndarray, "X F"]]:
        """Computes what the tokens of each question's options attend to, of frames before them."""
        key = ("attention", *map(tuple, frames), layer, tokens)
        return self._once(key, lambda: self._prompts.option_attention(frames, layer, tokens))

    def neighbour_cosines(self) -> list[Float[np.ndarray, "T P"]]:
        """Computes the cosine of each visual token with that at its place in the frame before."""
        return self._once("cosines", self._prompts.neighbour_cosines)

    def block_keys(self, blocks: Sequence[Sequence[Block]]) -> list[Float[np.ndarray, "G 2 C"]]:
        """Computes the mean key of each block's visual tokens, at the first and the last layer."""
        return self._prompts.block_keys(blocks)

    def question_queries(self) -> Float[np.ndarray, "B 2 C"]:
        """Computes the mean query of each question's tokens, at the first and the last layer."""
        return self._once("queries", self._prompts.question_queries)

    @property
    def _prompts(self) -> SelectorPrompts:
        return SelectorPrompts(
            self._episodes, self._params["mllm"], self._batch, self._weight, self._update
        )

    def attention(self, layer: int) -> Float[np.ndarray, "B T"]:
        """Computes the attention of reason's last prompt token to each preview, 0 elsewhere."""
        return self._once(layer, lambda: self._attention(layer))

    def _attention(self, layer: int) -> Float[np.ndarray, "B T"]:
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


class _Remembered(NamedTuple):
    """What the MLLM gave: a value, the questions that were dropped for it, and its seconds."""

    value: Any
    dropped: Bool[np.ndarray, "B"]
    seconds: float


class _OnDevices:
    """The arrays of a batch of all hosts, as selectors and signals may ask for them.

    Attributes:
      reads: how often S was read.
      seconds: that S took to compute; 0 until then, or if that is not `timed`.
    """

    def __init__(self, candidates: BatchCandidates):
        self.reads, self.seconds = 0, 0.0
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

    def of_signal(self, name: str) -> "_OnDevices | _OfSignal":
        """Returns the same, with the rows of one signal alone; "": of all."""
        return _OfSignal(self, name) if name else self

    @functools.cached_property
    def _rows(self) -> tuple[Array, Array]:
        names, start = self._candidates._episodes.config.signals, time.perf_counter()
        rows = signals.similarity(names, _SignalInputs(self._candidates), self._put)
        if self._candidates.timed:
            jax.block_until_ready(rows)
            self.seconds = time.perf_counter() - start
        return rows

    @property
    def similarity(self) -> Float[Array, "B I S·Q T"]:
        self.reads += 1
        return self._rows[0]

    @property
    def row_mask(self) -> Bool[Array, "B I S·Q"]:
        return self._rows[1]


class _OfSignal:
    """The same arrays, with the rows of one signal alone."""

    def __init__(self, whole: _OnDevices, name: str):
        self._whole, self._name = whole, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    @functools.cached_property
    def row_mask(self) -> Bool[Array, "B I S·Q"]:
        names = self._whole._candidates._episodes.config.signals
        return rows_of_signal(self._whole.row_mask, place=names.index(self._name), of=len(names))


def _rows_of_signal(mask: Bool[Array, "B I S·Q"], *, place: int, of: int) -> Bool[Array, "B I S·Q"]:
    """Masks the rows of all signals but one."""
    return mask & (jnp.arange(mask.shape[-1]) // (mask.shape[-1] // of) == place)


rows_of_signal = Program("rows_of_signal", _rows_of_signal, ("place", "of"))


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
