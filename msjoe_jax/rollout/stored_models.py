"""Parameters by reference: where those of a model lie, and loading them onto the machine.

So a run holds the parameters that a phase needs, and no others.
"""

import dataclasses
import functools
import hashlib
import os

import jax
import numpy as np
from etils import epath

from msjoe_jax.models.checks import flat_fields
from msjoe_jax.models.lora import merge_lora
from msjoe_jax.models.params import FINGERPRINT_DIGITS, Params
from msjoe_jax.rollout.system import MllmSettings, System, state_table
from msjoe_jax.runtime.checkpoint import leaf_shapes, load_params
from msjoe_jax.runtime.checkpoint_layout import STACKED
from msjoe_jax.runtime.machine import Machine
from msjoe_jax.runtime.mesh import path_name
from msjoe_jax.runtime.param_store import ParamReader
from msjoe_jax.weights.adapter_files import Factors

LORA = "lora"


@dataclasses.dataclass(frozen=True)
class StoredModel:
    """Where a model's parameters lie.

    name: mllm, clip or sampler; folder: a checkpoint folder, or None: they are drawn from `seed`;
    prefix: of their paths in it.
    """

    name: str
    folder: epath.Path | None
    prefix: str = ""
    seed: int = 0

    def load(self, system: System, machine: Machine, like: Params | None = None) -> Params:
        """Loads them onto the machine, with adapters merged.

        Args:
          system: whose model it is.
          machine: says where every leaf goes.
          like: (shapes of) the model's parameters in the types that are wanted; None: its own.

        Raises:
          UserError: another architecture, or a damaged checkpoint.
        """
        table = state_table(system)
        own = system.abstract[self.name]
        like = machine.laid(own if like is None else like, table)
        places = jax.tree.map(lambda leaf: leaf.sharding, like)
        if self.folder is None:
            return system.init(self.name, self.seed, places)
        adapters = self._adapters()
        if not adapters:
            return load_params(self.folder, like, self.prefix)
        shapes = {**own, LORA: adapters}
        params = load_params(self.folder, machine.laid(shapes, table), self.prefix)
        factors = params.pop(LORA)
        merge = jax.jit(
            functools.partial(_merged, like, scale=system.lora_scale),
            out_shardings=places,
            donate_argnums=0,
        )
        return merge(params, factors)

    def fingerprint(self, system: System) -> str:
        """Computes what names their values, as `models.params.fingerprint` does from arrays; CLIP
        has the name of its embeddings.

        Values that adapters are merged into have no name before they are: of those the parts count.

        Raises:
          UserError: a damaged checkpoint.
        """
        assert self.folder is not None  # fresh ones are named by their seed
        shapes, digest = system.abstract[self.name], hashlib.sha256()
        if adapters := self._adapters():
            shapes = {**shapes, LORA: adapters}
            digest.update(str(system.lora_scale).encode())
        reader = ParamReader(self.folder)
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
            digest.update(jax.tree_util.keystr(path).encode())
            name = f"{self.prefix}/{path_name(path)}" if self.prefix else path_name(path)
            # The bytes of a leaf are those of its layers, of which one is in memory at a time.
            for layer in range(leaf.shape[0]) if STACKED.search(name) else (None,):
                values = reader.read(name, layer).astype(leaf.dtype, copy=False)
                digest.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
        name = digest.hexdigest()[:FINGERPRINT_DIGITS]
        return clip_name(system, name) if self.name == "clip" else name

    def factors(self, settings: MllmSettings, base: epath.PathLike) -> Factors | None:
        """Reads the adapters onto the host; None if there are none.

        Args:
          settings: under which they were trained.
          base: names the model that was adapted where the settings name no checkpoint.

        Raises:
          UserError: a damaged checkpoint.
        """
        shapes = self._adapter_shapes()
        if not shapes or self.folder is None:
            return None
        reader = ParamReader(self.folder)
        leaves = {path: reader.read(f"{self._start()}{path}") for path in shapes}
        stated = settings.checkpoint or os.fspath(base)
        return Factors(leaves, settings.lora_rank, settings.lora_alpha, stated)

    def _start(self) -> str:
        return "/".join(part for part in (self.prefix, LORA, "") if part) + "/"

    def _adapter_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes of the adapters that lie beside the MLLM, by path; {}: none."""
        if self.name != "mllm" or self.folder is None:
            return {}
        shapes, start = leaf_shapes(self.folder), self._start()
        return {p.removeprefix(start): leaf for p, leaf in shapes.items() if p.startswith(start)}

    def _adapters(self) -> Params:
        """Returns the same as a tree."""
        out: Params = {}
        for path, leaf in self._adapter_shapes().items():
            *parents, last = path.split("/")
            tree = out
            for parent in parents:
                tree = tree.setdefault(parent, {})
            tree[last] = leaf
        return out


def _merged(like: Params, params: Params, factors: Params, *, scale: float) -> Params:
    merged = merge_lora({**params, LORA: factors}, scale)
    return jax.tree.map(lambda x, wanted: x.astype(wanted.dtype), merged, like)


def clip_name(system: System, weights: str) -> str:
    """Returns what names CLIP's embeddings: its sizes and its input matter beside its weights.

    Args:
      system: whose CLIP it is.
      weights: the fingerprint of its parameters.
    """
    parts = weights, flat_fields(system.clip_config), flat_fields(system.clip_pixels)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:FINGERPRINT_DIGITS]
