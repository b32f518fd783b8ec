"""Builds the three models that a config names, as one object that every loop takes.

It holds definitions and abstract parameters: none is allocated. Tokenizers and prompts are in
text.py.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath
from flax import nnx
from jaxtyping import Array, Float

from msjoe_jax.errors import UserError
from msjoe_jax.families import Family, position_rules, published_sizes
from msjoe_jax.fields import group, option
from msjoe_jax.models.attention import BACKENDS, takes_cudnn
from msjoe_jax.models.clip.config import SIZES as CLIP_SIZES
from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.models.clip.model import CLIP
from msjoe_jax.models.clip.preprocess import Pixels
from msjoe_jax.models.clip.sharding import CLIP as CLIP_TABLE
from msjoe_jax.models.lora import LORA, merge_lora
from msjoe_jax.models.params import Params, abstract, split_module
from msjoe_jax.models.protocols import VisionLanguageModel
from msjoe_jax.models.sampler import SamplerConfig
from msjoe_jax.rl.batch import FrameInputs
from msjoe_jax.rollout.sizes import clip_sizes_of, folder_of, mllm_sizes_of
from msjoe_jax.runtime.mesh import REPLICATED, Table
from msjoe_jax.runtime.program import quick_options
from msjoe_jax.selectors import SELECTORS, networks
from msjoe_jax.signals import SIGNALS
from msjoe_jax.text.tokenizer import Tokenizer

NAMES = ("mllm", "clip", "sampler")
DTYPES = ("float32", "bfloat16")


# --- which models -----------------------------------------------------------------------------


def mllm_sizes() -> tuple[str, ...]:
    """Returns the values of `config.mllm.size`; empty means the checkpoint's size."""
    return ("", "tiny", *published_sizes())


@dataclasses.dataclass(frozen=True)
class MllmSettings:
    """Which MLLM it is, its types, its attention, and which of its parameters train."""

    size: str = option(
        "",
        "Of a fresh model: a published size, or tiny. A checkpoint has its own, and no other.",
        choices=mllm_sizes,
    )
    checkpoint: str = option(
        "",
        "Model folder (of main, convert or export), which gives sizes and weights; empty: none.",
        form="folder",
    )
    tokenizer: str = option("", "A tokenizer.json or its folder; empty: the checkpoint's.")
    dtype: str = option("bfloat16", "Type of the computation.", choices=DTYPES)
    param_dtype: str = option("float32", "Type of the parameters.", choices=DTYPES)
    remat: bool = option(True, "Recompute each layer in the backward pass: less memory.")
    attention: str = option(
        "auto",
        "Attention over prompts and patches: xla (`attention_chunk` queries at a time), splash "
        "(TPU), cudnn (GPU, 16-bit floats); auto: the machine's kernel where it takes the inputs.",
        choices=BACKENDS,
    )
    attention_chunk: int = option(512, "Queries at a time of xla's attention.", low=1)
    log_prob_chunk: int = option(4096, "Ids of the vocabulary at a time in log-probs.", low=1)
    positions: str = option(
        "",
        "What position the text after a video has: `released`, as the published weights were "
        "trained, or `transformers-5.3`, as that library counts since then; empty: the family's "
        "default.",
        choices=position_rules,
    )
    prompts_one_by_one: bool = option(
        True, "Run a question's prompts one after the other, in rollouts and updates: less memory."
    )
    trainable: str = option(
        "^language/",
        "Leaves whose path matches train; the others have no gradient and no moments, and their "
        "matrices are kept in `dtype`, from then on; empty: all train (the vision tower then runs "
        "inside the joint step).",
        form="regex",
    )
    lora_rank: int = option(
        0,
        "LoRA factors of this rank train instead, and are merged at the end; 0: none.",
        low=0,
        high=1024,
    )
    lora_alpha: float = option(32.0, "LoRA factors are scaled by alpha / rank.", above=0)
    lora_targets: str = option(
        "^language/layers/", "Matrices whose path matches get LoRA factors.", form="regex"
    )

    def slips(self) -> Iterator[str]:
        """Yields what does not go together."""
        if self.attention == "cudnn" and self.dtype == "float32":
            yield "attention=cudnn takes 16-bit floats, not dtype=float32; use auto"


@dataclasses.dataclass(frozen=True)
class ClipSettings:
    """Which CLIP scores the frames."""

    size: str = option(
        "",
        "Of a fresh model: a published size, or tiny. A checkpoint has its own, and no other.",
        choices=("", "tiny", *CLIP_SIZES),
    )
    checkpoint: str = option(
        "",
        "Model folder (of main or convert), which gives sizes and weights; empty: none.",
        form="folder",
    )
    tokenizer: str = option("", "A tokenizer.json or its folder; empty: the checkpoint's.")


@dataclasses.dataclass(frozen=True)
class SamplerSettings(SamplerConfig):
    """The sampler's sizes, and the source of its weights."""

    checkpoint: str = option("", "Model folder (of main); empty: fresh weights.", form="folder")
    network: str = option(
        "msjoe",
        "Whose network it is: the name of a selector that has one (SELECTORS).",
        choices=networks,
    )
    signals: tuple[str, ...] = option(
        ("clip",),
        "The rows of S that it reads, a row a query of each: names of SIGNALS.",
        choices=SIGNALS,
    )

    def slips(self) -> Iterator[str]:
        """Yields what does not go together."""
        yield from super().slips()
        if not self.signals:
            yield "signals is empty: name one at least"


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The three models."""

    mllm: MllmSettings = group(MllmSettings, "The multimodal LLM: reasons and answers.")
    clip: ClipSettings = group(ClipSettings, "Scores frames by queries.")
    sampler: SamplerSettings = group(SamplerSettings, "Turns scores into a choice of frames.")


# --- their tokenizers -------------------------------------------------------------------------


class Tokenizers(NamedTuple):
    """The tokenizers of the two models that read text; None if a model is absent."""

    mllm: Tokenizer | None = None
    clip: Tokenizer | None = None


def load_tokenizers(settings: ModelSettings, folder: epath.Path | None = None) -> Tokenizers:
    """Reads both tokenizers: those that the settings name, else those of their checkpoints.

    The tokenizers of a model folder take precedence; a model that the folder lacks has none.

    Raises:
      UserError: a tokenizer is missing, or cannot be read.
    """

    def load(name: str, part: MllmSettings | ClipSettings) -> Tokenizer | None:
        own_folder = folder_of(name, part.checkpoint, folder)
        if folder is not None and not (folder / name).is_dir():
            return None
        path = own_folder if folder or not part.tokenizer else part.tokenizer
        if path is None:
            raise UserError(
                f"config.{name}.tokenizer is not set: name a tokenizer.json or its folder, or "
                f"a checkpoint that holds one (config.{name}.checkpoint)"
            )
        return Tokenizer(path)

    return Tokenizers(load("mllm", settings.mllm), load("clip", settings.clip))


# --- the system -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
    """Static definitions of the models and their abstract parameters.

    Attributes:
      family: the MLLM's.
      mllm_config: the MLLM's sizes, an object of its family (`families.Sizes`).
      clip_config, sampler_config: the sizes of the other two.
      clip_pixels: how a frame becomes CLIP's input.
      mllm_def, clip_def, sampler_def: their definitions.
      abstract: their parameters by name, as shapes and types.
      build: their constructors by name, which take an `nnx.Rngs`.
      network: the selector whose network the sampler is.
      signals: the rows of S that it reads.
      lora_scale: factor of the MLLM's LoRA updates.
      dtype: of the MLLM's computation.
      one_by_one: whether it runs a question's prompts one after the other.
      position_rule: how the positions of its prompts are counted; empty: the family's default.
    """

    family: Family
    mllm_config: Any
    clip_config: CLIPConfig
    clip_pixels: Pixels
    sampler_config: SamplerConfig
    mllm_def: nnx.GraphDef
    clip_def: nnx.GraphDef
    sampler_def: nnx.GraphDef
    abstract: dict[str, Params]
    build: dict[str, Callable[[nnx.Rngs], nnx.Module]]
    network: str = "msjoe"
    signals: tuple[str, ...] = ("clip",)
    lora_scale: float = 1.0
    dtype: Any = jnp.float32
    one_by_one: bool = False
    position_rule: str = ""

    def mllm(self, params: Params) -> VisionLanguageModel:
        """Builds the MLLM with these parameters (adapters added), inside a jitted function."""
        return nnx.merge(self.mllm_def, merge_lora(params, self.lora_scale))

    def clip_model(self, params: Params) -> CLIP:
        """Builds CLIP with these parameters, inside a jitted function."""
        return nnx.merge(self.clip_def, params)

    def frame_logits(self, params: Params, inputs: FrameInputs) -> Float[Array, "R T"]:
        """Computes the sampler's logits of the frames, inside a jitted function."""
        network = SELECTORS[self.network].network
        assert network is not None
        return network.logits(nnx.merge(self.sampler_def, params), inputs)

    def init(self, name: str, seed: int, places: Any = None) -> Params:
        """Draws fresh parameters of a model, the same values wherever they lie.

        Args:
          name: `mllm`, `clip` or `sampler`.
          seed: of the drawing.
          places: the sharding of every leaf; None: inside a jitted function, which decides.
        """
        draw = jax.jit(
            lambda: split_module(self.build[name](nnx.Rngs(seed)))[1],
            out_shardings=places,
            compiler_options=None if places is None else quick_options(),  # the outermost has them
        )
        return draw()

    def banned_ids(self) -> tuple[int, ...]:
        """Returns the placeholders' ids, which are never sampled and have no probability."""
        return (self.mllm_config.image_token_id, self.mllm_config.video_token_id)


def make_system(
    settings: ModelSettings,
    tokenizers: Tokenizers | None = None,
    folder: epath.Path | None = None,
) -> System:
    """Builds the system that the settings name; no parameter is allocated.

    Args:
      settings: a named checkpoint gives the sizes.
      tokenizers: give a `tiny` model its vocabulary, and the ids of special tokens; None: the
        published ids, which suffice for planning.
      folder: a model folder, whose sizes take precedence over the settings'; a model that it lacks
        has the settings' size.

    Raises:
      UserError: an unknown or an empty size, one that is not its checkpoint's, one that needs a
        tokenizer, unreadable sizes, a tokenizer with ids beyond the embedding table, or an
        attention backend that this machine or these sizes do not support.
    """
    vocabularies = tokenizers or Tokenizers()
    part = settings.mllm
    family, mllm = mllm_sizes_of(part.size, part.checkpoint, vocabularies.mllm, folder)
    named = settings.clip.size, settings.clip.checkpoint
    clip, pixels = clip_sizes_of(*named, vocabularies.clip, folder)
    for tokenizer, sizes in zip(vocabularies, (mllm, clip), strict=True):
        if tokenizer is not None:
            tokenizer.check_fits(sizes.vocab)
    sampler = SamplerConfig(
        **{f.name: getattr(settings.sampler, f.name) for f in dataclasses.fields(SamplerConfig)}
    )
    network = SELECTORS[settings.sampler.network].network
    assert network is not None
    mllm_settings = settings.mllm
    dtype, param_dtype = jnp.dtype(mllm_settings.dtype), jnp.dtype(mllm_settings.param_dtype)
    _check_attention(mllm_settings.attention, dtype, family.head_dims(mllm))
    build: dict[str, Callable[[nnx.Rngs], nnx.Module]] = {
        "mllm": lambda rngs: family.build(
            mllm,
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
            remat=mllm_settings.remat,
            chunk=mllm_settings.attention_chunk,
            attention=mllm_settings.attention,
        ),
        "clip": lambda rngs: CLIP(clip, rngs=rngs),
        "sampler": lambda rngs: network.build(sampler, clip.embed_dim, rngs),
    }

    def of(make: Callable[[nnx.Rngs], nnx.Module]) -> tuple[nnx.GraphDef, Params]:
        return abstract(lambda: make(nnx.Rngs(0)))  # Rngs must be made in the trace that uses them

    shapes = {name: of(make) for name, make in build.items()}
    return System(
        family=family,
        mllm_config=mllm,
        clip_config=clip,
        clip_pixels=pixels,
        sampler_config=sampler,
        mllm_def=shapes["mllm"][0],
        clip_def=shapes["clip"][0],
        sampler_def=shapes["sampler"][0],
        abstract={name: params for name, (_, params) in shapes.items()},
        build=build,
        network=settings.sampler.network,
        signals=settings.sampler.signals,
        lora_scale=mllm_settings.lora_alpha / max(mllm_settings.lora_rank, 1),
        dtype=dtype,
        one_by_one=mllm_settings.prompts_one_by_one,
        position_rule=mllm_settings.positions,
    )


def state_table(system: System) -> Table:
    """Returns the sharding table of a training state (see `mesh.param_shardings`).

    The first match counts. LoRA's rows come first and the sampler's last, because their patterns
    match leaves of the other models too.
    """
    network = SELECTORS[system.network].network
    assert network is not None
    clips = ((r"\w+_opt/\d+/norms", REPLICATED),)  # the last norms of a gradient
    return (*clips, *LORA, *system.family.sharding_table, *CLIP_TABLE, *network.sharding_table)


def _check_attention(backend: str, dtype: jnp.dtype, head_dims: tuple[int, ...]) -> None:
    if backend == "cudnn" and jax.default_backend() != "gpu":
        raise UserError("config.mllm.attention=cudnn needs an NVIDIA GPU; use auto")
    if backend == "cudnn" and not all(takes_cudnn(dtype, size) for size in head_dims):
        raise UserError(
            f"config.mllm.attention=cudnn does not take {dtype} at head dims {head_dims}; use auto"
        )
