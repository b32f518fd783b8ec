"""Reads and writes model folders: parameters, sizes, tokenizers and settings of models.

`main` writes folders of all three models, `convert` of one; commands that run or export models read
them, and so do the `checkpoint` fields of a config. Layout:

    params/  Orbax: mllm/…, clip/…, sampler/…; its meta holds the settings
    mllm/    config.json and tokenizer.json, both as Hugging Face has them, and those of
             `SIDE_FILES` that the source had
    clip/    likewise
    adapter/ after a training with LoRA: the factors that are merged in params/, as peft has them
    siglip/  likewise, with preprocessor_config.json; if a signal reads it

A folder is whole or it is none. On a disk it gets its name when all of it is there. On object
storage, which cannot rename, `params/` is removed first and written last, and counts once it is
whole (see runtime/checkpoint_folders.py).
"""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from msjoe_jax.errors import UserError
from msjoe_jax.fields import plain, read
from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.models.params import Params
from msjoe_jax.rollout.frames import FrameConfig
from msjoe_jax.rollout.model_files import MllmFiles, read_mllm_files
from msjoe_jax.rollout.siglip import SIGLIP, SiglipSettings
from msjoe_jax.rollout.system import (
    NAMES,
    ClipSettings,
    MllmSettings,
    ModelSettings,
    SamplerSettings,
    System,
    Tokenizers,
    load_tokenizers,
    make_system,
    state_table,
)
from msjoe_jax.rollout.text import Text, make_text
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.checkpoint import begin_params, load_meta, load_params
from msjoe_jax.runtime.checkpoint_folders import LAST_FILE, check_copied, check_finished
from msjoe_jax.runtime.checkpoint_layout import META
from msjoe_jax.runtime.digest import Inputs, differences, digest_of_file
from msjoe_jax.runtime.files import is_local, partial_path, read_json, write_whole
from msjoe_jax.runtime.machine import Machine, local_machine
from msjoe_jax.runtime.space import room_for, room_of
from msjoe_jax.text.prompts import PromptConfig
from msjoe_jax.weights.adapter_files import Factors, write_adapter
from msjoe_jax.weights.folder import (
    CONFIG,
    copy_side_files,
    read_sizes,
    write_json,
)
from msjoe_jax.weights.settings_files import SettingsFiles

ADAPTER_FOLDER = "adapter"
# The groups of a model folder's settings; its meta also has `trained`, which is for people, and
# `inputs`, what a run made it from.
PARTS: dict[str, type] = {
    "mllm": MllmSettings,
    "clip": ClipSettings,
    "sampler": SamplerSettings,
    "siglip": SiglipSettings,
    "frames": FrameConfig,
    "prompt": PromptConfig,
}


class ModelFolder(NamedTuple):
    """What was read from a model folder.

    Attributes:
      settings: the plain values of `PARTS`, defaults where the folder states nothing.
      system: the models.
      text: None if a tokenizer is absent.
      params: parameters of the requested models.
      machine: on which they lie.
      files: what the MLLM's settings files say; None where it has no tokenizer.
      tokenizers: those that the folder has.
    """

    settings: dict[str, Any]
    system: System
    text: Text | None
    params: dict[str, Params]
    machine: Machine
    files: MllmFiles | None
    tokenizers: Tokenizers


def load_model_folder(
    folder: epath.PathLike,
    names: Sequence[str] | None = None,
    dtype: str = "",
    attention: str = "",
    positions: str = "",
    machine: Machine | None = None,
) -> ModelFolder:
    """Reads a model folder onto a machine.

    Args:
      folder: the folder.
      names: the models whose parameters to read; None: all that its signals need.
      dtype: of the MLLM's computation and parameters, in place of the stored ones.
      attention: the MLLM's backend of attention, in place of the stored one.
      positions: the MLLM's rule of positions, in place of the stored one.
      machine: where they go; None: this process's devices (see `machine.local_machine`).

    Raises:
      UserError: the folder is missing, is no model folder, lacks one of `names`, or holds another
        architecture, settings of another version, or an unreadable file.
    """
    folder = epath.Path(folder)
    check_folder(folder, NAMES if names is None else names)
    stored = read_settings(folder)
    mllm = stored["mllm"]
    if dtype:
        mllm = dataclasses.replace(mllm, dtype=dtype, param_dtype=dtype)
    if attention:
        mllm = dataclasses.replace(mllm, attention=attention)
    if positions:
        mllm = dataclasses.replace(mllm, positions=positions)
    models = ModelSettings(mllm, stored["clip"], stored["sampler"], stored["siglip"])
    if names is None:
        names = models.names
        check_folder(folder, names)
    tokenizers = load_tokenizers(models, folder)
    system = make_system(models, tokenizers, folder)
    path, table = str(folder / "params"), state_table(system)
    wanted = {name: system.abstract[name] for name in names}
    machine = machine or local_machine(wanted, table)
    files = None
    if tokenizers.mllm is not None:
        settings_files = SettingsFiles(folder / "mllm")
        sizes = system.mllm_config
        files = read_mllm_files(settings_files, system.family, sizes, tokenizers.mllm)
    text = None
    if files is not None and tokenizers.clip is not None:
        text = make_text(system, tokenizers, stored["prompt"], files.chat)
    return ModelFolder(
        settings={part: plain(stored[part]) for part in PARTS},
        system=system,
        text=text,
        params={n: load_params(path, machine.laid(x, table), n) for n, x in wanted.items()},
        machine=machine,
        files=files,
        tokenizers=tokenizers,
    )


def read_settings(folder: epath.Path) -> dict[str, Any]:
    """Reads the stored settings as the objects of `PARTS`.

    Raises:
      UserError: another version has written them.
    """
    meta = load_meta(str(folder / "params"))
    if unknown := sorted(meta.keys() - PARTS.keys() - {"trained", "inputs"}):
        raise UserError(f"{folder}: made by another version (unknown part {unknown[0]!r})")
    slips: list[str] = []
    settings = {
        part: read(kind, meta.get(part, {}), f"{part}.", slips) for part, kind in PARTS.items()
    }
    if slips:
        raise UserError(f"{folder}: made by another version ({'; '.join(slips)})")
    return settings


def check_folder(folder: epath.PathLike, names: Sequence[str]) -> None:
    """Checks that `folder` is a model folder that states the sizes of `names`.

    Raises:
      UserError: it is not, or one is missing.
    """
    folder = epath.Path(folder)
    if not (folder / "params").is_dir():
        raise UserError(f"{folder}: no checkpoint there (expected the folder params in it)")
    check_finished(folder / "params", META)
    check_copied(folder / "params")
    for name in names:
        if name != "sampler" and not (folder / name / CONFIG).is_file():
            raise UserError(f"{folder}: holds no {name} ({name}/{CONFIG} is missing)")


def save_model_folder(folder: epath.PathLike, **content: Any) -> None:
    """Writes a model folder to its end; arguments and errors are those of `begin_model_folder`."""
    begin_model_folder(folder, **content)()


def begin_model_folder(
    folder: epath.PathLike,
    *,
    settings: ModelSettings,
    parts: Mapping[str, Any],
    system: System,
    tokenizers: Tokenizers,
    params: Mapping[str, Params],
    inputs: Inputs | None = None,
    factors: Factors | None = None,
) -> Callable[[], None]:
    """Begins to write a folder; leaves a complete one from the same inputs, replaces any other.

    Every host writes its parts of the parameters, the first all else. The side files of the
    checkpoints that the models came from are copied.

    Args:
      folder: the folder to write.
      settings: of the models.
      parts: further plain values for the meta: `frames`, `prompt`, and for trained models
        `trained`, whose `phases` names the trainings that the parameters have been through,
        beside the settings of those.
      system: the models.
      tokenizers: both must be present.
      params: parameters of all models that the settings name.
      inputs: what the folder is made from; None: any complete one is left.
      factors: those of LoRA that are merged into the parameters.

    Returns:
      What waits for the end and gives the folder its name; the parameters are copied already.

    Raises:
      UserError: the disk is full; what is returned, too.
    """
    folder = epath.Path(folder)
    if hosts.on_first(lambda: _is_there(folder, inputs), f"whether {folder} is there"):
        return lambda: None
    stated = {} if inputs is None else {"inputs": dict(inputs)}
    # Object storage cannot rename: there the folder is filled in its place.
    new, num_bytes = partial_path(folder) if is_local(folder) else folder, room_of(params)

    @contextlib.contextmanager
    def whole_or_none() -> Iterator[None]:
        with room_for(folder.parent, "a model folder", num_bytes):
            try:
                yield
            except BaseException:
                if new != folder and hosts.is_first():
                    shutil.rmtree(new, ignore_errors=True)  # it may be what has filled the disk
                raise

    def end() -> None:
        with whole_or_none():
            written()
            if new != folder:
                hosts.on_first(lambda: _replace(folder, new), f"the name of {folder}")

    with whole_or_none():
        hosts.on_first(lambda: _empty(folder, new), f"an empty {new}")
        hosts.on_first(
            lambda: _write_files(new, settings, system, tokenizers, factors), f"the files of {new}"
        )
        meta = {**plain(settings), **parts, **stated}
        written = begin_params(
            new / "params", {name: params[name] for name in settings.names}, meta
        )
    return end


def _old(folder: epath.Path) -> epath.Path:
    return folder.parent / f"{folder.name}.old"


def _empty(folder: epath.Path, new: epath.Path) -> None:
    """Makes an empty folder to fill; `folder` stays as it is until then, if that is another."""
    # Its last file first: what is left of a kill in here does not count.
    (new / "params" / LAST_FILE).unlink(missing_ok=True)
    for leftover in (new, _old(folder)):
        if leftover.is_dir():
            leftover.rmtree()
    new.mkdir(parents=True, exist_ok=True)


def _replace(folder: epath.Path, new: epath.Path) -> None:
    """Gives a whole folder its name."""
    if folder.exists():
        folder.rename(_old(folder))
    new.rename(folder)
    shutil.rmtree(_old(folder), ignore_errors=True)


def made_from(folder: epath.PathLike, inputs: Inputs) -> bool:
    """Whether a complete model folder is there that these inputs made."""
    folder = epath.Path(folder)
    return folder.exists() and _inputs_of(folder) == inputs


def _is_there(folder: epath.Path, inputs: Inputs | None) -> bool:
    """Whether a complete folder from these inputs (None: any) is there; says why not, if it is."""
    if not folder.exists():
        return False
    before = None if inputs is None else _inputs_of(folder)
    if before != inputs:
        different = ", ".join(differences(before or {}, inputs or {})) or "inputs"
        print(f"{folder}: made from other {different}; made again")
    return before == inputs


def _inputs_of(folder: epath.Path) -> dict[str, str]:
    """Returns what a model folder states and holds; nothing if it is damaged or not whole."""
    try:
        check_folder(folder, NAMES)
        stated = dict(load_meta(folder / "params").get("inputs", {}))
        for name in ("mllm", "clip", SIGLIP):
            if f"{name} tokenizer" in stated:  # which somebody may have edited
                stated[f"{name} tokenizer"] = digest_of_file(folder / name / "tokenizer.json")
        return stated
    except (OSError, UserError):
        return {}


def _write_files(
    folder: epath.Path,
    settings: ModelSettings,
    system: System,
    tokenizers: Tokenizers,
    factors: Factors | None,
) -> None:
    family = system.family
    if factors is not None:
        (folder / ADAPTER_FOLDER).mkdir()
        write_adapter(folder / ADAPTER_FOLDER, factors, family.weight_table(system.mllm_config))
    models: tuple[tuple[str, MllmSettings | ClipSettings, Any, Any, Any], ...] = (
        ("mllm", settings.mllm, system.mllm_config, family.read_config, family.write_config),
        ("clip", settings.clip, system.clip_config, CLIPConfig.from_hf, CLIPConfig.to_hf),
    )
    for (name, part, sizes, read_config, write_config), tokenizer in zip(
        models, tokenizers, strict=True
    ):
        assert tokenizer is not None
        (folder / name).mkdir()
        content = write_config(sizes)
        if part.checkpoint:
            source = epath.Path(part.checkpoint) / name
            copy_side_files(source, folder / name)
            if read_sizes(source / CONFIG, read_config) == sizes:
                content = read_json(source / CONFIG)
        write_json(folder / name / CONFIG, content)
        write_whole(folder / name / "tokenizer.json", tokenizer.file.read_bytes())
    if system.siglip and SIGLIP in settings.names:
        (folder / SIGLIP).mkdir()
        write_whole(folder / SIGLIP / CONFIG, (system.siglip.folder / CONFIG).read_bytes())
        copy_side_files(system.siglip.folder, folder / SIGLIP)
