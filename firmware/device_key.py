"""The device's keys: the one it signs with, the one that is to follow, those that were followed;
each with its enrolment request.
"""

import platform
import time
from pathlib import Path

from cryptometer import __version__, cbor, records
from cryptometer.enrolment import EnrolmentRequest
from cryptometer.errors import ConfigurationError, Rejected
from cryptometer.keys import Algorithm, PublicKey
from cryptometer.record_fields import Role
from cryptometer.request_text import encode_request_text
from firmware.config import KeySettings
from hal.drivers import has_key, make_guard, make_key, open_key
from hal.files import make_folder, move_file, put_file, read_file
from hal.keyplace import FilePlace, Place, read_place
from hal.ports import StoredKey

SOFTWARE = f"cryptometer-firmware {__version__}"

IN_FILES = KeySettings()
BUNDLE = "device.bundle"
_REQUEST = "device.request"
_SUCCESSOR = "successor.request"
_FORMER = "former.requests"  # of the keys that were followed, oldest first; a CBOR array
_STORE = "device.store"  # the place of a successor that has taken over and was not moved


def initialise(state: Path, algorithm: Algorithm, settings: KeySettings = IN_FILES) -> str:
    """Makes the device's key and its enrolment request, or for a key that stands already the
    counter that guards it; returns what to do next.

    Raises:
        ConfigurationError: there is a key already; it is left as it is.
    """
    place = key_place(state, settings)
    # A key without a request: the program was ended between the two, and nobody has the key yet.
    is_fresh = not (state / _REQUEST).exists() and not (state / BUNDLE).exists()
    if not is_fresh and make_guard(place):
        return "the counter is made; the chain of this key is guarded from its next start on"
    said = _make_request(state, _REQUEST, place, algorithm, is_fresh=is_fresh)
    return (
        f"{said}\n"
        "Give the request to the authority, with the meter's data; compare the thumbprint with\n"
        "it by voice. What comes back is a bundle: cryptometer-firmware enrol BUNDLE"
    )


def prepare_successor(state: Path, algorithm: Algorithm, settings: KeySettings = IN_FILES) -> str:
    """Makes the key that is to take the place of the device's; returns what to do next.

    Raises:
        ConfigurationError: there is one already, which is left as it is; or the device has no key
            that it could follow.
    """
    load_device_key(state, settings)
    place, is_fresh = settings.successor_place, not (state / _SUCCESSOR).exists()
    said = _make_request(state, _SUCCESSOR, place, algorithm, is_fresh=is_fresh)
    return (
        f"{said}\n"
        "The board goes on signing with the key it has. Have the authority register the request\n"
        "under the meter's name, and enrol the new bundle: the chain goes on as it is, and with\n"
        "the new key's first record the old one has said its last."
    )


def request_text(state: Path, *, is_successor: bool = False) -> str:
    """The enrolment request as text; or that of the key that is to follow.

    Raises:
        ConfigurationError: there is none.
    """
    return encode_request_text(read_file(state / (_SUCCESSOR if is_successor else _REQUEST)))


def key_place(state: Path, settings: KeySettings) -> Place:
    """Where the device's key is kept: as the configuration says, or where a successor has taken
    over since.

    Raises:
        ConfigurationError: the configuration knows no such place.
    """
    if not (state / _STORE).exists():
        return settings.place
    store = read_file(state / _STORE).decode(errors="replace")
    if store not in (settings.store, settings.successor):
        raise ConfigurationError(
            f"the key that is registered is kept in {store}: make that the [key] store"
        )
    return read_place(store, str(state / _STORE))


def load_device_key(state: Path, settings: KeySettings = IN_FILES) -> StoredKey:
    """The device's key. A token may be away for now, once its public key stands in the request.

    Raises:
        ConfigurationError: there is none, or it is readable by others.
        KeyLost: its token is away, and there is no request.
    """
    place = key_place(state, settings)
    if isinstance(place, FilePlace):
        if not has_key(place, state):
            raise ConfigurationError(
                f"there is no key in {state}; run cryptometer-firmware init --state {state}"
            )
        return open_key(place, state, None)
    return open_key(place, state, _requested_key(state / _REQUEST))


def take_over(state: Path, settings: KeySettings) -> None:
    """Puts the successor's key in the place of the present one; cut off at any point, the next call
    completes it."""
    former, replaced = _former_requests(state), read_file(state / _REQUEST)
    if replaced not in former:
        put_file(state / _FORMER, cbor.encode([*former, replaced]), mode=0o644)
    place, following = key_place(state, settings), settings.successor_place
    if isinstance(place, FilePlace) and isinstance(following, FilePlace):
        if has_key(following, state):
            move_file(state / following.path, state / place.path)
    else:
        put_file(state / _STORE, settings.successor.encode(), mode=0o644)
    # The request goes last: until then all of this is done again, to the same end.
    move_file(state / _SUCCESSOR, state / _REQUEST)


def successor_key(state: Path) -> PublicKey | None:
    """The public key that is to follow; None if there is none."""
    return _requested_key(state / _SUCCESSOR)


def former_keys(state: Path, *, present: bool = False) -> list[PublicKey]:
    """The keys that the present one has followed, oldest first; with itself, if asked for."""
    former = [_key_of_request(raw, state / _FORMER) for raw in _former_requests(state)]
    own = _requested_key(state / _REQUEST) if present else None
    return former if own is None else [*former, own]


def _make_request(
    state: Path, name: str, place: Place, algorithm: Algorithm, *, is_fresh: bool
) -> str:
    """Makes a key and the request that goes with it; goes on where an earlier call was cut off."""
    is_cut_off = is_fresh and has_key(place, state)
    key = open_key(place, state, None) if is_cut_off else make_key(place, state, algorithm)
    now_ms = time.time_ns() // 1_000_000
    request = EnrolmentRequest(Role.METER, key.public, platform.node()[:120], SOFTWARE, now_ms)
    make_folder(state)
    put_file(state / name, records.seal(request, None, key).raw, mode=0o644)
    return f"key thumbprint  {key.public.thumbprint.hex()}\nrequest         {state / name}"


def _requested_key(path: Path) -> PublicKey | None:
    """The public key of an enrolment request; None if there is none."""
    return _key_of_request(read_file(path), path) if path.exists() else None


def _key_of_request(raw: bytes, path: Path) -> PublicKey:
    try:
        body = records.decode(raw).body
    except Rejected as refused:
        raise ConfigurationError(f"{path} is no request: {refused}") from None
    if not isinstance(body, EnrolmentRequest):
        raise ConfigurationError(f"{path} is no request")
    return body.key


def _former_requests(state: Path) -> list[bytes]:
    path = state / _FORMER
    if not path.exists():
        return []
    try:
        value = cbor.decode(read_file(path))
    except Rejected as refused:
        raise ConfigurationError(f"{path} holds no requests: {refused}") from None
    if not isinstance(value, list) or not all(isinstance(one, bytes) for one in value):
        raise ConfigurationError(f"{path} holds no requests")
    return [one for one in value if isinstance(one, bytes)]
