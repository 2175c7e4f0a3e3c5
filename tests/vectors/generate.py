"""Makes the golden vectors of this folder: `python -m tests.vectors.generate`.

Everything follows from fixed keys and fixed values, so the same code gives the same bytes, and a
difference in a file here is a change of the format. The one exception is es256.json: an ECDSA
signature differs from run to run, so a stored one that still fits is kept.
"""

import json
from dataclasses import fields, is_dataclass
from enum import Enum
from fractions import Fraction
from pathlib import Path

from cryptometer import merkle, metrology, note, records
from cryptometer.acknowledgement import Acknowledgement, Stop
from cryptometer.authority_records import (
    ChainPlace,
    CountingSource,
    Genesis,
    MeterDetails,
    ReAnchor,
    Registration,
    Revocation,
    Use,
)
from cryptometer.chain_records import Batch, Ending, Mark, Reading, RunStart, StepClose
from cryptometer.community import encode_community, trust
from cryptometer.enrolment import Broker, Bundle, EnrolmentRequest
from cryptometer.errors import Reason, Rejected
from cryptometer.keys import PublicKey, Signer
from cryptometer.record_fields import ClockReading, Role
from cryptometer.records import Record
from cryptometer.steps import ClockSource, ClockState, step_start_ms
from tests.keys import p256_signer, seed, signer
from tests.vectors import example
from tests.vectors.ledgers import Ledger

FOLDER = Path(__file__).parent
ES256 = "es256.json"

AUTHORITY, GATEWAY, VPP, MEMBER, ROOF, BARN, NEWCOMER = range(1, 8)
SIGNERS = {
    "authority": AUTHORITY,
    "gateway": GATEWAY,
    "vpp": VPP,
    "member": MEMBER,
    "pv-roof": ROOF,
    "pv-barn": BARN,
    "newcomer": NEWCOMER,
}
STEP_S = 900
FIRST_STEP = 1_963_584  # begins at 2026-01-01 00:00 UTC
CREATED_MS = 1_767_200_000_000
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

DEVICE_CLOCK = ClockReading(ClockSource.SYSTEM, ClockState.SYNCHRONISED, 12)

# 3 · 230 V · 0.25 A · 2 % · 0.25 h = 0.8625 Wh; a pulse is 83333 1/3 µWh: ten to a lot.
ROOF_DETAILS = MeterDetails(
    serial="EX-2041-77",
    use=Use.GENERATION,
    source=CountingSource.PULSES,
    index_wh=1_204_500,
    accuracy_class="B",
    phases=3,
    voltage_mv=230_000,
    i_min_ma=250,
    i_max_ma=60_000,
    ratings_side=metrology.Side.PRIMARY,
    constant=Fraction(12_000),
    constant_side=metrology.Side.PRIMARY,
    ratio=Fraction(1),
    guard=Fraction(1),
    lot_pulses=10,
    coarse=False,
    exclusive=True,
)
# Behind current transformers of 200 A / 5 A; the name plate states both for the secondary side:
# 3 · 230 V · 0.05 A · 40 · 2 % · 0.25 h = 6.9 Wh; a pulse is 10⁹ · 40 / 10 000 = 4 000 000 µWh.
BARN_DETAILS = MeterDetails(
    serial="№ 5-114/é",
    use=Use.GENERATION,
    source=CountingSource.PULSES,
    index_wh=0,
    accuracy_class="B",
    phases=3,
    voltage_mv=230_000,
    i_min_ma=50,
    i_max_ma=6_000,
    ratings_side=metrology.Side.SECONDARY,
    constant=Fraction(10_000),
    constant_side=metrology.Side.SECONDARY,
    ratio=Fraction(40),
    guard=Fraction(1),
    lot_pulses=1,
    coarse=False,
    exclusive=True,
)


class Golden(Ledger):
    """The golden community: two blocks, and what stands beside a ledger."""

    def __init__(self) -> None:
        super().__init__(GATEWAY)
        genesis = self.seal("genesis", _genesis(), AUTHORITY)
        self.community_id = genesis.identity
        first = [genesis, *self._registrations(genesis)]
        self.community = trust(genesis.raw, [first[1].raw, first[2].raw])
        self.commit("header-1", first, self.community.state)
        self.commit("header", self._second(first[-1]), self.blocks[0].state)
        self._beside_the_ledger()

    def _registrations(self, genesis: Record) -> list[Record]:
        made: list[Record] = []
        for sequence, (name, role, party, by, details) in enumerate(
            (
                ("registration-gateway", Role.GATEWAY, "gate", GATEWAY, None),
                ("registration-vpp", Role.VPP, "tilleuls", VPP, None),
                ("registration-member", Role.MEMBER, "house-7", MEMBER, None),
                ("registration", Role.METER, "pv-roof", ROOF, ROOF_DETAILS),
                ("registration-barn", Role.METER, "pv-barn", BARN, BARN_DETAILS),
            ),
            start=1,
        ):
            previous = made[-1] if made else genesis
            key = signer(by).public
            body = Registration(
                sequence, previous.identity, role, party, key, FIRST_STEP + 1, details
            )
            made.append(self.seal(name, body, AUTHORITY))
        return made

    def _second(self, newest: Record) -> list[Record]:
        """What the block of the second step holds; see `verdicts` in ledger.json."""
        step, start_ms = FIRST_STEP + 1, step_start_ms(FIRST_STEP + 1, STEP_S)
        roof, barn = self.by_name["registration"], self.by_name["registration-barn"]
        barn_start = self.seal(
            "run-start-barn",
            RunStart(
                "pv-barn", 0, barn.identity, DEVICE_CLOCK, (), 0, step,
                start_ms + 1_250, "cryptometer-firmware 0.1.0", Ending.FIRST,
            ),
            BARN,
        )  # fmt: skip
        barn_batch = self.seal(
            "batch-barn",
            Batch(
                "pv-barn", 1, barn_start.identity, DEVICE_CLOCK, (), 0, step,
                barn.identity, (1, 61_000, 1, 122_250),
            ),
            BARN,
        )  # fmt: skip
        roof_start = self.seal(
            "run-start",
            RunStart(
                "pv-roof", 0, roof.identity, DEVICE_CLOCK, (int(Mark.LOST), 3), 8, step,
                start_ms + 2_000, "cryptometer-firmware 0.1.0", Ending.UNKNOWN, start_ms - 40_500,
            ),
            ROOF,
        )  # fmt: skip
        lots = [part for lot in range(11) for part in (10, 20_000 + 30_000 * lot)]
        counted = self.seal(
            "batch",
            Batch(
                "pv-roof", 1, roof_start.identity, DEVICE_CLOCK, (int(Mark.STRADDLE), 2), 8, step,
                roof.identity, (*lots, 5, 350_000),
            ),
            ROOF,
        )  # fmt: skip
        too_large = self.seal(
            "batch-quarantined",
            Batch(
                "pv-roof", 2, counted.identity, DEVICE_CLOCK, (), 123, step,
                roof.identity, (11, 400_000),
            ),
            ROOF,
        )  # fmt: skip
        close = self.seal(
            "step-close",
            StepClose(
                "pv-roof", 3, too_large.identity, DEVICE_CLOCK, (), 8, step,
                134, (2_000, 610_000, 611_000, 900_000), self.blocks[0].state.checkpoint,
            ),
            ROOF,
        )  # fmt: skip
        revoked = self.seal(
            "revocation",
            Revocation(
                6, newest.identity, Role.METER, "pv-barn", "seal found broken",
                ChainPlace(1, barn_batch.identity),
            ),
            AUTHORITY,
        )  # fmt: skip
        anchored = self.seal(
            "re-anchor",
            ReAnchor(7, revoked.identity, "pv-roof", 6, 140, "journal lost, index read on site"),
            AUTHORITY,
        )
        return [
            revoked, anchored, barn_start, barn_batch, roof_start, counted, too_large, close
        ]  # fmt: skip

    def _beside_the_ledger(self) -> None:
        close = self.by_name["step-close"]
        self.seal(
            "acknowledgement",
            Acknowledgement("pv-roof", 1, 4, close.identity, 134, Stop(4, Reason.FORK)),
            GATEWAY,
        )
        start_ms = step_start_ms(FIRST_STEP + 2, STEP_S)
        registration = self.by_name["registration"].identity
        self.seal(
            "reading",
            Reading(
                "pv-roof", 4, close.identity, DEVICE_CLOCK, (int(Mark.REFUSED), 2), 134,
                FIRST_STEP + 2, registration, 32_781, start_ms + 898_700, "linky", True,
                FIRST_STEP,
            ),
            ROOF,
        )  # fmt: skip
        self.seal(
            "reading-compared",
            Reading(
                "pv-roof", 4, close.identity, DEVICE_CLOCK, (), 134, FIRST_STEP + 2, registration,
                48_213, start_ms + 898_700, "linky", False, unit_uwh=1_000_000, counted=133,
            ),
            ROOF,
        )  # fmt: skip
        names = ("registration-gateway", "registration-vpp", "registration")
        self.seal(
            "bundle",
            Bundle(
                "pv-roof",
                self.by_name["genesis"].raw,
                tuple(self.by_name[one].raw for one in names),
                Broker(
                    "mqtts://broker.tilleuls.example:8883",
                    ca=b"-----BEGIN CERTIFICATE-----\nan example\n-----END CERTIFICATE-----\n",
                    username="pv-roof",
                    password="not a secret: an example",  # noqa: S106
                ),
            ),
            AUTHORITY,
        )
        self.community_id = None
        newcomer = signer(NEWCOMER)
        request = EnrolmentRequest(
            Role.METER, newcomer.public, "board-0007", "cryptometer-firmware 0.1.0", CREATED_MS
        )
        self.seal("enrolment-request", request, NEWCOMER)
        self.community_id = self.by_name["genesis"].identity


def _genesis() -> Genesis:
    return Genesis(
        name="Rue des Tilleuls – énergie partagée",
        authority=signer(AUTHORITY).public,
        created_ms=CREATED_MS,
        first_step=FIRST_STEP,
        step_s=STEP_S,
        grace_ms=5_000,
        late_steps=3_360,
        token_uwh=5_000_000,
        token_steps=96,
        quorum=1,
    )


def plain(value: object) -> object:
    """A value as JSON: bytes in hex, rationals as pairs, keys by COSE label, names for fields."""
    match value:
        case bytes():
            return value.hex()
        case Fraction():
            return [value.numerator, value.denominator]
        case PublicKey():
            return {str(label): plain(part) for label, part in value.to_cose().items()}
        case Enum():
            return value.value
        case list() | tuple():
            return [plain(item) for item in value]
        case _ if is_dataclass(value):
            return {part.name: plain(getattr(value, part.name)) for part in fields(value)}
        case _:
            return value


def describe(record: Record) -> dict[str, object]:
    """Everything a reader of the record can compare with what it has read."""
    return {
        "kind": record.body.KIND.value,
        "record": record.raw.hex(),
        "sig_structure": record.envelope.signed.hex(),
        "identity": record.identity.hex(),
        "leaf_hash": merkle.leaf_hash(record.raw).hex(),
        "header": {
            "algorithm": int(record.envelope.header.algorithm),
            "key_id": record.key_id.hex(),
            "community": plain(record.envelope.header.community),
        },
        "payload": record.envelope.payload.hex(),
        "says": plain(record.body),
    }


def _ledger(golden: Ledger, gateway: int) -> dict[str, object]:
    names = {record.identity: name for name, record in golden.by_name.items()}
    head = golden.blocks[-1].state.checkpoint
    return {
        "community": golden.community.id.hex(),
        "origin": golden.community.origin,
        "vkey": note.Verifier(golden.community.origin, signer(gateway).public).vkey,
        "size": head.size,
        "root": head.root.hex(),
        "leaves": [names[record.identity] for record in golden.leaves],
        "blocks": [
            {
                "step": block.state.step,
                "size": block.state.checkpoint.size,
                "root": block.state.checkpoint.root.hex(),
                "balance": plain(block.state.balance),
                "verdicts": [
                    {
                        "leaf": names[verdict.record.identity],
                        "energy_uwh": verdict.energy_uwh,
                        "reason": plain(verdict.reason),
                    }
                    for verdict in block.verdicts
                ],
            }
            for block in golden.blocks
        ],
    }


def _keys() -> dict[str, object]:
    return {
        name: {
            "seed": seed(number).hex(),
            "cose_key": plain(signer(number).public),
            "key_id": signer(number).public.thumbprint.hex(),
        }
        for name, number in {**SIGNERS, **example.SIGNERS}.items()
    }


def _example(made: example.Example) -> dict[str, object]:
    """What the example's ledger holds, and what its commitments hide."""
    return _ledger(made, example.GATEWAY) | {
        "accounts": dict(made.blocks[-1].state.accounts),
        "consumption": [
            {
                "distribution": name,
                "step": example.LATE_STEP,
                "member": member,
                "need_uwh": amount,
                "salt": example.SALTS[member].hex(),
            }
            for name, needs in (
                ("distribution-pro-rata", example.CONSUMED),
                ("distribution-supplement", example.CONSUMED),
                ("distribution-correction", example.CORRECTED),
            )
            for member, amount in needs.items()
        ],
    }


def golden_files(golden: Golden, made: example.Example) -> dict[str, bytes]:
    """Every vector that is the same on every run, by path below this folder."""
    files = {f"ledger/{path}": data for path, data in golden.files.items()}
    files |= {f"example/{path}": data for path, data in made.files.items()}
    files["community.pub"] = encode_community(golden.community).encode()
    files["example.pub"] = encode_community(made.community).encode()
    batch, registration = golden.by_name["batch"], golden.by_name["registration"]
    files["batch.tlog-proof"] = golden.proof_of(batch, registration).encode()
    files |= {f"example-{name}.share": data for name, data in made.shares().items()}
    files["ledger.json"] = _json(_ledger(golden, GATEWAY))
    files["example.json"] = _json(_example(made))
    files["keys.json"] = _json(_keys())
    for name, record in {**golden.by_name, **made.by_name}.items():
        files[f"records/{name}.json"] = _json(describe(record))
    return files


def es256_request() -> Record:
    """An enrolment request signed with P-256; its signature is another one on every call."""
    key: Signer = p256_signer(NEWCOMER)
    body = EnrolmentRequest(
        Role.METER, key.public, "board-0008", "cryptometer-firmware 0.1.0", CREATED_MS
    )
    return records.seal(body, None, key)


def high_s(record: Record) -> bytes:
    """The record with the other signature that ECDSA allows for it: (r, order - s)."""
    r, s = record.envelope.signature[:32], int.from_bytes(record.envelope.signature[32:], "big")
    return record.raw[:-64] + r + (P256_ORDER - s).to_bytes(32, "big")


def _es256() -> bytes:
    fresh = es256_request()
    try:
        stored = json.loads((FOLDER / ES256).read_bytes())
        kept = records.decode(bytes.fromhex(stored["record"]))
        if kept.envelope.signed == fresh.envelope.signed:
            kept.envelope.verify(p256_signer(NEWCOMER).public)
            fresh = kept
    except (OSError, Rejected):
        pass  # none is stored, or the format has changed
    return _json({**describe(fresh), "high_s": high_s(fresh).hex()})


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def main() -> None:
    for path, data in {**golden_files(Golden(), example.Example()), ES256: _es256()}.items():
        place = FOLDER / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)


if __name__ == "__main__":
    main()
