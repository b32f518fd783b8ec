"""How a command with a config file starts."""

from collections.abc import Callable

from absl import app, flags
from ml_collections import ConfigDict

from msjoe_jax.errors import UserError, run_cli


def given_config(flag: flags.FlagHolder) -> ConfigDict:
    """The config of a `DEFINE_config_file` flag.

    Raises:
      UserError: the flag is not given, or its file does not load.
    """
    if flag.value is None:
        raise UserError("give --config=configs/NAME.py")
    try:
        flag.value.keys()  # a file that failed to load complains at its first use only
    except OSError as error:
        raise UserError(str(error)) from None
    return flag.value


def run_app(run: Callable[[], None]) -> None:
    """Parses the absl flags and calls `run`; bad flags or a bad config are one line, status 2."""

    def parse(argv: list[str]) -> list[str]:
        try:
            return flags.FLAGS(argv)
        except (AttributeError, KeyError) as error:
            text = str(error.args[0]).replace("\\'", "'").replace("\\n", "\n")  # may be a repr
            name, _, hint = text.strip("\"'").partition("\n")
            name = name.strip("\"'")
            raise UserError(f"unknown field in the config: {name}; {hint}".rstrip("; ")) from None
        except (flags.Error, ValueError, TypeError, OSError) as error:
            raise UserError(str(error)) from None

    def parse_or_exit(argv: list[str]) -> list[str]:
        rest: list[str] = []
        run_cli(lambda: rest.extend(parse(argv)))
        return rest

    app.run(lambda _: run_cli(run), flags_parser=parse_or_exit)
