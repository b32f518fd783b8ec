"""Files beside the tensors of a published model: its sizes, its tokenizer and its settings."""

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any, TypeVar

from msjoe_jax.errors import UserError

Sizes = TypeVar("Sizes")

CONFIG = "config.json"
TEXT_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json")
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


def copy_side_files(source: pathlib.Path, folder: pathlib.Path) -> None:
    """Copies those of `SIDE_FILES` that `source` has, byte by byte."""
    for name in SIDE_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def read_side_files(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Reads the JSON objects among `SIDE_FILES`, by stem, such as `preprocessor_config`.

    Raises:
      UserError: as `read_json`.
    """
    return {
        pathlib.PurePath(name).stem: read_json(folder / name)
        for name in SIDE_FILES
        if name.endswith(".json") and name not in TEXT_FILES and (folder / name).is_file()
    }


def write_json(file: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes a JSON object as Hugging Face does."""
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(file: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object from a file.

    Raises:
      UserError: no such file, or no JSON object in it.
    """
    try:
        found = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # of JSON and of UTF-8
        raise UserError(f"{file}: no JSON ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"{file}: no JSON object")
    return found


def read_sizes(file: pathlib.Path, parse: Callable[[dict[str, Any]], Sizes]) -> Sizes:
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
