"""The device's folder: key, request, enrolment; and what stands in it, for people."""

import platform
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

from cryptometer import __version__, cbor, records
from cryptometer.errors import ConfigurationError, Rejected
from cryptometer.keys import Algorithm, PublicKey
from cryptometer.records import EnrolmentRequest, Role
from cryptometer.request_text import encode_request_text
from firmware.config import Config, KeySettings, read_config
from firmware.enrolment import Enrolment, check_meter, read_bundle, read_update
from firmware.journal import Journal
from firmware.outbox import Outbox
from hal.broker import install_broker
from hal.drivers import has_key, make_guard, make_key, open_key
from hal.files import MISPLACED, DiskDirectory, make_folder, put_file
from hal.keyplace import FilePlace, Place
from hal.ports import StoredKey

SOFTWARE = f"cryptometer-firmware {__version__}"

IN_A_FILE = KeySettings().place
_REQUEST, _BUNDLE, _UPDATE = (
    "device.request",
    "device.bundle",
    "authority.update",
)
BROKER_FOLDER = "broker"
CONFIGURATIONS = "*.toml"


def find_configurations(given: Sequence[Path]) -> list[Path]:
    """The configurations that were named, and those in the folders that were.

    Raises:
        ConfigurationError: a folder holds none, or one was named twice.
    """
    found: list[Path] = []
    for path in given:
        files = sorted(path.glob(CONFIGURATIONS)) if path.is_dir() else [path]
        if not files:
            raise ConfigurationError(f"there is no {CONFIGURATIONS} in {path}")
        found += files
    for path in found:
        if found.count(path) > 1:
            raise ConfigurationError(f"{path} is named twice: each file is a meter of its own")
    return found


def load_config(path: Path) -> Config:
    """Reads `meter.toml`.

    Raises:
        ConfigurationError: it cannot be read, or a setting is wrong.
    """
    try:
        return read_config(tomllib.loads(path.read_text()))
    except MISPLACED as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from None


def initialise(state: Path, algorithm: Algorithm, place: Place = IN_A_FILE) -> str:
    """Makes the device's key and its enrolment request, or for a key that stands already the
    counter that guards it; returns what to do next.

    Raises:
        ConfigurationError: there is a key already; it is left as it is.
    """
    path = state / _REQUEST
    # A key without a request: the program was ended between the two, and nobody has the key yet.
    is_fresh = not path.exists() and not (state / _BUNDLE).exists()
    if not is_fresh and make_guard(place):
        return "the counter is made; the chain of this key is guarded from its next start on"
    is_cut_off = is_fresh and has_key(place, state)
    key = open_key(place, state, None) if is_cut_off else make_key(place, state, algorithm)
    request = EnrolmentRequest(
        Role.METER, key.public, platform.node()[:120], SOFTWARE, time.time_ns() // 1_000_000
    )
    make_folder(state)
    put_file(path, records.seal(request, None, key).raw, mode=0o644)
    return (
        f"key thumbprint  {key.public.thumbprint.hex()}\n"
        f"request         {path}\n"
        "Give the request to the authority, with the meter's data; compare the thumbprint with\n"
        "it by voice. What comes back is a bundle: cryptometer-firmware enrol BUNDLE"
    )


def request_text(state: Path) -> str:
    """The enrolment request as text.

    Raises:
        ConfigurationError: there is none.
    """
    return encode_request_text(_read(state / _REQUEST))


def enrol(state: Path, bundle: Path, place: Place = IN_A_FILE) -> Enrolment:
    """Installs the authority's answer.

    Raises:
        ConfigurationError: a file cannot be read.
        Rejected: the bundle is not meant for this device.
    """
    key = load_device_key(state, place)
    raw = _read(bundle)
    enrolment = read_bundle(raw, None, key.public)
    known = read_enrolment(state, key.public)
    if known is not None and known.community.id != enrolment.community.id:
        raise ConfigurationError(
            f"this device belongs to {known.community.parameters.name!r}, and its journal with it;"
            " use a state folder of its own for another community"
        )
    try:
        # As the program will read it at its start: with what came over the broker before.
        enrolment = read_bundle(raw, _read_update(state), key.public)
    except Rejected as refused:
        raise ConfigurationError(
            f"the bundle contradicts what the authority has said over the broker ({refused}): ask"
            f" the authority. Where the bundle is right, move {state / _UPDATE} away"
        ) from None
    check_meter(enrolment)
    install_broker(state / BROKER_FOLDER, enrolment.broker)
    put_file(state / _BUNDLE, raw)
    return enrolment


def read_enrolment(state: Path, key: PublicKey) -> Enrolment | None:
    """What was installed, and what came over the broker since; None before `enrol`.

    Raises:
        ConfigurationError: a file cannot be read.
        Rejected: a file is not what was installed.
    """
    if not (state / _BUNDLE).exists():
        return None
    return read_bundle(_read(state / _BUNDLE), _read_update(state), key)


def keep_update(state: Path, key: PublicKey, update: bytes) -> bool:
    """Keeps authority records that came over the broker; True if they say something new.

    Raises:
        Rejected: they are not the authority's, or not meant for this device.
    """
    merged = _merged(state, key, update)
    if merged is None:
        return False
    put_file(state / _UPDATE, merged)
    return True


def says_something_new(state: Path, key: PublicKey, update: bytes) -> bool:
    """Whether authority records that came over the broker add to what is known; keeps nothing.

    Raises:
        Rejected: they are not the authority's, or not meant for this device.
    """
    return _merged(state, key, update) is not None


def load_device_key(state: Path, place: Place = IN_A_FILE) -> StoredKey:
    """The device's key. A token may be away for now, once its public key stands in the request.

    Raises:
        ConfigurationError: there is none, or it is readable by others.
        KeyLost: its token is away, and there is no request.
    """
    if isinstance(place, FilePlace):
        if not has_key(place, state):
            raise ConfigurationError(
                f"there is no key in {state}; run cryptometer-firmware init --state {state}"
            )
        return open_key(place, state, None)
    return open_key(place, state, _requested_key(state))


def _requested_key(state: Path) -> PublicKey | None:
    """The public key of the enrolment request; None if there is none."""
    if not (state / _REQUEST).exists():
        return None
    try:
        record = records.decode(_read(state / _REQUEST))
    except Rejected as refused:
        raise ConfigurationError(f"{state / _REQUEST} is no request: {refused}") from None
    if not isinstance(record.body, EnrolmentRequest):
        raise ConfigurationError(f"{state / _REQUEST} is no request")
    return record.body.key


def describe_all(configurations: Sequence[Path]) -> str:
    """What `describe` says of each configuration's folder; named, when there are several."""
    said = []
    for path in configurations:
        config = load_config(path)
        text = describe(path.parent / config.state, config.key.place)
        said.append(f"{path}:\n{text}" if len(configurations) > 1 else text)
    return "\n\n".join(said)


def describe(state: Path, place: Place = IN_A_FILE) -> str:
    """The device's state for people, read beside a running program without disturbing it."""
    key = load_device_key(state, place)
    lines = [f"key          {key.public.thumbprint.hex()}"]
    if key.trouble():
        lines.append(f"key store    {key.trouble()}")
    try:
        enrolment = read_enrolment(state, key.public)
    except Rejected as refused:
        return "\n".join([*lines, f"enrolment    unusable: {refused}"])
    if enrolment is None:
        return "\n".join([*lines, "enrolment    none; pulses are journalled, not signed"])
    name = enrolment.community.parameters.name
    lines += [
        f"community    {name} ({enrolment.community.id.hex()[:16]}…)",
        f"meter        {enrolment.meter}, serial {enrolment.details.serial},"
        f" {enrolment.details.constant} pulses/kWh, {enrolment.details.lot_pulses} per lot"
        + (", REVOKED" if enrolment.revoked else ""),
        f"broker       {enrolment.broker.url}",
    ]
    journal, outbox = state / "journal", state / "outbox"
    # Looked at, never made here: whoever asks may be another user than the program.
    register = Journal(DiskDirectory(journal)).peek() if journal.exists() else 0
    lines.append(f"register     {register} pulses")
    end = None
    if outbox.exists():
        end = Outbox(DiskDirectory(outbox), limit_bytes=0, window=1).peek()
    if end is None:
        lines.append("records      none signed yet")
    else:
        lines.append(
            f"records      {end.sequence} signed, {end.acknowledged} acknowledged,"
            f" {end.sequence - end.acknowledged} waiting"
        )
        lines.append(f"last close   step {end.closed_step}")
    return "\n".join(lines)


def _merged(state: Path, key: PublicKey, update: bytes) -> bytes | None:
    """What the authority has said over the broker, an update included; None if it adds nothing."""
    known = read_enrolment(state, key)
    if known is None:
        return None
    # What was heard once stays known: the broker may bring an older or a shorter message.
    heard = _read_update(state)
    before = () if heard is None else read_update(heard)
    merged = cbor.encode(list(dict.fromkeys((*before, *read_update(update)))))
    fresh = read_bundle(_read(state / _BUNDLE), merged, key)
    newest = {record.identity for record in fresh.community.records}
    if newest <= {record.identity for record in known.community.records}:
        return None
    return merged


def _read_update(state: Path) -> bytes | None:
    return _read(state / _UPDATE) if (state / _UPDATE).exists() else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except MISPLACED as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
