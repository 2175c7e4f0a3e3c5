"""A community in which everything about sharing happens that may: drawn from one seed.

Meters are late, members join and leave, agreements follow one another by every method, what
members consumed is known late and then corrected, and the plant tells a lie now and then.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from random import Random
from typing import Any

from cryptometer.authority_records import Use
from cryptometer.drafting import draft
from cryptometer.errors import Reason
from cryptometer.openings import commitment
from cryptometer.parts import split
from cryptometer.proposal import Proposal
from cryptometer.record_fields import Role
from cryptometer.records import Record
from cryptometer.settlement import Settlement
from cryptometer.sharing_records import Claim, Distribution, Method, Output, Part
from tests.core.community import LOT_PULSES, PULSE_UWH, Device, Village, due
from tests.keys import signer

NAMES = ("ana", "bob", "cleo", "dora", "ed", "fay")
METERS = 3
LATE_STEPS = 4
LIES = 1 / 8  # of distributions

Lie = Callable[[Distribution], Distribution]


class Neighbourhood:
    """A village and its life.

    Attributes:
        private: whether agreements may ask what members consumed.
    """

    def __init__(self, seed: int, *, private: bool = True) -> None:
        self._random = Random(seed)
        self._private = private
        self.village = Village(meters=METERS, late_steps=LATE_STEPS)
        self.village.add_meter("m9", use=Use.STORAGE)
        self.village.add_members(*NAMES[:3])
        self.members = set(NAMES[:3])
        self._joined = 0
        self._owed: dict[str, list[int]] = {}  # steps that each device has still to tell
        self._needs: dict[int, dict[str, int]] = {}
        self.lies: dict[bytes, Reason | None] = {}
        self.village.block()
        self._agree()
        self.village.run(())

    def live(self) -> None:
        """One step: what is sent, governed and given; then its block."""
        if self._random.random() < 0.2:
            self._agree()
        if self._random.random() < 0.2:
            self._join_or_leave()
        for device in self.village.devices:
            self._count(device)
        if self._random.random() < 0.8:
            self._give()
        self.village.block()

    def _agree(self) -> None:
        """Any agreement among those who are members; a claim may be of who has left since."""
        draw = self._random
        method = draw.choice(list(Method) if self._private else self._public)
        names = sorted(self.members)
        claims = {
            (
                draw.choice(names),
                draw.choice((0, 0, 1, 3)),
                draw.choice((None, None, None, "m0", "m1")),
            )
            for _ in range(draw.randint(1, 6))
        }
        ordered = sorted(claims, key=lambda one: (one[0], one[1], one[2] or ""))
        draw.shuffle(ordered)
        stated = draw.random() < 0.2
        fee = draw.choice((None, None, Fraction(1, 100), Fraction(1, 7)))
        self.village.govern(
            self.village.authority.agree(
                self.village.next_step + draw.choice((1, 1, 1, 2, 0)),
                [Claim(name, draw.randint(0, 9), turn, of) for name, turn, of in ordered],
                method,
                capped=self._private and draw.random() < 0.4,
                rounds=draw.randint(1, 3),
                are_losses_stated=stated,
                losses=None if stated else draw.choice((None, Fraction(1, 50), Fraction(1, 3))),
                fee=fee,
                fee_to=None if fee is None else "coop",
            )
        )

    @property
    def _public(self) -> list[Method]:
        return [Method.EQUAL, Method.KEYS, Method.COEFFICIENTS]

    def _join_or_leave(self) -> None:
        away = [name for name in NAMES if name not in self.members]
        if away and self._random.random() < 0.6:
            name = self._random.choice(away)
            self._joined += 1
            key = signer(500 + self._joined).public
            self.village.govern(self.village.authority.register(Role.MEMBER, name, key))
            self.members.add(name)
        elif len(self.members) > 1:
            name = self._random.choice(sorted(self.members))
            self.village.govern(self.village.authority.revoke(Role.MEMBER, name))
            self.members.remove(name)

    def _count(self, device: Device) -> None:
        """The device tells the step, and what it owes; or it is late."""
        owed = self._owed.setdefault(device.name, [])
        owed.append(self.village.next_step)
        if self._random.random() < 0.35:
            return
        for step in owed:
            lots = [self._random.randint(1, LOT_PULSES) for _ in range(self._random.randint(0, 5))]
            if self._random.random() < 0.1:
                lots.append(LOT_PULSES + 1)
            self.village.send(*device.step(step, *lots))
        owed.clear()

    def settlements(self) -> dict[int, Settlement]:
        """The accounts as the next block will find them."""
        proposal = Proposal(self.village.state, self.village.next_step)
        for record in due(self.village.state, self.village.next_step, self.village.pending)[0]:
            if record.body.KIND not in {"registration", "revocation", "agreement", "distribution"}:
                proposal.add(record, record.body)  # type: ignore[arg-type]  # a chain's
        return proposal.settlements()

    def _give(self) -> None:
        for step, settlement in sorted(self.settlements().items()):
            if self._random.random() < 0.2:
                continue
            whole = self._draft(step, settlement)
            if whole is None:
                continue
            if self._random.random() < LIES:
                self._lie(whole)
            if self._random.random() < 0.9:
                self.village.distribute(*split(whole, self.village.plant))

    def _draft(self, step: int, settlement: Settlement) -> Distribution | None:
        draw, village = self._random, self.village
        agreed = village.state.agreed(step)
        assert agreed is not None
        agreement = agreed.agreement
        needs = self._consumed(step, agreement.members) if agreement.needs_consumption else None
        commitments = {
            name: commitment(village.id, step, name, amount, village.salt)
            for name, amount in (needs or {}).items()
        }
        return draft(
            agreed,
            settlement,
            needs=needs,
            commitments=commitments,
            coefficients=[draw.randint(0, 5) for _ in agreement.claims]
            if agreement.method is Method.COEFFICIENTS
            else (),
            losses_uwh=draw.randint(0, settlement.waiting_uwh // 4)
            if agreement.are_losses_stated
            else 0,
        )

    def _consumed(self, step: int, members: Sequence[str]) -> dict[str, int]:
        """What was consumed, as far as it is known now: it may be corrected."""
        known = self._needs.setdefault(step, {})
        for name in members:
            if name not in known or self._random.random() < 0.2:
                known[name] = self._random.randint(0, 40) * PULSE_UWH // 3
        return {name: known[name] for name in members}

    def _lie(self, whole: Distribution) -> None:
        lie: Lie = self._random.choice(
            (
                lambda one: replace(one, supplement=one.supplement + 1),
                lambda one: replace(one, agreement=bytes(32)),
                lambda one: replace(one, outputs=(*one.outputs, Output("zoe", 1, 0))),
                lambda one: replace(one, part=Part(2, 2)),
                lambda one: replace(one, fee_uwh=one.fee_uwh + 1),
                lambda one: replace(one, step=one.step + 99),
            )
        )
        for record in self.village.distribute(lie(whole)):
            self.lies[record.identity] = None

    def given(self) -> dict[tuple[int, str], int]:
        """What each member has been given of each step whose account stands."""
        found: dict[tuple[int, str], int] = {}
        for step, settlement in self.village.state.settlements.items():
            agreed = self.village.state.agreed(step)
            assert agreed is not None
            members = agreed.agreement.members
            given = settlement.given(agreed.agreement)
            found |= {(step, name): amount for name, amount in zip(members, given, strict=True)}
        return found


def interleaved(leaves: Sequence[Record], seed: int) -> list[Record]:
    """Leaves of meters as they may arrive: each chain in order, one between the other."""
    draw = Random(seed)
    chains: dict[Any, list[Record]] = {}
    for record in leaves:
        chains.setdefault(getattr(record.body, "meter", None), []).append(record)
    found: list[Record] = []
    while chains:
        name = draw.choice(sorted(chains, key=str))
        found.append(chains[name].pop(0))
        if not chains[name]:
            del chains[name]
    return found
