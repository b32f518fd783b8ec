"""Every key of every settings file of five layouts, changed once: as the reference, or refused.

Accepted is a change only if what it leads to here equals what it leads to in the library whose
file it is: logits, embeddings, pixels, ids, rendered prompts, ends and penalties. Refused is it by
one line that names the key.
"""

import functools
import json
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from msjoe_jax.commands.convert import prepare
from msjoe_jax.commands.generate import cut_pixels
from msjoe_jax.errors import UserError
from msjoe_jax.families import FAMILIES
from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.models.clip.preprocess import Pixels, normalise, preprocess_frames
from msjoe_jax.models.params import abstract
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig
from msjoe_jax.rollout.model_files import read_clip_pixels, read_mllm_files
from msjoe_jax.text.tokenizer import Tokenizer
from msjoe_jax.weights.clip import HUGGING_FACE, OPEN_CLIP
from msjoe_jax.weights.qwen import qwen_table
from msjoe_jax.weights.settings_files import SettingsFiles
from msjoe_jax.weights.tables import from_hf
from tests.support.clip_oracle import build, embeddings
from tests.support.layouts import LAYOUTS, TEXT, changed, picture
from tests.support.qwen_oracle import numpy_of, shapes_of
from tests.support.torch_stubs import declare_torchvision_ops

pytestmark = pytest.mark.slow
FAMILY = FAMILIES["qwen2_5_vl"]
SIZES = [(40, 50), (61, 33)]
TOKENS = np.array([4, 3, 5, 5, 5, 5, 5, 5, 4, 12, 13])  # a picture of 4 x 6 patches between marks
PATCHES = np.random.default_rng(0).normal(size=(24, 96)).astype(np.float32)


# --- Qwen2.5-VL -----------------------------------------------------------------------------------


@functools.cache
def our_logits(sizes: QwenConfig, folder: str) -> np.ndarray:
    """Of weights that stand in a folder."""
    from safetensors.torch import load_file

    tensors = {n: numpy_of(x) for n, x in load_file(f"{folder}/model.safetensors").items()}
    params = from_hf(tensors, qwen_table(sizes), shapes_of(sizes))
    definition, _ = abstract(lambda: FAMILY.build(sizes, rngs=nnx.Rngs(0), chunk=8))

    @jax.jit
    def run(params, patches, grid, tokens, index, positions):
        model = nnx.merge(definition, params)
        x = model.prompt_embeds(tokens, index, model.vision(patches, grid))[:, 0]
        h = model.language.prefill(x, positions, jnp.ones(tokens[0].shape, jnp.int32))[0]
        return model.language.logits(h)

    index = np.cumsum(TOKENS == 5) * (TOKENS == 5) - 1
    positions = FAMILY.positions(sizes, TOKENS, [(1, 4, 6)], [], "released")
    tokens, index = TOKENS[None, None], index[None, None]
    with jax.default_matmul_precision("highest"):
        out = run(params, PATCHES[None], np.array([[4, 6]]), tokens, index, positions[None])
    return np.asarray(out)[0]


def reference_logits(folder) -> np.ndarray:
    declare_torchvision_ops()
    from transformers import Qwen2_5_VLForConditionalGeneration

    module = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder).float().eval()
    with torch.no_grad():
        out = module(
            input_ids=torch.from_numpy(TOKENS[None]),
            pixel_values=torch.from_numpy(PATCHES),
            image_grid_thw=torch.tensor([[1, 4, 6]]),
            mm_token_type_ids=torch.from_numpy((TOKENS[None] == 5).astype(np.int32)),
        )
    return out.logits[0].numpy()


def compare_qwen(folder, sizes: QwenConfig, weights: str, model: bool) -> None:
    """Compares all that the folder's files lead to; the logits only if the `model` may differ."""
    files, tokenizer = SettingsFiles(folder), Tokenizer(folder)
    made = read_mllm_files(files, FAMILY, sizes, tokenizer)
    if model:
        want = reference_logits(folder)
        np.testing.assert_allclose(our_logits(sizes, weights), want, atol=2e-5 * abs(want).max())
    compare_pixels(folder, sizes, made.image_bounds)
    compare_words(folder, made.chat, tokenizer)
    compare_generation(folder, made.generation)


def compare_pixels(folder, sizes, bounds) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    processor = Qwen2VLImageProcessorPil.from_pretrained(folder)
    for height, width in SIZES:
        image = picture(height, width)
        made = cut_pixels([np.asarray(image)], FAMILY, sizes, fps=None, bounds=bounds)
        theirs = processor(images=[image], return_tensors="np")
        assert (1, *made.grid) == tuple(theirs["image_grid_thw"][0])
        ours = FAMILY.images.fused(made.patches.swapaxes(1, 2))[0]
        np.testing.assert_allclose(ours, theirs["pixel_values"], atol=1e-5)


def compare_words(folder, chat, tokenizer) -> None:
    from transformers import PreTrainedTokenizerFast
    from transformers.processing_utils import ProcessorMixin
    from transformers.utils.chat_template_utils import render_jinja_template

    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    content, _ = ProcessorMixin.get_processor_dict(str(folder))
    template = content.get("chat_template") or theirs.chat_template
    body: Any = [{"type": "image"}, {"type": "text", "text": TEXT}]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": body}]
    options: Any = {"chat_template": template, "add_generation_prompt": True}
    made: Any = render_jinja_template([messages], **options, **theirs.special_tokens_map)
    rendered = made[0][0]
    before, after = chat.turns("Be brief.", TEXT)
    assert before + "<|vision_start|><|image_pad|><|vision_end|>" + after == rendered
    assert tokenizer.encode(rendered) == theirs(rendered)["input_ids"]


def compare_generation(folder, made) -> None:
    from transformers import AutoConfig, GenerationConfig

    if (folder / "generation_config.json").is_file():
        theirs = GenerationConfig.from_pretrained(folder)
    else:
        theirs = GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder))
    ends = theirs.eos_token_id
    ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
    assert made.end_ids == tuple(ends)
    assert made.repetition_penalty == (theirs.repetition_penalty or 1.0)
    drawn = bool(theirs.do_sample) and (theirs.temperature is None or theirs.temperature >= 1e-4)
    assert made.temperature == ((theirs.temperature or 1.0) if drawn else 0.0)


# --- CLIP -----------------------------------------------------------------------------------------


@functools.cache
def our_embeddings(sizes: CLIPConfig, weights: str, library: str) -> tuple[np.ndarray, np.ndarray]:
    from safetensors.torch import load_file

    name = "open_clip_model" if library == "open_clip" else "model"
    tensors = {n: numpy_of(x) for n, x in load_file(f"{weights}/{name}.safetensors").items()}
    definition, shapes = build(sizes)
    table = OPEN_CLIP if library == "open_clip" else HUGGING_FACE
    model = nnx.merge(definition, jax.tree.map(jnp.asarray, from_hf(tensors, table, shapes)))
    pixels, tokens = map(jnp.asarray, clip_inputs())
    with jax.default_matmul_precision("highest"):
        return np.asarray(model.encode_image(pixels)), np.asarray(model.encode_text(tokens))


def clip_inputs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 48, (3, 8))
    tokens[:, -1] = 49
    tokens[1, 3:] = 49
    return rng.normal(size=(2, 28, 28, 3)).astype(np.float32), tokens


def compare_clip(folder, sizes: CLIPConfig, weights: str, model: bool) -> None:
    declare_torchvision_ops()
    if (folder / "open_clip_config.json").is_file():
        compare_open_clip(folder, sizes, weights)
        return
    from transformers import CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    files = SettingsFiles(folder)
    if model:
        module = CLIPModel.from_pretrained(folder).eval()
        compare_embeddings(embeddings(module, "hf", *clip_inputs()), sizes, weights, "hf")
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    pixels = read_clip_pixels(files, sizes)
    for height, width in SIZES:
        image = picture(height, width)
        theirs = processor(images=[image], return_tensors="np")["pixel_values"][0]
        compare_square(image, pixels, theirs.transpose(1, 2, 0))


def compare_open_clip(folder, sizes: CLIPConfig, weights: str) -> None:
    import open_clip

    content = json.loads((folder / "open_clip_config.json").read_text())
    module, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    compare_embeddings(embeddings(module, "open_clip", *clip_inputs()), sizes, weights, "open_clip")
    pixels = Pixels.from_open_clip(content["preprocess_cfg"], sizes.image_size)
    for height, width in SIZES:
        image = picture(height, width)
        compare_square(image, pixels, transform(image).permute(1, 2, 0).numpy())


def compare_embeddings(theirs, sizes, weights, library) -> None:
    for ours, want in zip(our_embeddings(sizes, weights, library), theirs, strict=True):
        np.testing.assert_allclose(ours, want.numpy(), atol=2e-5 * abs(want.numpy()).max())


def compare_square(image, pixels: Pixels, want: np.ndarray) -> None:
    made = normalise(preprocess_frames(np.asarray(image)[None], pixels), pixels)[0]
    np.testing.assert_allclose(made, want, rtol=1e-5, atol=1e-5)


# --- the sweep ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    # Those of transformers 4 hold mostly the same keys.
    [pytest.param(x, marks=pytest.mark.soak) if x.endswith("_4") else x for x in LAYOUTS],
)
def test_every_key(name, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    LAYOUTS[name](base)
    compare = compare_qwen if name.startswith("qwen") else compare_clip
    compare(base, prepare(base).model.sizes, str(base), True)  # as it is
    shutil.copytree(base, tmp_path / "changed")
    folder, counts, wrong = tmp_path / "changed", {"equal": 0, "refused": 0}, []
    for file in sorted(base.glob("*.json")):
        if file.name in ("tokenizer.json", "model.safetensors.index.json"):
            continue  # all of the first is read by the library that wrote it
        for path, content in changed(json.loads(file.read_text())):
            (folder / file.name).write_text(json.dumps(content))
            where = f"{file.name}: {'.'.join(path)}"
            try:
                sizes = prepare(folder).model.sizes
            except UserError as error:
                counts["refused"] += 1
                if path[-1] not in str(error) or "\n" in str(error):
                    wrong.append(f"{where}: refused without its name: {error}")
                continue
            try:
                compare(
                    folder,
                    sizes,
                    str(base),
                    "config.json" in (file.name, file.name.removeprefix("open_clip_")),
                )
                counts["equal"] += 1
            except Exception as error:
                wrong.append(f"{where}: {type(error).__name__} {str(error).strip()[:200]}")
        shutil.copy(file, folder / file.name)
    print(name, counts)
    assert not wrong, "\n".join([f"{len(wrong)} of {name}", *wrong])
    assert min(counts.values()) > 4


# Keys that the layouts above lack, in a file that may be absent; all are refused.
ADDED: dict[str, list[tuple[str, tuple[str, ...], Any]]] = {
    "qwen_4": [
        ("generation_config.json", ("max_time",), 0.0001),
        ("generation_config.json", ("stop_strings",), ["the"]),
        ("tokenizer_config.json", ("additional_special_tokens",), ["<foo>"]),
        ("tokenizer_config.json", ("extra_special_tokens",), {"foo_token": "<foo>"}),
        ("tokenizer_config.json", ("tokenizer_class",), "GPT2Tokenizer"),
        ("tokenizer_config.json", ("processor_class",), "LlavaProcessor"),
        ("special_tokens_map.json", ("pad_token",), "<foo>"),
        ("tokenizer.json", ("model", "dropout"), 0.5),
        ("preprocessor_config.json", ("processor_class",), "LlavaProcessor"),
        ("video_preprocessor_config.json", ("max_frames",), 1),
    ],
    "qwen_5": [("processor_config.json", ("processor_class",), "LlavaProcessor")],
    "clip_5": [
        ("config.json", ("tokenizer_class",), "BertTokenizer"),
        ("config.json", ("model_type",), "siglip"),
        ("config.json", ("text_config_dict",), {"hidden_size": 48, "num_attention_heads": 3}),
        ("tokenizer_config.json", ("tokenizer_class",), "BertTokenizer"),
        ("preprocessor_config.json", ("processor_class",), "LlavaProcessor"),
    ],
    "open_clip": [("open_clip_config.json", ("model_cfg", "cast_dtype"), "fp16")],
}


@pytest.mark.parametrize("name", ADDED)
def test_keys_that_a_layout_lacks(name, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    LAYOUTS[name](base)
    for i, (file, path, value) in enumerate(ADDED[name]):
        folder = tmp_path / str(i)
        shutil.copytree(base, folder)
        there = (folder / file).is_file()
        content: Any = json.loads((folder / file).read_text()) if there else {}
        part = content
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = value
        (folder / file).write_text(json.dumps(content))
        with pytest.raises(UserError) as error:
            prepare(folder)
        assert path[-1] in str(error.value) and "\n" not in str(error.value), (file, path)
