"""A number in a file that is never given out twice, also not after a power cut.

For the invocation counter of DLMS: with one key, a number that was used must not be used again. So
the file is always ahead of what is used, by up to BLOCK; a run that ends well gives back the rest.
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from cryptometer.errors import ConfigurationError

BLOCK = 1_000  # a write a quarter of an hour where a meter is asked once a second
LINE_MAX = 64  # of a sector's 512 bytes, which a card writes whole or not at all
_DIGITS = 10  # of 32 bits


class CounterFile:
    """The file, for one run at a time."""

    def __init__(self, path: Path) -> None:
        """Opens it; made when missing, and 0 then.

        Raises:
            ConfigurationError: it cannot be used: why, and what to do.
        """
        self._file, text = hold_line_file(path)
        is_number = text.isdecimal() and len(text) <= _DIGITS
        if not is_number and os.fstat(self._file).st_size:
            os.close(self._file)
            raise ConfigurationError(
                f"{path} holds no number: write one into it that is greater than any used with"
                " the keys of this meter"
            )
        self.first = int(text or 0)  # the first number that was never used
        self._kept = self.first

    def keep(self, unused: int) -> None:
        """Once it returns, no later run uses what lies before `unused`, durably.

        Raises:
            OSError: it could not be written.
        """
        if unused > self._kept:
            self._write(unused + BLOCK)

    def close(self, unused: int) -> None:
        """Gives back what was not used."""
        # What fails here costs up to BLOCK numbers.
        with suppress(OSError):
            self._write(max(unused, self.first))
        self.abandon()

    def abandon(self) -> None:
        """Ends as a program that is killed."""
        os.close(self._file)

    def _write(self, unused: int) -> None:
        write_line_file(self._file, f"{unused:0{_DIGITS}}")
        self._kept = unused


def hold_line_file(path: Path) -> tuple[int, str]:
    """Opens a file of one short line for one run at a time: its descriptor, and the line; made when
    missing, and empty then.

    Raises:
        ConfigurationError: it cannot be used.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"cannot open {path}: {error.strerror}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        text = os.read(file, LINE_MAX).decode("ascii", "replace").strip()
        _sync_folder(path.parent)  # the name of a new file must outlast a power cut, too
    except OSError as error:
        os.close(file)
        held = isinstance(error, BlockingIOError)
        why = "another meter counts in it" if held else error.strerror
        raise ConfigurationError(f"cannot use {path}: {why}") from None
    return file, text


def write_line_file(file: int, text: str) -> None:
    """Writes the line in one go, durably. Lines of one file are all equally long: so a power cut
    leaves the old one or the new one.

    Raises:
        OSError: it could not be written.
    """
    line = f"{text}\n".encode("ascii")
    os.pwrite(file, line, 0)
    os.ftruncate(file, len(line))
    os.fsync(file)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
