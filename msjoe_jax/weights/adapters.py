"""Adapters as `peft` writes them (adapter_config.json and adapter_model.safetensors), to be merged.

A factor's name is that of the module in the model that was adapted, so that it is found as a
tensor of that model is. What an adapter does to one tensor is a `Change` of its values. Sums are
made in float32 at least and rounded once, to the type of the base.
"""

import functools
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.files import read_json
from msjoe_jax.stated import shown
from msjoe_jax.weights.adapter_changes import (
    Change,
    replaced,
    with_bias,
    with_rows,
    with_update,
)
from msjoe_jax.weights.adapter_targets import selects
from msjoe_jax.weights.foreign import ADAPTER, ADAPTER_CONFIG
from msjoe_jax.weights.safetensors import Tensor, read_header
from msjoe_jax.weights.tables import READABLE, Slot, Table, listed

FACTORS = {  # part of a name: which factor, and of which of the module's tensors
    "lora_A": ("right", "weight"),
    "lora_B": ("left", "weight"),
    "lora_embedding_A": ("right", "weight"),
    "lora_embedding_B": ("left", "weight"),
    "lora_magnitude_vector": ("magnitude", "weight"),
    "trainable_tokens_delta": ("rows", "weight"),
}
# Fields that are read, that say how training went, or that the tensors themselves show.
KNOWN = frozenset([
    "alpha_pattern", "arrow_config", "auto_mapping", "base_model_name_or_path", "bias",
    "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out",
    "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform",
    "loftq_config", "lora_alpha", "lora_bias", "lora_dropout", "lora_dtype", "lorap_emb_lr",
    "lorap_lr_ratio", "megatron_core", "modules_to_save", "peft_type", "peft_version",
    "qalora_group_size", "r", "rank_pattern", "revision", "target_modules", "task_type",
    "trainable_token_indices", "use_dora", "use_rslora",
])  # fmt: skip
# Ways to start that leave the base as it is; the others change it, and the file does not say how.
PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")


class Adapter(NamedTuple):
    """What an adapter's folder holds.

    Attributes:
      folder: the folder.
      config: its adapter_config.json.
      tensors: the tensors of adapter_model.safetensors.
    """

    folder: epath.Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def base(self) -> str:
        """The name or path of the model that was adapted, as its trainer called it."""
        return str(self.config.get("base_model_name_or_path") or "an unnamed model")


def read_adapter(folder: epath.Path) -> Adapter | None:
    """Reads an adapter's description and header; None if there is no adapter.

    Raises:
      UserError: a file is damaged, or the adapter does what is not computed here.
    """
    file = folder / ADAPTER_CONFIG
    if not file.is_file():
        return None
    config = read_json(file)
    if (kind := config.get("peft_type")) != "LORA":
        raise UserError(
            f"{file}: peft_type is {kind!r}; only 'LORA' is merged here: {_elsewhere()}"
        )
    for field, value in config.items():
        if value and field not in KNOWN:
            raise UserError(f"{file}: {field} is {value!r}, not merged here: {_elsewhere()}")
    if (start := config.get("init_lora_weights")) not in PLAIN_STARTS:
        raise UserError(
            f"{file}: init_lora_weights is {start!r}, which changes the base too: {_elsewhere()}"
        )
    return Adapter(folder, config, read_header(folder / ADAPTER))


def _elsewhere() -> str:
    return "merge it with peft (merge_and_unload, save_pretrained) and convert the result"


class Changes(NamedTuple):
    """What an adapter does to a model.

    Attributes:
      made: the changes of each tensor, by published name.
      parted: whether they part the copies of tensors (tied embeddings).
      unused: the adapter's tensors that its config does not select, which peft leaves out, too.
    """

    made: dict[str, list[Change]]
    parted: bool
    unused: list[str]


class _Part(NamedTuple):
    """Where a tensor of the adapter belongs: the tensor of the model, and as what."""

    target: str
    role: str  # left, right, magnitude, rows, whole
    embedding: bool
    module: str


def _part(name: str) -> tuple[_Part, str]:
    """Takes a tensor's name apart; returns the adapter's name, too ("" if it has none)."""
    pieces = [p for p in name.split(".") if p != "token_adapter"]
    for i, piece in enumerate(pieces):
        if piece in FACTORS:
            role, tensor = FACTORS[piece]
            rest = pieces[i + 1 :]
            if rest and rest[-1] in ("weight", "bias"):
                tensor = rest.pop()
            if tensor == "bias":
                role = "bias"
            module = ".".join(pieces[:i])
            return _Part(f"{module}.{tensor}", role, "embedding" in piece, module), ".".join(rest)
        if piece == "modules_to_save" and len(pieces) > i + 2:
            whole = ".".join(pieces[:i] + pieces[i + 2 :])
            return _Part(whole, "whole", False, ""), pieces[i + 1]
    return _Part(name, "whole", False, ""), ""


def changes(adapter: Adapter, table: Table, targets: Mapping[str, Slot]) -> Changes:
    """Finds what an adapter does to each tensor of a model, by published name.

    Of a tensor and its copy (tied embeddings) either's update is that of both, but values of its
    own part them.

    Args:
      adapter: the adapter.
      table, targets: the model's table and its slots.

    Raises:
      UserError: naming every tensor of the adapter that has no place, no partner, another shape or
        a type that is not read.
    """
    file = adapter.folder / ADAPTER
    groups = _groups(adapter)
    places = table.locate({part.target for part in groups}, targets)
    lost = sorted(p.target for p in groups if _slot(places[p.target], table, targets) is None)
    if lost:
        raise UserError(
            f"{file}: {len(lost)} tensors for modules that the base lacks ({listed(lost)})"
        )
    unused = _unused(adapter, groups, places, table, targets)
    by_target: dict[str, dict[str, tuple[_Part, Tensor]]] = {}
    for part, tensor in groups.items():
        if part not in unused:
            by_target.setdefault(part.target, {})[part.role] = part, tensor
    whole: dict[str, Change] = {}
    updates: dict[str, list[Change]] = {}
    saved, parted = adapter.config.get("modules_to_save") or (), False
    for target, roles in by_target.items():
        published = places[target]
        slot = _slot(published, table, targets)
        assert slot is not None
        if "whole" in roles:
            # Trained by itself, and not the base's, which may be saved beside its factors.
            own = any(target.removesuffix(".weight").endswith(name) for name in saved)
            parted |= own and _is_shared(published, table)
            tensor = roles["whole"][1]
            _check(file, target, tensor.shape, slot.shape)
            whole[published] = functools.partial(replaced, tensor)
        if roles.keys() - {"whole"}:
            module = next(part.module for part, _ in roles.values() if part.role != "whole")
            names = _names(module, published, table)
            change = _change(adapter, target, names, roles, slot.shape)
            updates.setdefault(published, []).append(change)
    parted = parted and not adapter.config.get("ensure_weight_tying")
    for copy, original in () if parted else table.copies.items():
        if copy in whole:
            whole[original] = whole.pop(copy)
        if copy in updates:
            updates.setdefault(original, []).extend(updates.pop(copy))
    found = {name: [change] for name, change in whole.items()}
    for name, more in updates.items():
        found.setdefault(name, []).extend(more)
    return Changes(found, parted, sorted(f"{p.target} ({p.role})" for p in unused))


def _groups(adapter: Adapter) -> dict[_Part, Tensor]:
    """Takes all names apart, of one adapter."""
    file = adapter.folder / ADAPTER
    groups: dict[_Part, Tensor] = {}
    adapters = set()
    for name, tensor in adapter.tensors.items():
        part, of = _part(name)
        if part in groups:
            raise UserError(f"{file}: two tensors for {part.target}")
        groups[part] = tensor
        adapters.add(of)
        if tensor.dtype not in READABLE:
            raise UserError(f"{file}: {name} is of type {tensor.dtype}, which is not read")
    if len(adapters - {""}) > 1:
        raise UserError(f"{file}: holds several adapters: {', '.join(sorted(adapters - {''}))}")
    return groups


def _unused(
    adapter: Adapter,
    groups: Mapping[_Part, Tensor],
    places: Mapping[str, str],
    table: Table,
    targets: Mapping[str, Slot],
) -> set[_Part]:
    """Returns the parts that the config does not select.

    Args:
      adapter: whose they are.
      groups: all parts.
      places: published names of their targets.
      table, targets: as of `changes`.

    Raises:
      UserError: it selects no factors at all, or a field is no selection.
    """
    switched = {"magnitude": "use_dora", "bias": "lora_bias"}
    unused, factors = set(), [part for part in groups if part.role not in ("whole", "rows")]
    for part in factors:
        published = places[part.target]
        slot, names = _slot(published, table, targets), _names(part.module, published, table)
        linear = not part.embedding and slot is not None and len(slot.shape) <= 2
        try:
            chosen = selects(adapter.config, names, linear)
        except ValueError as error:
            raise UserError(f"{adapter.folder / ADAPTER_CONFIG}: {error}") from None
        if not chosen or not adapter.config.get(switched.get(part.role, ""), True):
            unused.add(part)
    if factors and unused.issuperset(factors):
        raise UserError(
            f"{adapter.folder / ADAPTER_CONFIG}: target_modules is "
            f"{shown(adapter.config['target_modules'])}, which selects none of the modules that "
            f"{ADAPTER} has factors of, such as {factors[0].module}"
        )
    return unused


def _is_shared(name: str, table: Table) -> bool:
    return name in table.copies or name in table.copies.values()


def _slot(published: str, table: Table, targets: Mapping[str, Slot]) -> Slot | None:
    return targets.get(published) or targets.get(table.copies.get(published, ""))


def _check(file: epath.Path, name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if shape != wanted:
        raise UserError(
            f"{file}: {name} is {list(shape)} for {list(wanted)} of the base; --base= must be the "
            f"model that was adapted; if its vocabulary was enlarged first, {_elsewhere()}"
        )


# --- what is done to a tensor ---------------------------------------------------------------------


def _change(
    adapter: Adapter,
    target: str,
    names: tuple[str, ...],
    roles: Mapping[str, tuple[_Part, Tensor]],
    shape: tuple[int, ...],
) -> Change:
    """Makes the change of one tensor from its factors.

    Args:
      adapter: whose they are.
      target: the tensor's name in the adapter.
      names: of its module.
      roles: the factors.
      shape: the tensor's.
    """
    file = adapter.folder / ADAPTER
    given = {role: tensor for role, (_, tensor) in roles.items() if role != "whole"}
    embedding = any(part.embedding for part, _ in roles.values())
    if "rows" in given:
        index = _token_rows(adapter, names, shape[0])
        _check(file, f"trainable tokens of {target}", given["rows"].shape, (len(index), *shape[1:]))
        return functools.partial(with_rows, given["rows"], index)
    stated, scale = _rank_and_scale(adapter, names)
    if "bias" in given:
        _check(file, target, given["bias"].shape, shape)
        return functools.partial(with_bias, given["bias"], scale)
    if not {"left", "right"} <= given.keys():
        raise UserError(
            f"{file}: {target} has {' and '.join(sorted(given))} alone, not both factors"
        )
    dora = bool(adapter.config.get("use_dora"))
    if dora and (embedding or len(shape) != 2):
        raise UserError(f"{file}: use_dora on {target}, not merged here: {_elsewhere()}")
    if dora and "magnitude" not in given and not _starts_at_base(adapter):
        start = adapter.config.get("init_lora_weights")
        raise UserError(
            f"{adapter.folder / ADAPTER_CONFIG}: use_dora is true, and {ADAPTER} has no "
            f"magnitudes of {target}; what they start as by init_lora_weights {shown(start)} "
            "is not known"
        )
    rows, columns = shape[0], math.prod(shape[1:])
    wanted = {"left": (rows, stated), "right": (stated, columns)}
    if embedding:
        wanted = {"left": (columns, stated), "right": (stated, rows)}
    for role, pair in wanted.items():
        have = given[role].shape
        rank = have[:2][role == "left"]
        if rank != stated:
            raise UserError(
                f"{adapter.folder / ADAPTER_CONFIG}: r (or rank_pattern) is {stated} for {target}, "
                f"and its {role} factor in {ADAPTER} is {list(have)}, of rank {rank}"
            )
        if have[:1] != pair[:1] or math.prod(have) != math.prod(pair):
            _check(file, f"the {role} factor of {target}", have, pair)
    lengths = (given.get("magnitude"),) if dora else ()
    return functools.partial(with_update, given["left"], given["right"], lengths, embedding, scale)


def _starts_at_base(adapter: Adapter) -> bool:
    """Whether a new adapter would change nothing, so that its magnitudes are the base's lengths."""
    return adapter.config.get("init_lora_weights", True) in (None, True, "gaussian")


def _token_rows(adapter: Adapter, names: tuple[str, ...], count: int) -> list[int]:
    """Returns the ids whose embeddings an adapter holds."""
    stated = adapter.config.get("trainable_token_indices")
    if isinstance(stated, dict):
        fits = [ids for key, ids in stated.items() if any(_fits(key, name) for name in names)]
        stated = fits[0] if fits else None
    ids: list[Any] = stated if isinstance(stated, list) else [None]
    if not all(type(index) is int and 0 <= index < count for index in ids):
        raise UserError(
            f"{adapter.folder / ADAPTER_CONFIG}: trainable_token_indices has no ids below {count} "
            f"for {names[0]}"
        )
    return ids


def _fits(pattern: str, module: str) -> bool:
    """Says whether a pattern means a module: its whole name, or its end from a dot on."""
    return re.match(rf"(.*\.)?({pattern})$", module) is not None


def _stated(adapter: Adapter, field: str, default: str, names: tuple[str, ...]) -> Any:
    """Returns what a pattern field says of a module, under any of its names, else the default."""
    patterns = adapter.config.get(field) or {}
    try:
        for pattern, value in patterns.items():
            if any(_fits(pattern, name) for name in names):
                return value
    except (AttributeError, re.error):
        file = adapter.folder / ADAPTER_CONFIG
        raise UserError(f"{file}: {field} is {patterns!r}, not patterns of names") from None
    return adapter.config.get(default)


def _names(module: str, published: str, table: Table) -> tuple[str, ...]:
    """Returns the names that a module had where it was trained, whichever version that was."""
    short = published.rpartition(".")[0]
    return module.removeprefix("base_model.model."), short, table.live(short)


def _rank_and_scale(adapter: Adapter, names: tuple[str, ...]) -> tuple[int, float]:
    """Returns the rank of a module's factors and what their product is multiplied by."""
    file = adapter.folder / ADAPTER_CONFIG
    rank = _stated(adapter, "rank_pattern", "r", names)
    alpha = _stated(adapter, "alpha_pattern", "lora_alpha", names)
    if type(rank) is not int or rank < 1:
        raise UserError(f"{file}: r is {rank!r}, not a whole number from 1")
    if type(alpha) not in (int, float):
        raise UserError(f"{file}: lora_alpha is {alpha!r}, no number")
    return rank, alpha / (math.sqrt(rank) if adapter.config.get("use_rslora") else rank)
