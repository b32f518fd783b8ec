"""Files beside the tensors of a published model: its sizes, its tokenizer and its settings."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

from etils import epath

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.files import read_json, write_whole

Sizes = TypeVar("Sizes")

CONFIG = "config.json"
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


def read_side_files(folder: epath.Path) -> dict[str, dict[str, Any]]:
    """Reads the JSON objects among `SIDE_FILES`, by stem, such as `preprocessor_config`.

    Raises:
      UserError: as `read_json`.
    """
    return {
        epath.Path(name).stem: read_json(folder / name)
        for name in SIDE_FILES
        if name.endswith(".json") and name not in TEXT_FILES and (folder / name).is_file()
    }


def write_json(file: epath.Path, content: dict[str, Any]) -> None:
    """Writes a JSON object as Hugging Face does."""
    write_whole(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_sizes(file: epath.Path, parse: Callable[[dict[str, Any]], Sizes]) -> Sizes:
    """Reads sizes from a `config.json` by a family's `read_config` or one of CLIPConfig's parsers.

    Raises:
      UserError: as `read_json`, or a field is missing, or it is another architecture.
    """
    config = read_json(file)
    try:
        return parse(config)
    except KeyError as error:
        raise UserError(f"{file}: the field {error} is missing") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: {error}") from None
