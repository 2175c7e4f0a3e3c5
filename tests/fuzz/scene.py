"""Two communities whose every byte is known, and what an attacker holds of them.

In the honest one the attacker owns a registered meter's key and nothing else. In the other one he
owns every key, so that what he signs is believed and the code behind the signatures is reached.
"""

from collections.abc import Iterable
from functools import lru_cache

from cryptometer import cbor, records
from cryptometer.acknowledgement import Acknowledgement, Stop
from cryptometer.community import Community, encode_community
from cryptometer.enrolment import Broker, Bundle, EnrolmentRequest
from cryptometer.errors import Reason, Rejected
from cryptometer.keys import PublicKey, Signer
from cryptometer.record_fields import Role
from cryptometer.records import Record
from tests.core.community import Village
from tests.keys import signer

ROGUE = 100  # from here on, signers are the attacker's
THIEF = signer(11)  # the device key of the honest community's meter m1


class FalseAcceptance(AssertionError):  # noqa: N818 - a verdict, told in its own word
    """A decoder let something through that it had to refuse."""


class World:
    """A village, all that it signed, and all files that its people hand around."""

    def __init__(self, keys: int) -> None:
        self.village = Village(meters=2, keys=keys)
        self.village.run([8, 8], [8, 5], [3])
        self.device = signer(keys + 10)
        self.gateway = signer(keys + 2)
        self.authority = signer(keys + 1)
        self.community: Community = self.village.community()
        self.checkpoint = self.village.checkpoint().encode()
        self.files = self.village.files()
        self.leaves = self.village.leaves
        self.community_pub = encode_community(self.community).encode()
        self.proofs = [
            self.village.prove(index).encode() for index in (0, 5, 8, len(self.leaves) - 1)
        ]
        registrations = map(records.decode, self.leaves[1:5])
        self.bundle = records.seal(
            Bundle(
                "m0",
                self.leaves[0],
                tuple(record.raw for record in registrations),
                Broker("mqtts://broker.example:8883", b"ca", "m0", "secret"),
            ),
            self.village.id,
            self.authority,
        )
        self.acknowledgements = [
            records.seal(word, self.village.id, self.gateway)
            for word in (
                Acknowledgement("m0", 7, 3, self.village.device.previous, 40),
                Acknowledgement("m0", 8, 0, bytes(32), 0, Stop(0, Reason.FORK)),
            )
        ]
        self.request = records.seal(
            EnrolmentRequest(
                Role.METER, self.device.public, "board", "test 1.0", 1_700_000_000_000
            ),
            None,
            self.device,
        )
        revocation = self.village.authority.revoke(Role.METER, "m1")
        anchor = self.village.authority.re_anchor("m0", 9, 40)
        self.authority_records = [*self.leaves[:5], revocation.raw, anchor.raw]

    @property
    def signed(self) -> Iterable[bytes]:
        """Every record of this world, as its bytes."""
        others = [self.bundle, self.request, *self.acknowledgements]
        return [*self.leaves, *self.authority_records, *(record.raw for record in others)]


@lru_cache(maxsize=1)
def honest() -> World:
    """The community that the attacker wants to deceive."""
    return World(0)


@lru_cache(maxsize=1)
def rogue() -> World:
    """The attacker's own community."""
    return World(ROGUE)


def held() -> list[Signer]:
    """The keys with which an attacker can sign."""
    return [THIEF, *(signer(ROGUE + number) for number in (1, 2, 10, 11))]


@lru_cache(maxsize=1)
def _honest_keys() -> dict[bytes, PublicKey]:
    keys = [signer(number).public for number in (1, 2, 3, 10)]
    return {key.thumbprint: key for key in keys}


@lru_cache(maxsize=1)
def _genuine() -> frozenset[bytes]:
    return frozenset(honest().signed)


def check_genuine(*found: Record) -> None:
    """Refuses a record that verifies under an honest key and was never signed with it.

    Raises:
        FalseAcceptance: it is forged, or the mutated form of a signed record.
    """
    for record in found:
        key = _honest_keys().get(record.key_id)
        if key is None or record.raw in _genuine():
            continue
        try:
            record.envelope.verify(key)
        except Rejected:
            continue
        raise FalseAcceptance(f"nobody signed {record.raw.hex()}")


def array_of(raws: Iterable[bytes]) -> bytes:
    """Records as they are handed around: a CBOR array of byte strings."""
    return cbor.encode(list(raws))
