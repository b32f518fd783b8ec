"""Commands that texts of the repository name, and a parser of them by the commands' own flags.

As a program it reads a list of commands (each a list of words) as JSON from its input, parses each
by the flags of what it starts, without starting it, and writes why each is refused, "" if not.
"""

import argparse
import contextlib
import importlib
import io
import json
import pathlib
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

STARTS = r"(?:\S*python3? |msjoe |make )"
# What a reader puts in; and what a config of the reader's own stands for here.
PLACEHOLDERS = ("…", "...")
OWN = ("--config=own/own.py", "--config=…")
SHIPPED = "--config=tiny"
EXAMPLES = ("videos",)  # commands that a recipe adds
OTHERS = ("venv", "pip", "xprof", "lmms_eval")  # modules that are not ours


def commands_in(name: str, text: str) -> Iterator[str]:
    """Yields the commands of a page's code, or of a module's docstring, each once and in a line."""
    found: list[str] = []
    if name.endswith(".md"):
        blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        blocks += ["\n".join(re.findall(r"^    (.*)$", prose, re.MULTILINE))]
        for span in re.findall(r"`([^`]+)`", prose):
            line = " ".join(span.split())
            if re.match(STARTS, line):
                found.append(line)
    else:
        quoted = re.match(r'"""(.*?)"""', text, re.DOTALL)
        blocks = [quoted[1]] if quoted else []
    for block in blocks:
        for line in re.sub(r"\s*\\\n\s*", " ", block).splitlines():
            words = re.sub(r"^\s*(Command:|Planned by:)?\s*", "", line)
            if re.match(STARTS, words):
                found.append(words)
    yield from dict.fromkeys(found)


def words_of(command: str) -> list[str]:
    """Splits a command like a shell, up to what is no part of it; without what stands for more."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, "#"
    words = []
    for word in lexer:
        if word in (";", "&&", "|", ">", "||", "&"):
            break
        words.append(SHIPPED if word in OWN else word)
    words = [word for word in words if word not in PLACEHOLDERS]
    overrides = [n for n, word in enumerate(words) if word.startswith("--config.")]
    if overrides and not any(word.startswith("--config=") for word in words):
        words.insert(overrides[0], SHIPPED)
    return words


def refusal(words: list[str], targets: set[str]) -> str:
    """Says why a command does not exist, or not with these flags; "" if all is well.

    Args:
      words: of the command.
      targets: of the Makefile.
    """
    program, *rest = words
    if program == "make":
        lost = [word for word in rest if "=" not in word and word not in targets]
        return f"no such target: {lost}" if lost else ""
    if program == "msjoe":
        return _of_msjoe(rest)
    if rest[:1] == ["-m"]:
        module, *rest = rest[1:]
        if module.split(".")[0] in OTHERS:
            return ""
        if module == "pytest":
            lost = [word for word in rest if "/" in word and not pathlib.Path(word).exists()]
            return f"no such file: {lost}" if lost else ""
        if module == "msjoe_jax":
            return _of_msjoe(rest)
        return _parsed(_starter(module), rest)
    file = pathlib.Path(rest[0]) if rest else pathlib.Path()
    if not file.is_file():
        return ""  # `python` alone, or a line of code
    return _parsed(_starter(".".join(file.with_suffix("").parts)), rest[1:])


def _of_msjoe(words: list[str]) -> str:
    from msjoe_jax.commands import COMMANDS

    name, *rest = words or ["--help"]
    if name in ("--help", "--model"):  # the latter is lmms-eval's
        return ""
    if name in ("NAME", *EXAMPLES):
        return ""
    if name not in COMMANDS:
        return f"no such command: {name}"
    if "--" in rest:
        rest, of_main = rest[: rest.index("--")], rest[rest.index("--") + 1 :]
        if problem := _parsed(_starter("msjoe_jax.main"), of_main):
            return problem
    return _parsed(importlib.import_module(COMMANDS[name][1]).cli, rest)


def _starter(module: str) -> Callable[[], Any]:
    """Returns what defines the flags of a module and starts it."""
    if module == "msjoe_jax.main":

        def start() -> None:  # it defines them when it is imported: once for all commands
            sys.modules.pop(module, None)
            importlib.import_module(module)

        return start

    return lambda: importlib.import_module(module).main()


class _Parsed(Exception):
    """The flags are right; nothing is to be started."""


def _parsed(start: Callable[[], Any], words: list[str]) -> str:
    """Parses the flags that `start` defines, absl's or argparse's; defines none for good."""
    from absl import app, flags

    from msjoe_jax.commands import cli

    def stop(*_: Any, **__: Any) -> None:
        pass

    parse_args = argparse.ArgumentParser.parse_args

    def parse(parser: argparse.ArgumentParser, *arguments: Any) -> Any:
        parse_args(parser, *arguments)
        raise _Parsed

    known, told = set(flags.FLAGS), io.StringIO()
    modules = [m for name, m in sys.modules.items() if name.startswith("msjoe_jax.")]
    users = [m for m in modules if getattr(m, "run_app", None) is cli.run_app]
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(app, "run", stop))
        stack.enter_context(mock.patch.object(argparse.ArgumentParser, "parse_args", parse))
        stack.enter_context(mock.patch.object(sys, "argv", ["command", *words]))
        for module in users:
            stack.enter_context(mock.patch.object(module, "run_app", stop))
        stack.enter_context(contextlib.redirect_stderr(told))
        try:
            start()
            left = flags.FLAGS(["command", *map(cli._with_config_file, words)])[1:]
            _read(flags.FLAGS)
            free = [word for word in left if word.startswith("-")]
            return f"no flag takes {free}" if free else ""
        except _Parsed:
            return ""
        except SystemExit:
            return told.getvalue().strip().splitlines()[-1]
        except Exception as error:  # whatever is wrong with it is the answer
            return f"{type(error).__name__}: {error}"
        finally:
            for name in set(flags.FLAGS) - known:
                delattr(flags.FLAGS, name)
            flags.FLAGS.unparse_flags()


def _read(values: Any) -> None:
    """Reads the config of the flags, if they have one: its fields are of their types."""
    from msjoe_jax.config import read_config
    from msjoe_jax.errors import UserError

    if "config" not in values or values["config"].value is None:
        return
    if not hasattr(values["config"].value, "phases"):
        return  # a name, of a benchmark
    slips: list[str] = []
    read_config(values["config"].value, slips)
    if slips:
        raise UserError(*slips)


def main() -> None:
    """Parses the commands of the input."""
    asked = json.load(sys.stdin)
    targets = set(re.findall(r"^([\w-]+):", pathlib.Path("Makefile").read_text(), re.MULTILINE))
    found = {}
    for command in asked:
        found[command] = refusal(words_of(command), targets)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
