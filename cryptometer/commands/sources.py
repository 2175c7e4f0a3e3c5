"""What `verify`, `audit` and `inspect` read: files named on the command line. Nothing is written.

Whatever lies in a ledger's folder may be hostile: no file is read beyond what it can need.
"""

from pathlib import Path

from cryptometer.community import Community, decode_community
from cryptometer.cose import RECORD_MAX
from cryptometer.errors import ConfigurationError, Reason, Rejected
from cryptometer.tiles import CHECKPOINT_PATH, TILE_WIDTH, Read

# The largest file of a ledger: a full bundle of the largest records, each behind its length.
FILE_MAX = TILE_WIDTH * (RECORD_MAX + 2)


def read_file(path: Path, most: int = FILE_MAX) -> bytes:
    """A file's content, of at most so many bytes.

    Raises:
        ConfigurationError: it cannot be read.
        Rejected: TOO_LARGE.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > most:
        raise Rejected(Reason.TOO_LARGE, f"{path} has more than {most} bytes")
    return data


def read_text(path: Path, most: int = FILE_MAX) -> str:
    """A text file's content, of at most so many bytes.

    Raises:
        ConfigurationError: it cannot be read.
        Rejected: it is no UTF-8 text, or too large.
    """
    try:
        return read_file(path, most).decode()
    except UnicodeDecodeError:
        raise Rejected(Reason.MALFORMED, f"{path} is no text file") from None


def read_community(path: Path) -> Community:
    """The community whose keys a `community.pub` holds.

    Raises:
        ConfigurationError: it cannot be read.
        Rejected: it does not hold.
    """
    try:
        return decode_community(read_text(path))
    except Rejected as refused:
        raise Rejected(refused.reason, f"{path}: {refused.detail}") from None


def ledger_folder(path: Path) -> Path:
    """The folder with the checkpoint: `path`, or the ledger inside a gateway's folder.

    Raises:
        ConfigurationError: neither holds a checkpoint.
    """
    for folder in (path, path / "ledger"):
        if (folder / CHECKPOINT_PATH).is_file():
            return folder
    raise ConfigurationError(
        f"there is no ledger in {path}: it has no file {CHECKPOINT_PATH!r};"
        " before the first block cryptometer-gateway status says when that is due"
    )


def ledger_reader(folder: Path) -> Read:
    """Reads a ledger's files by their paths, as `audit` and `verify` want them."""

    def read(path: str) -> bytes | None:
        file = folder / path
        return read_file(file) if file.is_file() else None

    return read
