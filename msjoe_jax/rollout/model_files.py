"""What the settings files of a published MLLM or CLIP say, beside sizes and weights."""

from typing import Any, NamedTuple

from etils import epath

from msjoe_jax.families import Family
from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.models.clip.preprocess import PROCESSOR as CLIP_PROCESSOR
from msjoe_jax.models.clip.preprocess import Pixels
from msjoe_jax.models.hf_fields import VideoBudget
from msjoe_jax.stated import Stated
from msjoe_jax.text.chat import BUILT_IN, Chat, VisualWords
from msjoe_jax.text.tokenizer import Tokenizer
from msjoe_jax.weights.chat_template import read_chat
from msjoe_jax.weights.folder import CONFIG
from msjoe_jax.weights.generation import Generation, read_generation
from msjoe_jax.weights.settings_files import (
    IMAGE_PROCESSOR,
    PROCESSOR,
    VIDEO_PROCESSOR,
    SettingsFiles,
)
from msjoe_jax.weights.tokenizer_settings import check_tokenizer_settings

GENERATION = "generation_config.json"


class MllmFiles(NamedTuple):
    """Of an MLLM.

    Attributes:
      chat: its chat format.
      generation: how it generates by its own settings.
      image_bounds: least and most pixels of a picture.
      video: how it is shown videos.
    """

    chat: Chat
    generation: Generation
    image_bounds: tuple[int, int]
    video: VideoBudget


def read_mllm_files(
    files: SettingsFiles, family: Family, sizes: Any, tokenizer: Tokenizer
) -> MllmFiles:
    """Reads an MLLM's files.

    Raises:
      UserError: one asks for something that is not computed, or for other ids of special tokens
        than the tokenizer has.
    """
    own = family.preprocessors(sizes).values()
    kind = next((file["processor_class"] for file in own if "processor_class" in file), "")
    check_tokenizer_settings(files, tokenizer, adds_tokens=False, processor=kind)
    _check_ids(files, family, sizes, tokenizer)
    files.parsed(PROCESSOR, lambda content: _check_processor(content, kind))
    return MllmFiles(
        read_chat(files, _words(family, sizes, tokenizer)),
        _generation(files),
        files.processor(*IMAGE_PROCESSOR, lambda x: family.images.image_bounds(x, sizes)),
        files.processor(*VIDEO_PROCESSOR, lambda x: family.images.video_budget(x, sizes)),
    )


def chat_of(checkpoint: str, family: Family, sizes: Any, tokenizer: Tokenizer | None) -> Chat:
    """Returns the chat format of an MLLM: its checkpoint's, or the built-in one of a fresh model.

    Args:
      checkpoint: a model folder, or empty.
      family, sizes, tokenizer: the MLLM's.

    Raises:
      UserError: as `read_mllm_files`.
    """
    if not checkpoint or tokenizer is None:
        return BUILT_IN
    files = SettingsFiles(epath.Path(checkpoint) / "mllm")
    return read_mllm_files(files, family, sizes, tokenizer).chat


def read_clip_pixels(files: SettingsFiles, sizes: CLIPConfig) -> Pixels:
    """Reads how CLIP takes frames; without a file as OpenAI's own code.

    Raises:
      UserError: it asks for something that is not computed.
    """
    side = sizes.image_size
    files.parsed(PROCESSOR, lambda content: _check_processor(content, CLIP_PROCESSOR))
    return files.processor(
        *IMAGE_PROCESSOR, lambda x: Pixels(side) if x is None else Pixels.from_hf(x, side)
    )


def _check_processor(content: dict[str, Any] | None, kind: str) -> None:
    """Checks that processor_config.json holds nothing but what is read from it.

    Args:
      content: the file's.
      kind: the class of the processor; empty: any.
    """
    stated = Stated(content or {})
    if kind:
        stated.only("processor_class", kind, None)
    stated.free("processor_class", "transformers_version", "image_processor", "video_processor")
    stated.free("chat_template")
    stated.only("feature_extractor", None)
    stated.end()


def _check_ids(files: SettingsFiles, family: Family, sizes: Any, tokenizer: Tokenizer) -> None:
    """Checks that config.json and the tokenizer have the same ids of the frames' tokens."""

    def check(content: dict[str, Any] | None) -> None:
        for field, (spelling, _) in family.special_tokens.items():
            number = tokenizer.find(spelling)
            if number is not None and number != getattr(sizes, field):
                raise ValueError(
                    f"{field} is {getattr(sizes, field)}, and {spelling} of {tokenizer.file} is "
                    f"{number}"
                )

    files.parsed(CONFIG, check)


def _generation(files: SettingsFiles) -> Generation:
    """Reads generation_config.json; without one the end of a reply is what config.json says."""

    def parse(content: dict[str, Any] | None) -> Generation:
        if content is not None:
            return read_generation(content)
        config = files.content(CONFIG) or {}
        ends = config.get("eos_token_id")
        if ends is None:
            ends = (config.get("text_config") or {}).get("eos_token_id")
        return read_generation({"eos_token_id": ends})

    return files.parsed(GENERATION, parse)


def _words(family: Family, sizes: Any, tokenizer: Tokenizer) -> VisualWords:
    """Returns how a template has to spell a picture and a video."""

    def spelled(video: bool) -> str:
        around = family.text_around(sizes, video)
        ids = (*around.before, around.placeholder, *around.after)
        return "".join(tokenizer.token(index) or "" for index in ids)

    return VisualWords(spelled(False), spelled(True))
