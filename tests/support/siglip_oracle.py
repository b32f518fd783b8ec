"""Small SigLIPs of transformers with random weights, and folders such as are published."""

import io
import json
import pathlib
from typing import Any

import numpy as np
import torch

from msjoe_jax.commands.convert import convert
from msjoe_jax.data.embed import embed_records
from msjoe_jax.models.params import fingerprint
from msjoe_jax.models.siglip.config import SiglipConfig
from msjoe_jax.rollout.model_folder import load_model_folder
from msjoe_jax.rollout.siglip import siglip_encoder
from tests.support.published import write_folder
from tests.support.torch_stubs import declare_torchvision_ops
from tests.support.torch_weights import randomise

SIDE, PATCH, GRID, CONTEXT, VOCAB = 30, 7, 4, 8, 90  # two rows of pixels are beyond the patches
KINDS = ("siglip", "siglip2")
LINES = (
    "find the red cup on the kitchen table",
    "a dog runs over a green field towards the camera",
    "what colour is the answer to every question",
    "zwei Hunde spielen im Park, œuvre d'été, naïve café",
    "красная чашка на столе",
    "赤いカップがテーブルの上にあります",
)


def hf_config(kind: str) -> dict[str, Any]:
    """A config.json whose two towers differ in every size."""
    vision = {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "patch_size": PATCH,
        "layer_norm_eps": 1e-4,
    }
    vision |= {"image_size": SIDE} if kind == "siglip" else {"num_patches": GRID**2}
    text = {
        "hidden_size": 16,
        "intermediate_size": 36,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": CONTEXT,
        "vocab_size": VOCAB,
        "layer_norm_eps": 1e-3,
        "projection_size": 24,
    }
    return {"model_type": kind, "vision_config": vision, "text_config": text}


def config(kind: str) -> SiglipConfig:
    return SiglipConfig.from_hf(hf_config(kind))


def reference(kind: str, seed: int = 0) -> Any:
    """The library's model, every leaf random."""
    declare_torchvision_ops()
    import transformers

    name = {"siglip": "Siglip", "siglip2": "Siglip2"}[kind]
    sizes = {k: v for k, v in hf_config(kind).items() if k != "model_type"}
    made = getattr(transformers, f"{name}Config")(**sizes)
    module = getattr(transformers, f"{name}Model")(made).eval()
    randomise(module, seed)
    return module


def spiece(lines: tuple[str, ...] = LINES, vocab: int = VOCAB, **options: Any) -> bytes:
    """A sentencepiece model with the special pieces of the published one."""
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line.lower() for line in lines] * 20),
        model_writer=out,
        vocab_size=vocab,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return out.getvalue()


def siglip_folder(folder: pathlib.Path, kind: str = "siglip", **preprocessor: Any) -> Any:
    """A published folder; returns the library's model."""
    module = reference(kind)
    tensors = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    write_folder(folder, hf_config(kind), tensors)
    if preprocessor:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    (folder / "spiece.model").write_bytes(spiece())
    settings = {"tokenizer_class": "SiglipTokenizer", "model_max_length": CONTEXT}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return module


def siglip_model_folder(folder: pathlib.Path, kind: str = "siglip") -> pathlib.Path:
    """A model folder of a tiny SigLIP."""
    siglip_folder(folder / f"hf_{kind}", kind)
    convert(folder / f"hf_{kind}", folder / kind)
    return folder / kind


def image_embeddings(module: Any, kind: str, pixels: Any) -> np.ndarray:
    """Embeddings by the library; `pixels` as its processor returns them."""
    inputs = {name: torch.as_tensor(np.asarray(x)) for name, x in pixels.items()}
    with torch.no_grad():
        return module.get_image_features(**inputs).pooler_output.numpy()


def write_siglip_embeddings(model: pathlib.Path, records: pathlib.Path) -> str:
    """Embeds a record folder by a model folder's SigLIP; returns what names the embeddings."""
    made = load_model_folder(model, ["siglip"])
    params, siglip = made.params["siglip"], made.system.siglip
    assert siglip is not None
    name = siglip.name(fingerprint(params))
    embed_records(records, siglip_encoder(siglip, params), name, model="siglip")
    return name
