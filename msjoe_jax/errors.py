"""Errors that a user can act on, and the wrapper that prints them as one line."""

import sys
from collections.abc import Callable
from typing import Any


class UserError(Exception):
    """Bad input. The message is one line: which file, record or field, and what to do."""


def run_cli(main: Callable[..., Any], *args: Any) -> None:
    """Runs `main(*args)`; a `UserError` becomes one line on stderr and exit status 2.

    Ctrl-C exits with 130, as a shell expects, and without a traceback: every long job here
    resumes from what it has saved.
    """
    try:
        main(*args)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        sys.exit(130)
