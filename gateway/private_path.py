"""The way of meters for consumption: their records are verified, followed, acknowledged and counted
like any other's, and stand in no ledger. Time and records in, what the private store is to keep
out. No clock, no network, no file.

The ledger's state knows such a meter as the authority registered it, and a chain without records;
where its chain really stands is an account of the private store. Put together they are a community
in which the door, `follow` and `Proposal` judge everybody alike.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

from cryptometer.authority_records import AuthorityRecord
from cryptometer.chain import follow, open_record
from cryptometer.chain_records import ChainRecord, StepClose
from cryptometer.errors import Reason, Rejected
from cryptometer.governing import act
from cryptometer.meter import Meter
from cryptometer.proposal import Proposal
from cryptometer.records import Record, decode
from cryptometer.state import State
from gateway.filing import meter_of
from gateway.store import Refusal, StoreDamaged
from gateway.waiting import Waiting


@dataclass(frozen=True, slots=True)
class Advance:
    """What the records that a step's end has judged come to, all or none.

    Attributes:
        step: of the block that is made.
        at_ms: when, ms since the Unix epoch.
        accounts: the meters behind them. Records before their heads wait no more.
        energies_uwh: of the closes that count, by meter and step; but of those that bring what an
            index has grown by in several steps.
        aside: how many records have no effect, by meter and reason.
    """

    step: int
    at_ms: int
    accounts: Mapping[str, Meter]
    energies_uwh: Mapping[tuple[str, int], int]
    aside: Mapping[tuple[str, Reason], int]


@dataclass(frozen=True, slots=True)
class Governed:
    """What authority records come to for meters for consumption.

    Attributes:
        accounts: those of the meters they are about, as they stand behind them.
        authority: how long the authority's chain is with them.
        dropped: records that waited and have no place any more, each with the reason.
    """

    accounts: Mapping[str, Meter] = field(default_factory=dict)
    authority: int = 0
    dropped: tuple[tuple[Record, Rejected], ...] = ()


class Chains(Protocol):
    """Where chains for consumption are kept. What a method was given is durable once it returns,
    all of it or, where it raises StoreFailed, perhaps none: the program stops then. StoreDamaged
    stops nothing: what is damaged is left as it is, and the ledger goes on without it."""

    @property
    def is_kept(self) -> bool:
        """Whether there is such a place at all; without one nothing is to be accepted."""
        ...

    def accounts(self) -> dict[str, Meter]:
        """Every meter's account."""
        ...

    def governed(self) -> int:
        """How many records of the authority's chain the accounts have been brought up to."""
        ...

    def pending(self) -> list[bytes]:
        """Records that were accepted and wait for their step's end, by meter and sequence."""
        ...

    def identity_at(self, meter: str, sequence: int) -> bytes | None:
        """Identity of a record that was accepted; None where that is too long ago."""
        ...

    def accept(self, accepted: Sequence[Record]) -> None:
        """Takes records that passed the chain verdict."""
        ...

    def advance(self, advance: Advance) -> None:
        """Moves accounts on, and makes closes known as what members have consumed."""
        ...

    def govern(self, governed: Governed) -> None:
        """Brings accounts up to the authority's chain, and lets go of what was dropped."""
        ...

    def keep_evidence(self, refusals: Sequence[Refusal]) -> None:
        """Keeps what a registered key has signed against its own chain, bounded."""
        ...


class NoChains:
    """Of a gateway without a private store: it takes nothing from meters for consumption."""

    is_kept = False

    def __init__(self, why: str = "") -> None:
        """`why`: what is wrong with the store that there is."""
        self.why = why

    def accounts(self) -> dict[str, Meter]:
        return {}

    def governed(self) -> int:
        return 0

    def pending(self) -> list[bytes]:
        return []

    def identity_at(self, meter: str, sequence: int) -> bytes | None:  # noqa: ARG002
        return None

    def accept(self, accepted: Sequence[Record]) -> None:
        if accepted:
            raise ValueError("there is no place to keep it")

    def advance(self, advance: Advance) -> None:
        pass

    def govern(self, governed: Governed) -> None:
        pass

    def keep_evidence(self, refusals: Sequence[Refusal]) -> None:
        pass


class PrivatePath:
    """Where the chains for consumption stand; see above. It begins with `recover`."""

    def __init__(self, chains: Chains, waiting: Waiting, state: State) -> None:
        """
        Args:
            waiting: the records of every meter; those for consumption wait beside the others.
            state: the community after the newest block.
        """
        self._chains = chains
        self._waiting = waiting
        self.why = chains.why if isinstance(chains, NoChains) else ""
        self._accounts: dict[str, Meter] = {}
        self._governed = 0
        self._everyone = state
        with self._leaving_damage():
            self._accounts = chains.accounts()
            self._governed = chains.governed()
        self._stand(state)

    @property
    def is_kept(self) -> bool:
        return self._chains.is_kept

    def speaks_of(self, meter: Meter) -> bool:
        """Whether anything is known of where the meter's chain stands: what was acknowledged is
        never taken back because a file is damaged."""
        return self.is_kept or not meter.is_private

    @contextmanager
    def _leaving_damage(self) -> Iterator[None]:
        """Where the store proves damaged it is not asked any more: blocks go on, and what was kept
        in it stays there for whoever restores it."""
        try:
            yield
        except StoreDamaged as error:
            self.why = str(error)
            self._chains = NoChains(self.why)
            for name, meter in self._everyone.meters.items():
                if meter.is_private:
                    self._waiting.forget(name)
            self._stand(self._everyone)

    @property
    def everyone(self) -> State:
        """The community, each meter as its chain stands."""
        return self._everyone

    def recover(self, authority: Sequence[Record]) -> list[tuple[Record, Rejected]]:
        """Goes on from what the last run left.

        Args:
            authority: the records that act in the state.

        Returns:
            What waited and has no place any more; for `let_go`, once a new epoch has begun.
        """
        outlived: list[tuple[Record, Rejected]] = []
        with self._leaving_damage():
            outlived = self._recover(authority)
        return outlived if self.is_kept else []

    def _recover(self, authority: Sequence[Record]) -> list[tuple[Record, Rejected]]:
        # A run that ended between the block's commit and its own of `govern` had not acted on them.
        accounts = self._acted(self._everyone, authority)
        if accounts:
            self.govern(Governed(accounts, len(authority)), self._everyone)
        outlived: list[tuple[Record, Rejected]] = []
        for raw in self._chains.pending():
            try:
                record, body, meter = open_record(self._everyone, raw)
                head = follow(meter, self._waiting.head(meter), record, body)
            except Rejected as refused:
                outlived.append((_reopened(raw, refused), refused))
                continue
            self._waiting.add(record, body, head)
        return outlived

    def let_go(self, outlived: Sequence[tuple[Record, Rejected]]) -> None:
        """Forgets what waited and has no place any more."""
        if outlived:
            with self._leaving_damage():
                self._chains.govern(Governed(dropped=tuple(outlived)))

    def identity_at(self, meter: str, sequence: int) -> bytes | None:
        known: list[bytes | None] = []
        with self._leaving_damage():
            known.append(self._chains.identity_at(meter, sequence))
        return known[0] if known else None

    def owns(self, name: str) -> bool:
        """Whether a meter of this name is for consumption."""
        meter = self._everyone.meters.get(name)
        return meter is not None and meter.is_private

    def accept(self, accepted: Sequence[Record], refusals: Sequence[Refusal]) -> None:
        """Keeps what the door let through, and what it refused that is evidence; all of it, or
        nothing is kept any more."""
        signed = [one for one in refusals if one.raw is not None]
        with self._leaving_damage():
            if accepted:
                self._chains.accept(accepted)
            if signed:
                self._chains.keep_evidence(signed)
        if not self.is_kept:
            return
        names = {one.body.meter for one in accepted if isinstance(one.body, ChainRecord)}
        self._waiting.offer(self._proposal, names=sorted(names))

    def advance(self, present: int, at_ms: int) -> None:
        """Judges what waits as at the end of the next step. The same again, after a run that ended
        behind it, finds nothing left to do.

        Args:
            present: the step of now.
            at_ms: the time, ms since the Unix epoch.
        """
        with self._leaving_damage():
            self._advance(present, at_ms)

    def _advance(self, present: int, at_ms: int) -> None:
        names = [meter.name for meter in self._everyone.meters.values() if meter.is_private]
        self._waiting.offer(self._proposal, present, names)
        moved = [name for name in names if self._proposal.count(name)]
        if not moved:
            return
        applied = self._proposal.finish()
        energies: dict[tuple[str, int], int] = {}
        aside: dict[tuple[str, Reason], int] = {}
        for verdict in applied.verdicts:
            body = verdict.record.body
            assert isinstance(body, ChainRecord)  # noqa: S101 - a proposal without other leaves
            if verdict.reason is not None:
                cause = (body.meter, verdict.reason)
                aside[cause] = aside.get(cause, 0) + 1
            elif isinstance(body, StepClose) and verdict.since_step is None:
                # What was consumed in several steps is known of none of them: a night's consumption
                # must not claim the energy of the noon at which its meter is heard again.
                energies[body.meter, body.step] = verdict.energy_uwh
        accounts = {name: applied.after.meters[name] for name in moved}
        self._chains.advance(Advance(applied.step, at_ms, accounts, energies, aside))
        self._waiting.release(self._proposal, (), moved)
        self._accounts |= accounts
        self._stand(self._everyone)

    def acting(self, after: State, records: Sequence[Record]) -> Governed:
        """What these records of the authority come to; for `govern`, once they stand in a block.

        Args:
            after: the community after that block.
        """
        if not self.is_kept:
            return Governed()
        accounts = self._acted(after, records)
        dropped: list[tuple[Record, Rejected]] = []
        for meter in accounts.values():
            dropped += self._waiting.outlived(meter, self._proposal)
        return Governed(accounts, after.authority.sequence, tuple(dropped))

    def govern(self, governed: Governed, after: State) -> None:
        """Goes on in the community after a block, whose authority records act."""
        if governed.accounts:
            with self._leaving_damage():
                self._chains.govern(governed)
            self._accounts |= governed.accounts
            self._governed = max(self._governed, governed.authority)
        self._stand(after)

    def _acted(self, after: State, acting: Iterable[Record]) -> dict[str, Meter]:
        """The accounts behind authority records, of the meters they are about."""
        # Not yet those that these records register: the ledger's state has them already.
        meters = {name: one for name, one in after.meters.items() if not one.is_private}
        state = replace(after, meters={**meters, **self._accounts})
        touched: dict[str, Meter] = {}
        for record in acting:
            name, body = meter_of(record), record.body
            # A store that is newer than the ledger's has acted on some already.
            if isinstance(body, AuthorityRecord) and body.sequence < self._governed:
                continue
            if name not in after.meters or not after.meters[name].is_private:
                continue
            try:
                state = act(state, record)
            except Rejected:
                # As in the ledger; or a re-anchor to a place that only this chain has passed.
                continue
            touched[name] = state.meters[name]
        return touched

    def _stand(self, state: State) -> None:
        private = {
            name: self._accounts.get(name, meter)
            for name, meter in state.meters.items()
            if meter.is_private
        }
        self._everyone = replace(state, meters={**state.meters, **private}) if private else state
        self._proposal = Proposal(self._everyone, state.step + 1, is_private=True)


def _reopened(raw: bytes, refused: Rejected) -> Record:
    """A record that waited and is refused now, if it is at least a record.

    Raises:
        StoreDamaged: it is none, or its key never signed it.
    """
    if refused.reason in (Reason.MALFORMED, Reason.NOT_CANONICAL, Reason.BAD_SIGNATURE):
        raise StoreDamaged(f"the private store holds what it cannot have accepted: {refused}")
    return decode(raw)


def masked(refusals: Iterable[Refusal]) -> list[Refusal]:
    """The same refusals for a store that others read: nothing of what was consumed."""
    return [
        replace(one, detail="kept in the private store", raw=None) if one.raw is not None else one
        for one in refusals
    ]
