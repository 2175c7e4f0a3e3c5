"""Chains for consumption in the private store: `Chains` in SQLite, and whose each meter is."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cryptometer.chain_records import ChainRecord
from cryptometer.errors import Reason, Rejected
from cryptometer.meter import Meter
from cryptometer.records import Record
from cryptometer.snapshot import decode_meter, encode_meter
from gateway.private import PrivateStore
from gateway.private_path import Advance, Governed
from gateway.store import EVIDENCE_MAX, EVIDENCE_OF_ONE_MAX, Refusal, StoreDamaged

# What a meter has signed is kept for so long, for whoever disputes a bill, and what it said of each
# step, for a member who is named later: the default late window. Some 3 MB of a meter.
KEPT_STEPS = 35 * 96
_METER = "meter:"  # what the source of a consumption begins with


@dataclass(frozen=True, slots=True)
class Binding:
    """Whose a meter is, from a step on; "" is nobody's."""

    meter: str
    from_step: int
    member: str


@dataclass(frozen=True, slots=True)
class Metered:
    """What is kept of a meter for consumption.

    Attributes:
        account: where its chain stands.
        waiting: records accepted that wait for their step's end.
        kept: records kept beside them.
        aside: records without effect, by reason.
        evidence: records that it signed against its own chain.
    """

    account: Meter
    waiting: int
    kept: int
    aside: Mapping[str, int]
    evidence: int


class PrivateChains(PrivateStore):
    """A private store that keeps chains, too. One gateway writes chains; whose a meter is may be
    said beside it."""

    is_kept = True

    # --- For the gateway. ---

    def accounts(self) -> dict[str, Meter]:
        with self._reading():
            rows = self._connection.execute("SELECT state FROM accounts ORDER BY meter").fetchall()
        try:
            meters = [decode_meter(raw) for (raw,) in rows]
        except (Rejected, ValueError, TypeError) as error:
            raise StoreDamaged(f"the private store is damaged: an account: {error}") from error
        return {meter.name: meter for meter in meters}

    def governed(self) -> int:
        with self._reading():
            (count,) = self._connection.execute(
                "SELECT value FROM meta WHERE key = 'governed'"
            ).fetchone()
        return int(count)

    def pending(self) -> list[bytes]:
        with self._reading():
            rows = self._connection.execute(
                "SELECT raw FROM records WHERE is_waiting ORDER BY meter, sequence"
            ).fetchall()
        if not all(isinstance(raw, bytes) for (raw,) in rows):
            raise StoreDamaged("the private store is damaged: no record where one was")
        return [raw for (raw,) in rows]

    def identity_at(self, meter: str, sequence: int) -> bytes | None:
        with self._reading():
            row = self._connection.execute(
                "SELECT identity FROM records WHERE meter = ? AND sequence = ?", (meter, sequence)
            ).fetchone()
        return None if row is None else bytes(row[0])

    def accept(self, accepted: Sequence[Record]) -> None:
        with self._writing():
            self._connection.executemany(
                "INSERT INTO records VALUES (?, ?, ?, 1, ?, ?)",
                [
                    (body.meter, body.sequence, body.step, record.identity, record.raw)
                    for record in accepted
                    if isinstance(body := record.body, ChainRecord)
                ],
            )

    def advance(self, advance: Advance) -> None:
        with self._writing():
            self._put_accounts(advance.accounts)
            self._connection.executemany(
                "UPDATE records SET is_waiting = 0 WHERE is_waiting AND meter = ? AND sequence < ?",
                [(name, one.head.sequence) for name, one in advance.accounts.items()],
            )
            self._connection.executemany(
                "INSERT OR REPLACE INTO metered VALUES (?, ?, ?)",
                [(*place, energy_uwh) for place, energy_uwh in advance.energies_uwh.items()],
            )
            self._connection.executemany(
                "INSERT INTO aside VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
                " SET count = count + excluded.count",
                [(name, reason.value, count) for (name, reason), count in advance.aside.items()],
            )
            self._forget(advance.step - KEPT_STEPS)
            self._consume(advance.energies_uwh, advance.at_ms, is_newest=True)

    def govern(self, governed: Governed) -> None:
        with self._writing():
            self._put_accounts(governed.accounts)
            self._connection.executemany(
                "DELETE FROM records WHERE is_waiting AND meter = ? AND sequence = ?",
                [
                    (body.meter, body.sequence)
                    for record, _ in governed.dropped
                    if isinstance(body := record.body, ChainRecord)
                ],
            )
            self._connection.execute(
                "UPDATE meta SET value = max(value, ?) WHERE key = 'governed'",
                (governed.authority,),
            )

    def keep_evidence(self, refusals: Sequence[Refusal]) -> None:
        with self._writing():
            for one in refusals:
                (whole, own, same) = self._connection.execute(
                    "SELECT count(*), coalesce(sum(meter = ?), 0), coalesce(sum(raw = ?), 0)"
                    " FROM evidence",
                    (one.meter, one.raw),
                ).fetchone()
                if not same and own < EVIDENCE_OF_ONE_MAX and whole < EVIDENCE_MAX:
                    self._connection.execute(
                        "INSERT INTO evidence (meter, reason, detail, at_ms, raw)"
                        " VALUES (?, ?, ?, ?, ?)",
                        (one.meter, one.reason.value, one.detail, one.at_ms, one.raw),
                    )

    # --- For people. ---

    def bind(self, meter: str, member: str, from_step: int, at_ms: int) -> None:
        """Says whose a meter is, from a step on and in place of all that was said of later ones.
        What it has said of those steps becomes the member's consumption, and no one else's.

        Args:
            member: "" is nobody's.
            at_ms: the time, ms since the Unix epoch.

        Raises:
            StoreFailed: it was not written.
        """
        with self._writing():
            steps = [
                step
                for (step,) in self._connection.execute(
                    "SELECT step FROM metered WHERE meter = ? AND step >= ?", (meter, from_step)
                ).fetchall()
            ]
            before = {step: owner for step in steps if (owner := self._owner(meter, step))}
            self._connection.execute(
                "DELETE FROM bindings WHERE meter = ? AND from_step >= ?", (meter, from_step)
            )
            self._connection.execute(
                "INSERT INTO bindings VALUES (?, ?, ?)", (meter, from_step, member)
            )
            for step, owner in before.items():
                if owner != member:
                    self._retract(owner, step)
            self._consume([(meter, step) for step in steps], at_ms, is_newest=False)
            # Those who share a step with the meter no longer have it in their sum.
            others = {
                (other, step)
                for step, owner in before.items()
                for other in self._meters_of(owner, step)
            }
            self._consume(sorted(others), at_ms, is_newest=False)

    def bindings(self) -> list[Binding]:
        """Whose each meter is, by meter and first step."""
        with self._reading():
            rows = self._connection.execute(
                "SELECT meter, from_step, member FROM bindings ORDER BY meter, from_step"
            ).fetchall()
        return [Binding(*row) for row in rows]

    def metered(self) -> list[Metered]:
        """What is kept of each meter, by meter."""
        return [
            Metered(
                account,
                self._count("records WHERE is_waiting AND meter = ?", name),
                self._count("records WHERE NOT is_waiting AND meter = ?", name),
                self._reasons(name),
                self._count("evidence WHERE meter = ?", name),
            )
            for name, account in self.accounts().items()
        ]

    def evidence(self) -> list[Refusal]:
        """What meters have signed against their own chains, oldest first."""
        with self._reading():
            rows = self._connection.execute(
                "SELECT meter, reason, detail, at_ms, raw FROM evidence ORDER BY number"
            ).fetchall()
        return [Refusal(one, Reason(why), said, at_ms, raw) for one, why, said, at_ms, raw in rows]

    def _count(self, what: str, meter: str) -> int:
        with self._reading():
            (count,) = self._connection.execute(
                f"SELECT count(*) FROM {what}",  # noqa: S608
                (meter,),
            ).fetchone()
        return int(count)

    def _reasons(self, meter: str) -> dict[str, int]:
        with self._reading():
            return dict(
                self._connection.execute(
                    "SELECT reason, count FROM aside WHERE meter = ? ORDER BY reason", (meter,)
                ).fetchall()
            )

    # --- Inside a transaction. ---

    def _put_accounts(self, accounts: Mapping[str, Meter]) -> None:
        self._connection.executemany(
            "INSERT OR REPLACE INTO accounts VALUES (?, ?)",
            [(name, encode_meter(one)) for name, one in accounts.items()],
        )

    def _forget(self, oldest: int) -> None:
        """Lets go of what is older than a step, or waited while its member was erased."""
        for table, judged in (("records", "NOT is_waiting AND"), ("metered", "")):
            self._connection.execute(
                f"DELETE FROM {table} WHERE {judged} step < ?",  # noqa: S608
                (oldest,),
            )
            self._connection.execute(
                f"DELETE FROM {table} WHERE {judged} EXISTS (SELECT 1 FROM forgotten"  # noqa: S608
                f" WHERE forgotten.meter = {table}.meter AND {table}.step <= forgotten.step)"
            )

    def _consume(self, places: Iterable[tuple[str, int]], at_ms: int, *, is_newest: bool) -> None:
        """Makes what meters have said of steps the consumption of whose they are: the sum of all
        that are the member's, once each of them has said it.

        Args:
            places: meters and steps.
            is_newest: it takes the place of what a file has said, too.
        """
        found: dict[tuple[str, str], dict[int, int]] = {}
        for step, member in sorted(
            {(step, owner) for meter, step in places if (owner := self._owner(meter, step))}
        ):
            meters = self._meters_of(member, step)
            said = [self._said(one, step) for one in meters]
            energies = [one for one in said if one is not None]
            source = _METER + "+".join(meters)
            known = self._source_of(member, step)
            if len(energies) < len(said) or not (is_newest or (known or _METER).startswith(_METER)):
                continue
            found.setdefault((member, source), {})[step] = sum(energies)
        for (member, source), sums in found.items():
            self._take(member, sums, (source, at_ms, False))

    def _retract(self, member: str, step: int) -> None:
        """What meters have said of a member's step is not known any more; it is kept as what was
        known once."""
        if (self._source_of(member, step) or "").startswith(_METER):
            self._supersede(member, [step])
            self._connection.execute(
                "DELETE FROM consumption WHERE member = ? AND step = ?", (member, step)
            )

    def _owner(self, meter: str, step: int) -> str:
        row = self._connection.execute(
            "SELECT member FROM bindings WHERE meter = ? AND from_step <= ?"
            " ORDER BY from_step DESC LIMIT 1",
            (meter, step),
        ).fetchone()
        return "" if row is None else str(row[0])

    def _meters_of(self, member: str, step: int) -> list[str]:
        rows = self._connection.execute(
            "SELECT DISTINCT meter FROM bindings WHERE member = ? AND from_step <= ?"
            " ORDER BY meter",
            (member, step),
        ).fetchall()
        return [meter for (meter,) in rows if self._owner(meter, step) == member]

    def _said(self, meter: str, step: int) -> int | None:
        row = self._connection.execute(
            "SELECT energy_uwh FROM metered WHERE meter = ? AND step = ?", (meter, step)
        ).fetchone()
        return None if row is None else int(row[0])

    def _source_of(self, member: str, step: int) -> str | None:
        row = self._connection.execute(
            "SELECT name FROM consumption JOIN sources ON source = number"
            " WHERE member = ? AND step = ?",
            (member, step),
        ).fetchone()
        return None if row is None else str(row[0])
