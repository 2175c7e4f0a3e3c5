"""The greatest invocation counter that was heard from a meter that sends by itself, in a file: what
was recorded before is no reading after a restart either.

The file may lag behind what was heard, never be ahead of it: else it would shut out the meter. It
belongs to one key and one meter: under another key no old recording opens, and the counter may
begin anywhere.
"""

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path

from cryptometer.errors import ConfigurationError
from cryptometer.steps import NS_PER_S
from hal.counter_file import hold_line_file, write_line_file

# A card wears with each write: these are 288 a day, and two more whenever the line is lost. A power
# cut leaves telegrams of so long before it that could be heard once more; but an index below the
# journal's, which is half a minute old, is refused anyway. An end in order leaves none.
KEEP_NS = 300 * NS_PER_S
_LINE = re.compile(r"([0-9a-f]{16}) ([0-9a-f]{16}) ([0-9]{10})")


class HeardFile:
    """The file, for one run at a time."""

    def __init__(self, path: Path, key: bytes) -> None:
        """Opens it; made when missing.

        Args:
            path: of the file.
            key: under which messages are encrypted.

        Raises:
            ConfigurationError: it cannot be used: why, and what to do.
        """
        self._mark = hashlib.sha256(b"cryptometer heard counter" + key).hexdigest()[:16]
        self._file, text = hold_line_file(path)
        found = _LINE.fullmatch(text)
        if found is None and os.fstat(self._file).st_size:
            os.close(self._file)
            raise ConfigurationError(
                f"{path} holds no counter that was heard: name another file, or remove it if it is"
                " this meter's: what was recorded before counts again then, if its index may"
            )
        is_known = found is not None and found[1] == self._mark
        self.title = bytes.fromhex(found[2]) if found is not None and is_known else b""
        self.counter = int(found[3]) if found is not None and is_known else -1
        self._kept = self.title, self.counter
        self._next_ns: int | None = None  # of the next write; None: at once

    def keep(self, title: bytes, counter: int, at_ns: int) -> None:
        """Takes in what was heard. The first of a run is durable at once, then the first that is
        heard KEEP_NS after the write before.

        Raises:
            OSError: it could not be written.
        """
        self.title, self.counter = title, counter
        if (title, counter) != self._kept and (self._next_ns is None or at_ns >= self._next_ns):
            self._next_ns = at_ns + KEEP_NS
            self._write()

    def close(self) -> None:
        """Makes durable what was heard last."""
        # What fails here leaves what a power cut leaves.
        with suppress(OSError):
            if (self.title, self.counter) != self._kept:
                self._write()
        self.abandon()

    def abandon(self) -> None:
        """Ends as a program that is killed."""
        os.close(self._file)

    def _write(self) -> None:
        write_line_file(self._file, f"{self._mark} {self.title.hex()} {self.counter:010}")
        self._kept = self.title, self.counter
