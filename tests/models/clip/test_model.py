"""CLIP against open_clip and Hugging Face on random weights, and its preprocessing."""

import pathlib
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from PIL import Image

from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.models.clip.model import CLIP
from msjoe_jax.models.clip.preprocess import normalise, preprocess_frames
from msjoe_jax.models.params import abstract, count_params
from msjoe_jax.weights.clip import HUGGING_FACE, OPEN_CLIP
from msjoe_jax.weights.tables import WeightsError, from_hf, match, slots, to_hf
from tests.support.torch_stubs import declare_torchvision_ops
from tests.support.torch_weights import arrays, randomise

VOCAB, EOT = 50, 49
# float32 on both sides; sums over 32 to 147 terms in another order differ by a few ulps a layer.
TOLERANCE = 1e-5


def config(quick_gelu: bool) -> CLIPConfig:
    return CLIPConfig(
        image_size=28,
        patch=7,
        vision_width=32,
        vision_layers=2,
        vision_heads=2,
        context=8,
        vocab=VOCAB,
        text_width=24,
        text_layers=3,
        text_heads=3,
        embed_dim=20,
        quick_gelu=quick_gelu,
        eot_token_id=EOT,
    )


def open_clip_model(c: CLIPConfig) -> torch.nn.Module:
    declare_torchvision_ops()
    from open_clip.model import CLIP as Reference

    return Reference(
        embed_dim=c.embed_dim,
        vision_cfg={
            "image_size": c.image_size,
            "patch_size": c.patch,
            "width": c.vision_width,
            "layers": c.vision_layers,
            "head_width": c.vision_width // c.vision_heads,
        },
        text_cfg={
            "context_length": c.context,
            "vocab_size": c.vocab,
            "width": c.text_width,
            "layers": c.text_layers,
            "heads": c.text_heads,
        },
        quick_gelu=c.quick_gelu,
    ).eval()


def hugging_face_model(c: CLIPConfig) -> torch.nn.Module:
    declare_torchvision_ops()
    from transformers import CLIPConfig as Config
    from transformers import CLIPModel

    activation = "quick_gelu" if c.quick_gelu else "gelu"
    return CLIPModel(
        Config(
            projection_dim=c.embed_dim,
            vision_config={
                "image_size": c.image_size,
                "patch_size": c.patch,
                "hidden_size": c.vision_width,
                "intermediate_size": 4 * c.vision_width,
                "num_hidden_layers": c.vision_layers,
                "num_attention_heads": c.vision_heads,
                "hidden_act": activation,
            },
            text_config={
                "max_position_embeddings": c.context,
                "vocab_size": c.vocab,
                "hidden_size": c.text_width,
                "intermediate_size": 4 * c.text_width,
                "num_hidden_layers": c.text_layers,
                "num_attention_heads": c.text_heads,
                "hidden_act": activation,
                "eos_token_id": c.eot_token_id,
                "bos_token_id": 1,
                "pad_token_id": 0,
            },
        )
    ).eval()


def build(c: CLIPConfig):
    return abstract(lambda: CLIP(c, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("quick_gelu", [True, False])
@pytest.mark.parametrize("source", ["open_clip", "hugging_face"])
def test_parity(source: str, quick_gelu: bool):
    c = config(quick_gelu)
    make = open_clip_model if source == "open_clip" else hugging_face_model
    reference = make(c)
    randomise(reference)
    graphdef, shapes = build(c)
    table = OPEN_CLIP if source == "open_clip" else HUGGING_FACE
    model = nnx.merge(graphdef, from_hf(arrays(reference), table, shapes))

    rng = np.random.default_rng(1)
    pixels = rng.normal(size=(3, 28, 28, 3)).astype(np.float32)
    tokens = rng.integers(0, EOT, (4, 8))
    tokens[np.arange(4), [7, 3, 5, 1]] = EOT
    tokens[1, 6] = EOT  # padding with the end token itself, as CLIP's tokenizer does
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    with torch.no_grad():
        if source == "open_clip":
            want = reference.encode_image(images), reference.encode_text(torch.from_numpy(tokens))
        else:
            want = (
                reference.get_image_features(images).pooler_output,
                reference.get_text_features(torch.from_numpy(tokens)).pooler_output,
            )
    with jax.default_matmul_precision("highest"):
        got = model.encode_image(jnp.asarray(pixels)), model.encode_text(jnp.asarray(tokens))
    for g, w in zip(got, want, strict=True):
        assert np.abs(w.numpy()).max() > 0.1
        np.testing.assert_allclose(g, w.numpy(), rtol=TOLERANCE, atol=TOLERANCE)
    assert float(model.logit_scale[...]) == reference.logit_scale.item()


def test_text_behind_the_end_token_changes_nothing():
    """With an end token that is not the largest id, as a small vocabulary may have it."""
    end = 20
    graphdef, params = nnx.split(CLIP(CLIPConfig.tiny(VOCAB, end), rngs=nnx.Rngs(0)))
    tokens = np.array([[3, 40, end, 0, 0, 0, 0, 0], [3, 40, end, 45, end, 9, 1, 2]])
    a, b = nnx.merge(graphdef, params).encode_text(jnp.asarray(tokens))
    np.testing.assert_array_equal(a, b)
    short = nnx.merge(graphdef, params).encode_text(jnp.asarray(tokens[:1, :4]))
    np.testing.assert_allclose(short[0], a, atol=1e-6)  # fewer keys: another summation order


# As open_clip prints for ViT-B-32, ViT-B-16, ViT-L-14 and ViT-L-14-336.
@pytest.mark.parametrize(
    "name,count",
    [
        ("vit-b-32", 151_277_313),
        ("vit-b-16", 149_620_737),
        ("vit-l-14", 427_616_513),
        ("vit-l-14-336", 427_944_193),
    ],
)
def test_published_sizes(name: str, count: int):
    """The count, and open_clip's own model of that name: each of its tensors has its place."""
    declare_torchvision_ops()
    import open_clip
    from open_clip.model import CLIP as Reference

    c = CLIPConfig.published(name)
    _, shapes = build(c)
    assert count_params(shapes) == count
    words = open_clip.get_model_config(name.replace("vit", "ViT").replace("-b-", "-B-")
                                       .replace("-l-", "-L-") + "-quickgelu")  # fmt: skip
    with torch.device("meta"):
        reference = Reference(**words)
    given = {n: (np.dtype(np.float32), tuple(x.shape)) for n, x in reference.state_dict().items()}
    wanted = slots(OPEN_CLIP, shapes)
    assert match(given, OPEN_CLIP, wanted) == {n: n for n in wanted}
    assert CLIPConfig.from_open_clip({"model_cfg": words}) == c
    assert CLIPConfig.from_hf(c.to_hf()) == c


@pytest.mark.parametrize("table", [OPEN_CLIP, HUGGING_FACE], ids=["open_clip", "hugging_face"])
def test_tensors_come_back_as_they_went(table):
    c = config(True)
    make = open_clip_model if table is OPEN_CLIP else hugging_face_model
    tensors = arrays(make(c))
    back = to_hf(from_hf(tensors, table, build(c)[1]), table)
    assert back.keys() == tensors.keys() - table.ignored
    for name, x in back.items():
        np.testing.assert_array_equal(x, tensors[name])


def test_bad_weights_are_named_together():
    c = config(True)
    tensors = arrays(open_clip_model(c))
    _, shapes = build(c)
    del tensors["visual.proj"], tensors["transformer.resblocks.1.mlp.c_fc.bias"]
    tensors["visual.head.weight"] = np.zeros(3)
    tensors["transformer.resblocks.3.ln_1.weight"] = np.zeros(24)
    tensors["ln_final.weight"] = np.zeros(25)
    tensors["visual.conv1.weight"] = tensors["visual.conv1.weight"][:, :2]
    tensors["text.ln_final.bias"] = tensors["ln_final.bias"]
    tensors["logit_scale"] = np.array(4)
    tensors["visual.transformer.resblocks.0.ln_1.bias"] = np.zeros(32, np.float16)
    with pytest.raises(WeightsError) as caught:
        from_hf(tensors, OPEN_CLIP, shapes)
    message = str(caught.value)
    assert "\n" not in message
    for words in (
        "2 missing (visual.proj, transformer.resblocks.1.mlp.c_fc.bias)",
        "2 not of this model (visual.head.weight, transformer.resblocks.3.ln_1.weight)",
        "visual.conv1.weight [32, 2, 7, 7] for [32, 3, 7, 7]",
        "ln_final.weight [25] for [24]",
        "logit_scale int64",
        "visual.transformer.resblocks.{layer}.ln_1.bias ['float16', 'float32']",
        "1 there twice (ln_final.bias and text.ln_final.bias)",
    ):
        assert words in message, words


def assert_open_clips_pixels(frames: np.ndarray, size: int) -> None:
    """Its corner rounds half to even; Hugging Face's rounds down, a pixel off for some widths."""
    declare_torchvision_ops()
    from open_clip.transform import image_transform

    transform = image_transform(size, is_train=False, interpolation="bicubic")
    got = np.asarray(normalise(preprocess_frames(frames, size)))
    for g, frame in zip(got, frames, strict=True):
        want = transform(Image.fromarray(frame)).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(g, want, atol=1e-5)  # both resize in PIL: float rounding only


@pytest.mark.parametrize(
    "height,width",
    [
        (40, 61),
        (61, 40),
        (28, 28),
        (29, 28),
        (20, 25),
        (1, 1),
        (1, 2),
        (3, 600),
        (1500, 2),
        (1, 999),
    ],
)
def test_preprocessing_is_open_clips(height: int, width: int):
    rng = np.random.default_rng(height)
    assert_open_clips_pixels(rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8), 28)


def test_photos_are_open_clips():
    """First frames of real videos."""
    av = pytest.importorskip("av")
    videos = pathlib.Path(__file__).parents[4] / "shared" / "material" / "videos"
    if not videos.exists():
        pytest.skip("no shared material")
    for name in ("kitchen.mp4", "skateboarding_dog.mp4", "h265_video.mp4", "h264.flv"):
        with av.open(str(videos / name)) as container:
            picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
        assert_open_clips_pixels(picture[None], 224)


def test_preprocessing_is_hugging_faces_where_both_crops_round_down():
    declare_torchvision_ops()
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    frames = np.random.default_rng(0).integers(0, 256, (2, 90, 120, 3), dtype=np.uint8)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    )
    images = [Image.fromarray(frame) for frame in frames]
    want = processor(images=images, return_tensors="np")["pixel_values"].transpose(0, 2, 3, 1)
    got = normalise(preprocess_frames(frames, 28))  # the crop begins at 4.5: 4 in both
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(
    "height,width,reason",
    [(32_768, 32_768, "large"), (1, 200_000, "elongated"), (300_000, 1, "elongated")],
)
def test_gigapixels_are_refused_before_memory_is_taken(height: int, width: int, reason: str):
    """Of the frame itself, or of what its long side would grow to."""
    frames = np.broadcast_to(np.uint8(0), (1, height, width, 3))  # one byte
    tracemalloc.start()
    with pytest.raises(ValueError, match=rf"{height} x {width} pixels is .*{reason}") as caught:
        preprocess_frames(frames, 224)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(caught.value) and peak < 2**20


def test_empty_frames_are_refused():
    with pytest.raises(ValueError, match="0 x 5 pixels is empty"):
        preprocess_frames(np.zeros((1, 0, 5, 3), np.uint8), 28)
