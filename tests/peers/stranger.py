"""Verifies a ledger by docs/formats.md alone, with none of the project's code.

    stranger.py COMMUNITY_PUB LEDGER
    stranger.py COMMUNITY_PUB SHARE

LEDGER is a folder, or the http address of one. Writes what it holds as JSON: size, root, and by
step of the block the energy in µWh that its leaves registered, counted, quarantined and
transferred; for every leaf its verdict; and what members were given. The rule of an agreement is
recomputed where nothing that it asks for is hidden, and members' consumption is no limit. Of a
share: what the member was given in each distribution, by which meters, and what is opened of it.
What does not hold is said on standard error, with the place, and the exit code is 1. Numbers in
brackets are sections of the page. Shapes of payloads are the CDDL's part, not checked again here.
"""

import base64
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

Key = dict[int, Any]
Read = Callable[[str], bytes | None]  # the content of a ledger path, None where there is none
P25519 = 2**255 - 19
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
AUTHORITY = ("genesis", "registration", "revocation", "re-anchor", "agreement")
CHAIN = ("run-start", "batch", "reading", "step-close")
FUTURE_STEPS = 4
REGISTER_MAX = 2**61
SHARE = b"cryptometer-share 1\n"


class Breach(Exception):  # noqa: N818 - a verdict
    """The ledger does not hold."""


def need(holds: bool, what: str) -> None:
    if not holds:
        raise Breach(what)


# --- CBOR, keys, records [1, 2, 3]. --------------------------------------------------------------


def read_cbor(data: bytes) -> Any:
    try:
        value = cbor2.loads(data)
    except Exception as error:  # noqa: BLE001 - whatever the library raises, it is no CBOR
        raise Breach(f"not CBOR: {error}") from None
    need(is_plain(value, 8), "CBOR of other types than those of the format")
    need(cbor2.dumps(value, canonical=True) == data, "CBOR that is not deterministic")
    return value


def is_plain(value: object, depth: int) -> bool:
    if type(value) is list:
        return depth > 0 and all(is_plain(item, depth - 1) for item in value)
    if type(value) is dict:
        keys = all(type(key) is int and -24 <= key <= 23 for key in value)
        return depth > 0 and keys and all(is_plain(item, depth - 1) for item in value.values())
    return type(value) in (int, bytes, str)


def check_key(key: Key) -> Key:
    """[2] A COSE_Key with exactly the entries it needs, and a fit point."""
    if key.get(1) == 1:
        need(set(key) == {1, -1, -2} and key[-1] == 6 and len(key[-2]) == 32, "no Ed25519 key")
        need(not of_small_order(key[-2]), "an Ed25519 key of small order")
    else:
        need(set(key) == {1, -1, -2, -3} and (key[1], key[-1]) == (2, 1), "a key of no known type")
        need(len(key[-2]) == len(key[-3]) == 32, "no P-256 key")
        try:
            p256(key)
        except ValueError:
            raise Breach("a P-256 key that is not on the curve") from None
    return key


def of_small_order(encoded: bytes) -> bool:
    """Whether eight times the point is the neutral element (RFC 8032 §5.1.3, §5.1.4)."""
    d = -121665 * pow(121666, -1, P25519)
    y = int.from_bytes(encoded, "little") % 2**255 % P25519
    square = (y * y - 1) * pow(d * y * y + 1, -1, P25519) % P25519
    x = pow(square, (P25519 + 3) // 8, P25519)
    if (x * x - square) % P25519:
        x = x * pow(2, (P25519 - 1) // 4, P25519) % P25519
    if (x * x - square) % P25519:
        return False  # no point at all: nothing verifies under it
    for _ in range(3):
        twist = d * x * x * y * y
        x, y = (
            2 * x * y * pow(1 + twist, -1, P25519) % P25519,
            (y * y + x * x) * pow(1 - twist, -1, P25519) % P25519,
        )
    return (x, y) == (0, 1)


def p256(key: Key) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + key[-2] + key[-3])


def thumbprint(key: Key) -> bytes:
    return sha256(cbor2.dumps(key, canonical=True)).digest()


def check_signature(key: Key, signature: bytes, message: bytes) -> None:
    need(len(signature) == 64, "a signature is not 64 bytes")
    try:
        if key[1] == 1:
            Ed25519PublicKey.from_public_bytes(key[-2]).verify(signature, message)
            return
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        need(s <= P256_ORDER // 2, "an ECDSA signature in its high form")
        p256(key).verify(encode_dss_signature(r, s), message, ec.ECDSA(SHA256()))
    except InvalidSignature:
        raise Breach("a signature does not verify") from None


@dataclass
class Record:
    """[3] One signed statement."""

    raw: bytes
    algorithm: int
    key_id: bytes
    community: bytes | None
    kind: str
    says: dict[int, Any]
    signature: bytes
    signed: bytes

    @property
    def identity(self) -> bytes:
        return sha256(self.signed).digest()

    @property
    def says_whose(self) -> tuple[str, int]:
        """Of a distribution: its plant, and its place in that one's chain."""
        return self.says[0], self.says[1]

    def check(self, key: Key) -> None:
        need(self.key_id == thumbprint(key), "a record is not signed by the key it should be")
        need(self.algorithm == (-8 if key[1] == 1 else -7), "the algorithm is not that of the key")
        check_signature(key, self.signature, self.signed)


def read_record(raw: bytes) -> Record:
    need(len(raw) <= 65_535, "a record is too large")
    outer = read_cbor(raw)
    need(isinstance(outer, list) and len(outer) == 4, "a record is not an array of four")
    protected, unprotected, payload, signature = outer
    need(unprotected == {} and len(protected) <= 192, "a record's headers are not as they should")
    header = read_cbor(protected)
    need(set(header) in ({1, 4, 16}, {1, 4, 10, 16}), "a protected header has other entries")
    found = re.fullmatch(r"application/vnd\.cryptometer\.([a-z-]+)\.v1", header[16])
    kind = found[1] if found else "nothing"
    need(
        kind in (*AUTHORITY, *CHAIN, "distribution", "header"),
        f"no leaf is of the kind {header[16]}",
    )
    need((10 in header) == (kind != "genesis"), "only a genesis stands outside a community")
    signed = cbor2.dumps(["Signature1", protected, b"", payload])
    says = read_cbor(payload)
    return Record(raw, header[1], header[4], header.get(10), kind, says, signature, signed)


# --- The tree, its files, the checkpoint, community.pub [8, 9]. ----------------------------------


def leaf_hash(record: bytes) -> bytes:
    return sha256(b"\x00" + record).digest()


def tree_root(hashes: list[bytes]) -> bytes:
    """RFC 6962 §2.1, as written there."""
    if not hashes:
        return sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    split = 1
    while 2 * split < len(hashes):
        split *= 2
    return sha256(b"\x01" + tree_root(hashes[:split]) + tree_root(hashes[split:])).digest()


def decimal(text: str) -> int:
    need(re.fullmatch(r"0|[1-9][0-9]*", text) is not None and int(text) < 2**63, "no number")
    return int(text)


def unbase64(text: str) -> bytes:
    data = base64.b64decode(text, validate=True)
    need(base64.b64encode(data).decode() == text, "base64 with stray bits")
    return data


def read_tile(ledger: Read, level: str, index: int, width: int) -> tuple[bytes, int]:
    """The file and how many items it has: the partial one, or the full one in its place."""
    digits = f"{index:03d}"
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    *upper, last = re.findall("...", digits)
    full = f"tile/{level}/" + "/".join([*(f"x{one}" for one in upper), last])
    partial = ledger(f"{full}.p/{width}") if width < 256 else None
    if partial is not None:
        return partial, width
    data = ledger(full)
    if data is None:
        raise Breach(f"tile {level}/{index} is missing")
    return data, 256


def from_folder(folder: Path) -> Read:
    def read(path: str) -> bytes | None:
        return (folder / path).read_bytes() if (folder / path).is_file() else None

    return read


def from_server(address: str) -> Read:
    def read(path: str) -> bytes | None:
        try:
            with urlopen(f"{address}/{path}", timeout=30) as answer:  # noqa: S310 - http, see main
                data: bytes = answer.read()
                return data
        except HTTPError as error:
            need(error.code == 404, f"{path}: the server answers {error.code}")
            return None

    return read


def read_hashes(ledger: Read, level: int, index: int, width: int) -> list[bytes]:
    data, held = read_tile(ledger, str(level), index, width)
    need(len(data) == 32 * held, f"tile {level}/{index} has another length")
    return [data[at : at + 32] for at in range(0, 32 * width, 32)]


def read_entries(ledger: Read, index: int, width: int) -> list[bytes]:
    data, held = read_tile(ledger, "entries", index, width)
    entries: list[bytes] = []
    while data:
        size = int.from_bytes(data[:2], "big")
        need(len(data) >= 2 + size, f"entries {index} are cut off")
        entries.append(data[2 : 2 + size])
        data = data[2 + size :]
    need(len(entries) == held, f"entries {index} are not {held}")
    return entries[:width]


def widths(size: int) -> Iterator[tuple[int, int]]:
    """Index and number of items of each tile that holds `size` items."""
    for index in range(-(-size // 256)):
        yield index, min(256, size - 256 * index)


def read_leaves(ledger: Read, size: int) -> list[bytes]:
    """All leaves, each with the hash its tile states, and every upper tile as it must be."""
    leaves: list[bytes] = []
    for index, width in widths(size):
        stated = read_hashes(ledger, 0, index, width)
        for offset, raw in enumerate(read_entries(ledger, index, width)):
            need(leaf_hash(raw) == stated[offset], f"leaf {len(leaves)}: not what its tile states")
            leaves.append(raw)
    below, level = [leaf_hash(raw) for raw in leaves], 0
    while len(below) >= 256:
        above = [tree_root(below[at : at + 256]) for at in range(0, len(below) - 255, 256)]
        level += 1
        for index, width in widths(len(above)):
            expected = above[256 * index : 256 * index + width]
            holds = read_hashes(ledger, level, index, width) == expected
            need(holds, f"tile {level}/{index} does not follow from those below")
        below = above
    return leaves


def open_checkpoint(text: str, origin: str, gateways: list[Key]) -> tuple[int, bytes]:
    body, found, signatures = text.rpartition("\n\n")
    need(bool(found), "no signed note")
    body += "\n"
    lines = body.split("\n")
    need(lines[0] == origin, "a checkpoint of another ledger")
    signed = False
    for line in signatures.removesuffix("\n").split("\n"):
        dash, name, data = line.split(" ")
        need(dash == "\u2014", "no signature line")
        for key in gateways:
            key_id = sha256(name.encode() + b"\n\x01" + key[-2]).digest()[:4]
            if key[1] == 1 and name == origin and unbase64(data)[:4] == key_id:
                check_signature(key, unbase64(data)[4:], body.encode())
                signed = True
    need(signed, "no gateway of the community has signed the checkpoint")
    return decimal(lines[1]), unbase64(lines[2])


def read_community(text: str) -> tuple[Record, list[Key]]:
    """The genesis, and the gateways' keys, the newest first."""
    marker = "-----{} CRYPTOMETER COMMUNITY-----"
    _, _, rest = text.partition(marker.format("BEGIN"))
    body, end, _ = rest.partition(marker.format("END"))
    need(bool(end), "no community.pub")
    genesis, *others = [read_record(raw) for raw in read_cbor(base64.b64decode(body))]
    need(genesis.kind == "genesis", "community.pub does not begin with a genesis")
    authority = check_key(genesis.says[1])
    genesis.check(authority)
    sequences = [0]
    gateways: list[Key] = []
    for record in others:
        need(record.kind in AUTHORITY, "community.pub holds a record that is not the authority's")
        need(record.community == genesis.identity, "community.pub mixes communities")
        record.check(authority)
        sequences.append(record.says[0])
        if record.kind == "registration" and record.says[2] == "gateway":
            gateways.insert(0, check_key(record.says[4]))
    need(sequences == sorted(set(sequences)), "community.pub is out of order")
    return genesis, gateways


# --- The community's state [4, 5, 6]. ------------------------------------------------------------


@dataclass
class Terms:
    """One registration of a meter."""

    identity: bytes
    key: Key
    from_step: int
    says: dict[int, Any]
    valid_to: int | None = None

    @property
    def pulse_kwh(self) -> Fraction:
        """Energy of one pulse."""
        ratio = Fraction(1) if self.says[11] == "primary" else Fraction(*self.says[12])
        return ratio / Fraction(*self.says[10])

    @property
    def measure(self) -> list[Any]:
        """The device on the wall, and what its pulses are worth."""
        ratio = [1, 1] if self.says[11] == "primary" else self.says[12]
        return [self.says[0], self.says[10], ratio]

    @property
    def register_unit(self) -> tuple[str, Fraction]:
        """What one more in the register means: a pulse, or one of an index's last digit."""
        is_index = self.says[2] == "index"
        return self.says[2], Fraction(*self.says[10]) if is_index else Fraction(0)

    def energy(self, before: int, after: int) -> int:
        """Of the pulses between two registers, µWh."""
        (k, k_under), (r, r_under) = self.says[10], self.says[12]
        if self.says[11] == "primary":
            r = r_under = 1

        def register(n: int) -> int:
            uwh: int = n * 10**9 * r * k_under // (r_under * k)
            return uwh

        return register(after) - register(before)

    def power_uw(self, current_ma: int) -> tuple[int, int]:
        """phases · U · I · r', in µW, as numerator and denominator."""
        r, under = self.says[12] if self.says[9] == "secondary" else (1, 1)
        return self.says[5] * self.says[6] * current_ma * r, under

    @property
    def lifetime(self) -> int:
        power, under = self.power_uw(self.says[8])
        return power * 43_830 // under

    def limit(self, step_s: int) -> int:
        """The largest n with n · 10⁹ · r / k strictly below the bound, multiplied out."""
        if self.says[2] == "index":
            return 1
        power, under = self.power_uw(self.says[7])
        (k, k_under), (r, r_under), (g, g_under) = self.says[10], self.says[12], self.says[13]
        if self.says[11] == "primary":
            r = r_under = 1
        mille = {"A": 35, "B": 20, "C": 10}[self.says[4]]
        bound: int = power * mille * step_s * g * k * r_under
        pulse: int = 10**9 * r * k_under * under * 1000 * 3600 * g_under
        return (bound - 1) // pulse


@dataclass
class Meter:
    """[5, 6] One meter: its registrations, where its chain stands, its four amounts."""

    terms: list[Terms]
    next: int = 0
    previous: bytes = b""
    register: int | None = None
    allowance: int = 0
    lifetime: int = 0
    newest_step: int = -1
    closed_step: int = -1
    closed_register: int = 0
    signer: int = 0
    read_ms: int | None = None
    anchored: int = 0
    floor: int = 0
    open: int = 0
    untransferred: int = 0
    transferred: int = 0
    quarantined: int = 0

    @property
    def is_private(self) -> bool:
        return bool(self.terms[-1].says[1] == "consumption")

    @property
    def registered(self) -> int:
        return self.untransferred + self.transferred + self.quarantined


# What an agreement gives [15]. --------------------------------------------------------------------


def apportion(total: int, weights: list[int]) -> list[int]:
    """In whole parts as the weights are, the rest by greatest remainder, then by place."""
    whole = sum(weights)
    if not whole:
        return [0 for _ in weights]
    parts = [total * weight // whole for weight in weights]
    remainders = sorted((-(total * weight % whole), at) for at, weight in enumerate(weights))
    for _, at in remainders[: total - sum(parts)]:
        parts[at] += 1
    return parts


@dataclass
class Given:
    """Where energy has gone: to members by name, to losses, fee and surplus."""

    members: dict[str, int]
    losses: int = 0
    fee: int = 0
    surplus: int = 0


@dataclass
class Account:
    """[6] What came to the plant of one step, and what it gave of it."""

    waiting: dict[bytes, tuple[str, int, int]] = field(default_factory=dict)
    brought: dict[str, int] = field(default_factory=dict)
    supplements: int = 0
    given: Given = field(default_factory=lambda: Given({}))


class Agreement:
    """[4, 15] An agreement that acts."""

    def __init__(self, record: Record) -> None:
        says = record.says
        self.identity = record.identity
        self.vpp, self.from_step, self.method = says[2], says[3], says[4]
        self.asks_consumption = says[5] == 1 or self.method == "pro-rata"
        self.claims = [(one[0], one[1], one[2], one.get(3)) for one in says[7]]
        self.members = sorted({member for member, _, _, _ in self.claims})
        self.are_losses_stated = says[9] == 1
        self.losses = Fraction(*says.get(10, (0, 1)))
        self.fee = Fraction(*says.get(11, (0, 1)))

    def deductions(self, total: int, stated: int) -> tuple[int, int]:
        """Losses and fee of all the step's energy."""
        losses = stated if self.are_losses_stated else int(total * self.losses)
        fee = int(total * self.fee)
        need(losses + fee <= total, "losses and fee are more than there is")
        return losses, fee

    def share(self, energy: dict[str, int], coefficients: list[int], stated: int) -> Given:
        """The rule without caps, of energy by meter."""
        total = sum(energy.values())
        losses, fee = self.deductions(total, stated)
        weights = coefficients if self.method == "coefficients" else [one[1] for one in self.claims]
        found = Given(dict.fromkeys(self.members, 0), losses, fee)
        rest = total - losses - fee
        producers: list[tuple[str | None, int]] = [(None, rest)]
        if any(producer is not None for _, _, _, producer in self.claims):
            names = sorted(energy)
            parts = apportion(rest, [energy[name] for name in names])
            producers = list(zip(names, parts, strict=True))
        for producer, part in producers:
            found.surplus += part - self.of_one(producer, part, weights, found.members)
        return found

    def of_one(
        self, producer: str | None, part: int, weights: list[int], members: dict[str, int]
    ) -> int:
        """Shares one energy; how much of it was taken."""
        left = part
        for priority in sorted({one[2] for one in self.claims}):
            by: dict[str, int] = {}
            for (member, _, turn, named), weight in zip(self.claims, weights, strict=True):
                if turn == priority and named in (None, producer):
                    by[member] = 1 if self.method == "equal" else by.get(member, 0) + weight
            names = sorted(by)
            for name, got in zip(names, apportion(left, [by[name] for name in names]), strict=True):
                members[name] += got
                left -= got
        return part - left


@dataclass
class Block:
    """[7] What one block adds up to."""

    flow: list[int] = field(default_factory=lambda: [0] * 5)
    late: list[int] = field(default_factory=lambda: [0, 0])
    verdicts: list[str | None] = field(default_factory=list)
    given: list[int] = field(default_factory=lambda: [0] * 5)  # waiting, allocated, losses, ...
    brought: list[tuple[int, bytes, str, int, int]] = field(default_factory=list)
    aside: list[int] = field(default_factory=list)


class Ledger:
    """Applies blocks, one after the other."""

    def __init__(self, genesis: Record) -> None:
        self.genesis = genesis
        self.id = genesis.identity
        self.authority: Key = genesis.says[1]
        self.step_s: int = genesis.says[4]
        self.step: int = genesis.says[3] - 1
        need(self.step >= 0, "the first step is 0")
        self.sequence, self.previous = 0, b""
        self.parties: dict[tuple[str, str], tuple[Key, bool]] = {}
        self.owners: dict[bytes, tuple[str, str]] = {}
        self.meters: dict[str, Meter] = {}
        self.agreements: list[Agreement] = []
        self.plants: dict[str, tuple[int, bytes]] = {}
        self.accounts: dict[int, Account] = {}
        self.members: dict[str, int] = {}
        self.hashes: list[bytes] = []
        self.balance = [0] * 8
        self.steps: dict[str, dict[str, int]] = {}
        self.verdicts: list[str | None] = []

    def apply(self, content: list[Record], header: Record) -> None:
        step: int = header.says[0]
        block = Block()
        place: tuple[int, str, int] | None = None
        expected = [meter for meter in self.meters.values() if self.is_expected(meter, step)]
        makers = dict(self.parties), dict(self.owners)
        authority: list[tuple[int, Record]] = []
        distributions: list[tuple[int, Record]] = []
        self.accounts = {
            at: account
            for at, account in self.accounts.items()
            if account.waiting or at >= step - self.genesis.says[6]
        }
        for at, record in enumerate(content, len(self.hashes)):
            try:
                need(record.community in (self.id, None), "a record of another community")
                is_chain = record.kind in CHAIN
                number = record.says[1] if is_chain else record.says[0]
                own = (1, record.says[0], number) if is_chain else (0, "", number)
                own = (2, *record.says_whose) if record.kind == "distribution" else own
                own = (0, "", 0) if record.kind == "genesis" else own
                need(place is None or own > place, "out of order")
                place = own
                block.verdicts.append(self.follow(record, step, block) if is_chain else None)
                if record.kind == "distribution":
                    self.follow_plant(record)
                    distributions.append((at, record))
                elif not is_chain:
                    authority.append((at, record))
            except Breach as breach:
                raise Breach(f"leaf {at}: {breach}") from None
        for closed, identity, meter, energy, tokens in block.brought:
            account = self.accounts.setdefault(closed, Account())
            account.waiting[identity] = (meter, energy, tokens)
        self.distribute(distributions, block)
        for at, record in authority:
            try:
                self.govern(record)
            except Breach as breach:
                raise Breach(f"leaf {at}: {breach}") from None
            block.verdicts[at - len(self.hashes)] = self.act(record, step)
        if not self.hashes:
            makers = self.parties, self.owners
        try:
            self.check_header(header, block, len(content), expected, *makers)
        except Breach as breach:
            raise Breach(f"header of step {step}: {breach}") from None
        self.step = step
        self.hashes += [leaf_hash(record.raw) for record in (*content, header)]
        self.verdicts += [*block.verdicts, None]
        names = ("registered", "counted", "quarantined", "transferred", "tokens")
        self.steps[str(step)] = dict(zip(names, block.flow, strict=True))

    # The authority's chain [4].

    def govern(self, record: Record) -> None:
        record.check(self.authority)
        if record.kind == "genesis":
            need(self.sequence == 0 and record.identity == self.id, "another genesis")
        else:
            holds = record.says[0] == self.sequence and record.says[1] == self.previous
            need(holds and self.sequence > 0, "does not continue the authority's chain")
        self.sequence, self.previous = self.sequence + 1, record.identity

    def act(self, record: Record, step: int) -> str | None:
        if record.kind == "agreement":
            return None if self.agree(record, step) else "no effect"
        acts: dict[str, Callable[[Record], bool]] = {
            "registration": self.register,
            "revocation": self.revoke,
            "re-anchor": self.re_anchor,
        }
        acted = record.kind == "genesis" or acts[record.kind](record)
        return None if acted else "no effect"

    def register(self, record: Record) -> bool:
        role, name, key, from_step = (record.says[entry] for entry in (2, 3, 4, 5))
        details = record.says.get(6)
        owner = (role, name)
        key_id = thumbprint(check_key(key))
        if self.owners.get(key_id, owner) != owner:
            return False
        if role == "meter":
            if details is None or not self.register_meter(
                name, Terms(record.identity, key, from_step, details)
            ):
                return False
        elif details is not None:
            return False
        else:
            self.parties[owner] = (key, False)
        self.owners[key_id] = owner
        return True

    def register_meter(self, name: str, terms: Terms) -> bool:
        (guard, guard_under), (ratio, ratio_under) = terms.says[13], terms.says[12]
        if guard > guard_under or ratio < ratio_under:
            return False
        limit = terms.limit(self.step_s)
        if terms.says[14] > (max(limit, 1) if terms.says[15] else limit):
            return False
        known = self.meters.get(name)
        if known and known.is_private != (terms.says[1] == "consumption"):
            return False
        lifetime = max(terms.lifetime, known.lifetime if known else 0)
        others = sum(one.lifetime for one in self.meters.values() if one is not known)
        if others + lifetime >= 2**63 or (known and len(known.terms) >= 1000):
            return False
        meter = known or Meter([])
        meter.terms.append(terms)
        meter.lifetime = lifetime
        meter.allowance = max(0, terms.lifetime - meter.registered)
        self.meters[name] = meter
        return True

    def revoke(self, record: Record) -> bool:
        role, name = record.says[2], record.says[3]
        if role != "meter":
            if (role, name) not in self.parties:
                return False
            self.parties[role, name] = (self.parties[role, name][0], True)
            return True
        if name not in self.meters:
            return False
        end = record.says[5][0] + 1 if 5 in record.says else 0
        for terms in self.meters[name].terms:
            terms.valid_to = end if terms.valid_to is None else min(end, terms.valid_to)
        return True

    def re_anchor(self, record: Record) -> bool:
        meter = self.meters.get(record.says[2])
        if meter is None or not meter.next <= record.says[3] <= 2**61:
            return False
        meter.next, meter.previous = record.says[3], record.identity
        meter.register = meter.closed_register = record.says[4]
        meter.anchored, meter.floor = len(meter.terms) - 1, 0
        return True

    def agree(self, record: Record, step: int) -> bool:
        says, agreement = record.says, Agreement(record)
        claims = {(member, turn, producer) for member, _, turn, producer in agreement.claims}
        people = {("vpp", agreement.vpp), *(("member", one[0]) for one in agreement.claims)}
        producers = {one[3] for one in agreement.claims} - {None}
        holds = (
            agreement.from_step > step
            and agreement.losses + agreement.fee <= 1
            and (11 in says) == (12 in says)
            and not (agreement.are_losses_stated and 10 in says)
            and len(claims) == len(agreement.claims)
            and all(one in self.parties and not self.parties[one][1] for one in people)
            and producers <= set(self.meters)
        )
        if holds:
            self.agreements.append(agreement)
        return holds

    def in_force(self, step: int) -> Agreement | None:
        found = [one for one in self.agreements if one.from_step <= step]
        return found[-1] if found else None

    # A plant's chain and its distributions [6].

    def follow_plant(self, record: Record) -> None:
        owner = self.owners.get(record.key_id, ("nobody", ""))
        need(owner[0] == "vpp", "the key is no virtual power plant's")
        key, revoked = self.parties[owner]
        need(not revoked, "a revoked virtual power plant")
        record.check(key)
        need(owner[1] == record.says[0], "one plant speaks for another")
        due = self.plants.get(owner[1], (0, self.id))
        need((record.says[1], record.says[2]) == due, f"where record {due[0]} of a plant is due")
        self.plants[owner[1]] = (record.says[1] + 1, record.identity)

    def distribute(self, distributions: list[tuple[int, Record]], block: Block) -> None:
        wholes: list[list[tuple[int, Record]]] = []
        for at, record in distributions:
            begins = record.says[5][0] == 1 or not wholes
            if begins or wholes[-1][0][1].says[0] != record.says[0]:
                wholes.append([])
            wholes[-1].append((at, record))
        for whole in wholes:
            verdict = self.judge([record.says for _, record in whole], block)
            for at, _ in whole:
                place = at - len(self.hashes)
                block.verdicts[place] = verdict
                if verdict is not None:
                    adjoins = block.aside and sum(block.aside[-2:]) == place
                    block.aside += [] if adjoins else [place, 0]
                    block.aside[-1] += 1

    def judge(self, parts: list[dict[int, Any]], block: Block) -> str | None:
        """A distribution's verdict; it moves what it says if that is None."""
        last = parts[-1]
        common = {(says[0], says[3], says[4], says[5][1], says[6]) for says in parts}
        numbers = [says[5][0] for says in parts]
        early = any(says[entry] for says in parts[:-1] for entry in (9, 10, 11, 12))
        if len(common) > 1 or numbers != list(range(1, last[5][1] + 1)) or early:
            return "incomplete"
        agreement, account = self.in_force(last[3]), self.accounts.get(last[3])
        if agreement is None or last[6] != agreement.identity or last[0] != agreement.vpp:
            return "wrong-agreement"
        if account is None:
            return "no-such-input"
        if last[4] != account.supplements:
            return "repeat" if last[4] < account.supplements else "gap"
        whole: dict[int, list[Any]] = {
            entry: [item for says in parts for item in says[entry]] for entry in (7, 8, 13, 14)
        }
        waiting = dict(account.waiting)
        spent: list[tuple[str, int, int]] = []
        for close, energy, tokens in whole[7]:
            if close not in waiting:
                return "no-such-input"
            spent.append(waiting.pop(close))
            if spent[-1][1:] != (energy, tokens):
                return "wrong-sums"
        losses, fee, surplus, taken = (last[entry] for entry in (9, 10, 11, 12))
        given, new = sum(one[1] for one in whole[8]), sum(one[1] for one in spent)
        if new + taken != given + losses + fee + surplus:
            return "wrong-sums"
        if taken > account.given.surplus or not (whole[7] or taken):
            return "wrong-sums"
        try:
            self.check_agreed(agreement, account, last | whole, spent)
        except Breach:
            return "not-as-agreed"
        self.move(account, last | whole, spent, waiting)
        for place, change in enumerate((-new, given, losses, fee, surplus - taken)):
            block.given[place] += change
        return None

    def check_agreed(
        self,
        agreement: Agreement,
        account: Account,
        says: dict[int, Any],
        spent: list[tuple[str, int, int]],
    ) -> None:
        outputs, commitments, coefficients = says[8], says[13], says[14]
        names = [one[0] for one in outputs]
        need(names == sorted(set(names)) and set(names) <= set(agreement.members), "outputs")
        need(all(energy or tokens for _, energy, tokens in outputs), "an output of nothing")
        hidden = agreement.members if agreement.asks_consumption else []
        need([one[0] for one in commitments] == hidden, "commitments")
        expected = len(agreement.claims) if agreement.method == "coefficients" else 0
        need(len(coefficients) == expected, "coefficients")
        energy = dict(account.brought)
        for meter, amount, _ in spent:
            energy[meter] = energy.get(meter, 0) + amount
        before, new = account.given, sum(one[1] for one in spent)
        stated = before.losses + says[9]
        if agreement.asks_consumption:
            need(not (says[11] and says[12]), "surplus both ways")
            losses, fee = agreement.deductions(sum(energy.values()), stated)
            left, taken = new + says[12], says[12]
            lost = min(left, losses - before.losses)
            paid, surplus = min(left - lost, fee - before.fee), says[11]
            by_rule = [one[:2] for one in outputs]
        else:
            rule = agreement.share(energy, coefficients, stated)
            lost, paid = rule.losses - before.losses, rule.fee - before.fee
            had = before.members
            lacks = [max(0, rule.members[one] - had.get(one, 0)) for one in agreement.members]
            taken = min(before.surplus, max(0, lost + paid + sum(lacks) - new))
            left = new + taken
            lost = min(left, lost)
            paid = min(left - lost, paid)
            left -= lost + paid
            parts = apportion(min(left, sum(lacks)), lacks)
            surplus = left - sum(parts)
            by_rule = [
                [name, part] for name, part in zip(agreement.members, parts, strict=True) if part
            ]
        need([lost, paid, surplus, taken] == [says[entry] for entry in (9, 10, 11, 12)], "amounts")
        tokens = apportion(sum(one[2] for one in spent), [part for _, part in by_rule])
        need(
            outputs == [[*one, coins] for one, coins in zip(by_rule, tokens, strict=True)],
            "the outputs are not what the agreement gives",
        )

    def move(
        self,
        account: Account,
        says: dict[int, Any],
        spent: list[tuple[str, int, int]],
        waiting: dict[bytes, tuple[str, int, int]],
    ) -> None:
        account.waiting, account.supplements = waiting, account.supplements + 1
        for meter, amount, _ in spent:
            account.brought[meter] = account.brought.get(meter, 0) + amount
        for member, amount, _ in says[8]:
            account.given.members[member] = account.given.members.get(member, 0) + amount
            self.members[member] = self.members.get(member, 0) + amount
        account.given.losses += says[9]
        account.given.fee += says[10]
        account.given.surplus += says[11] - says[12]

    # A meter's chain [5] and its energy [6].

    def follow(self, record: Record, block_step: int, block: Block) -> str | None:
        name, sequence, previous, register, step = (record.says[at] for at in (0, 1, 2, 5, 6))
        owner = self.owners.get(record.key_id)
        need(owner is not None and owner[0] == "meter", "the key is no meter's")
        meter = self.meters[owner[1]]  # type: ignore[index]  # checked on the line before
        terms = [one for one in meter.terms if thumbprint(one.key) == record.key_id][-1]
        record.check(terms.key)
        need(owner == ("meter", name), "the key of one meter speaks for another")
        need(not meter.is_private, "what a meter for consumption says")
        need(not block_step < step <= block_step + FUTURE_STEPS, "a record that has to wait")
        need(sequence == meter.next, f"sequence {sequence} where {meter.next} is due")
        need(terms.valid_to is None or sequence < terms.valid_to, "a revoked key")
        place = meter.terms.index(terms)
        need(place >= meter.signer, "a key that another one has followed")
        reached = record.says[7] if record.kind == "step-close" else register
        if meter.register is None:
            own = [one for one in meter.terms if thumbprint(one.key) == record.key_id]
            need(
                previous in [one.identity for one in own], "begins from no registration of its key"
            )
            need(record.kind == "run-start", "a chain begins with a run start")
        else:
            need(previous == meter.previous, "names another record as the one before")
            need(reached == meter.register, "another register than the one reached")
        if step < block_step:
            block.late = [block.late[0] + 1, max(block.late[1], block_step - step)]
        verdict: str | None = None
        if record.kind == "batch":
            reached = register + sum(record.says[8][::2])
            verdict = self.count(meter, record, reached, block_step, block)
        elif record.kind == "reading" and record.says[11]:
            reached = record.says[8]
            need(reached >= register, "an index that goes back")
            verdict = self.count(meter, record, reached, block_step, block)
        elif record.kind == "step-close":
            verdict = self.transfer(meter, record, block_step, block)
        else:
            verdict = "far-future" if step > block_step else None
            if meter.register is None:
                meter.closed_register = register
                meter.anchored = [one.identity for one in meter.terms].index(previous)
                began, newest = meter.terms[meter.anchored].says, meter.terms[-1].says
                if began[2] == "index":
                    digits, kwh = began[10]
                    meter.floor = newest[3] * digits // (1000 * kwh)
        need(reached <= REGISTER_MAX, "a register that no record could go on from")
        meter.next, meter.previous, meter.register = sequence + 1, record.identity, reached
        meter.signer = place
        return verdict

    def count(
        self, meter: Meter, record: Record, reached: int, block_step: int, block: Block
    ) -> str | None:
        named = [one for one in meter.terms if one.identity == record.says[7]]
        energy = (named or meter.terms)[-1].energy(record.says[5], reached)
        need(energy <= meter.allowance, "more energy than the meter can give")
        meter.allowance -= energy
        reason = self.judge_batch(meter, named, record, block_step)
        block.flow[0] += energy
        if reason is not None:
            block.flow[2] += energy
            meter.quarantined += energy
            return reason
        block.flow[1] += energy
        if record.says[6] > meter.newest_step:
            meter.newest_step = record.says[6]
            if record.kind == "batch" or meter.read_ms is None:
                meter.open = 0
        meter.read_ms = record.says[9] if record.kind == "reading" else None
        meter.open += energy
        meter.untransferred += energy
        return None

    def judge_batch(
        self, meter: Meter, named: list[Terms], record: Record, block_step: int
    ) -> str | None:
        step = record.says[6]
        if not named:
            return "unknown-registration"
        in_force = [one for one in meter.terms if one.from_step <= step]
        if not in_force or step < named[0].from_step:
            return "not-valid-at-step"
        newest = in_force[-1]
        sources = {named[0].says[2], newest.says[2]}
        if sources != {"pulses" if record.kind == "batch" else "index"}:
            return "wrong-source"
        if record.kind == "reading" and named[0].pulse_kwh != newest.pulse_kwh:
            return "wrong-unit"
        began = meter.terms[meter.anchored]
        has_changed = named[0].register_unit != began.register_unit
        if has_changed and meter.terms.index(named[0]) > meter.anchored:
            return "not-anchored"
        if record.kind == "reading":
            if record.says[5] < meter.floor:
                return "below-registered"
            into_ms = record.says[9] - step * self.step_s * 1000
            if not 0 <= into_ms <= self.step_s * 1000:
                return "wrong-step"
            return self.judge_step(meter, step, block_step)
        lots, marks = record.says[8], record.says[4]
        energy = newest.says[14] * newest.pulse_kwh
        allowed = min(named[0].says[14], energy / named[0].pulse_kwh)
        if any(pulses > allowed for pulses in lots[::2]) and 9 not in marks[::2]:
            return "lot-above-v"
        times = lots[1::2]
        if times != sorted(times) or (times and times[-1] > self.step_s * 1000):
            return "lots-out-of-order"
        return self.judge_step(meter, step, block_step)

    def judge_step(self, meter: Meter, step: int, block_step: int) -> str | None:
        if step > block_step:
            return "far-future"
        if step < block_step - self.genesis.says[6]:
            return "too-late"
        if step <= meter.closed_step:
            return "step-closed"
        return "step-went-back" if step < meter.newest_step else None

    def transfer(self, meter: Meter, record: Record, block_step: int, block: Block) -> str | None:
        step = record.says[6]
        reason = self.judge_step(meter, step, block_step)
        if reason is None and record.says[5] != meter.closed_register:
            reason = "register-mismatch"
        meter.closed_register = record.says[7]
        if reason is None and self.is_stale(meter, record):
            reason = "stale-reading"
        if reason is not None:
            return reason
        energy = meter.open if step == meter.newest_step else 0
        token = self.genesis.says[7]
        tokens = (meter.transferred + energy) // token - meter.transferred // token
        block.flow[3] += energy
        block.flow[4] += tokens
        holds = [one for one in meter.terms if one.from_step <= step][-1:]
        is_shared = holds and holds[0].says[1] != "consumption" and self.in_force(step)
        if energy and is_shared:
            block.brought.append((step, record.identity, record.says[0], energy, tokens))
        meter.untransferred -= energy
        meter.transferred += energy
        meter.open = 0
        meter.newest_step = meter.closed_step = step
        return None

    def is_stale(self, meter: Meter, record: Record) -> bool:
        step = record.says[6]
        says = [one for one in meter.terms if one.from_step <= step][-1:]
        if not says or says[0].says[2] != "index":
            return False
        mille, (g, g_under) = {"A": 35, "B": 20, "C": 10}[says[0].says[4]], says[0].says[13]
        limit_ms = mille * self.step_s * g // g_under
        age_ms = (step + 1) * self.step_s * 1000 - (meter.read_ms or 0) + record.says[3][2]
        return meter.read_ms is None or age_ms > limit_ms

    # Headers [7].

    def is_expected(self, meter: Meter, step: int) -> bool:
        newest = meter.terms[-1]
        generates = newest.says[1] == "generation" and newest.valid_to is None
        return generates and meter.terms[0].from_step <= step

    def check_header(
        self,
        header: Record,
        block: Block,
        leaves: int,
        expected: list[Meter],
        parties: dict[tuple[str, str], tuple[Key, bool]],
        owners: dict[bytes, tuple[str, str]],
    ) -> None:
        says = header.says
        need(header.community == self.id, "of another community")
        owner = owners.get(header.key_id, ("nobody", ""))
        need(owner[0] == "gateway", "not signed by a gateway")
        key, revoked = parties[owner]
        need(not revoked, "signed by a revoked gateway")
        header.check(key)
        need(says[0] == self.step + 1, f"step {self.step} was the one before")
        need(says[1] == [len(self.hashes), tree_root(self.hashes)], "names another tree")
        need(says[2] >= (says[0] + 1) * self.step_s * 1000, "sealed before the end of its step")
        registered, counted, quarantined, transferred, _ = block.flow
        for place, change in (
            (0, registered), (1, counted - transferred), (2, transferred), (7, quarantined),
            *enumerate(block.given, 2),
        ):  # fmt: skip
            self.balance[place] += change
        need(self.balance[0] == sum(self.balance[1:]), "energy is not conserved")
        heard = sum(1 for meter in expected if meter.closed_step >= says[0])
        recomputed = [leaves, block.flow, self.balance, block.late, [len(expected), heard]]
        for entry, value in enumerate(recomputed, 4):
            need(says[entry] == value, f"entry {entry} is {says[entry]}, recomputed {value}")
        need(says.get(13) == (block.aside or None), f"entry 13, recomputed {block.aside}")


def compare(ledger: Ledger, leaves: list[Record]) -> list[list[Any]]:
    """[6] Of each comparison: meter, step, counted, index, bound, and whether it is within."""
    chains: dict[str, list[Record]] = {}
    anchors: list[tuple[str, int]] = []
    for record, reason in zip(leaves, ledger.verdicts, strict=True):
        says = record.says
        if reason is None and record.kind == "re-anchor":
            anchors.append((says[2], says[3]))
        holds = record.kind == "reading" and reason is None and not says[11]
        if holds and 13 in says and says.get(14, says[5] + 1) <= says[5]:
            chains.setdefault(says[0], []).append(record)
    found: list[list[Any]] = []
    for name, chain in sorted(chains.items()):
        terms = {one.identity: one for one in ledger.meters[name].terms}
        for before, after in pairwise(chain):
            one, two = before.says, after.says
            ends = range(one[1] + 1, two[1] + 1)
            first, last = terms.get(one[7]), terms.get(two[7])
            if one[10] != two[10] or first is None or last is None:
                continue
            if any(meter == name and at in ends for meter, at in anchors):
                continue
            if first.measure != last.measure:
                continue
            index = two[8] * two[13] - one[8] * one[13]
            if index < 0 or two[14] < one[14]:
                continue
            counted = last.energy(0, two[14]) - last.energy(0, one[14])
            pulse = last.pulse_kwh * 10**9
            bound = max(one[13], two[13]) - (-pulse.numerator // pulse.denominator)
            mille = {"A": 35, "B": 20, "C": 10}[last.says[4]]
            within = abs(counted - index) <= index * mille // 1000 + bound
            found.append([name, two[6], counted, index, bound, within])
    return found


def verify(community: str, read: Read) -> dict[str, Any]:
    """[11]"""
    genesis, gateways = read_community(community)
    origin = f"cryptometer/1/{genesis.identity.hex()}"
    signed = read("checkpoint")
    if signed is None:
        raise Breach("there is no checkpoint")
    size, root = open_checkpoint(signed.decode(), origin, gateways)
    ledger = Ledger(genesis)
    content: list[Record] = []
    leaves: list[Record] = []
    for at, raw in enumerate(read_leaves(read, size)):
        try:
            record = read_record(raw)
        except Breach as breach:
            raise Breach(f"leaf {at}: {breach}") from None
        leaves.append(record)
        if record.kind == "header":
            ledger.apply(content, record)
            content = []
        else:
            content.append(record)
    need(not content, f"{len(content)} leaves follow the newest header")
    need(tree_root(ledger.hashes) == root, "the leaves do not give the checkpoint's root")
    return {
        "size": size,
        "root": root.hex(),
        "balance": ledger.balance,
        "steps": ledger.steps,
        "verdicts": ledger.verdicts,
        "members": ledger.members,
        "comparisons": compare(ledger, leaves),
    }


# --- One member's share [10]. --------------------------------------------------------------------


def verify_share(community: str, data: bytes) -> dict[str, Any]:
    genesis, gateways = read_community(community)
    need(data.startswith(SHARE), "no share")
    file = read_cbor(data.removeprefix(SHARE))
    member, step = file[0], file[1]
    origin = f"cryptometer/1/{genesis.identity.hex()}"
    size, root = open_checkpoint(file[2].decode(), origin, gateways)
    named = [read_record(raw) for raw in file[3]]
    for record in named:
        need(record.community == genesis.identity, "an authority record of another community")
        record.check(check_key(genesis.says[1]))
        places = ("agreement", "registration", "re-anchor")
        need(record.kind in places, f"a {record.kind} of the authority has no place there")
    [agreement] = [Agreement(record) for record in named if record.kind == "agreement"]
    need(agreement.from_step <= step, "an agreement that does not hold yet")
    need(member in agreement.members, "a member without a claim")
    meters = {
        one.identity: (one.says[3], Terms(one.identity, one.says[4], one.says[5], one.says[6]))
        for one in named
        if one.kind == "registration" and one.says[2] == "meter"
    }
    keys = {thumbprint(terms.key): (name, terms.key) for name, terms in meters.values()}
    makers = {thumbprint(key): ("", key) for key in gateways}
    plants = {thumbprint(key): (name, key) for name, key in read_plants(community)}
    leaves: dict[int, Record] = {}
    for index, raw in file[4]:
        need(index > max(leaves, default=-1), "leaves out of order")
        leaves[index] = record = read_record(raw)
        need(record.community == genesis.identity, f"leaf {index}: of another community")
        known = {"header": makers, "distribution": plants}.get(record.kind, keys)
        need(record.kind not in AUTHORITY, f"leaf {index}: a {record.kind} has no place there")
        need(record.key_id in known, f"leaf {index}: a key that is not registered for it")
        owner, key = known[record.key_id]
        need(not owner or owner == record.says[0], f"leaf {index}: who speaks for another")
        record.check(key)
    hashes = [file[5][at : at + 32] for at in range(0, len(file[5]), 32)]
    tops = {index: leaf_hash(record.raw) for index, record in leaves.items()}
    need(subset_root(0, size, tops, hashes) == root, "the leaves do not lead to the root")
    need(not hashes, "hashes that nothing needs")
    ledger = Ledger(genesis)
    ledger.agreements.append(agreement)
    account = ledger.accounts[step] = Account()
    anchors = {one.identity: one.says for one in named if one.kind == "re-anchor"}
    given: list[list[Any]] = []
    seen: list[str] = []
    newest: dict[int, Any] = {}
    for parts in wholes_of(leaves, step):
        whole = [record.says for _, record in parts]
        check_effect(leaves, [index for index, _ in parts])
        closes = {one.identity: one.says for one in leaves.values() if one.kind == "step-close"}
        sources = []
        for close, energy, tokens in [item for says in whole for item in says[7]]:
            need(close in closes and closes[close][6] == step, "a close that is missing")
            name = closes[close][0]
            need(name not in seen, f"what {name} brought was spent before")
            signed = behind(leaves, closes[close], meters, anchors, energy)
            need(0 < energy <= signed, f"{name} has signed less")
            account.waiting[close] = (name, energy, tokens)
            seen.append(name)
            sources.append([name, energy])
        verdict = ledger.judge(whole, Block())
        need(verdict is None, f"leaf {parts[0][0]}: {verdict}")
        outputs = [one for says in whole for one in says[8]]
        given.append([sum(one[1] for one in outputs if one[0] == member), sources])
        newest = {13: [one for says in whole for one in says[13]]}
    need(bool(given), "no distribution")
    used = None
    if 6 in file:
        used, salt = file[6]
        said = ["cryptometer consumption", genesis.identity, step, member, used, salt]
        opened = sha256(cbor2.dumps(said, canonical=True)).digest()
        need([member, opened] in newest[13], "another consumption than was committed to")
    return {"member": member, "step": step, "size": size, "given": given, "used": used}


def read_plants(text: str) -> list[tuple[str, Key]]:
    """Of community.pub, which `read_community` has checked: the virtual power plants' keys."""
    body = text.partition("COMMUNITY-----\n")[2].partition("-----END")[0]
    registered = [read_record(raw).says for raw in read_cbor(base64.b64decode(body))[1:]]
    return [(says[3], check_key(says[4])) for says in registered if says.get(2) == "vpp"]


def subset_root(begin: int, end: int, tops: dict[int, bytes], hashes: list[bytes]) -> bytes:
    held = [index for index in tops if begin <= index < end]
    if not held:
        need(bool(hashes), "a hash is missing")
        return hashes.pop(0)
    if end - begin == 1:
        return tops[begin]
    split = 1
    while 2 * split < end - begin:
        split *= 2
    left = subset_root(begin, begin + split, tops, hashes)
    return sha256(b"\x01" + left + subset_root(begin + split, end, tops, hashes)).digest()


def wholes_of(leaves: dict[int, Record], step: int) -> list[list[tuple[int, Record]]]:
    found: list[list[tuple[int, Record]]] = []
    for index, record in leaves.items():
        if record.kind != "distribution":
            continue
        need(record.says[3] == step, f"leaf {index}: of another step")
        if record.says[5][0] == 1:
            found.append([])
        follows = bool(found) and (not found[-1] or found[-1][-1][0] == index - 1)
        need(follows, f"leaf {index}: no part stands before it")
        found[-1].append((index, record))
    return found


def check_effect(leaves: dict[int, Record], parts: list[int]) -> None:
    """The block of a distribution's parts does not set them aside."""
    ends = [at for at, one in leaves.items() if one.kind == "header" and at > parts[-1]]
    need(bool(ends), f"leaf {parts[0]}: its block's header is missing")
    header = leaves[min(ends)].says
    first = min(ends) - header[4]
    need(first <= parts[0], f"leaf {parts[0]}: its block's header is missing")
    aside = header.get(13, [])
    for begin, count in zip(aside[::2], aside[1::2], strict=True):
        run = range(first + begin, first + begin + count)
        need(not any(at in run for at in parts), f"leaf {parts[0]} was set aside")


def behind(
    leaves: dict[int, Record],
    close: dict[int, Any],
    meters: dict[bytes, tuple[str, Terms]],
    anchors: dict[bytes, dict[int, Any]],
    wanted: int,
) -> int:
    """The energy that a chain has signed for a close."""
    chain = {
        one.says[1]: one for one in leaves.values() if one.kind in CHAIN and one.says[0] == close[0]
    }
    total, at = 0, close
    while True:
        anchor = anchors.get(at[2])
        before = chain.get(at[1] - 1)
        if anchor is not None and (anchor[2], anchor[3]) == (at[0], at[1]):
            earlier = [number for number in chain if number < at[1]]
            before = chain[max(earlier)] if earlier else None
        elif before is not None:
            need(before.identity == at[2], f"record {at[1] - 1} of {at[0]} is of another chain")
        if before is None or (before.kind == "step-close" and total >= wanted):
            return total
        at = before.says
        in_step = before.kind == "batch" and at[6] == close[6]
        if in_step or (before.kind == "reading" and at[11]):
            owner, terms = meters.get(at[7], ("", None))
            if terms is None or owner != at[0]:
                raise Breach(f"the registration that record {at[1]} names is missing")
            reached = at[5] + sum(at[8][::2]) if in_step else at[8]
            total += terms.energy(at[5], reached)


def main() -> int:
    _, community, place = sys.argv
    try:
        if place.endswith(".share"):
            report = verify_share(Path(community).read_text(), Path(place).read_bytes())
        else:
            ledger = from_server(place) if place.startswith("http://") else from_folder(Path(place))
            report = verify(Path(community).read_text(), ledger)
    except (Breach, KeyError, TypeError, ValueError, OSError) as error:
        sys.stderr.write(f"refused: {error}\n")
        return 1
    json.dump(report, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
