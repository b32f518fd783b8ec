"""The flags that say which part of a file a video is, for commands that take one video."""

from collections.abc import Callable

from absl import flags

from msjoe_jax.data.manifest import check_number
from msjoe_jax.data.sources import VideoSource
from msjoe_jax.errors import UserError

flags.disclaim_key_flags()  # flags that are defined here are those of the module that asks for them


def define_part() -> Callable[[str], VideoSource]:
    """Defines --start, --end, --stream and --rate; returns what makes a path the source they say.

    That raises a UserError if one of them is out of its bounds.
    """
    given = {
        "start": flags.DEFINE_float("start", None, "Second of the file at which the video starts."),
        "end": flags.DEFINE_float("end", None, "Second of the file at which it ends."),
        "stream": flags.DEFINE_integer("stream", None, "Index of the video stream in the file."),
        "rate": flags.DEFINE_float("rate", None, "Pictures a second that a folder of them shows."),
    }

    def source(path: str) -> VideoSource:
        values = {}
        for name, flag in given.items():
            if flag.value is not None:
                try:
                    values[name] = check_number(name, flag.value)
                except UserError as error:
                    raise UserError(str(error).replace(f"field {name!r}", f"--{name}")) from None
        if values.get("end") is not None and values["end"] <= values.get("start", 0):
            raise UserError(f"--end={values['end']} is not after --start")
        return VideoSource(path, **values)

    return source
