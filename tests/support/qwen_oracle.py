"""transformers' Qwen2.5-VL on small random weights, and batches in its form and in ours."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import torch
from flax import nnx

from msjoe_jax.models.params import abstract
from msjoe_jax.models.qwen2_5_vl.config import SPECIAL_TOKENS, QwenConfig
from msjoe_jax.models.qwen2_5_vl.model import QwenVL
from msjoe_jax.models.qwen2_5_vl.positions import mrope_positions
from msjoe_jax.weights.qwen import qwen_table
from msjoe_jax.weights.tables import from_hf
from tests.support.torch_stubs import declare_torchvision_ops
from tests.support.torch_weights import randomise

IMAGE, VIDEO, START, END, VOCAB = 50, 51, 52, 53, 60
SECONDS = 0.5  # of a video's grid step: one temporal position at two tokens a second

Item = int | tuple[int, int, int, int]  # text tokens, or a grid (kind, t, h, w)

TEXT_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
}
VISION_SIZES: dict[str, Any] = {
    "depth": 3,
    "hidden_size": 32,
    "num_heads": 2,
    "intermediate_size": 40,
    "out_hidden_size": 32,
    "fullatt_block_indexes": [1],
    "patch_size": 4,
    "spatial_merge_size": 2,
    "window_size": 16,
}


def reference(
    text: dict[str, Any] = TEXT_SIZES,
    vision: dict[str, Any] = VISION_SIZES,
    *,
    tie: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """The reference of those sizes with random weights; buffers (rotary frequencies) in float32."""
    declare_torchvision_ops()
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    ends = {"max_position_embeddings": 128, "bos_token_id": None, "eos_token_id": None}
    module = Qwen2_5_VLForConditionalGeneration._from_config(
        Qwen2_5_VLConfig(
            text_config={**ends, **text},
            vision_config={"tokens_per_second": 2, **vision},
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            vision_start_token_id=START,
            vision_end_token_id=END,
            tie_word_embeddings=tie,
        ),
        dtype=dtype,
    ).eval()
    randomise(module, seed)
    module.tie_weights()
    return module


def numpy_of(tensor: torch.Tensor) -> np.ndarray:
    """The array, of bfloat16 too, which torch does not hand over itself."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def published_sizes(name: str) -> QwenConfig:
    """The sizes of that name with the published token ids."""
    return QwenConfig.published(name, {field: i for field, (_, i) in SPECIAL_TOKENS.items()})


def shapes_of(config: QwenConfig) -> dict[str, Any]:
    """The abstract parameters of these sizes."""
    return abstract(lambda: QwenVL(config, rngs=nnx.Rngs(0)))[1]


def ours(
    module: Any, *, dtype: Any = jnp.float32, chunk: int = 8
) -> tuple[QwenConfig, nnx.GraphDef, dict[str, Any]]:
    """Our model with the reference's weights, in `dtype` throughout."""
    config = QwenConfig.from_hf(module.config.to_dict())
    graphdef, shapes = abstract(
        lambda: QwenVL(config, rngs=nnx.Rngs(0), dtype=dtype, param_dtype=dtype, chunk=chunk)
    )
    tensors = {name: numpy_of(tensor) for name, tensor in module.state_dict().items()}
    return config, graphdef, from_hf(tensors, qwen_table(config), shapes)


@dataclasses.dataclass
class Batch:
    """Padded rows; arrays for us and the reference's flat inputs."""

    tokens: np.ndarray  # [B, S]
    valid: np.ndarray  # [B, S]
    positions: np.ndarray  # [B, 3, S]
    feature_index: np.ndarray  # [B, S]
    patches: np.ndarray  # [B, F, P, C], NaN where padded
    grids: np.ndarray  # [B, F, 2]
    flat: dict[int, list[np.ndarray]]
    thw: dict[int, list[tuple[int, int, int]]]
    features: dict[int, list[tuple[int, int, int]]]  # (row, frame, tokens) in the order of `flat`


def make_batch(
    rows: list[list[Item]], config: QwenConfig, *, num_patches: int = 24, left: bool = False
) -> Batch:
    """One conversation a row, padded by at least one token on one side if there are several."""
    rng = np.random.default_rng(0)
    merge, dim = config.vision.merge, config.vision.patch_dim
    frames = max(sum(x[1] for x in row if not isinstance(x, int)) for row in rows) or 1
    patches = np.full((len(rows), frames, num_patches, dim), np.nan, np.float32)
    grids = np.zeros((len(rows), frames, 2), np.int32)
    flat: dict[int, list] = {IMAGE: [], VIDEO: []}
    thw: dict[int, list] = {IMAGE: [], VIDEO: []}
    features: dict[int, list] = {IMAGE: [], VIDEO: []}
    tokens, index, positions = [], [], []
    for b, row in enumerate(rows):
        ids, places, own, f = [], [], [], 0
        for item in row:
            if isinstance(item, int):
                ids += rng.integers(0, IMAGE, item).tolist()
                places += [-1] * item
                continue
            kind, t, h, w = item
            own.append((t, h, w))
            thw[kind].append((t, h, w))
            for _ in range(t):
                x = rng.normal(size=(h * w, dim)).astype(np.float32)
                flat[kind].append(x)
                patches[b, f, : h * w], grids[b, f] = x, (h, w)
                count = h * w // merge**2
                features[kind].append((b, f, count))
                ids += [kind] * count
                places += [f * num_patches // merge**2 + j for j in range(count)]
                f += 1
        tokens.append(ids)
        index.append(places)
        positions.append(
            mrope_positions(
                np.array(ids),
                own,
                image_token_id=IMAGE,
                video_token_id=VIDEO,
                merge=merge,
                tokens_per_second=config.tokens_per_second,
                second_per_grid=[SECONDS] * len(own),
            )
        )
    length = max(len(ids) for ids in tokens) + (len(rows) > 1)

    def pad(row, value):
        row = np.asarray(row)
        missing = length - row.shape[-1]
        ends = (missing, 0) if left else (0, missing)
        return np.pad(row, [(0, 0)] * (row.ndim - 1) + [ends], constant_values=value)

    return Batch(
        tokens=np.stack([pad(ids, 0) for ids in tokens]),
        valid=np.stack([pad(np.ones(len(ids), bool), False) for ids in tokens]),
        positions=np.stack([pad(p, 0) for p in positions]),
        feature_index=np.stack([pad(places, -1) for places in index]),
        patches=patches,
        grids=grids,
        flat=flat,
        thw=thw,
        features=features,
    )


def reference_inputs(batch: Batch, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Keyword arguments of the reference; positions are its own, from its reading of the layout."""
    inputs: dict[str, torch.Tensor] = {}
    if batch.thw[IMAGE]:
        pixels = torch.from_numpy(np.concatenate(batch.flat[IMAGE]))
        inputs["pixel_values"] = pixels.to(dtype)
        inputs["image_grid_thw"] = torch.tensor(batch.thw[IMAGE])
    if batch.thw[VIDEO]:
        pixels = torch.from_numpy(np.concatenate(batch.flat[VIDEO]))
        inputs["pixel_values_videos"] = pixels.to(dtype)
        inputs["video_grid_thw"] = torch.tensor(batch.thw[VIDEO])
        inputs["second_per_grid_ts"] = torch.full((len(batch.thw[VIDEO]),), SECONDS)
    if inputs:
        kinds = (batch.tokens == IMAGE) + 2 * (batch.tokens == VIDEO)
        inputs["mm_token_type_ids"] = torch.from_numpy(kinds).int()
    inputs["input_ids"] = torch.from_numpy(batch.tokens)
    inputs["attention_mask"] = torch.from_numpy(batch.valid).long()
    return inputs
