"""What the command line and the configuration read."""

import tomllib

from cryptometer import audit, cbor, records, tiles
from cryptometer.audit_state import decode_report, encode_report
from cryptometer.commands import inspect
from cryptometer.commands.authority import parse_place, read_request
from cryptometer.commands.broker import Credential, parse_address
from cryptometer.commands.meters import read_meters
from cryptometer.commands.roll import open_roll
from cryptometer.errors import ConfigurationError, Reason, Rejected
from cryptometer.record_fields import Role
from cryptometer.request_text import decode_request_text, encode_request_text, is_request_text
from cryptometer.wire import decode_map, encode_map
from firmware import config as firmware_config
from gateway import config as gateway_config
from tests.fuzz.scene import FalseAcceptance, World, array_of, check_genuine, honest, rogue
from tests.fuzz.target import BY_MESSAGE, Target, in_either, of_both, same, scratch, text_of


def _read_inspected(data: bytes) -> None:
    check_genuine(*inspect._from_file(data))


def _read_report(data: bytes) -> None:
    """What an auditor kept from his last visit."""

    def read(world: World) -> None:
        same(data, encode_report(decode_report(data, world.community)))

    in_either(read)


def _reports(world: World) -> list[bytes]:
    return [encode_report(audit.audit(world.files.get, world.community))]


def _read_request(data: bytes) -> None:
    key = read_request(scratch("request", data), Role.METER)
    raw = data
    if data[:1] != b"\x84":
        raw = decode_request_text(data.decode())
    record = records.decode(raw)
    record.envelope.verify(key)
    check_genuine(record)


def _requests() -> list[bytes]:
    raws = [world.request.raw for world in (honest(), rogue())]
    return [*raws, *(encode_request_text(raw).encode() for raw in raws)]


def _read_request_text(data: bytes) -> None:
    text = text_of(data)
    if not is_request_text(text):
        raise Rejected(Reason.MALFORMED, "not the text of a request")
    # Case and white space say nothing.
    same(
        "".join(text.split()).upper().encode(),
        encode_request_text(decode_request_text(text)).encode(),
    )


def _read_roll(data: bytes) -> None:
    raws = _array_of_bytes(data)
    roll = open_roll(raws)
    check_genuine(*roll.records)
    if [record.raw for record in roll.records] != raws:
        raise FalseAcceptance("a chain is another one when it is read again")


def _array_of_bytes(data: bytes) -> list[bytes]:
    match cbor.decode(data):
        case [bytes(), *_] as raws if all(isinstance(raw, bytes) for raw in raws):
            return raws  # type: ignore[return-value]  # checked just above
        case _:
            raise Rejected(Reason.MALFORMED, "no array of records")


def _read_credential(data: bytes) -> None:
    same(data, cbor.encode(encode_map(decode_map(Credential, cbor.decode(data)))))


def _credentials() -> list[bytes]:
    held = [Credential("m0", "secret", bytes(12)), Credential("m1", certificate=b"pem", key=b"pem")]
    return [cbor.encode(encode_map(one)) for one in held]


def _read_meters(data: bytes) -> None:
    for entry in read_meters(text_of(data), "meters.toml", 900, 1_700_000_000_000):
        # What the authority would sign can be signed.
        encode_map(entry.details)
        if not entry.details.lot_pulses > 0:
            raise FalseAcceptance(f"a lot of {entry.details.lot_pulses} pulses")


_METERS = b"""[[meter]]
name = "pv-roof"
request = "device.request"
serial = "7 XYZ00 1234 5678"
use = "generation"
class = "B"
phases = 3
voltage_v = 230
i_min_a = 0.25
i_max_a = 60
index_kwh = 1234.5
constant = 10000
from = 2026-03-29T01:00:00Z
"""


def _read_settings(data: bytes) -> None:
    """Both programs' configuration."""
    try:
        table = tomllib.loads(text_of(data))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(f"not TOML: {error}") from None
    try:
        firmware_config.read_config(table)
    except ConfigurationError:
        gateway_config.read_config(table)


_METER_TOML = b"""state = "/var/lib"
[source]
driver = "serial"
[batch]
lots = 7
[journal]
limit_mb = 8
"""
_GATEWAY_TOML = b"""ledger = "l"
accept_unsynchronised = true
[clock]
driver = "system"
[broker]
url = "x"
"""


def _read_words(data: bytes) -> None:
    """What people type as an address or a place."""
    text = text_of(data)
    try:
        address = parse_address(text)
    except ConfigurationError:
        parse_place(text)
    else:
        if parse_address(address.url) != address:
            raise FalseAcceptance(f"{text!r} is another address when it is written again")


COMMANDS: tuple[Target, ...] = (
    Target(
        "inspect",
        ("cryptometer.commands.inspect._from_file",),
        _read_inspected,
        lambda: [
            honest().leaves[3],
            honest().bundle.raw,
            honest().community_pub,
            honest().proofs[1],
            array_of(honest().leaves[:3]),
            tiles.encode_bundle(honest().leaves[:3]),
        ],
    ),
    Target(
        "report",
        ("cryptometer.audit_state.decode_report",),
        _read_report,
        of_both(_reports),
    ),
    Target(
        "request",
        ("cryptometer.commands.authority.read_request",),
        _read_request,
        _requests,
        BY_MESSAGE,
    ),
    Target(
        "request-text",
        ("cryptometer.request_text.decode_request_text",),
        _read_request_text,
        lambda: _requests()[2:],
    ),
    Target(
        "roll",
        ("cryptometer.commands.roll.open_roll",),
        _read_roll,
        of_both(lambda world: [array_of(world.authority_records)]),
    ),
    Target("credential", ("cryptometer.wire.decode_map",), _read_credential, _credentials),
    Target(
        "meters",
        ("cryptometer.commands.meters.read_meters",),
        _read_meters,
        lambda: [_METERS],
        BY_MESSAGE,
    ),
    Target(
        "settings",
        (
            "cryptometer.settings.read_settings",
            "firmware.config.read_config",
            "gateway.config.read_config",
        ),
        _read_settings,
        lambda: [_METER_TOML, _GATEWAY_TOML],
        BY_MESSAGE,
    ),
    Target(
        "words",
        ("cryptometer.commands.broker.parse_address", "cryptometer.commands.authority.parse_place"),
        _read_words,
        lambda: [b"mqtts://broker.example:8883", b"mqtt://[::1]", b"7:" + b"0a" * 32],
        BY_MESSAGE,
    ),
)
