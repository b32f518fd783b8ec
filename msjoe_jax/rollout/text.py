"""The text side of the models: tokenizers, end tokens of completions, and prompts."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from msjoe_jax.errors import UserError
from msjoe_jax.rollout.generate import Sampling
from msjoe_jax.rollout.system import System, Tokenizers
from msjoe_jax.text.chat import BUILT_IN, Chat
from msjoe_jax.text.prompts import PromptConfig, plain
from msjoe_jax.text.siglip import SiglipTokenizer
from msjoe_jax.text.tokenizer import END_OF_TEXT, END_OF_TURN, Tokenizer, clip_tokens
from msjoe_jax.weights.tokenizer_files import clip_ends


def end_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Returns the ids that end a reply in the chat format.

    Raises:
      UserError: the vocabulary lacks them.
    """
    return tuple(tokenizer.token_id(name) for name in (END_OF_TURN, END_OF_TEXT))


@dataclasses.dataclass(frozen=True)
class Text:
    """Everything that turns text into arrays and back.

    Attributes:
      tokenizer: the MLLM's.
      clip_tokenizer: CLIP's.
      prompt: wording of prompts, and lengths of prompts and replies.
      end_ids: ids that end a reply.
      banned_ids: ids that are never sampled.
      clip_start_end: ids that stand before and after a text for CLIP.
      clip_context: positions of CLIP's text tower.
      chat: the chat format.
      siglip_tokenizer: SigLIP's; None: there is no SigLIP.
    """

    tokenizer: Tokenizer
    clip_tokenizer: Tokenizer
    prompt: PromptConfig
    end_ids: tuple[int, ...]
    banned_ids: tuple[int, ...]
    clip_start_end: tuple[int, int]
    clip_context: int
    chat: Chat = BUILT_IN
    siglip_tokenizer: SiglipTokenizer | None = None

    def sampling(self, max_tokens: int, temperature: float) -> Sampling:
        """Returns how completions are drawn and where they end."""
        return Sampling(max_tokens, self.end_ids, self.banned_ids, temperature)

    def decode(self, tokens: Int[np.ndarray, "C"], mask: Bool[np.ndarray, "C"]) -> str:
        """Returns the text of a completion, its end token left out."""
        ids = [int(t) for t in tokens[mask]]
        return self.tokenizer.decode([t for t in ids if t not in self.end_ids])

    def verbatim(self, tokens: Int[np.ndarray, "C"], mask: Bool[np.ndarray, "C"]) -> str:
        """Returns the text of a completion, with its end token if it has one."""
        return self.tokenizer.decode(tokens[mask].tolist())

    def is_cut(self, query: str, model: str = "clip") -> bool:
        """Says whether a query is longer than a model's context: only its beginning counts then."""
        if model == "siglip":
            assert self.siglip_tokenizer is not None
            return self.siglip_tokenizer.is_cut(plain(query))
        return len(self.clip_tokenizer.encode(plain(query))) > self.clip_context - 2

    def cut_note(self, count: int) -> str:
        """Returns the line that tells people of `count` queries that were cut."""
        limit = f"CLIP's {self.clip_context} tokens"
        if self.siglip_tokenizer:
            limit += f" or SigLIP's {self.siglip_tokenizer.context}"
        return f"queries cut at {limit}: {count}; only their beginnings were searched for"

    def clip_rows(
        self, texts: Sequence[Sequence[Sequence[str]]]
    ) -> tuple[Int[np.ndarray, "B I Q C"], Bool[np.ndarray, "B I Q"]]:
        """Tokenizes for CLIP up to Q = `prompt.max_queries` texts of each of B × I rollouts.

        Returns:
          The rows, and the mask of those that hold a text.
        """
        B, I, Q = len(texts), len(texts[0]), self.prompt.max_queries
        context = self.clip_context
        tokens = np.zeros((B, I, Q, context), np.int32)
        mask = np.zeros((B, I, Q), bool)
        for b, row in enumerate(texts):
            for i, queries in enumerate(row):
                mask[b, i, : len(queries)] = True
        start, end = self.clip_start_end
        flat = [plain(q) for row in texts for queries in row for q in queries]
        tokens[mask] = clip_tokens(self.clip_tokenizer, flat, context, start, end)
        # A missing query still needs an end token to be pooled at; its row is masked afterwards.
        tokens[~mask] = np.array([start, end] + [0] * (context - 2), np.int32)
        return tokens, mask

    def siglip_rows(
        self, texts: Sequence[Sequence[Sequence[str]]], mask: Bool[np.ndarray, "B I Q"]
    ) -> Int[np.ndarray, "B I Q C"]:
        """Tokenizes the same texts for SigLIP, into the rows that the mask of `clip_rows` names."""
        assert self.siglip_tokenizer is not None
        tokens = np.zeros((*mask.shape, self.siglip_tokenizer.context), np.int32)
        flat = [plain(q) for row in texts for queries in row for q in queries]
        if flat:
            tokens[mask] = self.siglip_tokenizer.rows(flat)
        return tokens


def make_text(
    system: System,
    tokenizers: Tokenizers,
    prompt: PromptConfig,
    chat: Chat = BUILT_IN,
) -> Text:
    """Makes the text side of a system.

    Args:
      system: the models.
      tokenizers: both must be present.
      prompt: wording and lengths of prompts.
      chat: the chat format.

    Raises:
      UserError: a tokenizer is missing, or lacks a special token.
    """
    for name, tokenizer in tokenizers._asdict().items():
        if tokenizer is None:
            raise UserError(f"no tokenizer for {name}: set config.{name}.tokenizer")
    assert tokenizers.mllm is not None and tokenizers.clip is not None
    sizes = system.clip_config
    start, _ = clip_ends(tokenizers.clip, sizes)
    return Text(
        tokenizer=tokenizers.mllm,
        clip_tokenizer=tokenizers.clip,
        prompt=prompt,
        end_ids=end_ids(tokenizers.mllm),
        banned_ids=system.banned_ids(),
        clip_start_end=(start, sizes.eot_token_id),
        clip_context=sizes.context,
        chat=chat,
        siglip_tokenizer=system.siglip.tokenizer if system.siglip else None,
    )
