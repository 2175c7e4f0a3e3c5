"""Where a private key is kept, as a setting says it: `file:PATH`, or a PKCS#11 URI (RFC 7512).
Nothing is opened here."""

import difflib
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote

from cryptometer.errors import ConfigurationError

_PATH = ("token", "object")
_QUERY = ("module-path", "pin-source")
_FORM = (
    "pkcs11:token=LABEL;object=LABEL?module-path=/PATH/TO/MODULE.so&pin-source=file:/PATH/TO/PIN"
)


@dataclass(frozen=True, slots=True)
class FilePlace:
    """A key in a file; the path is relative to the folder of whoever has the key."""

    path: PurePosixPath


@dataclass(frozen=True, slots=True)
class TokenPlace:
    """A key in a token.

    Attributes:
        module: the token's PKCS#11 module, a shared library.
        token: the token's label.
        label: that of the key, and of its public half.
        pin: the file that holds the PIN; with `is_credential` its name in the folder of
            credentials that the service manager gives (systemd's LoadCredential).
    """

    module: PurePosixPath
    token: str
    label: str
    pin: PurePosixPath
    is_credential: bool


def read_place(store: str, where: str) -> FilePlace | TokenPlace:
    """Reads the setting.

    Args:
        store: its value.
        where: its name, for messages.

    Raises:
        ConfigurationError: it is of neither form, lacks something, or holds the PIN itself.
    """
    if "\0" in unquote(store):
        raise ConfigurationError(f"{where} holds a character that no name can have")
    scheme, colon, rest = store.partition(":")
    if colon and scheme == "file" and rest:
        return FilePlace(PurePosixPath(rest))
    if not colon or scheme != "pkcs11":
        raise ConfigurationError(f"{where} is file:PATH or {_FORM}, not {store!r}")
    path, _, query = rest.partition("?")
    said = _attributes(path, ";", _PATH, where) | _attributes(query, "&", _QUERY, where)
    for name in (*_PATH, *_QUERY):
        if not said.get(name):
            raise ConfigurationError(f"{where} lacks {name!r}: {_FORM}")
    module = PurePosixPath(said["module-path"])
    if not module.is_absolute():
        raise ConfigurationError(f"{where} module-path is absolute, not {said['module-path']!r}")
    pin, is_credential = _pin(said["pin-source"], where)
    return TokenPlace(module, said["token"], said["object"], pin, is_credential)


def _attributes(text: str, between: str, known: tuple[str, ...], where: str) -> dict[str, str]:
    said: dict[str, str] = {}
    for part in filter(None, text.split(between)):
        name, _, value = part.partition("=")
        if name == "pin-value":
            # The value is not repeated: messages are logged.
            raise ConfigurationError(
                f"{where} holds a PIN; write it into a file of mode 0600, and name that:"
                " pin-source=file:/PATH/TO/PIN"
            )
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"here go: {', '.join(known)}"
            raise ConfigurationError(f"{where} has no attribute {name!r} there; {hint}")
        if name in said:
            raise ConfigurationError(f"{where} says {name!r} twice")
        said[name] = unquote(value, errors="strict") if _is_text(value) else ""
    return said


def _is_text(value: str) -> bool:
    try:
        unquote(value, errors="strict")
    except UnicodeDecodeError:
        return False
    return True


def _pin(source: str, where: str) -> tuple[PurePosixPath, bool]:
    scheme, _, rest = source.partition(":")
    path = PurePosixPath(rest.removeprefix("//"))
    if scheme == "file" and path.is_absolute():
        return path, False
    if scheme == "credential" and len(path.parts) == 1 and rest not in (".", ".."):
        return path, True
    raise ConfigurationError(
        f"{where} pin-source is file:/PATH/TO/PIN, or credential:NAME for one that systemd loads,"
        f" not {source!r}"
    )
