"""What members consume and have agreed upon, in the simulated community: as it comes to be known,
late, in parts and corrected; and where all energy is, reckoned from the leaves and these facts by
another implementation of the rule.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from hashlib import sha256
from typing import Any

from cryptometer.energy_verdict import Verdict
from cryptometer.errors import Reason
from cryptometer.openings import Opening, commitment
from cryptometer.sharing_records import Agreement, Claim, Distribution, Method
from tests.peers import sharing_peer
from tests.peers.sharing_peer import Account

MEMBERS = ("ada", "bo", "cy", "di", "el")
FOUNDERS = 3  # of them are there from the beginning
NEED_UWH = 1_500_000  # of a member's step, at most: a board gives up to 6 Wh
LATE_STEPS = 15  # how long what was consumed may stay unknown
_METHODS = (Method.PRO_RATA, Method.PRO_RATA, Method.KEYS, Method.EQUAL)


class Books:
    """What is known outside the ledger; `gateway.vpp.Facts`. It outlives the gateway, as the
    private store does.

    Attributes:
        draw: what happens here is drawn apart, so that it changes nothing else of a seed's days.
        is_away: whoever asks is told that the disk is away.
        told: by step and member, µWh.
        members: who is in the newest agreement.
    """

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(f"what is shared on the days of {seed}")
        self.is_away = False
        self.told: dict[int, dict[str, int]] = {}
        self.members = MEMBERS[:FOUNDERS]
        self._owed: list[tuple[int, int, str]] = []  # from which step on, of which, and whose
        self._ever: dict[tuple[int, str], list[int]] = defaultdict(list)
        self._changes: list[int] = []

    # --- What a gateway asks. ---

    def of(self, step: int) -> Mapping[str, int]:
        self._check()
        return self.told.get(step, {})

    def salt(self, member: str, step: int, need_uwh: int) -> bytes:
        return sha256(f"{member} {step} {need_uwh}".encode()).digest()

    def forgotten(self, members: Collection[str], step: int) -> frozenset[str]:
        return frozenset()

    def steps_changed_since(self, mark: int) -> tuple[list[int], int]:
        self._check()
        return self._changes[mark:], len(self._changes)

    def coefficients(self, step: int) -> Mapping[tuple[str, str], int]:
        return {}

    def losses_uwh(self, step: int) -> int | None:
        return None

    def _check(self) -> None:
        if self.is_away:
            raise OSError("the private store is away")

    # --- What happens. ---

    def consume(self, step: int) -> None:
        """A step's consumption comes to be known: all of it now, or of some members later."""
        share = self.draw.choice((0, 0, 0, 0.3, 1))
        for member in MEMBERS:
            if self.draw.random() < share:
                self._owed.append((step + self.draw.randrange(1, LATE_STEPS), step, member))
            else:
                self._tell(step, member)

    def tell_owed(self, step: int) -> None:
        """What has been on its way so long comes."""
        due = [one for one in self._owed if one[0] <= step]
        self._owed = [one for one in self._owed if one[0] > step]
        for _, of, member in due:
            self._tell(of, member)

    def correct(self) -> None:
        """Something that was told was wrong."""
        if self.told:
            step = self.draw.choice(sorted(self.told))
            self._tell(step, self.draw.choice(sorted(self.told[step])))

    def tell_all(self, steps: Iterable[int]) -> None:
        """Nothing stays unknown of these steps."""
        self.is_away = False
        self._owed.clear()
        for step in steps:
            for member in MEMBERS:
                if member not in self.told.get(step, {}):
                    self._tell(step, member)

    def _tell(self, step: int, member: str) -> None:
        need_uwh = self.draw.randrange(NEED_UWH) * self.draw.randrange(2)
        self.told.setdefault(step, {})[member] = need_uwh
        self._ever[step, member].append(need_uwh)
        self._changes.append(step)

    def terms(self) -> dict[str, Any]:
        """The next agreement: somebody joins or leaves, or the rule is another one."""
        draw = self.draw
        here = set(self.members)
        if len(here) > 1 and draw.random() < 0.5:
            here.discard(draw.choice(sorted(here)))
        if len(here) < len(MEMBERS) and draw.random() < 0.6:
            here.add(draw.choice([name for name in MEMBERS if name not in here]))
        self.members = tuple(sorted(here))
        method = draw.choice(_METHODS)
        claims = [
            Claim(name, draw.randrange(1, 5), draw.randrange(2) * (method is not Method.PRO_RATA))
            for name in self.members
        ]
        if draw.random() < 0.3:
            # A claim of one producer's energy beside that of everybody's.
            claims.append(Claim(self.members[0], 2, 2, "m0"))
        fee = draw.choice((None, Fraction(1, 100)))
        return {
            "claims": claims,
            "method": method,
            "capped": draw.random() < 0.5,
            "rounds": draw.randrange(1, 4),
            "losses": draw.choice((None, Fraction(3, 100))),
            "fee": fee,
            "fee_to": None if fee is None else "coop",
        }

    # --- What is looked up. ---

    def opening(self, community: bytes, step: int, member: str, digest: bytes) -> Opening | None:
        """What opens a commitment, if it is to anything that was ever told."""
        for need_uwh in reversed(self._ever[step, member]):
            salt = self.salt(member, step, need_uwh)
            if commitment(community, step, member, need_uwh, salt) == digest:
                return Opening(need_uwh, salt)
        return None


@dataclass
class Accounts:
    """Where the energy of step closes is: at the plant, or where distributions gave it. Reckoned
    from the leaves; a distribution that is not what the rule gives is complained about in words.

    Attributes:
        transferred: all that closes have brought, µWh.
        spent: of it, what distributions have.
        by_step: what became of what was spent.
        late_agreements: those that stand without effect, as they came too late.
    """

    books: Books
    community: bytes
    transferred: int = 0
    spent: int = 0
    by_step: dict[int, Account] = field(default_factory=dict)
    late_agreements: int = 0
    agreements: list[tuple[bytes, Agreement]] = field(default_factory=list)
    _waiting: dict[int, dict[bytes, tuple[str, int]]] = field(default_factory=dict)
    _brought: dict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    @property
    def waiting(self) -> int:
        return self.transferred - self.spent

    def total(self, what: str) -> int:
        return sum(getattr(account, what) for account in self.by_step.values())

    @property
    def allocated(self) -> int:
        return sum(sum(account.members.values()) for account in self.by_step.values())

    def in_force(self, step: int) -> tuple[bytes, Agreement] | None:
        held = [one for one in self.agreements if one[1].from_step <= step]
        return held[-1] if held else None

    def take_agreement(self, verdict: Verdict, body: Agreement, block: int) -> str:
        """One that acts, unless it comes too late; what is wrong with that verdict, "" if nothing
        is."""
        is_late = body.from_step <= block
        if is_late != (verdict.reason is Reason.NOT_VALID_AT_STEP) or (
            verdict.reason is not None and not is_late
        ):
            return f"an agreement from step {body.from_step} on, in {block}: {verdict.reason}"
        if is_late:
            self.late_agreements += 1
        else:
            self.agreements.append((verdict.record.identity, body))
        return ""

    def take_close(self, identity: bytes, step: int, meter: str, energy_uwh: int) -> None:
        self.transferred += energy_uwh
        if energy_uwh and self.in_force(step) is not None:
            self._waiting.setdefault(step, {})[identity] = (meter, energy_uwh)

    def take_distribution(self, verdict: Verdict, body: Distribution) -> str:
        """What is wrong with it, "" if nothing is."""
        step, held = body.step, self.in_force(body.step)
        if verdict.reason is not None:
            return f"what the plant gives of step {step} has no effect: {verdict.reason}"
        if held is None or held[0] != body.agreement:
            return f"step {step} is given by an agreement that does not hold in it"
        waiting = self._waiting.pop(step, {})
        inputs = {one.close: one.energy_uwh for one in body.inputs}
        brought = {close: energy for close, (_, energy) in waiting.items()}
        if len(inputs) != len(body.inputs) or inputs != brought:
            return f"of step {step}, {inputs} are spent and {brought} wait"
        for meter, energy_uwh in waiting.values():
            self._brought[step][meter] += energy_uwh
        new = sum(inputs.values())
        self.spent += new
        agreement = held[1]
        needs = self._needs(agreement, body)
        if needs is None:
            return f"step {step} is given by a consumption that nobody has told"
        before = self.by_step.get(step) or _nothing(agreement)
        after, back = self._further(step, agreement, before, needs, new)
        self.by_step[step] = after
        given = {
            name: energy_uwh - before.members[name]
            for name, energy_uwh in after.members.items()
            if energy_uwh > before.members[name]
        }
        said = (
            {one.member: one.energy_uwh for one in body.outputs},
            (body.losses_uwh, body.fee_uwh, body.surplus_uwh, body.from_surplus_uwh),
        )
        surplus = after.surplus - before.surplus + back
        due = given, (after.losses - before.losses, after.fee - before.fee, surplus, back)
        return "" if said == due else f"step {step} gives {said}, by the facts {due}"

    def owed(self) -> str:
        """What the plant should have given by all that is told now, "" if nothing."""
        for step in self._waiting.keys() | self.by_step.keys():
            held = self.in_force(step)
            assert held is not None  # only then it is there
            told = self.books.told.get(step, {})
            if any(member not in told for member in held[1].members):
                continue
            if step in self._waiting:
                return f"the energy of step {step} waits, and all is told"
            account = self.by_step[step]
            if self._further(step, held[1], account, told, 0)[0] != account:
                return f"step {step} is not given anew, and was corrected"
        return ""

    def _further(
        self, step: int, agreement: Agreement, before: Account, needs: Mapping[str, int], new: int
    ) -> tuple[Account, int]:
        rule = sharing_peer.Rule(
            agreement.method.value,
            agreement.capped,
            agreement.rounds,
            [
                sharing_peer.Claim(one.member, one.weight, one.priority, one.producer, 0)
                for one in agreement.claims
            ],
            agreement.losses or Fraction(0),
            agreement.fee or Fraction(0),
        )
        whole = sharing_peer.rule(rule, dict(self._brought[step]), dict(needs), None)
        return sharing_peer.supplement(before, whole, new)

    def _needs(self, agreement: Agreement, body: Distribution) -> dict[str, int] | None:
        """What a distribution's commitments are to; nothing where its rule asks for nothing."""
        if not agreement.needs_consumption:
            return {}
        opened = {
            one.member: self.books.opening(self.community, body.step, one.member, one.digest)
            for one in body.commitments
        }
        if tuple(opened) != agreement.members:
            return None
        return (
            None
            if None in opened.values()
            else {
                member: opening.need_uwh
                for member, opening in opened.items()
                if opening is not None
            }
        )


def _nothing(agreement: Agreement) -> Account:
    return Account(dict.fromkeys(agreement.members, 0), 0, 0, 0)
