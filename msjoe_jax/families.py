"""Model families: everything about a multimodal LLM that differs between families.

`FAMILIES` is keyed by Hugging Face's `model_type`. Conversion, export, model folders, the system
and the rollout take everything from a `Family` and its sizes object, and name no model. A family
is a module (`VisionLanguageModel`), sizes (`Sizes`), tables and an entry here. CLIP is none.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from flax import nnx
from jaxtyping import Array, Int

from msjoe_jax.errors import UserError
from msjoe_jax.models.flops import Flops
from msjoe_jax.models.hf_fields import VideoBudget
from msjoe_jax.models.params import Params, abstract
from msjoe_jax.models.qwen2_5_vl import config as qwen
from msjoe_jax.models.qwen2_5_vl import images as qwen_images
from msjoe_jax.models.qwen2_5_vl import processors as qwen_processors
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig
from msjoe_jax.models.qwen2_5_vl.flops import qwen_flops
from msjoe_jax.models.qwen2_5_vl.model import QwenVL
from msjoe_jax.models.qwen2_5_vl.positions import POSITION_RULES, prompt_positions
from msjoe_jax.models.qwen2_5_vl.sharding import LANGUAGE, VISION
from msjoe_jax.runtime.files import read_json
from msjoe_jax.runtime.mesh import Table as ShardingTable
from msjoe_jax.text.tokenizer import Tokenizer
from msjoe_jax.weights.folder import read_sizes
from msjoe_jax.weights.qwen import qwen_table
from msjoe_jax.weights.tables import Table as WeightTable

Grid = tuple[int, int, int]  # of an image or a video: temporal steps, rows and columns in patches
# Of a video in a prompt: seconds between its temporal steps, or each step's time in seconds.
Seconds = float | tuple[float, ...]


# --- what is stated of a family -----------------------------------------------------------------


class VisualText(NamedTuple):
    """Tokens of a picture or a video in a prompt, around its placeholders.

    `between` stands between the temporal steps of a video.
    """

    before: tuple[int, ...]
    placeholder: int
    after: tuple[int, ...]
    between: tuple[int, ...] = ()


class Images(NamedTuple):
    """Functions from frames to the vision tower's input; see models/qwen2_5_vl/images.py.

    Attributes:
      fit: (height, width, *, factor, min_pixels, max_pixels) to a frame's size.
      resize: (frame, *, factor, min_pixels, max_pixels) to the frame of that size.
      cut: (frame, patch, merge, num_patches) to uint8 patches and the grid (rows, columns).
      inputs: (patches, temporal_patch) of single frames to the tower's input.
      fused: patches of whole temporal steps [*, T, P, p, p, 3] to the tower's input.
      max_aspect: frames that are longer in proportion are refused by `fit`.
      mean, std: of the channels, as a preprocessor's settings must state them.
      image_bounds: (settings of the image processor or None, sizes) to the least and most pixels
        of an image; KeyError or ValueError says what is wrong.
      video_budget: likewise of the video processor.
    """

    fit: Callable[..., tuple[int, int]]
    resize: Callable[..., np.ndarray]
    cut: Callable[..., tuple[np.ndarray, tuple[int, int]]]
    inputs: Callable[..., Array]
    fused: Callable[..., Array]
    max_aspect: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_bounds: Callable[[dict[str, Any] | None, Any], tuple[int, int]]
    video_budget: Callable[[dict[str, Any] | None, Any], VideoBudget]


MakeSizes = Callable[[Mapping[str, int], Tokenizer | None], Any]


class Family(NamedTuple):
    """A family of multimodal LLMs.

    Attributes:
      title: its name in words.
      architecture: the class of `transformers` that loads it.
      published_dtype: the type that its weights are published in.
      read_config: the sizes from a `config.json`; KeyError or ValueError says what is wrong.
      write_config: the way back.
      special_tokens: field of the sizes to (spelling, id in the published vocabulary).
      sizes: published names to a function of those fields' ids, and of the tokenizer if there is
        one, that gives the sizes.
      tiny: likewise the sizes of a model for tests, for a tokenizer's vocabulary; None: none.
      build: (sizes, *, rngs, dtype, param_dtype, remat, chunk, attention) to the module; all but
        sizes and rngs may be left out.
      head_dims: widths of the attention heads, as some kernels take only some widths.
      flops: of a forward pass.
      weight_table: the published tensors, for these sizes.
      sharding_table: what each dimension of every parameter is.
      position_rules: names of the ways in which versions of the reference count positions; the
        first is the default.
      positions: (sizes, token ids [L], grids, seconds of each video, rule) to M-RoPE's positions
        [3, L] of a prompt that ends in text; a model of one axis states it three times.
      images: see `Images`.
      text_around: (sizes, whether it is a video) to what stands around its placeholders.
      preprocessors: sizes to the settings of its processors in `transformers`, by file, for models
        that were not published with any.
    """

    title: str
    architecture: str
    published_dtype: str
    read_config: Callable[[dict[str, Any]], Any]
    write_config: Callable[[Any], dict[str, Any]]
    special_tokens: Mapping[str, tuple[str, int]]
    sizes: Mapping[str, MakeSizes]
    tiny: MakeSizes | None
    build: Callable[..., nnx.Module]
    head_dims: Callable[[Any], tuple[int, ...]]
    flops: Callable[[Any], Flops]
    weight_table: Callable[[Any], WeightTable]
    sharding_table: ShardingTable
    position_rules: tuple[str, ...]
    positions: Callable[
        [Any, Int[np.ndarray, "L"], Sequence[Grid], Sequence[Seconds], str], Int[np.ndarray, "3 L"]
    ]
    images: Images
    text_around: Callable[[Any, bool], VisualText]
    preprocessors: Callable[[Any], dict[str, dict[str, Any]]] = lambda sizes: {}

    def token_ids(self, tokenizer: Tokenizer | None) -> dict[str, int]:
        """Looks the special tokens up in a vocabulary, or in the published one.

        Raises:
          UserError: the vocabulary lacks one.
        """
        return {
            field: published if tokenizer is None else tokenizer.token_id(spelling)
            for field, (spelling, published) in self.special_tokens.items()
        }

    def abstract_params(self, sizes: Any) -> Params:
        """Builds the parameter tree of these sizes, in float32; no parameter is allocated."""
        return abstract(lambda: self.build(sizes, rngs=nnx.Rngs(0)))[1]


# --- the families -----------------------------------------------------------------------------


def _published_qwen(name: str) -> MakeSizes:
    return lambda token_ids, tokenizer: QwenConfig.published(name, token_ids)


def _tiny_qwen(token_ids: Mapping[str, int], tokenizer: Tokenizer | None) -> QwenConfig:
    assert tokenizer is not None
    return QwenConfig.tiny(tokenizer.size, token_ids)


def _text_around_qwen(sizes: QwenConfig, video: bool) -> VisualText:
    return VisualText(
        before=(sizes.vision_start_token_id,),
        placeholder=sizes.video_token_id if video else sizes.image_token_id,
        after=(sizes.vision_end_token_id,),
    )


def _qwen_preprocessors(sizes: QwenConfig) -> dict[str, dict[str, Any]]:
    vision, video = sizes.vision, qwen_processors.video_budget(None, sizes)
    shared = {
        "patch_size": vision.patch,
        "temporal_patch_size": vision.temporal_patch,
        "merge_size": vision.merge,
        "image_mean": list(qwen_images.PIXEL_MEAN),
        "image_std": list(qwen_images.PIXEL_STD),
        "processor_class": qwen_processors.PROCESSOR,
    }
    bounds = ("min_pixels", "max_pixels")
    return {
        "preprocessor_config.json": {
            **dict(zip(bounds, qwen_processors.image_bounds(None, sizes), strict=True)),
            **shared,
            "image_processor_type": "Qwen2VLImageProcessor",
        },
        "video_preprocessor_config.json": {
            **dict(zip(bounds, video.frame_pixels, strict=True)),
            **shared,
            "min_frames": video.frames[0],
            "max_frames": video.frames[1],
            "video_processor_type": "Qwen2VLVideoProcessor",
        },
    }


FAMILIES: dict[str, Family] = {
    "qwen2_5_vl": Family(
        title="Qwen2.5-VL",
        architecture="Qwen2_5_VLForConditionalGeneration",
        published_dtype="bfloat16",
        read_config=QwenConfig.from_hf,
        write_config=QwenConfig.to_hf,
        special_tokens=qwen.SPECIAL_TOKENS,
        sizes={name: _published_qwen(name) for name in qwen.SIZES},
        tiny=_tiny_qwen,
        build=QwenVL,
        head_dims=lambda sizes: (sizes.text.head_dim, sizes.vision.head_dim),
        flops=qwen_flops,
        weight_table=qwen_table,
        sharding_table=(*LANGUAGE, *VISION),
        position_rules=POSITION_RULES,
        positions=prompt_positions,
        images=Images(
            fit=qwen_images.smart_resize,
            resize=qwen_images.resize_frame,
            cut=qwen_images.frame_to_patches,
            inputs=qwen_images.patches_to_inputs,
            fused=qwen_images.fused_patches_to_inputs,
            max_aspect=qwen_images.MAX_ASPECT,
            mean=qwen_images.PIXEL_MEAN,
            std=qwen_images.PIXEL_STD,
            image_bounds=qwen_processors.image_bounds,
            video_budget=qwen_processors.video_budget,
        ),
        text_around=_text_around_qwen,
        preprocessors=_qwen_preprocessors,
    )
}


def position_rules() -> tuple[str, ...]:
    """Returns the names of all families' rules of positions, and the empty one: the default."""
    return ("", *dict.fromkeys(r for family in FAMILIES.values() for r in family.position_rules))


def published_sizes() -> tuple[str, ...]:
    """Returns the names of all families' published sizes."""
    return tuple(name for family in FAMILIES.values() for name in family.sizes)


def family_of(config: Mapping[str, Any], source: epath.PathLike) -> Family:
    """Returns the family of a Hugging Face config.

    Raises:
      UserError: it belongs to none; the message names `source`, its file.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise UserError(f"{source}: model_type is {kind!r}; known are {', '.join(FAMILIES)}")
    return FAMILIES[kind]


def read_model(file: epath.Path) -> tuple[Family, Any]:
    """Reads the model's family and its sizes from a `config.json`.

    Raises:
      UserError: it cannot be read, or asks for something that is not implemented.
    """
    family = family_of(read_json(file), file)
    return family, read_sizes(file, family.read_config)


def named_model(size: str, tokenizer: Tokenizer | None) -> tuple[Family, Any]:
    """Returns the family and the sizes of a published name, or of `tiny`, for a vocabulary.

    Without a tokenizer the published token ids are used (enough to plan or to count).

    Raises:
      UserError: no family has that name, `tiny` comes without a tokenizer, or the tokenizer lacks a
        special token.
    """
    for family in FAMILIES.values():
        make = family.tiny if size == "tiny" else family.sizes.get(size)
        if make is not None:
            if size == "tiny" and tokenizer is None:
                raise UserError("config.mllm.size=tiny needs a tokenizer: config.mllm.tokenizer")
            return family, make(family.token_ids(tokenizer), tokenizer)
    names = ", ".join(["tiny", *published_sizes()])
    raise UserError(f"config.mllm.size={size!r} is not one of {names}")
