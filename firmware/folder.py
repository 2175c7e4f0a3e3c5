"""The device's folder: configuration, enrolment; and what stands in it, for people."""

import tomllib
from collections.abc import Sequence
from pathlib import Path

from cryptometer import cbor
from cryptometer.errors import ConfigurationError, Reason, Rejected
from cryptometer.keys import PublicKey
from firmware import device_key
from firmware.config import Config, KeySettings, read_config
from firmware.device_key import BUNDLE, IN_FILES, load_device_key
from firmware.enrolment import Enrolment, check_meter, read_bundle, read_update
from firmware.journal import Journal
from firmware.outbox import Outbox
from hal.broker import install_broker
from hal.files import MISPLACED, DiskDirectory, put_file, read_file
from hal.handing import read_given

_UPDATE = "authority.update"
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


def settle_successor(state: Path, settings: KeySettings) -> bool:
    """Lets the successor's key take over if the authority's newest registration names it: from then
    on the old one signs nothing. Whether it did. Only for whoever holds the folder's lock.

    Raises:
        ConfigurationError, Rejected: a file of the folder is not what it should be.
    """
    successor = device_key.successor_key(state)
    if successor is None or not (state / BUNDLE).exists():
        return False
    former = device_key.former_keys(state, present=True)
    try:
        enrolment = read_bundle(read_file(state / BUNDLE), _read_update(state), successor, former)
    except Rejected as refused:
        if refused.reason is Reason.UNKNOWN_KEY:
            return False  # it is not registered yet
        raise
    if enrolment.beginning != enrolment.registration:
        return False
    device_key.take_over(state, settings)
    return True


def enrol(state: Path, bundle: Path, settings: KeySettings = IN_FILES) -> Enrolment:
    """Installs the authority's answer.

    Raises:
        ConfigurationError: a file cannot be read.
        Rejected: the bundle is not meant for this device.
    """
    key = load_device_key(state, settings)
    raw = read_given(bundle)
    enrolment = _read_bundle(state, raw, None, key.public)
    known = read_enrolment(state, key.public)
    if known is not None and known.community.id != enrolment.community.id:
        raise ConfigurationError(
            f"this device belongs to {known.community.parameters.name!r}, and its journal with it;"
            " use a state folder of its own for another community"
        )
    try:
        # As the program will read it at its start: with what came over the broker before.
        enrolment = _read_bundle(state, raw, _read_update(state), key.public)
    except Rejected as refused:
        raise ConfigurationError(
            f"the bundle contradicts what the authority has said over the broker ({refused}): ask"
            f" the authority. Where the bundle is right, move {state / _UPDATE} away"
        ) from None
    check_meter(enrolment)
    install_broker(state / BROKER_FOLDER, enrolment.broker)
    put_file(state / BUNDLE, raw)
    return enrolment


def read_enrolment(state: Path, key: PublicKey) -> Enrolment | None:
    """What was installed, and what came over the broker since; None before `enrol`.

    Raises:
        ConfigurationError: a file cannot be read.
        Rejected: a file is not what was installed.
    """
    if not (state / BUNDLE).exists():
        return None
    return _read_bundle(state, read_file(state / BUNDLE), _read_update(state), key)


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


def _read_bundle(state: Path, raw: bytes, update: bytes | None, key: PublicKey) -> Enrolment:
    return read_bundle(raw, update, key, device_key.former_keys(state))


def describe_all(configurations: Sequence[Path]) -> str:
    """What `describe` says of each configuration's folder; named, when there are several."""
    said = []
    for path in configurations:
        config = load_config(path)
        text = describe(path.parent / config.state, config.key)
        said.append(f"{path}:\n{text}" if len(configurations) > 1 else text)
    return "\n\n".join(said)


def describe(state: Path, settings: KeySettings = IN_FILES) -> str:
    """The device's state for people, read beside a running program without disturbing it."""
    key = load_device_key(state, settings)
    lines = [f"key          {key.public.thumbprint.hex()}"]
    successor = device_key.successor_key(state)
    if successor is not None:
        lines.append(f"successor    {successor.thumbprint.hex()}, waits for its registration")
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
        closed = "none yet" if end.closed_step is None else f"step {end.closed_step}"
        lines.append(f"last close   {closed}")
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
    fresh = _read_bundle(state, read_file(state / BUNDLE), merged, key)
    newest = {record.identity for record in fresh.community.records}
    if newest <= {record.identity for record in known.community.records}:
        return None
    return merged


def _read_update(state: Path) -> bytes | None:
    return read_file(state / _UPDATE) if (state / _UPDATE).exists() else None
