"""What the classes of a model family have to be: its sizes, its decoder, the whole model."""

from typing import Any, Protocol

from jaxtyping import Array, Bool, Float, Int

Cache = Any  # keys and values, or whatever state a family's decoder keeps: any pytree


class VisionSizes(Protocol):
    """Sizes of a vision tower, in patches unless stated otherwise."""

    @property
    def patch(self) -> int:
        """Pixels on a side of a patch."""

    @property
    def merge(self) -> int:
        """Patches on a side of a visual token."""

    @property
    def temporal_patch(self) -> int:
        """Frames that are fused into one temporal step of a video."""


class Sizes(Protocol):
    """Sizes of a model. Objects of equal sizes are equal and hash alike."""

    @property
    def vision(self) -> VisionSizes:
        """Sizes of the vision tower."""

    @property
    def vocab(self) -> int:
        """Rows of the embedding table."""

    @property
    def image_token_id(self) -> int:
        """The placeholder that a visual token of an image replaces; it is never sampled."""

    @property
    def video_token_id(self) -> int:
        """The placeholder that a visual token of a video replaces; it is never sampled."""


class LanguageModel(Protocol):
    """The decoder, as rollouts and the loss use it (see models/qwen2_5_vl/language.py)."""

    config: Any  # its `vocab` is the number of ids

    def embed(self, tokens: Int[Array, "*BL"]) -> Float[Array, "*BL D"]:
        """Embeds tokens."""
        ...

    def prefill(
        self,
        x: Float[Array, "B S D"],
        positions: Int[Array, "B 3 S"],
        segments: Int[Array, "B S"],
        in_turn: int = 1,
    ) -> tuple[Float[Array, "B S D"], Cache]:
        """Returns prompts' last hidden states and cache; `in_turn` neighbours run in turn."""
        ...

    def complete(
        self,
        x: Float[Array, "B S D"],
        positions: Int[Array, "B 3 S"],
        segments: Int[Array, "B S"],
        completions: Float[Array, "B G C D"],
        start: Int[Array, "B"],
    ) -> Float[Array, "B G C D"]:
        """Runs prompts and whole completions, G of each, in one pass over the layers.

        Args:
          x, positions, segments: the prompts', as of `prefill`.
          completions: their inputs; input j is at position start + j.
          start: position of a prompt's first input of completions.
        """
        ...

    def for_decoding(self, prompt: Cache) -> Cache:
        """Returns a prompt's cache as a loop of `decode_step` reads it fastest."""
        ...

    def decode_step(
        self,
        x: Float[Array, "B G D"],
        index: Int[Array, ""],
        start: Int[Array, "B"],
        prompt: Cache,
        prompt_segments: Int[Array, "B S"],
        cache: Cache,
    ) -> tuple[Float[Array, "B G D"], Cache]:
        """Runs one input of every completion and adds it to their cache.

        Args:
          x, index, start: its embedding, its place in the completion, and where that starts.
          prompt: as `prefill` or `for_decoding` left it.
          prompt_segments: 0 is padding.
          cache: of the completions; see `empty_cache`.
        """
        ...

    def prompt_attention(
        self,
        x: Float[Array, "B D"],
        start: Int[Array, "B"],
        prompt: Cache,
        prompt_segments: Int[Array, "B S"],
        layer: int,
    ) -> Float[Array, "B S"]:
        """Computes the attention of one token to the prompt, averaged over a layer's heads.

        Args:
          x, start, prompt, prompt_segments: as of `decode_step`, of one token.
          layer: negative: counted from the last.
        """
        ...

    def token_attention(
        self,
        x: Float[Array, "B S D"],
        positions: Int[Array, "B 3 S"],
        segments: Int[Array, "B S"],
        places: Int[Array, "B X"],
        layer: int,
    ) -> Float[Array, "B X S"]:
        """Computes the attention that tokens of prompts pay their prompts, mean over the heads.

        Args:
          x, positions, segments: the prompts', as of `prefill`.
          places: of the tokens in their prompts.
          layer: from 0.
        """
        ...

    def mean_keys_and_queries(
        self,
        x: Float[Array, "B S D"],
        positions: Int[Array, "B 3 S"],
        segments: Int[Array, "B S"],
        tokens: Bool[Array, "B S"],
    ) -> Float[Array, "B 2 2 C"]:
        """Computes mean key and mean query of some tokens, at the first and the last layer."""
        ...

    def empty_cache(self, batch: int, group: int, length: int) -> Cache:
        """Makes a cache for `group` completions of each prompt, of up to `length` tokens."""
        ...

    def logits(self, h: Float[Array, "*BL D"]) -> Float[Array, "*BL V"]:
        """Computes the next token's logits in float32."""
        ...

    def log_probs(
        self,
        h: Float[Array, "B G C D"],
        targets: Int[Array, "B G C"],
        *,
        banned: Bool[Array, "V"],
        temperature: float = 1.0,
        chunk: int = 4096,
    ) -> tuple[Float[Array, "B G C"], Float[Array, "B G C"]]:
        """Computes log-probs of the targets and entropies in nats.

        Args:
          h: hidden states.
          targets: the tokens that follow them.
          banned: ids that have no probability.
          temperature: divides the logits.
          chunk: ids of the vocabulary at a time.
        """
        ...


class VisionLanguageModel(Protocol):
    """A family's module: an `nnx.Module` with two halves.

    `vision(patches [F, P, C], grid [F, 2])` gives visual tokens [F, P / merge², D] of F frames or
    temporal steps, each in raster order; `vision.cast()` is the same tower with the weights that it
    casts itself in the type that computes.
    """

    config: Any  # the `Sizes`
    vision: Any
    language: LanguageModel

    def prompt_embeds(
        self,
        tokens: Int[Array, "B G S"],
        feature_index: Int[Array, "B G S"],
        features: Float[Array, "B U D"],
    ) -> Float[Array, "B G S D"]:
        """Embeds prompts, with frame features in place of the placeholders."""
        ...
