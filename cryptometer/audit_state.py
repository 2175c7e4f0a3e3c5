"""What an auditor keeps between two visits: the report of an audit that held, as bytes.

It is the auditor's own word to himself and believed as such, signatures and all: a digest tells a
damaged file from a whole one, and nothing tells a forged one (docs/decisions/0013).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from cryptometer import cbor
from cryptometer.audit import Report
from cryptometer.community import Community
from cryptometer.errors import Reason, Rejected
from cryptometer.merkle import HASH_BYTES
from cryptometer.record_fields import DIGEST
from cryptometer.snapshot import (
    Rows,
    decode_state,
    encode_agreement,
    encode_common,
    encode_meter,
    encode_settlement,
)
from cryptometer.wire import Bytes, Many, Row, Text, Uint, decode_map, encode_map, wire

_MARK = b"cryptometer-audit 2\n"
_MOST = 2**24
_SIZE_BYTES = 8
_HEAD_BYTES = _SIZE_BYTES + HASH_BYTES
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class _Count:
    name: str = wire(0, Text(40))
    count: int = wire(1, Uint())


@dataclass(frozen=True, slots=True)
class _Kept:
    """A report; `heads` are sizes and roots one behind another, 40 bytes for each block."""

    community: bytes = wire(0, DIGEST)
    common: bytes = wire(1, Bytes(0, 2**32))
    meters: tuple[bytes, ...] = wire(2, Many(Bytes(0, _MOST), 0, _MOST))
    heads: bytes = wire(3, Bytes(0, 2**32))
    authority: bytes = wire(4, Bytes(0, 2**32))
    blocks: int = wire(5, Uint())
    late: int = wire(6, Uint())
    caught_up: int = wire(7, Uint())
    unsynchronised: int = wire(8, Uint())
    kinds: tuple[_Count, ...] = wire(9, Many(Row(_Count), 0, _MOST))
    quarantined: tuple[_Count, ...] = wire(10, Many(Row(_Count), 0, _MOST))
    energy_uwh: tuple[_Count, ...] = wire(11, Many(Row(_Count), 0, _MOST))
    shown: tuple[str, ...] = wire(12, Many(Text(1_000), 0, _MOST))
    agreements: tuple[bytes, ...] = wire(13, Many(Bytes(0, _MOST), 0, _MOST))
    settlements: tuple[bytes, ...] = wire(14, Many(Bytes(0, _MOST), 0, _MOST))
    rules: tuple[_Count, ...] = wire(15, Many(Row(_Count), 0, _MOST))


def encode_report(report: Report) -> bytes:
    """A report as `audit` gave it; without `kept_back`, which the next audit finds anew."""
    kept = _Kept(
        community=report.state.community,
        common=encode_common(report.state),
        meters=tuple(map(encode_meter, report.state.meters.values())),
        heads=b"".join(
            size.to_bytes(_SIZE_BYTES, "big") + root for size, root in report.heads.items()
        ),
        authority=b"".join(report.authority),
        blocks=report.blocks,
        late=report.late,
        caught_up=report.caught_up,
        unsynchronised=report.unsynchronised,
        kinds=_counts(report.kinds),
        quarantined=_counts(report.quarantined),
        energy_uwh=_counts(report.energy_uwh),
        shown=tuple(report.shown),
        agreements=tuple(map(encode_agreement, report.state.agreements)),
        settlements=tuple(map(encode_settlement, report.state.settlements.values())),
        rules=_counts(report.rules),
    )
    content = _MARK + cbor.encode(encode_map(kept))
    return content + sha256(content).digest()


def decode_report(data: bytes, community: Community) -> Report:
    """Reads what `encode_report` wrote.

    Raises:
        Rejected: it is damaged, or of another community or version.
    """
    content, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if not content.startswith(_MARK):
        raise Rejected(Reason.MALFORMED, "not what an audit of this version has kept")
    if sha256(content).digest() != digest:
        raise Rejected(Reason.MALFORMED, "what the audit kept is damaged")
    kept = decode_map(_Kept, cbor.decode(content[len(_MARK) :]))
    if kept.community != community.id:
        raise Rejected(Reason.OTHER_COMMUNITY, "kept from an audit of another community")
    rows = Rows(kept.common, kept.meters, kept.agreements, kept.settlements)
    state = decode_state(community.genesis.raw, rows)
    report = Report(
        checkpoint=state.checkpoint,
        state=state,
        blocks=kept.blocks,
        kinds=_counter(kept.kinds),
        quarantined=_counter(kept.quarantined),
        late=kept.late,
        caught_up=kept.caught_up,
        unsynchronised=kept.unsynchronised,
        rules=_counter(kept.rules),
        energy_uwh=_counter(kept.energy_uwh),
        shown=list(kept.shown),
        heads={
            int.from_bytes(one[:_SIZE_BYTES], "big"): one[_SIZE_BYTES:]
            for one in _pieces(kept.heads, _HEAD_BYTES)
        },
        authority=_pieces(kept.authority, HASH_BYTES),
    )
    if encode_report(report) != data:
        raise Rejected(Reason.MALFORMED, "what the audit kept is not as an audit keeps it")
    return report


def _counts(counter: Mapping[str, int]) -> tuple[_Count, ...]:
    return tuple(_Count(name, count) for name, count in sorted(counter.items()))


def _counter(counts: tuple[_Count, ...]) -> Counter[str]:
    return Counter({one.name: one.count for one in counts})


def _pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]
