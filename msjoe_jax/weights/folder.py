"""Files beside the tensors of a published model: its sizes, its tokenizer and its settings."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

from etils import epath

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.files import read_json, write_whole

Sizes = TypeVar("Sizes")

CONFIG = "config.json"
TIED = "tie_word_embeddings"
TEXT_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json", "spiece.model")
SIDE_FILES = (
    *TEXT_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "chat_template.json",
    "chat_template.jinja",
    "generation_config.json",
)


def copy_side_files(source: epath.Path, folder: epath.Path) -> None:
    """Copies those of `SIDE_FILES` that `source` has, byte by byte."""
    for name in SIDE_FILES:
        if (source / name).is_file():
            write_whole(folder / name, (source / name).read_bytes())


def write_json(file: epath.Path, content: dict[str, Any]) -> None:
    """Writes a JSON object as Hugging Face does."""
    write_whole(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def untied(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a `config.json` whose model has a head of its own."""

    def stated(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: False if k == TIED else stated(inner) for k, inner in value.items()}

    return {**stated(config), TIED: False}


def read_sizes(file: epath.Path, parse: Callable[[dict[str, Any]], Sizes]) -> Sizes:
    """Reads sizes from a `config.json` by a family's `read_config` or one of CLIPConfig's parsers.

    Raises:
      UserError: as `read_json`, or a field is missing, or it is another architecture.
    """
    return parsed(file, read_json(file), parse)


def parsed(
    file: epath.Path, content: dict[str, Any], parse: Callable[[dict[str, Any]], Sizes]
) -> Sizes:
    """Parses the content of a settings file.

    Raises:
      UserError: a field is missing, or it asks for something that is not computed.
    """
    try:
        return parse(content)
    except KeyError as error:
        raise UserError(f"{file}: the field {error} is missing") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: {error}") from None
