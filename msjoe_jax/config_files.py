"""Finds and loads config files: by path, or by the name of a shipped one."""

import pathlib
import runpy
from typing import Any

PACKAGE = pathlib.Path(__file__).parent
# Beside the package in a checkout, inside it when it is installed.
FOLDERS = (PACKAGE.parent / "configs", PACKAGE / "configs")


def config_file(name: str) -> str:
    """Returns the file that `--config=name` means: `name` is a path, or names a shipped config.

    A ":variant" at its end is kept. A name that is neither is returned as it is.
    """
    file, colon, variant = name.partition(":")
    if pathlib.Path(file).is_file():
        return name
    short = file.removeprefix("configs/").removesuffix(".py") + ".py"
    for folder in FOLDERS:
        if (folder / short).is_file():
            return f"{folder / short}{colon}{variant}"
    return name


def shipped_configs() -> list[str]:
    """Returns the names of the shipped configs."""
    folder = next(folder for folder in FOLDERS if folder.is_dir())
    return sorted(file.stem for file in folder.glob("*.py") if file.stem != "__init__")


def load_config(name: str) -> Any:
    """Returns the ConfigDict of a config by its name or path, with an optional ":variant"."""
    file, _, variant = config_file(name).partition(":")
    get_config = runpy.run_path(file)["get_config"]
    return get_config(variant) if variant else get_config()
