"""What a gateway reads: messages at its door, imported files, the rows of its store."""

from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptometer import cbor, records, tiles
from cryptometer.enrolment import Bundle
from cryptometer.errors import Reason, Rejected
from cryptometer.records import Record
from cryptometer.snapshot import Rows, decode_state, encode_common, encode_meter
from gateway import answers
from gateway.exports.displays import Seen, decode_seen, encode_seen
from gateway.folder import import_file, read_import
from gateway.founding import whole_chain
from tests.fuzz.scene import THIEF, FalseAcceptance, honest
from tests.fuzz.target import BY_MESSAGE, Target, same, text_of
from tests.gateway.kit import Premises, Site, content

_ROUND = 20  # messages at once
_SITE_USES = 400  # rounds before a new one: what it counts of refusals grows


class _Gate:
    """A node with two meters, of one of which the attacker holds the key."""

    def __init__(self) -> None:
        self.uses = 0
        self.site = Site(meters=2)
        self.site.begin()

    def content(self) -> dict[str, object]:
        everything = content(self.site.store)
        counted = ("refusals", "evidence", "tallies")
        kept = {name: value for name, value in everything.items() if name not in counted}
        return {**kept, "node": self.site.node.state, "waits": self.site.node.pending_count}


_gates: list[_Gate] = []  # one that has only refused so far, for the next round


def _take_gate() -> _Gate:
    gate = _gates.pop() if _gates else _Gate()
    return gate if gate.uses < _SITE_USES else _Gate()


def _read_door(data: bytes) -> None:
    """Messages in one round, each under every meter's topic: an attacker may choose."""
    raws = tiles.split_bundle(data)
    if not 0 < len(raws) <= _ROUND:
        raise Rejected(Reason.MALFORMED, f"not 1 to {_ROUND} messages")
    gate = _take_gate()
    before = gate.content()
    site = gate.site
    site.receive([site.message(raw, name) for raw in raws for name in ("m0", "m1", "nobody")])
    after = gate.content()
    if after["waits"] == before["waits"]:
        if after != before:
            raise FalseAcceptance("a refused message has changed the gateway")
        gate.uses += 1
        _gates.append(gate)
        raise Rejected(Reason.MALFORMED, "refused at the door")
    for raw in set(site.store.pending()) - set(before["pending"]):  # type: ignore[call-overload]
        record = records.decode(raw)
        if record.key_id == THIEF.public.thumbprint:
            record.envelope.verify(THIEF.public)
        elif raw not in _messages():
            raise FalseAcceptance(f"nobody sent {raw.hex()}")
    # Whatever was let in: blocks are made, and hold for everyone.
    site.seal()
    site.seal()
    try:
        site.audit()
    except Rejected as refused:
        raise FalseAcceptance(f"a ledger that no audit passes: {refused}") from None


@lru_cache(maxsize=1)
def _messages() -> list[bytes]:
    """What the meters may say next to a new gateway, in order."""
    site = Site(meters=2)
    site.begin()
    step = site.next_step
    found: list[Record] = []
    for one in site.devices:
        found += [one.batch(step, 8, 8), one.close(step), one.batch(step + 1, 3)]
    return [record.raw for record in found]


def _rounds() -> list[bytes]:
    first, second = _messages()[:3], _messages()[3:]
    rounds = [first, second, [*first, *second], first[:1], second[:1]]
    return [tiles.encode_bundle(one) for one in rounds]


def _read_state(data: bytes) -> None:
    """The rows of a gateway's store: what all blocks came to, or what one meter has."""
    genesis = honest().leaves[0]
    meter = encode_meter(honest().village.state.meters["m0"])
    common = encode_common(honest().village.state)
    match cbor.decode(data):
        case {0: str()}:
            state = decode_state(genesis, Rows(common, [data]))
            same(data, encode_meter(*state.meters.values()))
        case _:
            state = decode_state(genesis, Rows(data, [meter]))
            same(data, encode_common(state))


def _rows() -> list[bytes]:
    state = honest().village.state
    return [encode_common(state), encode_meter(state.meters["m0"])]


class _Office:
    """A gateway's folder on a real disk, into which files are imported."""

    def __init__(self) -> None:
        self._beside = TemporaryDirectory(prefix="cryptometer-fuzz-")
        self.premises = Premises(Path(self._beside.name) / "gateway", meters=1)
        self.premises.enrol()


@lru_cache(maxsize=1)
def _office() -> _Office:
    return _Office()


def _read_imported(data: bytes) -> None:
    premises = _office().premises
    file = premises.put("imported", data)
    import_file(premises.folder, file)
    try:
        bundle = records.decode(data)
    except Rejected:
        raws = read_import(file)
        if [record.raw for record in whole_chain(raws)] != raws:
            raise FalseAcceptance("a chain is another one when it is read again") from None
    else:
        assert isinstance(bundle.body, Bundle)
        raws = [data, bundle.body.genesis, *bundle.body.records]
    authority = premises.authority.signer.public
    for record in map(records.decode, raws):
        try:
            record.envelope.verify(authority)
        except Rejected:
            raise FalseAcceptance(f"its authority has not signed {record.raw.hex()}") from None


def _imports() -> list[bytes]:
    premises = _office().premises
    return [premises.records(), premises.bundle()]


@lru_cache(maxsize=1)
def _published() -> answers.Site:
    """What the web side answers from: two blocks and what waits behind them."""
    site = Site(meters=1)
    site.found()
    site.run([8, 3])
    site.send(site.device.batch(site.next_step, 2))
    return answers.open_site(site.store, site.tree.read, site.community())


def _read_place(data: bytes) -> None:
    """Where a stranger asks for a record."""
    what = text_of(data)
    found = answers.record(_published(), what)
    names = (f"{found['meter']}/{found['sequence']}", found["identity"])
    if what not in names and what.lower() != found["identity"]:
        raise FalseAcceptance(f"{what!r} is {names}")


def _places() -> list[bytes]:
    return [b"m0/0", b"m0/1", records.decode(_published().leaf(5)).identity.hex().encode()]


def _read_readings(data: bytes) -> None:
    """What people read off displays, as it is kept."""
    readings = decode_seen(text_of(data))
    again = encode_seen(readings)
    if decode_seen(again) != sorted(set(readings)):
        raise FalseAcceptance("other readings once they are written again")


def _readings() -> list[bytes]:
    kept = [Seen("pv-roof", 1_710_000_000_000, 1_234_567, 1), Seen("shed", 0, 0, 1_000)]
    return [encode_seen(kept).encode(), encode_seen([]).encode()]


GATEWAY: tuple[Target, ...] = (
    Target(
        "door",
        (
            "gateway.node.Node.receive",
            "cryptometer.chain.open_envelope",
            "cryptometer.chain.open_record",
            "cryptometer.chain.read_statement",
        ),
        _read_door,
        _rounds,
    ),
    Target(
        "place",
        ("gateway.answers.record_place",),
        _read_place,
        _places,
        (Rejected, answers.Absent),
    ),
    Target(
        "readings",
        ("gateway.exports.displays.decode_seen",),
        _read_readings,
        _readings,
        BY_MESSAGE,
    ),
    Target(
        "state",
        ("cryptometer.snapshot.decode_state", "cryptometer.snapshot.decode_meter"),
        _read_state,
        _rows,
    ),
    Target(
        "import",
        ("gateway.folder.import_file", "gateway.folder.read_import"),
        _read_imported,
        _imports,
        BY_MESSAGE,
    ),
)
