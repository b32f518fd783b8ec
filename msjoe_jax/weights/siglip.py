"""SigLIP as Hugging Face publishes it: the names of weights, and what the folder beside them says.

The weights are those of SiglipModel and Siglip2Model.
"""

from typing import Any, NamedTuple

from etils import epath
from flax import nnx

from msjoe_jax.errors import UserError
from msjoe_jax.models.params import Params, abstract
from msjoe_jax.models.siglip.config import SiglipConfig
from msjoe_jax.models.siglip.model import Siglip
from msjoe_jax.models.siglip.preprocess import SiglipImages
from msjoe_jax.runtime.files import read_json
from msjoe_jax.text.siglip import SETTINGS, make_tokenizer
from msjoe_jax.weights.clip import PATCHES
from msjoe_jax.weights.folder import CONFIG, read_sizes
from msjoe_jax.weights.tables import KERNEL, Pair, Row, Table, layer_norm, linear, under

# Files that may hold the settings of the images, and the field of each that does; "": all of it.
IMAGES = {"preprocessor_config.json": "", "processor_config.json": "image_processor"}

SCALAR = Pair(lambda x: x.reshape(()), lambda x: x.reshape(1))
PROBE = Pair(lambda x: x.reshape(-1), lambda x: x.reshape(1, 1, -1))

_MLP = [*linear("mlp.fc1", "fc_1"), *linear("mlp.fc2", "fc_2")]
_BLOCK = [
    *layer_norm("layer_norm1", "ln_1"),
    *layer_norm("layer_norm2", "ln_2"),
    *(
        row
        for name in ("q_proj", "k_proj", "v_proj", "out_proj")
        for row in linear(f"self_attn.{name}", name)
    ),
    *_MLP,
]
_QKV = ("q_proj", "k_proj", "v_proj")
_HEAD = [
    Row("probe", ("probe",), PROBE),
    Row("attention.in_proj_weight", tuple(f"{name}/kernel" for name in _QKV), KERNEL),
    Row("attention.in_proj_bias", tuple(f"{name}/bias" for name in _QKV)),
    *linear("attention.out_proj", "out_proj"),
    *layer_norm("layernorm", "ln_2"),
    *_MLP,
]


def siglip_table(sizes: SiglipConfig) -> Table:
    """Returns the table; the two model types differ in the patches: a convolution, a linear map."""
    pair = KERNEL if sizes.image_size is None else PATCHES
    vision = [
        Row("embeddings.patch_embedding.weight", ("patch_embed/kernel",), pair),
        Row("embeddings.patch_embedding.bias", ("patch_embed/bias",)),
        Row("embeddings.position_embedding.weight", ("position_embedding",)),
        *under("encoder.layers.{layer}.", "blocks/", _BLOCK),
        *layer_norm("post_layernorm", "ln_post"),
        *under("head.", "head/", _HEAD),
    ]
    text = [
        Row("embeddings.token_embedding.weight", ("token_embedding",)),
        Row("embeddings.position_embedding.weight", ("position_embedding",)),
        *under("encoder.layers.{layer}.", "blocks/", _BLOCK),
        *layer_norm("final_layer_norm", "ln_final"),
        *linear("head", "projection"),
    ]
    return Table(
        [
            Row("logit_scale", ("logit_scale",), SCALAR),
            Row("logit_bias", ("logit_bias",), SCALAR),
            *under("vision_model.", "vision/", vision),
            *under("text_model.", "text/", text),
        ],
        ignored=frozenset(f"{t}_model.embeddings.position_ids" for t in ("vision", "text")),
    )


class PublishedSiglip(NamedTuple):
    """What a folder holds: table and abstract parameters, sizes, the `tokenizer.json` to write."""

    table: Table
    params: Params
    sizes: SiglipConfig
    tokenizer: str


def read_published(folder: epath.Path) -> PublishedSiglip:
    """Reads what a published folder says of its weights.

    Raises:
      UserError: it asks for something that is not computed here.
    """
    sizes = read_sizes(folder / CONFIG, SiglipConfig.from_hf)
    read_images(folder, sizes)
    settings = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    tokenizer = make_tokenizer(folder, settings, sizes.context, sizes.vocab)
    return PublishedSiglip(siglip_table(sizes), siglip_params(sizes), sizes, tokenizer)


def siglip_params(sizes: SiglipConfig) -> Params:
    """Returns the parameters as shapes and types."""
    return abstract(lambda: Siglip(sizes, rngs=nnx.Rngs(0)))[1]


def read_images(folder: epath.Path, sizes: SiglipConfig) -> SiglipImages:
    """Reads how frames become the model's input; what no file states is the published default.

    Raises:
      UserError: it is something that is not computed here.
    """
    for name, part in IMAGES.items():
        file = folder / name
        content: dict[str, Any] = read_json(file) if file.is_file() else {}
        if settings := content.get(part) if part else content:
            try:
                return SiglipImages.from_hf(settings, sizes)
            except (ValueError, TypeError) as error:
                raise UserError(f"{file}: {error}") from None
    return SiglipImages.from_hf({}, sizes)
