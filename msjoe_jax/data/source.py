"""Where a decoded video came from: the source that its record keeps."""

from msjoe_jax.data.manifest import Entry
from msjoe_jax.data.record import DAMAGED, Source
from msjoe_jax.data.video import Decoding

SOUND = "sound"  # the kind of damaged packets of the sound track


def source_of(entry: Entry, decoding: Decoding, damaged_sound: int = 0) -> Source:
    """Returns what the record says of an exhausted decoding's source.

    Args:
      entry: the video in the list.
      decoding: of it.
      damaged_sound: how many packets of its sound could not be decoded.
    """
    warnings = {DAMAGED: decoding.warnings, SOUND: damaged_sound}
    return Source(
        video=entry.video,
        rate=decoding.rate,
        warnings={kind: count for kind, count in warnings.items() if count},
    )
