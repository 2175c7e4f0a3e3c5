"""Where a private key is kept, as a setting says it: `file:PATH`, a PKCS#11 URI (RFC 7512), or one
of the same form for a TPM. Nothing is opened here."""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeAlias
from urllib.parse import unquote

from cryptometer.errors import ConfigurationError
from cryptometer.keys import KeyLost, PublicKey

_PATH = ("token", "object")
_QUERY = ("module-path", "pin-source")
_FORM = (
    "pkcs11:token=LABEL;object=LABEL?module-path=/PATH/TO/MODULE.so&pin-source=file:/PATH/TO/PIN"
)
_TPM_PATH = ("handle", "counter")
_TPM_QUERY = ("tcti", "auth-source")
_TPM_FORM = (
    "tpm2:handle=0x81200001;counter=0x01800001?tcti=device:/dev/tpmrm0"
    "&auth-source=file:/PATH/TO/AUTH"
)
_TPM_TCTI = "device:/dev/tpmrm0"  # the kernel's resource manager: others may use the TPM meanwhile
# What a TPM keeps for its owner: persistent objects, and NV indices outside those of makers and of
# the TCG (registry of reserved TPM 2.0 handles and localities).
_PERSISTENT = range(0x81000000, 0x81800000)
_NV_INDICES = range(0x01800000, 0x01C00000)
# A transport of tpm2-tss: the name becomes part of that of a library.
_TCTI = re.compile(r"(device|swtpm|tabrmd|mssim)(:.*)?", re.DOTALL)
_SECRETS = ("pin-value", "auth-value")


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


@dataclass(frozen=True, slots=True)
class TpmPlace:
    """A key in a TPM 2.0.

    Attributes:
        handle: persistent, of the key.
        counter: NV index of the monotonic counter that guards the chain; None for none.
        tcti: the way to the TPM, as tpm2-tss names it.
        auth: the file that holds the key's authorisation value, or with `is_credential` its name
            among the service manager's credentials; None where the key has none.
    """

    handle: int
    counter: int | None
    tcti: str
    auth: PurePosixPath | None
    is_credential: bool


Place: TypeAlias = FilePlace | TokenPlace | TpmPlace


def read_place(store: str, where: str) -> Place:
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
    if colon and scheme == "tpm2":
        return _tpm_place(rest, where)
    if not colon or scheme != "pkcs11":
        raise ConfigurationError(f"{where} is file:PATH, {_FORM} or {_TPM_FORM}, not {store!r}")
    path, _, query = rest.partition("?")
    said = _attributes(path, ";", _PATH, where) | _attributes(query, "&", _QUERY, where)
    for name in (*_PATH, *_QUERY):
        if not said.get(name):
            raise ConfigurationError(f"{where} lacks {name!r}: {_FORM}")
    module = PurePosixPath(said["module-path"])
    if not module.is_absolute():
        raise ConfigurationError(f"{where} module-path is absolute, not {said['module-path']!r}")
    pin, is_credential = secret_source("pin-source", said["pin-source"], where)
    return TokenPlace(module, said["token"], said["object"], pin, is_credential)


def known_or_read(
    known: PublicKey | None, read: Callable[[], PublicKey], which: str, advice: str
) -> PublicKey:
    """The public half of a key whose store may be away for now, where it is known.

    Args:
        read: from the store; KeyLost while that is away.
        which: the key, for people.
        advice: what they do where it is another one.

    Raises:
        KeyLost: it cannot be read, and is not known.
        ConfigurationError: the store holds another key than the known one.
    """
    try:
        public = read()
    except KeyLost:
        if known is None:
            raise
        return known
    if known is not None and public != known:
        raise ConfigurationError(
            f"{which} is not that of this device's enrolment request ({known.thumbprint.hex()}):"
            f" {advice}"
        )
    return public


def _tpm_place(rest: str, where: str) -> TpmPlace:
    path, _, query = rest.partition("?")
    said = _attributes(path, ";", _TPM_PATH, where) | _attributes(query, "&", _TPM_QUERY, where)
    for name in ("handle", *said):
        if not said.get(name):
            raise ConfigurationError(f"{where} lacks {name!r}: {_TPM_FORM}")
    handle = _number("handle", said["handle"], _PERSISTENT, where)
    counter = None
    if "counter" in said:
        counter = _number("counter", said["counter"], _NV_INDICES, where)
    tcti = said.get("tcti", _TPM_TCTI)
    if not _TCTI.fullmatch(tcti):
        raise ConfigurationError(f"{where} tcti is {_TPM_TCTI} or the like, not {tcti!r}")
    if "auth-source" not in said:
        return TpmPlace(handle, counter, tcti, None, is_credential=False)
    return TpmPlace(
        handle, counter, tcti, *secret_source("auth-source", said["auth-source"], where)
    )


def _number(name: str, value: str, within: range, where: str) -> int:
    if not re.fullmatch(r"0x[0-9a-fA-F]{8}", value) or int(value, 16) not in within:
        raise ConfigurationError(
            f"{where} {name} is from {within[0]:#010x} to {within[-1]:#010x}, not {value!r}"
        )
    return int(value, 16)


def _attributes(text: str, between: str, known: tuple[str, ...], where: str) -> dict[str, str]:
    said: dict[str, str] = {}
    for part in filter(None, text.split(between)):
        name, _, value = part.partition("=")
        if name in _SECRETS:
            # The value is not repeated: messages are logged.
            source = name.replace("value", "source")
            what = "PIN" if name == "pin-value" else "secret"
            raise ConfigurationError(
                f"{where} holds a {what}; write it into a file of mode 0600, and name that:"
                f" {source}=file:/PATH/TO/{what}"
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


def secret_source(name: str, source: str, where: str) -> tuple[PurePosixPath, bool]:
    """Where a secret is kept, as a setting says it: `file:/PATH`, or `credential:NAME`.

    Args:
        name: the setting's.
        source: its value.
        where: the setting stands, for messages.

    Returns:
        As `hal.secret.read_secret` takes it: the path or name, and whether it is a credential.

    Raises:
        ConfigurationError: it is of neither form.
    """
    scheme, _, rest = source.partition(":")
    path = PurePosixPath(rest.removeprefix("//"))
    if scheme == "file" and path.is_absolute():
        return path, False
    if scheme == "credential" and len(path.parts) == 1 and rest not in (".", ".."):
        return path, True
    raise ConfigurationError(
        f"{where} {name} is file:/PATH/TO/IT, or credential:NAME for one that systemd loads,"
        f" not {source!r}"
    )
