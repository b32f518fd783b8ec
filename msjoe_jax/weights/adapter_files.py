"""LoRA factors of a run as an adapter that `peft` loads onto the base.

The names are those of the modules in `transformers`. Leaves that are parts of one fused tensor (q,
k and v of the vision tower) become one update, whose rank is the sum of theirs.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from msjoe_jax.weights.folder import write_json
from msjoe_jax.weights.foreign import ADAPTER, ADAPTER_CONFIG
from msjoe_jax.weights.safetensors import write_file
from msjoe_jax.weights.tables import LAYER, Row, Table

FRONT = "base_model.model."


class Factors(NamedTuple):
    """What a run has learned as low-rank updates of stacked matrices.

    Attributes:
      leaves: a [Y, in, r] and b [Y, r, out] of every adapted leaf, as "PATH/a" and "PATH/b".
      rank: r.
      alpha: an update is scaled by alpha / r.
      base: names the model that was adapted.
    """

    leaves: Mapping[str, np.ndarray]
    rank: int
    alpha: float
    base: str


def write_adapter(folder: epath.Path, factors: Factors, table: Table) -> None:
    """Writes adapter_model.safetensors and adapter_config.json.

    Args:
      folder: exists.
      factors: what to write.
      table: the model's.
    """
    tensors: dict[str, np.ndarray] = {}
    targets, fused = [], {}
    for row in table.rows:
        parts = [path for path in row.paths if f"{path}/a" in factors.leaves]
        if not parts:
            continue
        module = table.live(row.source.removesuffix(".weight"))
        pattern = re.escape(module).replace(re.escape(LAYER), r"\d+")
        targets.append(pattern)
        if len(parts) > 1:
            fused[pattern] = len(parts)
        for layer in range(len(factors.leaves[f"{parts[0]}/a"])):
            name = FRONT + module.replace(LAYER, str(layer))
            down, up = _matrices(row, factors, layer)
            tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    described = {name: (x.dtype, x.shape) for name, x in tensors.items()}
    write_file(folder / ADAPTER, described, tensors.__getitem__)
    write_json(folder / ADAPTER_CONFIG, _config(factors, targets, fused))


def _matrices(row: Row, factors: Factors, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns A [r, in] and B [out, r] of one tensor; r is the sum over its parts."""
    found = {
        path: (factors.leaves[f"{path}/a"][layer].T, factors.leaves[f"{path}/b"][layer].T)
        for path in row.paths
        if f"{path}/a" in factors.leaves
    }
    down = np.concatenate([a for a, _ in found.values()])
    first = next(iter(found.values()))[1]  # parts are equal blocks of rows
    up = np.zeros((len(row.paths), len(first), len(down)), first.dtype)
    start = 0
    for i, path in enumerate(row.paths):
        if path in found:
            b = found[path][1]
            up[i, :, start : start + b.shape[1]] = b
            start += b.shape[1]
    return np.ascontiguousarray(down), up.reshape(-1, len(down))


def _config(factors: Factors, targets: list[str], fused: Mapping[str, int]) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": factors.base,
        "inference_mode": True,
        "r": factors.rank,
        "lora_alpha": factors.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "target_modules": f"({'|'.join(targets)})",
        # Parts of one tensor: rank and alpha are the sums of theirs, so that the scale is the same.
        "rank_pattern": {pattern: factors.rank * n for pattern, n in fused.items()},
        "alpha_pattern": {pattern: factors.alpha * n for pattern, n in fused.items()},
    }
