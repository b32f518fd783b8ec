"""The whole Qwen2.5-VL against transformers on random tiny weights in float32."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch_stubs import declare_torchvision_ops
from torch_weights import arrays, randomise

from msjoe_jax.models.functional import abstract, count_params
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig
from msjoe_jax.models.qwen2_5_vl.model import QwenVL
from msjoe_jax.models.qwen2_5_vl.positions import mrope_positions
from msjoe_jax.weights.qwen import qwen_table
from msjoe_jax.weights.tables import from_hf

IMAGE, VIDEO, START, END = 50, 51, 52, 53
PATCHES = 24  # a frame's bucket
SECONDS = 0.5  # of a video's grid step: one temporal position
# float32 on both sides, relative to the largest logit: summation order over five layers.
TOLERANCE = 1e-5
TAIL = 3  # last tokens, all text, that are also run through `extend` and `decode_step`

# One conversation a row: text lengths, and grids (kind, t, h, w) between them.
IMAGES = [[3, (IMAGE, 1, 4, 6), 2, (IMAGE, 1, 2, 4), 6]]
VIDEOS = [[4, (VIDEO, 2, 4, 6), 5]]
TEXT = [[12]]
MIXED = [[2, (IMAGE, 1, 4, 4), 1, (VIDEO, 2, 6, 4), 7], [9], [1, (VIDEO, 1, 2, 2), 4]]


def reference(tie: bool) -> torch.nn.Module:
    declare_torchvision_ops()
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    module = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={
                "vocab_size": 60,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 128,
                "rms_norm_eps": 1e-6,
                "bos_token_id": None,
                "eos_token_id": None,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 1e6,
                    "mrope_section": [1, 1, 2],
                },
            },
            vision_config={
                "depth": 3,
                "hidden_size": 32,
                "num_heads": 2,
                "intermediate_size": 40,
                "out_hidden_size": 32,
                "fullatt_block_indexes": [1],
                "patch_size": 4,
                "spatial_merge_size": 2,
                "window_size": 16,
                "tokens_per_second": 2,
            },
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            vision_start_token_id=START,
            vision_end_token_id=END,
            tie_word_embeddings=tie,
        )
    ).eval()
    randomise(module)
    module.tie_weights()
    return module


def published(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The names of the files on the hub: transformers 5 nests the decoder one level deeper."""
    renamed = {
        name.replace("model.visual.", "visual.").replace("model.language_model.", "model."): x
        for name, x in tensors.items()
    }
    assert "visual.patch_embed.proj.weight" in renamed and "model.norm.weight" in renamed
    return renamed


@dataclasses.dataclass
class Batch:
    """Right-padded rows; arrays for us and the reference's flat inputs."""

    tokens: np.ndarray  # [B, S]
    valid: np.ndarray  # [B, S]
    positions: np.ndarray  # [B, 3, S]
    feature_index: np.ndarray  # [B, S]
    patches: np.ndarray  # [B, F, P, C], NaN where padded
    grids: np.ndarray  # [B, F, 2]
    flat: dict[int, list[np.ndarray]]
    thw: dict[int, list[tuple[int, int, int]]]


def make_batch(rows, config: QwenConfig) -> Batch:
    rng = np.random.default_rng(0)
    merge, dim = config.vision.merge, config.vision.patch_dim
    frames = max(sum(x[1] for x in row if not isinstance(x, int)) for row in rows) or 1
    patches = np.full((len(rows), frames, PATCHES, dim), np.nan, np.float32)
    grids = np.zeros((len(rows), frames, 2), np.int32)
    flat, thw = {IMAGE: [], VIDEO: []}, {IMAGE: [], VIDEO: []}
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
                ids += [kind] * count
                places += [f * PATCHES // merge**2 + j for j in range(count)]
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
        return np.pad(np.array(row), ((0, length - len(row)),), constant_values=value)

    return Batch(
        tokens=np.stack([pad(ids, 0) for ids in tokens]),
        valid=np.stack([pad(np.ones(len(ids), bool), False) for ids in tokens]),
        positions=np.stack([np.pad(p, ((0, 0), (0, length - p.shape[1]))) for p in positions]),
        feature_index=np.stack([pad(places, -1) for places in index]),
        patches=patches,
        grids=grids,
        flat=flat,
        thw=thw,
    )


def reference_logits(module: torch.nn.Module, batch: Batch) -> np.ndarray:
    """Logits with the reference's own positions, from its own reading of the layout."""
    inputs = {}
    if batch.thw[IMAGE]:
        inputs["pixel_values"] = torch.from_numpy(np.concatenate(batch.flat[IMAGE]))
        inputs["image_grid_thw"] = torch.tensor(batch.thw[IMAGE])
    if batch.thw[VIDEO]:
        inputs["pixel_values_videos"] = torch.from_numpy(np.concatenate(batch.flat[VIDEO]))
        inputs["video_grid_thw"] = torch.tensor(batch.thw[VIDEO])
        inputs["second_per_grid_ts"] = torch.full((len(batch.thw[VIDEO]),), SECONDS)
    if inputs:
        kinds = (batch.tokens == IMAGE) + 2 * (batch.tokens == VIDEO)
        inputs["mm_token_type_ids"] = torch.from_numpy(kinds).int()
    with torch.no_grad():
        return module(
            input_ids=torch.from_numpy(batch.tokens),
            attention_mask=torch.from_numpy(batch.valid).long(),
            **inputs,
        ).logits.numpy()


def our_logits(graphdef, params, batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of a whole prefill, and of the last TAIL tokens by `extend` and by `decode_step`."""
    lengths = batch.valid.sum(1)
    head = batch.valid & (np.arange(batch.tokens.shape[1]) < (lengths - TAIL)[:, None])
    columns = (lengths - TAIL)[:, None] + np.arange(TAIL)
    tail = np.take_along_axis(batch.tokens, columns, 1)
    start = np.take_along_axis(batch.positions[:, 0], columns[:, :1], 1)[:, 0]

    @jax.jit
    def run(params, patches, grids, tokens, index, positions, valid, head, tail, start):
        model = nnx.merge(graphdef, params)
        language = model.language
        B, F = patches.shape[:2]
        features = model.vision(patches.reshape(B * F, *patches.shape[2:]), grids.reshape(-1, 2))
        features = features.reshape(B, -1, features.shape[-1])
        x = model.prompt_embeds(tokens[:, None], index[:, None], features)[:, 0]
        hidden, _ = language.prefill(x, positions, valid.astype(jnp.int32))
        segments = head.astype(jnp.int32)
        _, cache = language.prefill(x, positions, segments)
        inputs = jnp.repeat(language.embed(tail)[:, None], 2, 1)  # a group of two alike
        extended = language.extend(inputs, start, cache, segments)
        own, steps = language.empty_cache(B, 2, TAIL), []
        for i in range(TAIL):
            h, own = language.decode_step(
                inputs[:, :, i], jnp.array(i), start, cache, segments, own
            )
            steps.append(h)
        decoded = jnp.stack(steps, 2)
        return tuple(language.logits(h) for h in (hidden, extended[:, 1], decoded[:, 1]))

    with jax.default_matmul_precision("highest"):
        out = run(
            params,
            batch.patches,
            batch.grids,
            batch.tokens,
            batch.feature_index,
            batch.positions,
            batch.valid,
            head,
            tail,
            start,
        )
    return tuple(np.asarray(x) for x in out)


@pytest.mark.parametrize(
    "rows,tie", [(IMAGES, False), (VIDEOS, False), (TEXT, True), (MIXED, False)]
)
def test_parity(rows, tie):
    module = reference(tie)
    config = QwenConfig.from_hf(module.config.to_dict())
    assert config.text.tie_embeddings == tie
    graphdef, shapes = abstract(lambda: QwenVL(config, rngs=nnx.Rngs(0), chunk=8))
    table, tensors = qwen_table(config), arrays(module)
    params = from_hf(published(tensors), table, shapes)
    jax.tree.map(np.testing.assert_array_equal, params, from_hf(tensors, table, shapes))

    batch = make_batch(rows, config)
    want = reference_logits(module, batch)
    whole, extended, decoded = our_logits(graphdef, params, batch)
    for b, length in enumerate(batch.valid.sum(1)):
        scale = np.abs(want[b, :length]).max()
        assert scale > 0.5
        assert np.abs(whole[b, :length] - want[b, :length]).max() <= TOLERANCE * scale
        for last in (extended[b], decoded[b]):
            assert np.abs(last - want[b, length - TAIL : length]).max() <= TOLERANCE * scale


def test_7b_has_the_published_size():
    """From the fields of the published config.json, in its flat form."""
    config = QwenConfig.from_hf(
        {
            "model_type": "qwen2_5_vl",
            "vocab_size": 152064,
            "hidden_size": 3584,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "intermediate_size": 18944,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
            "tie_word_embeddings": False,
            "vision_config": {
                "depth": 32,
                "hidden_size": 1280,
                "num_heads": 16,
                "intermediate_size": 3420,
                "out_hidden_size": 3584,
                "fullatt_block_indexes": [7, 15, 23, 31],
                "patch_size": 14,
                "spatial_merge_size": 2,
                "window_size": 112,
                "tokens_per_second": 2,
            },
            "image_token_id": 151655,
            "video_token_id": 151656,
            "vision_start_token_id": 151652,
            "vision_end_token_id": 151653,
        }
    )
    _, shapes = abstract(lambda: QwenVL(config, rngs=nnx.Rngs(0)))
    assert count_params(shapes) == 8_292_166_656  # of Qwen2.5-VL-7B-Instruct
