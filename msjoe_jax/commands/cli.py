"""Starts every command: parses its flags and its config file, and reports wrong ones."""

import pathlib
import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from msjoe_jax.config_files import config_file, load_config, shipped_configs
from msjoe_jax.errors import UserError, run_cli
from msjoe_jax.runtime import hosts

flags.disclaim_key_flags()  # flags that are defined here are those of the module that asks for them

CONFIG_FLAGS = ("--config", "-config")
HELP = {"-h", "-help", "--help", "-helpfull", "--helpfull"}


def define_config() -> flags.FlagHolder:
    """Defines `--config=NAME` or `--config=FILE.py[:variant]`, and `--config.field=value`."""
    return config_flags.DEFINE_config_file(
        "config", None, "Config: its name or its file.", lock_config=True
    )


def given_config(flag: flags.FlagHolder) -> ConfigDict:
    """Returns the config of `define_config`'s flag.

    Raises:
      UserError: the flag is not given, or its file does not load.
    """
    names = ", ".join(shipped_configs())
    if flag.value is None:
        raise UserError(f"give --config=NAME ({names}) or --config=FILE.py")
    try:
        flag.value.keys()  # a file that failed to load complains at its first use only
    except OSError as error:
        raise UserError(f"{error}; configs by name: {names}") from None
    return flag.value


class HostFlags:
    """The flags of what runs on several hosts, the same command on each."""

    def __init__(self) -> None:
        self._coordinator = flags.DEFINE_string(
            "coordinator",
            "",
            "ADDRESS:PORT of the first host, where several hosts are no TPU slice.",
        )
        self._hosts = flags.DEFINE_integer(
            "hosts", 0, "With --coordinator: how many hosts.", lower_bound=0
        )
        self._host = flags.DEFINE_integer(
            "host", -1, "With --coordinator: which of them this is, from 0."
        )
        self._stall = flags.DEFINE_float(
            "stall_minutes",
            60.0,
            "Without progress on any of several hosts for so long the run ends; compiling makes "
            "none.",
            lower_bound=0.05,
        )

    def connect(self) -> None:
        """Joins the hosts, before any other use of JAX.

        Raises:
          UserError: only some of the flags are given, or the others do not come.
        """
        hosts.connect(self._coordinator.value, self._hosts.value, self._host.value)

    def watchdog(self) -> hosts.Watchdog:
        """Returns the thread that ends the command when a host lives but stands still."""
        minutes = self._stall.value
        return hosts.Watchdog(60 * minutes, interval=min(10.0, 15 * minutes))


def run_app(run: Callable[..., None], takes_words: bool = False) -> None:
    """Parses the absl flags and calls `run`; bad flags or a bad config are one line, status 2.

    A word that belongs to no flag is refused: `--options red green` would otherwise drop "green".

    Args:
      run: the command.
      takes_words: whether it is called with a list of such words instead.
    """

    def parse(argv: list[str]) -> list[str]:
        if HELP & set(argv[1:]):
            print(_help(run))
            sys.exit()
        for word in argv:  # before absl, whose words for a file that does not load mislead
            flag, equals, name = word.partition("=")
            if flag in CONFIG_FLAGS and equals:
                if not pathlib.Path(_file_of(name)).is_file():
                    names = ", ".join(shipped_configs())
                    raise UserError(f"{word}: no such file; configs by name: {names}")
                load_config(name)
        try:
            remaining = _parse_flags([_with_config_file(word) for word in argv])
        except (AttributeError, KeyError) as error:
            text = str(error.args[0]).replace("\\'", "'").replace("\\n", "\n")  # may be a repr
            name, _, hint = text.strip("\"'").partition("\n")
            name = name.strip("\"'")
            raise UserError(f"unknown field in the config: {name}; {hint}".rstrip("; ")) from None
        except (flags.Error, ValueError, TypeError, OSError) as error:
            words = [word for word in argv if word.lstrip("-").startswith("config.")]
            if words and "config" in flags.FLAGS and flags.FLAGS["config"].value is None:
                names = ", ".join(shipped_configs())
                raise UserError(
                    f"{words[0]}: a field of which config? Give --config={names} or a file, too"
                ) from None
            raise UserError(str(error)) from None
        if len(remaining) > 1 and not takes_words:
            unexpected = ", ".join(repr(word) for word in remaining[1:])
            raise UserError(
                f"no flag takes {unexpected}: write --flag=value, with quotes around a value that "
                "has spaces, and a flag for each value of a list"
            )
        return remaining

    def parse_or_exit(argv: list[str]) -> list[str]:
        remaining: list[str] = []
        run_cli(lambda: remaining.extend(parse(argv)))
        return remaining

    logging.set_verbosity(logging.ERROR)  # Orbax reports every file it touches
    app.run(
        lambda words: run_cli(run, *([words[1:]] if takes_words else [])),
        argv=sys.argv,
        flags_parser=parse_or_exit,
    )


def _parse_flags(words: list[str]) -> list[str]:
    """Parses the flags; returns the words that belong to none.

    A value of a wrong type for a field of the config goes into the config as text, so that the
    config's check names it together with every other slip.

    Raises:
      UserError: values of other flags that are not of their type, a line each.
    """
    slips: list[str] = []
    fields: dict[str, str] = {}
    while True:
        try:
            remaining = flags.FLAGS(words)
        except flags.IllegalFlagValueError as error:
            message = str(error)  # "flag --NAME=VALUE: why"
            bad = [word for word in words if f"-{word.lstrip('-')}: " in message]
            if not bad:  # flag and value were two words
                raise UserError(*slips, message) from None
            name, _, value = bad[0].lstrip("-").partition("=")
            if name.startswith("config."):
                fields[name.removeprefix("config.")] = value
            else:
                slips.append(message)
            words = [word for word in words if word not in bad]
            for name in [name for name in flags.FLAGS if name.startswith("config.")]:
                delattr(flags.FLAGS, name)  # parsing --config defines them anew
            continue
        config: Any = flags.FLAGS["config"].value if fields else None
        for name, value in fields.items():
            try:
                config.update_from_flattened_dict({name: value})
            except TypeError as error:  # a config that checks types itself
                slips.append(f"config.{name}={value}: {error}")
        if slips:
            raise UserError(*slips)
        return remaining


def _help(run: Callable[[], None]) -> str:
    """Returns the docstring of a command's module, and its flags."""
    module = sys.modules[run.__module__]
    command_flags = flags.FLAGS.get_key_flags_for_module(module)
    lines = [(module.__doc__ or "").strip(), "", "flags:"]
    if "config" in flags.FLAGS:
        shipped = ", ".join(shipped_configs())
        lines.append(f"  --config=NAME or FILE.py[:VARIANT]  a config: {shipped}, or a file")
        lines.append("  --config.FIELD=VALUE  any field of it (msjoe fields lists them)")
    for flag in command_flags:
        if not flag.name.startswith("config"):
            default = "" if flag.default in (None, "", []) else f" (default: {flag.default})"
            text = " ".join(str(flag.help).split(";\n")[0].split())
            lines.append(f"  --{flag.name}=…  {text}{default}")
    return "\n".join(lines)


def _with_config_file(word: str) -> str:
    flag, equals, name = word.partition("=")
    return f"{flag}={config_file(name)}" if flag in CONFIG_FLAGS and equals else word


def _file_of(name: str) -> str:
    return config_file(name).partition(":")[0]
