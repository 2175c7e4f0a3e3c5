"""A step close as a record of the Open Charge Metering Format (OCMF 1.0, S.A.F.E. e.V.): the
meter's register at its begin and end, signed with ECDSA P-256.

The gateway has no device's key, and a device signs the project's own records: so this is an
attestation. An exporter's key of the operator says "this is what that step close stands for", and
the record names the close, the device's key and the checkpoint under which it stands: whoever wants
more than the operator's word checks those. Extension fields begin with X, as the format allows.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from xml.sax.saxutils import escape

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cryptometer.authority_records import Use
from cryptometer.errors import ConfigurationError
from cryptometer.keys import Algorithm, PublicKey
from cryptometer.steps import DOUBTFUL_ERROR_MS, MS_PER_S, ClockState
from gateway.exports.source import Source, kwh_text

FORMAT_VERSION = "1.0"
ALGORITHM = "ECDSA-secp256r1-SHA256"
VALUE_MARK = "|"  # between the sections of a record, hence in none of them

# What flows to the community is what the meter's owner exports (OBIS C = 2), what a member takes is
# imported (C = 1): IEC 62056-6-1.
_OBIS = {
    Use.GENERATION: "1-0:2.8.0",
    Use.STORAGE: "1-0:2.8.0",
    Use.CONSUMPTION: "1-0:1.8.0",
}

Sign = Callable[[bytes], bytes]
"""Gives r || s of ECDSA P-256 with SHA-256 over the bytes, 64 bytes."""


@dataclass(frozen=True, slots=True)
class Close:
    """A step close that counted, with what the ledger knows of its meter.

    Attributes:
        identity: of the record, 32 bytes.
        device: thumbprint of the key that signed it, 32 bytes.
        leaf: its place in the ledger.
        serial: the number on the meter's name plate.
        begin_ms: when the register was `before_uwh`, UTC ms.
        end_ms: the step's end, UTC ms.
        before_uwh: the register's energy at the begin.
        after_uwh: at the end.
        transferred_uwh: what the close transferred, as the energy verdict has it.
        state: of the device's clock; OCMF has the same four letters.
        error_ms: bound on that clock's error.
    """

    meter: str
    serial: str
    use: Use
    step: int
    identity: bytes
    device: bytes
    leaf: int
    begin_ms: int
    end_ms: int
    before_uwh: int
    after_uwh: int
    transferred_uwh: int
    state: ClockState
    error_ms: int


def ocmf_record(
    close: Close, source: Source, key: PublicKey, sign: Sign, software: tuple[str, str]
) -> str:
    """The record: OCMF|payload|signature.

    Args:
        key: the exporter's; its thumbprint is the record's gateway serial.
        software: the exporting program's name and version.

    Raises:
        ConfigurationError: the key is not P-256; or the registers differ by another energy than
            the close transferred, so that a pair of readings would say what did not count.
    """
    check_key(key)
    if close.after_uwh - close.before_uwh != close.transferred_uwh:
        raise ConfigurationError(
            f"step {close.step} of {close.meter}: its registers differ by"
            f" {kwh_text(close.after_uwh - close.before_uwh)} kWh and"
            f" {kwh_text(close.transferred_uwh)} kWh counted; a pair of readings cannot say that"
        )
    payload = _payload(close, source, key, software)
    signature = sign(payload.encode())
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    signed = {"SA": ALGORITHM, "SD": encode_dss_signature(r, s).hex().upper()}
    return f"OCMF|{payload}|{json.dumps(signed, separators=(',', ':'))}"


def ocmf_container(records: Sequence[str], key: PublicKey) -> str:
    """The records and the key in the XML that the S.A.F.E. transparency software opens. Its key is
    for convenience: who checks takes the key from elsewhere.

    Raises:
        ConfigurationError: the key is not P-256.
    """
    public = key_text(key)
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', "<values>"]
    for number, record in enumerate(records, start=1):
        lines += [
            f'  <value transactionId="{number}">',
            f'    <signedData format="OCMF" encoding="plain">{escape(record)}</signedData>',
            f'    <publicKey encoding="hex">{public}</publicKey>',
            "  </value>",
        ]
    return "".join(f"{line}\n" for line in [*lines, "</values>"])


def check_key(key: PublicKey) -> None:
    """Refuses a key that no verifier of OCMF could use.

    Raises:
        ConfigurationError: it is not P-256.
    """
    if key.algorithm is not Algorithm.ES256:
        raise ConfigurationError(
            "OCMF knows no Ed25519: its records are signed with a P-256 key; make one with"
            " cryptometer-gateway export ocmf-key"
        )


def key_text(key: PublicKey) -> str:
    """The public key as verifiers of OCMF take it: SubjectPublicKeyInfo in hexadecimal.

    Raises:
        ConfigurationError: it is not P-256.
    """
    check_key(key)
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + key.coordinates)
    return point.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo).hex().upper()


def _payload(close: Close, source: Source, key: PublicKey, software: tuple[str, str]) -> str:
    readings = [
        _reading(close, "B", close.begin_ms, close.before_uwh),
        _reading(close, "E", close.end_ms, close.after_uwh),
    ]
    before: dict[str, object] = {
        "FV": FORMAT_VERSION,
        "GI": software[0],
        "GS": key.thumbprint.hex(),
        "GV": software[1],
        # A transaction for each step: the number grows by one from step to step, and a step that
        # was not closed is a gap.
        "PG": f"T{close.step}",
        "MS": close.serial,
        "IS": False,
        "IL": "NONE",
        "IF": [],
        "IT": "NONE",
        "ID": "",
    }
    behind: dict[str, object] = {
        "XC": source.community.hex(),
        "XM": close.meter,
        "XI": close.identity.hex(),
        "XK": close.device.hex(),
        "XL": close.leaf,
        "XS": source.checkpoint.size,
        "XR": source.checkpoint.root.hex(),
        "XE": close.transferred_uwh,
        "XB": close.error_ms,
    }
    text = _joined(before, f'"RD":[{",".join(readings)}]', behind)
    # The mark between sections may stand in no name: JSON has another way to write it.
    return text.replace(VALUE_MARK, "\\u007c")


def _reading(close: Close, reason: str, at_ms: int, register_uwh: int) -> str:
    doubtful = close.error_ms > DOUBTFUL_ERROR_MS or close.state is ClockState.UNKNOWN
    before: dict[str, object] = {"TM": f"{_time(at_ms)} {close.state.value}", "TX": reason}
    behind: dict[str, object] = {
        "RI": _OBIS[close.use],
        "RU": "kWh",
        "RT": "AC",
        "EF": "t" if doubtful else "",
        "ST": "G",
    }
    return _joined(before, f'"RV":{kwh_text(register_uwh)}', behind)


def _joined(before: dict[str, object], raw: str, behind: dict[str, object]) -> str:
    """A JSON object with a member between that is written already: the digits of a register are
    what was measured, and pass through no float."""
    head, tail = (json.dumps(part, separators=(",", ":")) for part in (before, behind))
    return f"{head[:-1]},{raw},{tail[1:]}"


def _time(at_ms: int) -> str:
    moment = datetime.fromtimestamp(at_ms // MS_PER_S, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S},{at_ms % MS_PER_S:03d}+0000"
