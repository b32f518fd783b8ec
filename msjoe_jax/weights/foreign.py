"""Folders that are not read, each refused with the command to run next."""

import re
from typing import Any

from etils import epath

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.files import read_json
from msjoe_jax.weights.folder import CONFIG
from msjoe_jax.weights.safetensors import INDEX, SINGLE

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")  # of torch
NO_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state", "scaler")  # among those
SHARDS = {  # of a training on several devices: what is there, and how it becomes a model
    "zero_to_fp32.py": "python {0}/zero_to_fp32.py {0} {0}-merged --safe_serialization",
    "pytorch_model_fsdp_0": "accelerate merge-weights {0}/pytorch_model_fsdp_0 {0}-merged",
}
QUANTISED = re.compile(  # at the end of a model's name
    r"([-_.](awq|gptq|gguf|quanti[sz]ed|fp8|fp4|nf4|bnb|unsloth|dynamic|int[48]|[48]bits?"
    r"|w\d+a\d+|[qi]\d\w*))+$",
    re.IGNORECASE,
)
QUANTISERS = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
ADAPTER_CONFIG, ADAPTER = "adapter_config.json", "adapter_model.safetensors"
UNSAFE = (
    "weights as torch's pickles only, which are not read, since loading one can run any code; if "
    "you trust it, this writes safetensors beside it"
)


def check_source(source: epath.Path) -> None:
    """Refuses what is no folder of safetensors in plain types.

    Raises:
      UserError: saying what is there and what to run.
    """
    if not source.exists():
        name = str(source)
        if HUB_ID.fullmatch(name) and not name.startswith("."):
            raise UserError(f"{name}: no such folder; if it is a model's name, {_download(name)}")
        raise UserError(f"{name}: no such folder")
    if not source.is_dir():
        if source.suffix == ".gguf":
            raise UserError(f"{source}: {_gguf(source.stem)}")
        raise UserError(f"{source}: a file; name its folder, {source.parent}")
    _check_plain(source)
    if (source / ADAPTER_CONFIG).is_file():
        if not (source / ADAPTER).is_file():
            _refuse_adapter(source)
    elif not any((source / name).is_file() for name in (INDEX, *SINGLE)):
        _refuse_weights(source)


def _check_plain(source: epath.Path) -> None:
    """Refuses quantised weights, and weights under a name that the config gives them."""
    file = source / CONFIG
    if not file.is_file():
        return
    content = read_json(file)
    for name in QUANTISERS:
        if (source / name).is_file():
            raise UserError(
                f"{source / name}: quantised weights are not read: take the model before it was "
                f"quantised, {_download(_hub_name(QUANTISED.sub('', source.resolve().name)))}"
            )
    parts: dict[str, Any] = {"": content}
    parts |= {f"{n}.": part for n, part in content.items() if isinstance(part, dict)}
    for prefix, part in parts.items():
        for field in ("quantization_config", "compression_config"):
            if stated := part.get(field):
                method = stated.get("quant_method") if isinstance(stated, dict) else stated
                given = content.get("_name_or_path")
                name = given if isinstance(given, str) and HUB_ID.fullmatch(given) else ""
                raise UserError(
                    f"{file}: {prefix}{field}.quant_method is {method!r}; quantised weights are "
                    f"not read: take the model before it was quantised, "
                    f"{_download(QUANTISED.sub('', name or _hub_name(source.resolve().name)))}"
                )
    if named := content.get("transformers_weights"):
        raise UserError(
            f"{file}: transformers_weights is {named!r}; only {SINGLE[0]} or {INDEX} is read: "
            "rename the file and remove the field"
        )


def _refuse_adapter(source: epath.Path) -> None:
    reason = f"{source}: {ADAPTER_CONFIG} without {ADAPTER}"
    pickle = source / "adapter_model.bin"
    raise UserError(
        f"{reason}; {_rewrite(pickle, source / ADAPTER)}" if pickle.is_file() else reason
    )


def _rewrite(pickle: epath.Path, file: epath.Path) -> str:
    """Says how a dict of tensors that torch wrote becomes safetensors."""
    return (
        f'{UNSAFE}: python -c "from torch import load; from safetensors.torch import save_file; '
        f"t = load('{pickle}', 'cpu', weights_only=True); "
        f"save_file({{n: x.clone().contiguous() for n, x in t.items()}}, '{file}')\""
    )


def _refuse_weights(source: epath.Path) -> None:
    """Refuses a folder without weights that are read; returns if it has none of any kind."""
    if files := sorted(source.glob("*.gguf")):
        raise UserError(f"{source}: {files[0].name} only; {_gguf(source.resolve().name)}")
    if files := sorted(source.glob("*.safetensors")):
        names = ", ".join(file.name for file in files[:3])
        raise UserError(
            f"{source}: has {names}, and neither {SINGLE[0]} nor {INDEX}: rename a whole model's "
            "file, or fetch the index of a model in several files"
        )
    for name, how in SHARDS.items():
        if (source / name).exists():
            raise UserError(
                f"{source}: has the shards of a training only; `{how.format(source)}` merges them "
                "(copy config.json and the tokenizer's files there)"
            )
    pickles = sorted(
        file
        for pattern in PICKLES
        for file in source.glob(pattern)
        if not file.name.startswith(NO_WEIGHTS)
    )
    if pickles and not (source / CONFIG).is_file():
        raise UserError(f"{source}: {_rewrite(pickles[0], source / SINGLE[1])}")
    if pickles:
        raise UserError(
            f'{source}: {UNSAFE}: python -c "from transformers import {_loader(source)} as M; '
            f"M.from_pretrained('{source}', dtype='auto').save_pretrained('{source}')\""
        )
    inner = sorted(
        path.parent.name
        for name in (ADAPTER, *SINGLE[:1], INDEX)
        for path in source.glob(f"*/{name}")
    )
    if inner and not (source / CONFIG).is_file():
        raise UserError(
            f"{source}: no model here, but in {', '.join(inner[:6])}; name one of those folders"
        )


def _loader(source: epath.Path) -> str:
    """Returns the class of transformers that loads a folder."""
    stated = read_json(source / CONFIG).get("architectures") if (source / CONFIG).is_file() else ()
    names = [name for name in stated or () if isinstance(name, str) and name.isidentifier()]
    return names[0] if names else "AutoModel"


def _gguf(name: str) -> str:
    return (
        "GGUF is not read: take the folder of safetensors that it was made from, "
        f"{_download(_hub_name(QUANTISED.sub('', name)))}"
    )


def _hub_name(folder: str) -> str:
    """Returns the likely name on the hub of a folder: the organisation is not in it."""
    organisation = "Qwen" if folder.startswith("Qwen2.5-VL-") else "ORG"
    return f"{organisation}/{folder}"


def _download(name: str) -> str:
    folder = name.split("/")[-1]
    return f"`hf download {name} --local-dir={folder}` fetches it"
