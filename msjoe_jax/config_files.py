"""Finds and loads config files: by path, or by the name of a shipped one."""

import pathlib
import runpy
from typing import Any

from ml_collections import ConfigDict

from msjoe_jax.errors import UserError

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
    """Returns the config of a name or path, with an optional ":variant".

    Raises:
      UserError: the file's own code fails, or makes no config.
      OSError: there is no such file.
    """
    file, _, variant = config_file(name).partition(":")
    try:
        get_config = runpy.run_path(file).get("get_config")
        if get_config is None:
            raise UserError(f"{file}: no config file: it has no function get_config")
        config = get_config(variant) if variant else get_config()
    except (UserError, OSError):
        raise
    except Exception as error:  # of code that is the user's
        raise UserError(f"{name}: does not load: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{file}: get_config returned {config!r} instead of a ConfigDict")
    return config
