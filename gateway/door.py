"""The gateway's door: the chain verdict on what meters send. Bytes in, values out; it commits
nothing and sends nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from cryptometer.acknowledgement import Stop
from cryptometer.chain import follow, open_envelope, read_statement, verify
from cryptometer.chain_records import ChainRecord
from cryptometer.cose import Envelope
from cryptometer.errors import Reason, Rejected
from cryptometer.meter import Meter
from cryptometer.records import Record
from cryptometer.state import State
from gateway.store import Contact, Refusal
from gateway.waiting import Waiting
from hal.ports import Message

# What asks for patience, not for help: the device sends again, and goes on.
_PASSING = frozenset({Reason.GAP, Reason.TOO_MANY})


Opened: TypeAlias = tuple[Envelope, Meter] | Rejected
Verify: TypeAlias = Callable[[Sequence[Opened]], list[Opened]]
IdentityAt: TypeAlias = Callable[[str, int], bytes | None]


@dataclass(slots=True)
class Verdicts:
    """What a round of messages comes to.

    Attributes:
        answers: meters to acknowledge, with the place where their chain stopped, if it did.
    """

    accepted: list[Record] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    contacts: dict[str, Contact] = field(default_factory=dict)
    answers: dict[str, Stop | None] = field(default_factory=dict)


class Door:
    """Judges messages in their order; what it accepts waits from then on."""

    def __init__(
        self,
        topic: str,
        identity_at: IdentityAt,
        waiting: Waiting,
        verify: Verify,
        *,
        is_private_kept: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            topic: the community's, which every topic here begins with.
            identity_at: the identity of a stored record by meter and sequence.
            verify: `verify_each`, or what comes to the same in less time.
            is_private_kept: says whether there is a place for what meters for consumption send.
        """
        self._topic = topic
        self._stored_at = identity_at
        self._is_private_kept = is_private_kept
        self._waiting = waiting
        self._verify = verify
        self.stops: dict[str, Stop] = {}  # chains that cannot go on, by meter

    def judge(self, state: State, messages: Sequence[Message], now_ms: int) -> Verdicts:
        """The verdict on each message, against the community's state and what waits."""
        verdicts = Verdicts()
        sent: list[tuple[str, bytes]] = []
        for message in messages:
            place = message.topic.removeprefix(f"{self._topic}/")
            _, _, name = place.removesuffix("/record").rpartition("/")
            if place == f"meter/{name}/record":
                sent.append((name, message.payload))
        # All are verified before the first is decoded: between decodings a verification takes a
        # tenth longer, since each pushes the other out of the processor's cache.
        opened = [_open(state, raw) for _, raw in sent]
        verified = self._verify(opened)
        for (name, raw), one in zip(sent, verified, strict=True):
            self._judge(state, name, raw, one, now_ms, verdicts)
        return verdicts

    def _judge(
        self, state: State, name: str, raw: bytes, opened: Opened, now_ms: int, verdicts: Verdicts
    ) -> None:
        known = name if name in state.meters else ""
        try:
            if isinstance(opened, Rejected):
                raise _anew(opened)
            envelope, meter = opened
            if meter.is_private and not self._is_private_kept():
                raise Rejected(Reason.PRIVATE, f"no private store to keep what {meter.name} says")
            record, body = read_statement(envelope, meter)
        except Rejected as refused:
            verdicts.refusals.append(Refusal(known, refused.reason, refused.detail, now_ms))
            return
        if body.meter != name:
            detail = f"a record of {body.meter} under the topic of {known or 'no meter'}"
            verdicts.refusals.append(Refusal(known, Reason.WRONG_ROLE, detail, now_ms))
            return
        # From here on a registered key has spoken: it gets an answer, and what it signed against
        # its own chain is kept as evidence.
        try:
            head = follow(meter, self._waiting.head(meter), record, body)
            self._waiting.check_room(meter, raw, len(state.meters))
        except Rejected as refused:
            self._answer_refused(meter, record, body, refused, now_ms, verdicts)
            return
        self._waiting.add(record, body, head)
        self.stops.pop(name, None)
        verdicts.accepted.append(record)
        verdicts.answers[name] = None
        verdicts.contacts[name] = Contact(
            name, now_ms, body.step, body.clock.state.value, body.clock.error_ms
        )

    def _answer_refused(
        self,
        meter: Meter,
        record: Record,
        body: ChainRecord,
        refused: Rejected,
        now_ms: int,
        verdicts: Verdicts,
    ) -> None:
        name = meter.name
        verdicts.answers.setdefault(name, None)
        if refused.reason is Reason.REPEAT:
            known = self._identity_at(verdicts, name, body.sequence)
            if known == record.identity:
                return  # stored already; the acknowledgement was lost on its way
            if known is None and meter.is_private:
                return  # so long ago that its identity is not kept: nobody can call it a fork
            refused = Rejected(Reason.FORK, f"another record at sequence {body.sequence}")
        if refused.reason in _PASSING:
            verdicts.refusals.append(Refusal(name, refused.reason, refused.detail, now_ms))
            return
        verdicts.refusals.append(
            Refusal(name, refused.reason, refused.detail, now_ms, raw=record.raw)
        )
        self.stops[name] = verdicts.answers[name] = Stop(body.sequence, refused.reason)

    def _identity_at(self, verdicts: Verdicts, name: str, sequence: int) -> bytes | None:
        for record in verdicts.accepted:
            body = record.body
            if isinstance(body, ChainRecord) and (body.meter, body.sequence) == (name, sequence):
                return record.identity
        return self._stored_at(name, sequence)


def verify_each(opened: Sequence[Opened]) -> list[Opened]:
    """What was opened, in its order; refused where its signature is not that of its meter."""
    return [_verify(one) for one in opened]


def _open(state: State, raw: bytes) -> Opened:
    try:
        return open_envelope(state, raw)
    except Rejected as refused:
        return _anew(refused)


def _verify(opened: Opened) -> Opened:
    if not isinstance(opened, Rejected):
        try:
            verify(*opened)
        except Rejected as refused:
            return _anew(refused)
    return opened


def _anew(refused: Rejected) -> Rejected:
    """The same refusal, never raised. One that was raised holds the frames it has passed, and one
    that is kept beside them a whole round of messages, until the collector looks for cycles."""
    return Rejected(refused.reason, refused.detail)
