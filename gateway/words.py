"""What a gateway says: to meters, to all who listen, and to its operator. Nothing is sent here."""

from collections.abc import Iterable

from cryptometer import cbor, records
from cryptometer.acknowledgement import Acknowledgement, Stop
from cryptometer.authority_records import Registration, Revocation
from cryptometer.errors import Reason
from cryptometer.keys import Signer
from cryptometer.meter import Head, Meter
from cryptometer.record_fields import Role
from cryptometer.records import Record
from gateway.effects import Effect, Publish, Say
from gateway.filing import meter_of
from gateway.store import Refusal


class Words:
    """What is said under this gateway's name, as effects."""

    def __init__(self, community: bytes, name: str) -> None:
        self.topic = f"cryptometer/1/{community.hex()}"
        self._community = community
        self._name = name
        self._told: dict[str, list[bytes]] = {}  # each meter's authority records that act
        self._told_all: list[bytes] = []  # those on gateways, whose words meters believe
        self._said: set[tuple[str, Reason]] = set()

    def note_acting(self, acting: Iterable[Record]) -> None:
        """Authority records act: meters are told of them from now on."""
        for record in acting:
            if name := meter_of(record):
                self._told.setdefault(name, []).append(record.raw)
            elif is_on_gateway(record):
                self._told_all.append(record.raw)

    def registration(self, name: str) -> Publish:
        """What acts on a meter, and whose words it is to believe."""
        topic = f"{self.topic}/meter/{name}/registration"
        return Publish(topic, cbor.encode([*self._told_all, *self._told.get(name, [])]))

    def acknowledgement(
        self, meter: Meter, head: Head, stop: Stop | None, epoch: int, signer: Signer
    ) -> Publish:
        """How much of a meter's chain is stored, as far as `head`."""
        word = Acknowledgement(
            meter.name, epoch, head.sequence, head.previous, head.register or 0, stop
        )
        raw = records.sign(word, self._community, signer)
        return Publish(f"{self.topic}/meter/{meter.name}/ack/{self._name}", raw)

    def checkpoint(self, signed: str) -> Publish:
        """The newest block's checkpoint, a signed note."""
        return Publish(f"{self.topic}/checkpoint", signed.encode())

    def of_refusals(self, refusals: Iterable[Refusal]) -> list[Effect]:
        """What the operator is told of refusals: each cause once."""
        effects: list[Effect] = []
        for refusal in refusals:
            cause = (refusal.meter, refusal.reason)
            if cause not in self._said:
                self._said.add(cause)
                who = refusal.meter or "someone unregistered"
                effects.append(Say(f"refused from {who}: {refusal.reason}: {refusal.detail}"))
        return effects


def is_on_gateway(record: Record) -> bool:
    """Whether an authority record says which gateways there are."""
    body = record.body
    return isinstance(body, Registration | Revocation) and body.role is Role.GATEWAY
