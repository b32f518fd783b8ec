"""The three models and two tokenizers that a config names, as one object that every loop takes."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from msjoe_jax.errors import UserError
from msjoe_jax.models.attention import BACKENDS, takes_cudnn
from msjoe_jax.models.clip.config import SIZES, VOCAB, CLIPConfig
from msjoe_jax.models.clip.model import CLIP
from msjoe_jax.models.lora import merge_lora
from msjoe_jax.models.params import Params, abstract, split_module
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig, TextConfig, VisionConfig
from msjoe_jax.models.qwen2_5_vl.model import QwenVL
from msjoe_jax.models.sampler import Sampler, SamplerConfig
from msjoe_jax.rollout.generate import Sampling
from msjoe_jax.runtime.files import read_json
from msjoe_jax.text.prompts import PromptStyle
from msjoe_jax.text.tokenizer import Tokenizer

Sizes = TypeVar("Sizes")

# The ids of Qwen2.5-VL's special tokens are looked up by name, so that any vocabulary serves.
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
END_OF_TURN, END_OF_TEXT = "<|im_end|>", "<|endoftext|>"

# Published sizes by name: text (width, layers, heads, kv heads, mlp, vocab, tied), vision out width
# is the text width and the tower is the same in all (3B's and 7B's MLP is 3420 wide, 72B's 3456).
QWEN_SIZES = {
    "qwen2.5-vl-3b": (2048, 36, 16, 2, 11008, 151936, True, 3420),
    "qwen2.5-vl-7b": (3584, 28, 28, 4, 18944, 152064, False, 3420),
    "qwen2.5-vl-32b": (5120, 64, 40, 8, 27648, 152064, False, 3456),
    "qwen2.5-vl-72b": (8192, 80, 64, 8, 29568, 152064, False, 3456),
}


def qwen_config(size: str, tokenizer: Tokenizer | None) -> QwenConfig:
    """Sizes of a published Qwen2.5-VL or of the tiny world's model, for a vocabulary.

    Without a tokenizer the published token ids are used (enough to plan or to count).
    """
    names = (IMAGE, VIDEO, VISION_START, VISION_END)
    published = (151655, 151656, 151652, 151653)
    image, video, start, end = (
        published if tokenizer is None else (tokenizer.token_id(name) for name in names)
    )
    if size == "tiny":
        if tokenizer is None:
            raise UserError("config.mllm.size=tiny needs a tokenizer: set config.mllm.tokenizer")
        text = TextConfig(
            vocab=tokenizer.size,
            width=64,
            layers=3,
            heads=2,
            kv_heads=2,
            mlp_width=160,
            mrope_section=(4, 6, 6),
            tie_embeddings=True,
        )
        vision = VisionConfig(
            depth=2,
            width=48,
            heads=3,
            mlp_width=96,
            out_width=64,
            full_attention_layers=(1,),
            window=28,
        )
    elif size in QWEN_SIZES:
        width, layers, heads, kv_heads, mlp, vocab, tied, vision_mlp = QWEN_SIZES[size]
        text = TextConfig(
            vocab, width, layers, heads, kv_heads, mlp, (16, 24, 24), tie_embeddings=tied
        )
        vision = VisionConfig(32, 1280, 16, vision_mlp, width, (7, 15, 23, 31))
    else:
        known = ", ".join(["tiny", *QWEN_SIZES])
        raise UserError(f"config.mllm.size={size!r} is not one of {known}")
    return QwenConfig(text, vision, image, video, start, end)


def clip_config(size: str, tokenizer: Tokenizer | None) -> CLIPConfig:
    """Sizes of one of OpenAI's CLIPs or of the tiny world's."""
    if size in SIZES:
        return CLIPConfig.published(size)
    if size == "tiny":
        if tokenizer is None:
            raise UserError("config.clip.size=tiny needs a tokenizer: set config.clip.tokenizer")
        return CLIPConfig.tiny(tokenizer.size, tokenizer.token_id(END_OF_TEXT))
    raise UserError(f"config.clip.size={size!r} is not one of {', '.join(['tiny', *SIZES])}")


def read_sizes(file: pathlib.Path, parse: Callable[[dict[str, Any]], Sizes]) -> Sizes:
    """Sizes from a `config.json` by `QwenConfig.from_hf` or one of CLIPConfig's parsers.

    Raises:
      UserError: as `read_json`, or a field is missing, or it is another architecture.
    """
    config = read_json(file)
    try:
        return parse(config)
    except KeyError as error:
        raise UserError(f"{file}: the field {error} is missing") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: {error}") from None


@dataclasses.dataclass(frozen=True)
class System:
    """Static definitions of the models, their abstract parameters, and the text side."""

    qwen: QwenConfig
    clip: CLIPConfig
    mllm_def: nnx.GraphDef
    clip_def: nnx.GraphDef
    sampler_def: nnx.GraphDef
    abstract: dict[str, Params]  # mllm, clip, sampler
    tokenizer: Tokenizer | None
    clip_tokenizer: Tokenizer | None
    style: PromptStyle
    build: dict[str, Any]
    lora_scale: float = 1.0

    def mllm(self, params: Params) -> QwenVL:
        """The MLLM with these parameters (adapters added), inside a jitted function."""
        return nnx.merge(self.mllm_def, merge_lora(params, self.lora_scale))

    def clip_model(self, params: Params) -> CLIP:
        """CLIP with these parameters, inside a jitted function."""
        return nnx.merge(self.clip_def, params)

    def sampler(self, params: Params) -> Sampler:
        """The sampler with these parameters, inside a jitted function."""
        return nnx.merge(self.sampler_def, params)

    def init(self, name: str, seed: int) -> Params:
        """Fresh parameters of `mllm`, `clip` or `sampler`."""
        return jax.jit(lambda: split_module(self.build[name](nnx.Rngs(seed)))[1])()

    def banned_ids(self) -> tuple[int, ...]:
        """Placeholder ids, which are never sampled (SPEC §3)."""
        return (self.qwen.image_token_id, self.qwen.video_token_id)

    def sampling(self, max_tokens: int, temperature: float) -> Sampling:
        """How completions are drawn and where they end."""
        assert self.tokenizer is not None
        ends = tuple(self.tokenizer.token_id(name) for name in (END_OF_TURN, END_OF_TEXT))
        return Sampling(max_tokens, ends, self.banned_ids(), temperature)

    def clip_start_end(self) -> tuple[int, int]:
        """CLIP's start and end ids: the OpenAI vocabulary's, or the tiny one's own."""
        assert self.clip_tokenizer is not None
        if self.clip.vocab == VOCAB:
            return self.clip.eot_token_id - 1, self.clip.eot_token_id
        return self.clip_tokenizer.token_id("<|im_start|>"), self.clip.eot_token_id


def _check_attention(backend: str, dtype: jnp.dtype, head_dims: tuple[int, ...]) -> None:
    if backend not in BACKENDS:
        raise UserError(f"config.mllm.attention={backend!r} is not one of {', '.join(BACKENDS)}")
    if backend == "cudnn" and jax.default_backend() != "gpu":
        raise UserError("config.mllm.attention=cudnn needs an NVIDIA GPU; use auto")
    if backend == "cudnn" and not all(takes_cudnn(dtype, size) for size in head_dims):
        raise UserError(
            f"config.mllm.attention=cudnn does not take {dtype} at head dims {head_dims}; use auto"
        )


def make_system(
    config: ConfigDict, *, with_tokenizers: bool = True, folder: pathlib.Path | None = None
) -> System:
    """Builds the definitions that a config names; no parameter is allocated.

    Args:
      config: an empty `size` or `tokenizer` of the MLLM and of CLIP is that of its checkpoint.
      with_tokenizers: without, text can be neither read nor written, but published sizes planned.
      folder: a model folder (`bundle.py`), whose sizes and tokenizers then go before the config's;
        a model that it lacks has the config's size and no tokenizer.

    Raises:
      UserError: an unknown size, or a tokenizer that is missing.
    """
    tokenizers: dict[str, Tokenizer | None] = {}
    sizes: dict[str, Any] = {}
    parsers: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
        "mllm": (qwen_config, QwenConfig.from_hf),
        "clip": (clip_config, CLIPConfig.from_hf),
    }
    for name, (named_size, from_hf) in parsers.items():
        part = config[name]
        own = pathlib.Path(folder or part.checkpoint) / name if folder or part.checkpoint else None
        tokenizer = None
        if with_tokenizers and (folder is None or (folder / name).is_dir()):
            path = own if folder or not part.tokenizer else part.tokenizer
            if path is None:
                raise UserError(
                    f"config.{name}.tokenizer is not set: name a tokenizer.json or its folder, or "
                    f"a checkpoint that holds one (config.{name}.checkpoint)"
                )
            tokenizer = Tokenizer(path)
        if own and (own.is_dir() if folder else not part.size):
            sizes[name] = read_sizes(own / "config.json", from_hf)
        elif part.size:
            sizes[name] = named_size(part.size, tokenizer)
        else:
            raise UserError(
                f"config.{name}.size is empty: name a size, or config.{name}.checkpoint"
            )
        tokenizers[name] = tokenizer
    qwen, clip = sizes["mllm"], sizes["clip"]
    sampler = SamplerConfig(
        **{field.name: config.sampler[field.name] for field in dataclasses.fields(SamplerConfig)}
    )
    dtype, param_dtype = jnp.dtype(config.mllm.dtype), jnp.dtype(config.mllm.param_dtype)
    _check_attention(config.mllm.attention, dtype, (qwen.text.head_dim, qwen.vision.head_dim))
    build = {
        "mllm": lambda rngs: QwenVL(
            qwen,
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
            remat=config.mllm.remat,
            chunk=config.mllm.attention_chunk,
            attention=config.mllm.attention,
        ),
        "clip": lambda rngs: CLIP(clip, rngs=rngs),
        "sampler": lambda rngs: Sampler(sampler, rngs=rngs),
    }

    def of(make: Callable[[nnx.Rngs], nnx.Module]) -> tuple[nnx.GraphDef, Params]:
        return abstract(lambda: make(nnx.Rngs(0)))  # Rngs must be made where they are used

    shapes = {name: of(make) for name, make in build.items()}
    style = {f.name: config.prompt[f.name] for f in dataclasses.fields(PromptStyle)}
    return System(
        qwen,
        clip,
        shapes["mllm"][0],
        shapes["clip"][0],
        shapes["sampler"][0],
        {name: params for name, (_, params) in shapes.items()},
        tokenizers["mllm"],
        tokenizers["clip"],
        PromptStyle(**style),
        build,
        config.mllm.lora_alpha / max(config.mllm.lora_rank, 1),
    )


def describe(
    config: ConfigDict, parts: Sequence[str] = ("mllm", "clip", "sampler", "frames", "prompt")
) -> dict[str, Any]:
    """Parts of a config, by default those that a checkpoint's reader needs, as plain JSON data."""
    return {part: json.loads(config[part].to_json()) for part in parts}
