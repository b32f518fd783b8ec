"""Errors that a user can act on, and the wrapper that prints them as one line."""

import sys
from collections.abc import Callable
from typing import Any, NoReturn


class UserError(Exception):
    """Bad input. The message is one line: which file, record or field, and what to do."""


def run_cli(main: Callable[..., Any], *args: Any) -> None:
    """Runs `main(*args)`; a `UserError` becomes one line on stderr and exit status 2.

    So does what the system refuses (a folder without permission, a full disk). Ctrl-C exits with
    130, as a shell expects, and without a traceback: every long job here resumes from what it has
    saved.
    """
    try:
        main(*args)
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        _fail(f"{where}{error.strerror or error}")
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        sys.exit(130)


def _fail(message: str) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
