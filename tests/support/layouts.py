"""Folders as models are published in, at tiny sizes, written by the libraries themselves.

`version 4` files are what transformers 4 wrote, in the words of the published ones.
"""

import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from msjoe_jax.world.word_tokenizer import build_word_tokenizer
from tests.support.clip_oracle import config as clip_sizes
from tests.support.clip_oracle import hugging_face_model, open_clip_model
from tests.support.published import published, special_ids
from tests.support.qwen_oracle import reference
from tests.support.torch_stubs import declare_torchvision_ops
from tests.support.torch_weights import randomise

TEXT = "a red cup is on the green table"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif content['type'] == 'video' %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write(file: pathlib.Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=1))


def _weights(folder: pathlib.Path, module: torch.nn.Module, rename=lambda name: name) -> None:
    tensors = {rename(name): x.clone().contiguous() for name, x in module.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def qwen_4(folder: pathlib.Path) -> Any:
    """Flat config, a file for each setting, the template in JSON."""
    module = reference()
    ids = special_ids(build_word_tokenizer(folder / "tokenizer.json", [TEXT]))
    text, vision = module.config.text_config, module.config.vision_config
    names = "depth hidden_act hidden_size intermediate_size num_heads out_hidden_size patch_size"
    names += " spatial_merge_size window_size fullatt_block_indexes tokens_per_second"
    names += " temporal_patch_size"
    own = {name: getattr(vision, name) for name in names.split()}
    own |= {"in_chans": 3, "spatial_patch_size": vision.patch_size, "model_type": "qwen2_5_vl"}
    write(
        folder / "config.json",
        {
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "attention_dropout": 0.0,
            "bos_token_id": 0,
            "eos_token_id": 2,
            **ids,
            "vision_token_id": 9,
            "hidden_act": "silu",
            "hidden_size": text.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": text.intermediate_size,
            "max_position_embeddings": 128,
            "max_window_layers": 2,
            "model_type": "qwen2_5_vl",
            "num_attention_heads": text.num_attention_heads,
            "num_hidden_layers": text.num_hidden_layers,
            "num_key_value_heads": text.num_key_value_heads,
            "rms_norm_eps": text.rms_norm_eps,
            "rope_theta": 1e6,
            "sliding_window": 32,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
            "transformers_version": "4.41.2",
            "use_cache": True,
            "use_sliding_window": False,
            "vision_config": own,
            "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
            "vocab_size": text.vocab_size,
        },
    )
    _weights(folder, module, published)
    write(
        folder / "preprocessor_config.json",
        {
            "min_pixels": 64,
            "max_pixels": 640,
            "patch_size": 4,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2_5_VLProcessor",
        },
    )
    write(
        folder / "generation_config.json",
        {
            "bos_token_id": 0,
            "pad_token_id": 0,
            "do_sample": True,
            "eos_token_id": [2, 0],
            "repetition_penalty": 1.05,
            "temperature": 0.000001,
            "transformers_version": "4.37.0",
        },
    )
    write(folder / "chat_template.json", {"chat_template": TEMPLATE})
    added = {
        str(i): {
            "content": name,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for i, name in enumerate(["<|endoftext|>", "<|im_start|>"])
    }
    write(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": False,
            "add_prefix_space": False,
            "added_tokens_decoder": added,
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
            "bos_token": None,
            "chat_template": TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": 131072,
            "pad_token": "<|endoftext|>",
            "split_special_tokens": False,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": None,
        },
    )
    return module


def qwen_5(folder: pathlib.Path) -> Any:
    """As transformers 5 saves a model and its processor."""
    declare_torchvision_ops()
    from transformers import PreTrainedTokenizerFast
    from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    module = reference()
    file = build_word_tokenizer(folder / "words.json", [TEXT])
    for field, number in special_ids(file).items():
        setattr(module.config, field, number)
    module.generation_config.eos_token_id = [2, 0]
    module.generation_config.repetition_penalty = 1.05
    module.save_pretrained(folder)
    sizes: dict[str, Any] = {"patch_size": 4, "min_pixels": 64, "max_pixels": 640}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file), eos_token="<|im_end|>")
    Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(**sizes),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**sizes),
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    file.unlink()
    return module


def clip_5(folder: pathlib.Path) -> Any:
    """As transformers 5 saves a CLIP and its image processor."""
    declare_torchvision_ops()
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    module = hugging_face_model(clip_sizes(True))
    randomise(module)
    module.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=28).save_pretrained(folder)
    build_word_tokenizer(folder / "tokenizer.json", [TEXT])
    return module


def clip_4(folder: pathlib.Path) -> Any:
    """As OpenAI's own are published: all that version 4.2 knew of any config, and both forms."""
    module = hugging_face_model(clip_sizes(True))
    randomise(module)
    folder.mkdir(exist_ok=True)
    config = json.loads(json.dumps(module.config.to_dict()))
    common: dict[str, Any] = {
        "add_cross_attention": False,
        "bad_words_ids": None,
        "chunk_size_feed_forward": 0,
        "dropout": 0.0,
        "is_decoder": False,
        "length_penalty": 1.0,
        "max_length": 20,
        "num_beams": 1,
        "pruned_heads": {},
        "tie_encoder_decoder": False,
        "top_k": 50,
        "torchscript": False,
        "use_bfloat16": False,
    }
    for tower in ("text", "vision"):
        config[f"{tower}_config"] |= common
    text = config["text_config"]
    names = "hidden_size intermediate_size num_attention_heads num_hidden_layers vocab_size"
    names += " max_position_embeddings eos_token_id projection_dim"
    config["text_config_dict"] = {name: text[name] for name in names.split()}
    config["vision_config_dict"] = None
    write(folder / "config.json", config)
    write(
        folder / "preprocessor_config.json",
        {
            "crop_size": 28,
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "CLIPFeatureExtractor",
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "resample": 3,
            "size": 28,
        },
    )
    _weights(folder, module)
    build_word_tokenizer(folder / "tokenizer.json", [TEXT])
    return module


def open_clip(folder: pathlib.Path) -> Any:
    """As open_clip pushes a model to a hub."""
    sizes = clip_sizes(False)
    module = open_clip_model(sizes)
    randomise(module)
    folder.mkdir(exist_ok=True)
    model = {
        "embed_dim": sizes.embed_dim,
        "quick_gelu": False,
        "vision_cfg": {
            "image_size": 28,
            "layers": 2,
            "width": 32,
            "head_width": 16,
            "patch_size": 7,
            "mlp_ratio": 4.0,
            "ls_init_value": None,
        },
        "text_cfg": {
            "context_length": 8,
            "vocab_size": sizes.vocab,
            "width": 24,
            "heads": 3,
            "layers": 3,
            "hf_tokenizer_name": None,
        },
    }
    pixels = {
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
        "size": [28, 28],
        "mode": "RGB",
    }
    content = {"model_cfg": model, "preprocess_cfg": pixels}
    write(folder / "open_clip_config.json", content)
    tensors = {name: x.clone() for name, x in module.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors", {"format": "pt"})
    build_word_tokenizer(folder / "tokenizer.json", [TEXT])
    return module


LAYOUTS: dict[str, Callable[[pathlib.Path], Any]] = {
    "qwen_4": qwen_4,
    "qwen_5": qwen_5,
    "clip_4": clip_4,
    "clip_5": clip_5,
    "open_clip": open_clip,
}


def changed(value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields (keys to what is other, the whole with that one thing other)."""
    if isinstance(value, dict):
        for key, inner in value.items():
            for path, other in changed(inner):
                yield (key, *path), {**value, key: other}
    elif isinstance(value, bool):
        yield (), not value
    elif isinstance(value, int):
        yield (), value + 1
    elif isinstance(value, float):
        yield (), value * 1.5 or 0.5
    elif isinstance(value, str):
        yield (), value + "x"
    elif isinstance(value, list) and value:
        _, first = next(changed(value[0]))
        yield (), [first, *value[1:]]
    elif not value:
        yield (), 1


def picture(height: int = 40, width: int = 50) -> Image.Image:
    generator = torch.Generator().manual_seed(height)
    pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())
