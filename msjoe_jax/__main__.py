"""`msjoe NAME …` and `python -m msjoe_jax NAME …`: every command but training."""

import importlib
import sys

from msjoe_jax.commands import COMMANDS
from msjoe_jax.errors import plain_output, run_cli
from msjoe_jax.runtime.platform import (
    keep_compiled_programs,
    quiet_cpu_default,
    use_huge_pages,
)

TRAINING = "training: python -m msjoe_jax.main --config=NAME --workdir=DIR (--help says more)"


def usage() -> str:
    """Returns the list of commands, one line each."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {line}" for name, (line, _) in COMMANDS.items()]
    head = ["usage: msjoe COMMAND --flag=value …", "", "commands (msjoe COMMAND --help says more):"]
    return "\n".join([*head, *lines, "", TRAINING])


def main() -> None:
    """Runs the command named by the first argument; an unknown one is an error with status 2."""
    arguments = sys.argv[1:]
    plain_output()
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        run_cli(print, usage())
        sys.exit(0 if arguments else 2)
    if arguments[0] not in COMMANDS:
        names = ", ".join(COMMANDS)
        print(f"error: msjoe has no command {arguments[0]!r}; it has: {names}", file=sys.stderr)
        sys.exit(2)
    quiet_cpu_default()  # before JAX is imported
    keep_compiled_programs()
    sys.argv = [f"msjoe {arguments[0]}", *arguments[1:]]
    importlib.import_module(COMMANDS[arguments[0]][1]).cli()


def start() -> None:
    """Runs the command in a process that has the memory it wants."""
    use_huge_pages()
    main()


if __name__ == "__main__":
    start()
