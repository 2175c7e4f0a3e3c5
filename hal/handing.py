"""What a command is given by whoever asks, and what it hands out: files, or standard streams.

A command that runs as a service's user reaches no file of another one; his shell does.
"""

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO

from cryptometer.errors import ConfigurationError
from hal.files import MISPLACED, put_file

STDIN = STDOUT = Path("-")
IN_HELP = "the file, or - for standard input"
OUT_HELP = "or - for standard output"


def open_given(path: Path) -> AbstractContextManager[BinaryIO]:
    """A file to read, or with `-` standard input.

    Raises:
        OSError: it cannot be opened.
    """
    return nullcontext(sys.stdin.buffer) if path == STDIN else path.open("rb")


def read_given(path: Path) -> bytes:
    """What a file holds, or with `-` standard input.

    Raises:
        ConfigurationError: it is not there, or may not be read.
    """
    try:
        with open_given(path) as file:
            return file.read()
    except MISPLACED as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None


def hand_out(
    out: Path, data: bytes, said: str, mode: int = 0o600, before: Sequence[str] = ()
) -> int:
    """Writes a file, whole or not at all, and says so; returns the exit code.

    Args:
        out: the file. `-`: standard output, so that the shell of whoever asks makes the file with
            its own rights.
        said: for people, behind the file's name.
        before: lines for people, before that. Where data go to standard output, lines go to
            standard error.

    Raises:
        ConfigurationError: the file cannot be there, or not by this user.
    """
    if out == STDOUT:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        sys.stderr.write("\n".join([*before, f"standard output: {said}\n"]))
        return 0
    try:
        put_file(out, data, mode)
    except MISPLACED as error:
        raise ConfigurationError(
            f"cannot write {out}: {error.strerror}; name a folder that this user may write to, or"
            " --out - > FILE"
        ) from None
    sys.stdout.write("\n".join([*before, f"{out}: {said}\n"]))
    return 0
