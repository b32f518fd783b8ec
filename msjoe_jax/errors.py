"""Errors that a user can act on, and the wrapper that prints each as one line."""

import contextlib
import os
import select
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

# Exit statuses of every command; 1 is a fault of the program, with a traceback.
USER_ERROR = 2
UNFINISHED = 75  # saved before the end; the same command resumes
INTERRUPTED = 130
NO_READER = 141  # what a shell reports of a tool whose output nobody reads any more
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
    command. Where whoever read the output has gone, as `head` does, it ends without a word.
    """
    plain_output()
    with _quiet_without_reader():
        _run(main, *args)


def _run(main: Callable[..., Any], *args: Any) -> None:
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
        if isinstance(error, BrokenPipeError) and _without_reader():
            raise
        prefix = "" if error.filename is None else f"{error.filename}: "
        _fail(f"{prefix}{error.strerror or error}")
    except Exception as error:
        if type(error).__module__ != OBJECT_STORAGE:
            raise
        _fail(str(error).splitlines()[0][:500])
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        sys.exit(INTERRUPTED)


@contextlib.contextmanager
def _quiet_without_reader() -> Iterator[None]:
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        if not _without_reader():
            raise
        _discard_output()
        sys.exit(NO_READER)
    except SystemExit:  # with the status that it has; Python writes what is left when it ends
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            _discard_output()
        raise


def _without_reader() -> bool:
    """Says whether output or errors go into a pipe that nobody reads: no other pipe is meant."""
    waiting = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # it may be no file
            waiting.register(stream.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in waiting.poll(0))


def _discard_output() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _fail(*messages: str) -> NoReturn:
    for message in messages:
        # In one piece with its end: of several processes on one terminal each line stays whole.
        sys.stderr.write(f"error: {' '.join(message.split())}\n")
    sys.exit(USER_ERROR)
