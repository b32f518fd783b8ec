"""SigLIP as a run uses it: from its model folder to embeddings, the library as the oracle."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image

from msjoe_jax.commands.convert import convert
from msjoe_jax.errors import UserError
from msjoe_jax.rollout.model_folder import load_model_folder
from msjoe_jax.rollout.siglip import (
    SiglipSettings,
    embed_queries,
    embedder_names,
    read_siglip,
    siglip_encoder,
    siglip_of,
)
from tests.support.siglip_oracle import (
    CONTEXT,
    GRID,
    KINDS,
    PATCH,
    SIDE,
    image_embeddings,
    siglip_folder,
    siglip_model_folder,
)
from tests.support.torch_stubs import declare_torchvision_ops

pytestmark = pytest.mark.slow
# float32 on both sides, in sums of another order; frames resize to the same bytes.
TOLERANCE = 1e-5
TEXTS = (("find the red cup", "a Dog, running!"), ("赤いカップ",))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip")
    return {kind: siglip_model_folder(folder, kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_frames_and_queries_are_embedded_as_by_the_library(tmp_path, kind):
    declare_torchvision_ops()
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
    from transformers.models.siglip.tokenization_siglip import SiglipTokenizer
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    folder = siglip_model_folder(tmp_path, kind)
    module = siglip_folder(tmp_path / "again", kind)
    square = {"size": {"height": SIDE, "width": SIDE}}
    processor = (
        SiglipImageProcessorPil(**square)
        if kind == "siglip"
        else Siglip2ImageProcessorPil(patch_size=PATCH, max_num_patches=256)
    )
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 70, 3), dtype=np.uint8)
    pixels = processor(images=[Image.fromarray(frame) for frame in frames], return_tensors="np")
    want = image_embeddings(module, kind, pixels)
    made = load_model_folder(folder, ["siglip"])
    siglip, params = made.system.siglip, made.params["siglip"]
    with jax.default_matmul_precision("highest"):
        got = siglip_encoder(siglip, params)(frames)
        rows = np.stack([siglip.tokenizer.rows(texts) for texts in (TEXTS[0], TEXTS[1] * 2)])
        texts = embed_queries(siglip, params, jnp.asarray(rows[:, None]))
    np.testing.assert_allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE)

    tokenizer = SiglipTokenizer(str(tmp_path / "again" / "spiece.model"))
    flat = [*TEXTS[0], TEXTS[1][0]]
    ids = tokenizer(
        flat, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt"
    )["input_ids"]
    with torch.no_grad():
        want = module.get_text_features(ids).pooler_output.numpy()
    assert texts.shape == (2, 1, 2, want.shape[-1])
    np.testing.assert_allclose(texts.reshape(4, -1)[:3], want, rtol=TOLERANCE, atol=TOLERANCE)


def test_what_convert_writes_and_refuses(tmp_path):
    siglip_folder(tmp_path / "hf", resample=2)
    convert(tmp_path / "hf", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["params", "siglip"]
    for name in ("config.json", "preprocessor_config.json", "spiece.model"):
        copy = tmp_path / "out" / "siglip" / name
        assert copy.read_bytes() == (tmp_path / "hf" / name).read_bytes()
    assert read_siglip(tmp_path / "out").images.resample == 2

    file = tmp_path / "hf" / "config.json"
    config = json.loads(file.read_text())
    config["vision_config"]["vision_use_head"] = False
    file.write_text(json.dumps(config))
    with pytest.raises(UserError) as error:
        convert(tmp_path / "hf", tmp_path / "other")
    (line,) = error.value.lines
    assert line.startswith(f"{file}: not computed here: vision_config.vision_use_head=False")
    assert not (tmp_path / "other").exists()


def test_it_is_there_if_a_signal_reads_it(folders):
    settings = SiglipSettings(str(folders["siglip"]))
    assert siglip_of(settings, ("clip",), None) is None
    made = siglip_of(settings, ("clip", "siglip"), None)
    assert made.sizes.grid == GRID and made.folder == folders["siglip"] / "siglip"
    assert siglip_of(SiglipSettings(), ("clip",), folders["siglip"]).sizes == made.sizes
    with pytest.raises(UserError) as error:
        siglip_of(SiglipSettings(), ("siglip",), None)
    (line,) = error.value.lines
    assert "config.siglip.checkpoint is not set" in line and "msjoe convert" in line
    with pytest.raises(UserError, match=r"holds no siglip \(siglip/config.json is missing\)"):
        read_siglip(folders["siglip"].parent)


def test_what_names_embeddings(folders):
    """Weights, sizes and how pixels are prepared: each gives other embeddings."""
    made = read_siglip(folders["siglip2"])
    other = dataclasses.replace(made, images=dataclasses.replace(made.images, resample=3))
    names = {
        made.name("a"),
        made.name("b"),
        other.name("a"),
        read_siglip(folders["siglip"]).name("a"),
    }
    assert len(names) == 4 and made.name("a") == read_siglip(folders["siglip2"]).name("a")
    assert embedder_names(None, {"clip": "x"}) == {"clip": "x"}
    weights = {"clip": "x", "siglip": "a", "mllm": "y"}
    assert embedder_names(made, weights) == {"clip": "x", "siglip": made.name("a")}


def test_a_file_that_somebody_has_edited(folders, tmp_path):
    file = pathlib.Path(folders["siglip"]) / "siglip" / "preprocessor_config.json"
    file.write_text(json.dumps({"do_rescale": False}))
    with pytest.raises(UserError, match="not computed here: do_rescale=False"):
        read_siglip(folders["siglip"])
    file.unlink()
