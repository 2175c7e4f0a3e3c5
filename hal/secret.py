"""A PIN or an authorisation value, read from where the service manager or a person has put it."""

import os
from pathlib import Path, PurePosixPath

from cryptometer.keys import KeyLost

_CREDENTIALS = "CREDENTIALS_DIRECTORY"  # where systemd puts what a service is given


def secret_name(source: PurePosixPath, *, is_credential: bool) -> str:
    """Where it stands, for people."""
    return f"the credential {source}" if is_credential else str(source)


def read_secret(source: PurePosixPath, what: str, *, is_credential: bool) -> str:
    """The secret, read whenever it is needed: nobody has to start the program for another.

    Args:
        source: a file; with `is_credential` its name among the service manager's credentials.
        what: it is, for messages.

    Raises:
        KeyLost: it cannot be read, others could read it, or it is empty.
    """
    name = secret_name(source, is_credential=is_credential)
    folder = Path(os.environ.get(_CREDENTIALS, "/nowhere")) if is_credential else Path("/")
    try:
        # systemd closes its credentials to others by other means than the mode.
        if not is_credential and (folder / source).stat().st_mode & 0o077:
            raise KeyLost(f"{name} is readable by others: run chmod 600 {name}")
        secret = (folder / source).read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no text"
        raise KeyLost(f"cannot read the {what} in {name}: {why}") from None
    if not secret:
        raise KeyLost(f"there is no {what} in {name}: it is empty")
    return secret


def read_hex_secret(source: PurePosixPath, what: str, size: int, *, is_credential: bool) -> bytes:
    """A secret of so many bytes, written as hexadecimal digits.

    Raises:
        KeyLost: as `read_secret`, or there are other digits, which no message repeats.
    """
    text = read_secret(source, what, is_credential=is_credential)
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if len(data) != size:
        name = secret_name(source, is_credential=is_credential)
        raise KeyLost(f"there are not {2 * size} hexadecimal digits in {name}")
    return data
