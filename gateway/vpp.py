"""The virtual power plant of a gateway: shares out what waits, as the agreement says. Pure: what is
known from outside the ledger is asked of `Facts`.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace

from cryptometer import records
from cryptometer.drafting import draft
from cryptometer.keys import Signer
from cryptometer.openings import commitment
from cryptometer.parts import split
from cryptometer.record_fields import Role
from cryptometer.records import Record
from cryptometer.settlement import Plant, Settlement
from cryptometer.sharing_records import Distribution
from cryptometer.state import State
from gateway.lacking import Facts, asked, lacks, look_up
from gateway.store import StoreDamaged

# In one block: a month of consumption that came at once must not keep a block from being sealed.
DISTRIBUTIONS_MAX = 200
# Likewise after a start, when each step may have been corrected: so many shares of members are
# reckoned, those of one step aside.
SHARES_MAX = 10_000


class Vpp:
    """Makes the plant's distributions; knows nothing that its chain and `Facts` do not say, but
    what it has looked at in vain."""

    def __init__(self, signer: Signer, facts: Facts) -> None:
        """
        Args:
            signer: the plant's key.
        """
        self._signer = signer
        self._facts = facts
        self._mark = 0
        self._again: set[int] = set()  # steps of which something was learnt
        self._done: dict[int, Settlement] = {}  # with what was known, no more could be moved
        self.failure: OSError | None = None  # what kept facts from the newest `distribute`

    def distribute(self, state: State, settlements: Mapping[int, Settlement]) -> list[Record]:
        """The distributions that the next block is to hold.

        Args:
            state: the community after the block before.
            settlements: the plant's accounts, with what this block's closes bring.

        Returns:
            All that asks for no facts, and what asks for them while they can be read. What cannot
            be reckoned for their sake waits for the next block, and `failure` says why.
        """
        self.failure = None
        name = _name_of(state, self._signer)
        if name is None:
            return []
        try:
            changed, self._mark = self._facts.steps_changed_since(self._mark)
            held = changed if isinstance(changed, range) else set(changed)
            self._again |= {step for step in settlements if step in held}
        except OSError as error:
            self.failure = error
        self._done = {step: one for step, one in self._done.items() if step in settlements}
        made: list[Record] = []
        plant = state.plant(name)
        looked_at: dict[int, Settlement] = {}
        count = shares = 0
        for settlement in self._to_be_looked_at(settlements):
            if count == DISTRIBUTIONS_MAX or shares >= SHARES_MAX:
                break
            if self._is_waited_for() and _asks(state, settlement.step):
                continue  # each question would wait for as long as the first has
            try:
                whole = self._draft(state, settlement, name)
            except OSError as error:
                self.failure = error
                continue
            looked_at[settlement.step] = settlement
            shares += _shares(state, settlement)
            if whole is None:
                continue
            count += 1
            for part in split(whole, plant):
                body = replace(part, previous=plant.previous)
                made.append(records.seal(body, state.community, self._signer))
                plant = Plant(name, body.sequence + 1, made[-1].identity)
        # Should everyone set one aside, it is not made again and again: what it moves makes another
        # account.
        self._again -= looked_at.keys()
        self._done |= looked_at
        return made

    def _is_waited_for(self) -> bool:
        """Whether facts fail that others hold up; of those that are damaged, some may be whole."""
        return self.failure is not None and not isinstance(self.failure, StoreDamaged)

    def _to_be_looked_at(self, settlements: Mapping[int, Settlement]) -> list[Settlement]:
        """Those of whom something is new, in order of steps; corrections behind what waits."""
        found = [
            one
            for step, one in settlements.items()
            if step in self._again or (one.waiting and self._done.get(step) is not one)
        ]
        return sorted(found, key=lambda one: (not one.waiting, one.step))

    def _draft(self, state: State, settlement: Settlement, name: str) -> Distribution | None:
        """What may be distributed of a step now; None while a fact is missing."""
        step = settlement.step
        agreed = state.agreed(step)
        if agreed is None or agreed.agreement.vpp != name:
            return None
        agreement = agreed.agreement
        known = look_up(agreement, step, self._facts)
        if lacks(agreement, known, settlement):
            return None
        needs: dict[str, int] | None = None
        commitments: dict[str, bytes] = {}
        if agreement.needs_consumption:
            needs = known.needs(agreement, settlement)
            commitments = {
                member: commitment(
                    state.community,
                    step,
                    member,
                    amount,
                    self._facts.salt(member, step, amount),
                )
                for member, amount in needs.items()
            }
        return draft(
            agreed,
            settlement,
            needs=needs,
            commitments=commitments,
            coefficients=known.coefficients(agreement),
            # None are taken back: what was lost by earlier distributions stays lost.
            losses_uwh=max(0, (known.losses_uwh or 0) - settlement.losses_uwh),
        )


class NoFacts:
    """Of a community whose rule asks for none."""

    def of(self, step: int) -> Mapping[str, int]:  # noqa: ARG002
        return {}

    def salt(self, member: str, step: int, need_uwh: int) -> bytes:  # noqa: ARG002
        raise LookupError(f"nothing is known of {member} in {step}")

    def coefficients(self, step: int) -> Mapping[tuple[str, str], int]:  # noqa: ARG002
        return {}

    def losses_uwh(self, step: int) -> int | None:  # noqa: ARG002
        return None

    def forgotten(self, members: Collection[str], step: int) -> frozenset[str]:  # noqa: ARG002
        return frozenset()

    def steps_changed_since(self, mark: int) -> tuple[list[int], int]:
        return [], mark


class LostFacts:
    """Of a store that cannot be opened."""

    def __init__(self, failure: OSError) -> None:
        self._failure = failure

    def of(self, step: int) -> Mapping[str, int]:  # noqa: ARG002
        raise self._failure

    def salt(self, member: str, step: int, need_uwh: int) -> bytes:  # noqa: ARG002
        raise self._failure

    def coefficients(self, step: int) -> Mapping[tuple[str, str], int]:  # noqa: ARG002
        raise self._failure

    def losses_uwh(self, step: int) -> int | None:  # noqa: ARG002
        raise self._failure

    def forgotten(self, members: Collection[str], step: int) -> frozenset[str]:  # noqa: ARG002
        raise self._failure

    def steps_changed_since(self, mark: int) -> tuple[list[int], int]:  # noqa: ARG002
        raise self._failure


def _asks(state: State, step: int) -> bool:
    """Whether the step's agreement asks for what no ledger holds."""
    agreed = state.agreed(step)
    return agreed is not None and bool(asked(agreed.agreement))


def _shares(state: State, settlement: Settlement) -> int:
    """How many shares of members are reckoned for a step: of each producer, where it matters."""
    agreed = state.agreed(settlement.step)
    if agreed is None:
        return 1
    agreement = agreed.agreement
    producers = len(settlement.waiting) + len(settlement.brought)
    return len(agreement.members) * (producers if agreement.asks_who_produced else 1)


def _name_of(state: State, signer: Signer) -> str | None:
    """The plant that a key speaks for, None while it is registered for none."""
    role, name = state.keys.get(signer.public.thumbprint, (None, ""))
    if role is not Role.VPP:
        return None
    party = state.parties[role, name]
    return name if party.key == signer.public and not party.revoked else None
