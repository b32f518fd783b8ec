"""SigLIP as a run uses it: what its part of a model folder holds, and its programs."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from etils import epath
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from msjoe_jax.errors import UserError
from msjoe_jax.fields import option
from msjoe_jax.models.params import Params, abstract
from msjoe_jax.models.siglip.config import SiglipConfig
from msjoe_jax.models.siglip.model import Siglip
from msjoe_jax.models.siglip.preprocess import SiglipImages, normalise, to_patches
from msjoe_jax.runtime.digest import digest
from msjoe_jax.runtime.program import Program
from msjoe_jax.text.siglip import SiglipTokenizer
from msjoe_jax.weights.folder import CONFIG, read_sizes
from msjoe_jax.weights.siglip import read_images

SIGLIP = "siglip"  # of the model, its folder and its signal
NOT_SET = (
    "config.siglip.checkpoint is not set, and config.sampler.signals names siglip: name a model "
    "folder (`msjoe convert --source=SIGLIP_DIR --out=DIR` makes one)"
)


@dataclasses.dataclass(frozen=True)
class SiglipSettings:
    """Which SigLIP scores the frames, if `config.sampler.signals` names it."""

    checkpoint: str = option(
        "", "Model folder (of main or convert); empty: no SigLIP.", form="folder"
    )


@dataclasses.dataclass(frozen=True, eq=False)
class SiglipSystem:
    """The definition of a SigLIP; no parameter is allocated.

    folder: its part of a model folder; sizes, images, tokenizer: as that states them; definition,
    abstract: of the module, and its parameters as shapes and types.
    """

    folder: epath.Path
    sizes: SiglipConfig
    images: SiglipImages
    tokenizer: SiglipTokenizer
    definition: nnx.GraphDef
    abstract: Params

    def build(self, rngs: nnx.Rngs) -> Siglip:
        """Builds the module with fresh parameters."""
        return Siglip(self.sizes, rngs=rngs)

    def model(self, params: Params) -> Siglip:
        """Builds the module with these parameters, inside a jitted function."""
        return nnx.merge(self.definition, params)

    def name(self, weights: str) -> str:
        """Returns what names the embeddings of frames: they depend on more than the weights.

        Args:
          weights: the fingerprint of those.
        """
        return digest(weights, dataclasses.asdict(self.sizes), dataclasses.asdict(self.images))


def siglip_of(
    settings: SiglipSettings, signals: Sequence[str], folder: epath.Path | None
) -> SiglipSystem | None:
    """Returns the SigLIP of a model folder (None: of the checkpoint, if a signal reads it).

    Raises:
      UserError: a signal reads it and there is no checkpoint, or see `read_siglip`.
    """
    if folder is not None:
        return read_siglip(folder) if (folder / SIGLIP).is_dir() else None
    if SIGLIP not in signals:
        return None
    if not settings.checkpoint:
        raise UserError(NOT_SET)
    return read_siglip(epath.Path(settings.checkpoint))


def read_siglip(folder: epath.Path) -> SiglipSystem:
    """Reads the definition from a model folder.

    Raises:
      UserError: it holds no SigLIP, or one that asks for something that is not computed here.
    """
    own = folder / SIGLIP
    if not (own / CONFIG).is_file():
        raise UserError(f"{folder}: holds no {SIGLIP} ({SIGLIP}/{CONFIG} is missing)")
    sizes = read_sizes(own / CONFIG, SiglipConfig.from_hf)
    tokenizer = SiglipTokenizer(own, sizes.context)
    tokenizer.check_fits(sizes.vocab)
    made = abstract(lambda: Siglip(sizes, rngs=nnx.Rngs(0)))
    return SiglipSystem(own, sizes, read_images(own, sizes), tokenizer, *made)


def embedder_names(siglip: SiglipSystem | None, weights: Mapping[str, str]) -> dict[str, str]:
    """Returns what names the embeddings of frames, by model, from the fingerprints of weights."""
    own = {SIGLIP: siglip.name(weights[SIGLIP])} if siglip else {}
    return {"clip": weights["clip"], **own}


def embed_queries(
    siglip: SiglipSystem, params: Params, tokens: Int[Array, "B I Q C"]
) -> Float[Array, "B I Q E"]:
    """Computes the text embeddings, not normalised."""
    rows = tokens.reshape(-1, tokens.shape[-1])
    return siglip.model(params).encode_text(rows).reshape(*tokens.shape[:-1], -1)


def _embed_frames(
    siglip: SiglipSystem,
    params: Params,
    patches: UInt8[Array, "F P p"],
    shapes: Int[Array, "F 2"],
) -> Float[Array, "F E"]:
    return siglip.model(params).encode_image(normalise(patches, siglip.images), shapes)


def embed_siglip_frames(siglip: SiglipSystem) -> Program:
    """Returns the program (parameters, patches, shapes) → embeddings, of one device."""
    return Program("embed_siglip_frames", functools.partial(_embed_frames, siglip))


def siglip_encoder(
    siglip: SiglipSystem, params: Params
) -> Callable[[Iterable[UInt8[np.ndarray, "H W 3"]]], np.ndarray]:
    """Returns a function from F frames, each of any size, to embeddings [F, E]."""
    program = embed_siglip_frames(siglip)

    def encode(frames: Iterable[np.ndarray]) -> np.ndarray:
        cut = [to_patches(frame[None], siglip.sizes, siglip.images) for frame in frames]
        return np.asarray(program(params, *map(np.concatenate, zip(*cut, strict=True))))

    return encode
