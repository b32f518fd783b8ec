"""Converts the published agent of TSPO to a model folder that holds a sampler alone.

`config.sampler.network=tspo` with `config.sampler.checkpoint` reads it. Its CLIP, which may lie in
the same files, is left out: it was frozen, and is converted from its own folder.
"""

import sys

from etils import epath
from flax import nnx

from msjoe_jax.commands.convert_tensors import fill, origin, plan
from msjoe_jax.errors import UserError
from msjoe_jax.models.params import abstract
from msjoe_jax.runtime.resumable_folder import resumable_folder
from msjoe_jax.selectors import tspo
from msjoe_jax.weights.foreign import check_source
from msjoe_jax.weights.safetensors import Tensor, read_folder
from msjoe_jax.weights.tables import WeightsError, listed
from msjoe_jax.weights.tspo import FRONT, TSPO

QUERY = f"{FRONT}temporal.Self_q.weight"  # of which the width can be read


def is_tspo(source: epath.Path) -> bool:
    """Says whether a folder of safetensors holds the agent."""
    if not source.is_dir() or not any(source.glob("*.safetensors")):
        return False
    try:
        check_source(source)
        return QUERY in _places(read_folder(source)).values()
    except UserError:
        return False  # which the conversion of a model reports


def convert_tspo(source: epath.Path, out: epath.Path, ignore_extra: bool = False) -> None:
    """Writes `out`, which appears whole or not at all.

    Args:
      source: the folder with the agent's tensors.
      out: the folder to write.
      ignore_extra: whether tensors of the agent that are not known are left out, and named.

    Raises:
      UserError: tensors are missing, unknown or of a wrong shape (all at once), `out` exists, or
        there is no room for it.
    """
    tensors = read_folder(source)
    places = _places(tensors)
    own = {name: tensor for name, tensor in tensors.items() if places[name].startswith(FRONT)}
    width = next(tensor.shape[-1] for name, tensor in own.items() if places[name] == QUERY)
    params = abstract(lambda: tspo.build(None, width, nnx.Rngs(0)))[1]
    try:
        work, types, lines = plan(TSPO, params, own, {}, ignore_extra)
    except WeightsError as error:
        raise UserError(f"{source}: {error}; by {QUERY} the width is {width}") from None
    if others := [name for name in tensors if name not in own]:
        lines.append(f"left out, not of the agent: {listed(others)}")
    for line in lines:
        print(f"{source}: {line}", file=sys.stderr)
    total = sum(part.tensor.stop - part.tensor.start for part in work)
    with resumable_folder(out, origin(source, own), total) as output:
        fill(output, "sampler", work, types, params)


def _places(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Returns the published form of the tensors' names, by name."""
    return TSPO.locate(tensors, [row.source for row in TSPO.rows])
