"""Splits of questions by video, by a hash of its name: what is added later moves no video."""

import hashlib
import math
from collections.abc import Mapping, Sequence

from msjoe_jax.errors import UserError

REST = "train"


def read_shares(texts: Sequence[str]) -> dict[str, float]:
    """Reads the parts of a split, each "name:share"; the rest is the part `REST`.

    Raises:
      UserError: a part cannot be read, or all of them are more than the whole.
    """
    shares: dict[str, float] = {}
    for text in texts:
        name, _, share = text.strip().rpartition(":")
        try:
            value = float(share)
        except ValueError:
            value = math.nan
        if not name.isidentifier() or name in (*shares, REST) or not 0 < value < 1:
            raise UserError(
                f"--split={text}: each part is NAME:SHARE, with a share between 0 and 1 and a name "
                f"of its own that is not {REST!r}, which is the rest"
            )
        shares[name] = value
    if sum(shares.values()) >= 1:
        raise UserError(f"--split={','.join(texts)}: leaves nothing for {REST!r}")
    return shares


def part_of(video: str, shares: Mapping[str, float]) -> str:
    """Returns the part that a video belongs to, whatever other videos there are.

    A larger share of the last part takes videos of `REST` alone, and gives none away.

    Args:
      video: its name.
      shares: of the parts, in their order.
    """
    digest = hashlib.sha256(video.encode("utf-8", "surrogatepass")).digest()
    place = int.from_bytes(digest[:7]) / 256**7
    for name, share in shares.items():
        if place < share:
            return name
        place -= share
    return REST
