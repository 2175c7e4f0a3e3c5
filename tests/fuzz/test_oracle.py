"""The fuzzer can fail: each planted fault is found, by the same targets and changes."""

import base64
from collections.abc import Callable
from random import Random
from typing import Any

import cbor2
import pytest

from cryptometer import cbor, merkle, note, tiles
from cryptometer.errors import Reason, Rejected
from cryptometer.keys import PublicKey
from cryptometer.meter import Meter
from cryptometer.records import Record
from firmware import outbox
from firmware.outbox import Outbox
from gateway.door import Door, Verdicts
from hal.index import dlms_push, hdlc, linky, modbus_frame, p1, sml
from hal.index.ciphering import Keys, Protected, open_protected
from hal.index.d0 import D0Decoder
from hal.index.plausible import Plausible
from tests.fuzz.mutate import Mutator
from tests.fuzz.scene import held
from tests.fuzz.targets import TARGETS

TRIES = 1_500


def _any_cbor(data: bytes) -> Any:
    try:
        return cbor2.loads(data)
    except Exception:  # noqa: BLE001 - the library raises many kinds on bad bytes
        raise Rejected(Reason.MALFORMED, "no CBOR") from None


def _any_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text + "==")
    except ValueError:
        raise Rejected(Reason.MALFORMED, "no base64") from None


def _any_entries(data: bytes) -> list[bytes]:
    entries, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 2], "big")
        entries.append(data[at + 2 : at + 2 + size])
        at += 2 + size
    return entries


def _nothing(*_: object, **__: object) -> None:
    pass


def _true(*_: object) -> bool:
    return True


class _Any(bytes):
    """Equal to whatever it is compared with."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


class _AnyNumber(int):
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


def _any_sum(*_: object) -> bytes:
    return _Any(2)


def _any_number(*_: object) -> int:
    return _AnyNumber()


def _unchecked(protected: Protected, title: bytes, keys: Keys) -> bytes:
    return open_protected(protected, title, Keys(keys.encryption))


def _keep(_: Door, _meter: Meter, record: Record, *rest: Any) -> None:
    verdicts: Verdicts = rest[-1]
    verdicts.accepted.append(record)


PLANTED: dict[str, tuple[str, object, str, Callable[..., object]]] = {
    "CBOR of any form": ("cbor", cbor, "decode", _any_cbor),
    "CBOR of any form in a record": ("record", cbor, "decode", _any_cbor),
    "CBOR of any form in a journal": ("event", cbor, "decode", _any_cbor),
    "base64 of any form": ("vkey", note, "_base64", _any_base64),
    "entries that are cut off": ("bundle", tiles, "split_bundle", _any_entries),
    "a path that is not followed": ("inclusion", merkle, "verify_inclusion", _nothing),
    "a proof that is not followed": ("proof", merkle, "verify_inclusion", _nothing),
    "an old root that is not compared": ("consistency", merkle, "verify_consistency", _nothing),
    "a signature that nobody checks": ("door", PublicKey, "verify", _nothing),
    "a note that nobody checks": ("checkpoint", PublicKey, "verify", _nothing),
    "a place that is signed twice": ("outbox", outbox, "_check_continues", _nothing),
    "a word on another chain": ("acknowledgement", Outbox, "_is_at", _true),
    "a file's sum that nobody checks": ("sml", sml, "_is_sum", _true),
    "a block check that nobody checks": ("d0", D0Decoder, "_verify", _nothing),
    "a group's sum that nobody checks": ("linky", linky, "checksum", _any_number),
    "a telegram's sum that nobody checks": ("p1", p1, "checksum", _any_number),
    "a frame's sum that nobody checks": ("hdlc", hdlc, "check_sequence", _any_sum),
    "a sum of a telegram's frame that nobody checks": (
        "dlms-push",
        hdlc,
        "check_sequence",
        _any_sum,
    ),
    "a tag that nobody checks": ("dlms-push", dlms_push, "open_protected", _unchecked),
    "an answer's sum that nobody checks": ("modbus-frame", modbus_frame, "checksum", _any_sum),
    "an index that goes anywhere": ("believed", Plausible, "_contradiction", _nothing),
    "an answer whose block check nobody checks": ("d0-asked", D0Decoder, "_verify", _nothing),
    "a refused message that is kept": ("door", Door, "_answer_refused", _keep),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_fault_is_found(planted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, place, attribute, fault = PLANTED[planted]
    [target] = [one for one in TARGETS if one.name == name]
    seeds, keys = target.seeds(), held()
    for seed in seeds:
        target.accepts(seed)
    draws = map(Random, range(TRIES))
    tries = [Mutator(draw, keys, seeds).mutate(draw.choice(seeds)) for draw in draws]
    monkeypatch.setattr(place, attribute, fault)
    # FalseAcceptance, or an assertion of the code itself.
    with pytest.raises(AssertionError):
        list(map(target.accepts, tries))
