"""A trained model as one folder: parameters, what they are sizes of, and both tokenizers.

`main` writes one after its last training stage; `ask` and evaluation elsewhere read it. Layout:
`params/` (Orbax: mllm, clip, sampler; its meta holds the config's model part), `tokenizer.json`,
`clip_tokenizer.json`.
"""

import pathlib
import shutil
from collections.abc import Sequence

from ml_collections import ConfigDict

from msjoe_jax.config import base
from msjoe_jax.errors import UserError
from msjoe_jax.models.functional import Params
from msjoe_jax.runtime.checkpoint import load_meta, load_params, save_params
from msjoe_jax.system import System, describe, make_system

NAMES = ("mllm", "clip", "sampler")


def save_bundle(
    folder: pathlib.Path, config: ConfigDict, system: System, params: dict[str, Params]
) -> None:
    """Writes the folder, or leaves one that is whole as it is; half a one is replaced."""
    if folder.exists():
        return
    assert system.tokenizer is not None and system.clip_tokenizer is not None
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_params(str(partial / "params"), {n: params[n] for n in NAMES}, describe(config))
    shutil.copyfile(system.tokenizer.file, partial / "tokenizer.json")
    shutil.copyfile(system.clip_tokenizer.file, partial / "clip_tokenizer.json")
    partial.rename(folder)


def load_bundle(
    folder: pathlib.Path, names: Sequence[str] = NAMES
) -> tuple[ConfigDict, System, dict[str, Params]]:
    """Reads a folder of `save_bundle`; the config has defaults in all that is not the model.

    `names`: the models whose parameters are wanted; those of the others are not read.

    Raises:
      UserError: the folder is missing, is none of ours, or holds another architecture.
    """
    if not (folder / "params").is_dir():
        raise UserError(f"{folder}: no checkpoint there (expected the folder params in it)")
    config = base()
    meta = load_meta(str(folder / "params"))
    with config.unlocked():
        for key, fields in meta.items():
            if key not in config:
                raise UserError(f"{folder}: made by another version (unknown part {key!r})")
            config[key].update(fields)
    config.mllm.tokenizer = str(folder / "tokenizer.json")
    config.clip.tokenizer = str(folder / "clip_tokenizer.json")
    system = make_system(config)
    path = str(folder / "params")
    return config, system, {n: load_params(path, system.abstract[n], prefix=n) for n in names}
