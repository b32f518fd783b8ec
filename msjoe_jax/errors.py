"""Errors that a user can act on, and the wrapper that prints each as one line."""

import sys
from collections.abc import Callable
from typing import Any, NoReturn


class UserError(Exception):
    """Bad input. The message is one line: which file, record or field, and what to do.

    Several faults that were found at once are several arguments, a line each.
    """

    def __str__(self) -> str:
        return "\n".join(self.lines)

    @property
    def lines(self) -> tuple[str, ...]:
        """The messages, each on one line."""
        return tuple(" ".join(str(line).split()) for line in self.args)


def run_cli(main: Callable[..., Any], *args: Any) -> None:
    """Runs `main(*args)`; a `UserError` becomes one line (a fault) on stderr and exit status 2.

    So does what the system refuses (a folder without permission, a full disk). Ctrl-C exits with
    130, as a shell expects, and without a traceback: every long job here resumes from what it has
    saved. Text that the terminal cannot show is written with escapes: it never ends a command.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        main(*args)
    except UserError as error:
        _fail(*error.lines)
    except OSError as error:
        prefix = "" if error.filename is None else f"{error.filename}: "
        _fail(f"{prefix}{error.strerror or error}")
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        sys.exit(130)


def _fail(*messages: str) -> NoReturn:
    for message in messages:
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
