"""Errors that a user can act on, and the wrapper that prints each as one line."""

import sys
from collections.abc import Callable
from typing import Any, NoReturn

# Exit statuses of every command; 1 is a fault of the program, with a traceback.
USER_ERROR = 2
UNFINISHED = 75  # saved before the end; the same command resumes
INTERRUPTED = 130
# Where TensorFlow, through which etils.epath reads gs:// paths, has its errors.
OBJECT_STORAGE = "tensorflow.python.framework.errors_impl"


class UserError(Exception):
    """An error in the user's input. Its message is one line: which file or field, and what to do.

    Several mistakes are several arguments, one line each.
    """

    def __str__(self) -> str:
        return "\n".join(self.lines)

    @property
    def lines(self) -> tuple[str, ...]:
        """The messages, each on one line."""
        return tuple(" ".join(str(line).split()) for line in self.args)


class HostDied(Exception):
    """Another host of the run has died, by no mistake of the user; says which and why."""


class Unfinished(Exception):
    """A run has ended before its end, and what it had made is on disk; says where."""


def plain_output() -> None:
    """Makes text that the terminal cannot show appear escaped, instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def run_cli(main: Callable[..., Any], *args: Any) -> None:
    """Runs `main(*args)`; a `UserError` is printed, one line per mistake, with exit status 2.

    So is an error of the operating system (no permission, a full disk) or of object storage. Ctrl-C
    exits with 130, as a shell expects, and without a traceback, since every long job here can be
    resumed; a run that was
    saved before it ended exits with 75. The death of another host is one line too, with status 1:
    it may be tried again. Text that the terminal cannot show is escaped, so that it never ends a
    command.
    """
    plain_output()
    try:
        main(*args)
    except UserError as error:
        _fail(*error.lines)
    except HostDied as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except Unfinished as end:
        print(end, file=sys.stderr)
        sys.exit(UNFINISHED)
    except OSError as error:
        prefix = "" if error.filename is None else f"{error.filename}: "
        _fail(f"{prefix}{error.strerror or error}")
    except Exception as error:
        if type(error).__module__ != OBJECT_STORAGE:
            raise
        _fail(str(error).splitlines()[0][:500])
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _fail(*messages: str) -> NoReturn:
    for message in messages:
        # In one piece with its end: of several processes on one terminal each line stays whole.
        sys.stderr.write(f"error: {' '.join(message.split())}\n")
    sys.exit(USER_ERROR)
