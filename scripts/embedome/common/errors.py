"""Errors that are the user's to correct: one line and exit code 2; and what to say where a library is missing."""

import errno
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

log = logging.getLogger(__name__)


# A full disk, an exceeded quota or file size limit: the user's to correct, whichever file is being written.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# And a place that cannot be written, or read.
BARRED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP)
USER_ERROR_EXIT = 2
# As a shell reports a process that Ctrl-C ended.
INTERRUPTED_EXIT = 128 + signal.SIGINT
INTERRUPTED = "interrupted; finished work is kept, run again to go on"
# As `atomic_files.temporary_beside` names what is being written.
TEMPORARY = re.compile(r"(?:(?<=/)|^)\.([^/]+)\.[0-9a-f]{12}\.tmp\b")
# Characters of a value in a message.
SHOWN = 80


class UserError(Exception):
    """A fault that the user can correct: one line that says what is wrong, where, and what to do.

    Command line and rule scripts print its message alone and exit with code 2; every other exception is a
    defect of embedome and keeps its traceback.
    """


@contextmanager
def user_errors() -> Iterator[None]:
    """End the program in one line: code 2 on a `UserError`, or where a place is full or barred; 130 on Ctrl-C."""
    code = USER_ERROR_EXIT
    fault: BaseException
    try:
        yield
    except UserError as error:
        message, fault = str(error), error
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno not in FULL + BARRED:
            raise
        message, fault = describe_place(error), error
    except KeyboardInterrupt as error:
        message, fault, code = INTERRUPTED, error, INTERRUPTED_EXIT
    else:
        return
    log.error("%s", message)
    log.debug("where it was found:", exc_info=fault)
    sys.exit(code)


def describe_place(error: OSError) -> str:
    """Say which file or folder cannot be written, or read, and what to do.

    Examples
    --------
    >>> describe_place(OSError(errno.EROFS, "Read-only file system", "out/.x.parquet.0123456789ab.tmp"))
    'out/x.parquet: Read-only file system; check the place, or name another one'
    """
    if error.errno in FULL:
        advice = "free some space and run again, finished work is kept"
    else:
        advice = "check the place, or name another one"
    name = error.filename
    if name is None and error.strerror and error.strerror != os.strerror(error.errno or 0):
        # Arrow's text has the file's name.
        what = " ".join(error.strerror.split())
    else:
        what = f"{os.fsdecode(name) if name else 'output'}: {error.strerror or error}"
    what = TEMPORARY.sub(r"\1", what)
    return f"{what}; {advice}"


def load_optional(name: str, package: str) -> ModuleType:
    """Import a module.

    Raises
    ------
    UserError
        Where it is not installed; names the package to install.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise UserError(f"{package} is not installed and needed here: pip install {package}") from None


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message."""
    return str(error).split("\n", 1)[0]


def cut(text: str) -> str:
    r"""Return a text as it may stand in a message: in one line, without control characters, and not long.

    Examples
    --------
    >>> cut("a\x1b[1m")
    'a\\x1b[1m'
    >>> len(cut("a" * 1000))
    80
    """
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def quote_value(value: object) -> str:
    """Return what was found in a file, as it may stand in a message.

    Examples
    --------
    >>> quote_value("bert")
    "'bert'"
    >>> quote_value([2] * 1000)[-4:]
    ' 2,…'
    """
    try:
        return cut(repr(value))
    except ValueError:  # an integer of thousands of digits
        return "a number of thousands of digits"
