"""A month of a community in simulated time, the gateway and its virtual power plant as they are:
ten members and four generators; members join and one leaves, a meter is replaced, two are isolated
for days, consumption comes as files in local time, days late, once corrected, and never for one
member's last days. Clocks are put back in its fourth week.

What it must come to is reckoned from the facts by another implementation of the rule, written from
the documentation alone.

    python -m tests.simulation.month
"""

import csv
import math
import os
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from zoneinfo import ZoneInfo

from cryptometer import audit
from cryptometer.block import Checked
from cryptometer.chain_records import Ending
from cryptometer.community import trust
from cryptometer.curve_template import read_template
from cryptometer.judging import Rule
from cryptometer.load_curve import read_load_curve
from cryptometer.local_calendar import steps_of_day
from cryptometer.record_fields import Role
from cryptometer.records import Record
from cryptometer.share_file import verify_share
from cryptometer.sharing_records import Claim, Distribution, Method
from cryptometer.steps import step_start_ms
from gateway.exports.gathering import Gathered
from gateway.exports.source import Source
from gateway.exports.virtual_meter import virtual_meter_csv
from gateway.private import PrivateStore
from gateway.private_reading import open_opening
from gateway.share import make_share
from gateway.sqlite_file import create_store
from gateway.sqlite_store import SqliteStore
from tests.core.community import DETAILS, LOT_PULSES, PULSE_UWH, STEP_S, Device
from tests.gateway.kit import Site
from tests.keys import signer
from tests.peers import sharing_peer
from tests.peers.sharing_peer import Account

ZONE = ZoneInfo("Europe/Brussels")
MEMBERS = ("anna", "bart", "clio", "daan", "elke", "fien", "gust", "hugo", "inge", "joke")
FOUNDERS = 8  # of them are there from the beginning
GENERATORS = 4
PEAK_PULSES = 120  # of a step at noon: 48 W for each generator, at 10,000 imp/kWh
NEED_MAX_WH = 3  # of a member's step
SHARES = 12  # that are made and verified in the end
UWH_PER_WH = 10**6
TEMPLATE = read_template(
    {
        "time": "moment",
        "zone": "Europe/Brussels",
        "stamp": "begin",
        "time_format": "%d/%m/%Y %H:%M",
        "interval_minutes": 15,
        "unit": "kWh",
        "decimal_comma": True,
    },
    "the month's template",
)


@dataclass(frozen=True, slots=True)
class File:
    """A file of consumption: of which days, and on which day's noon it comes; days are counted from
    the month's first.

    Attributes:
        is_corrected: it says other amounts than the facts were at first, and these are right.
        without: a member whose column it lacks.
    """

    first: int
    days: int
    comes: int
    is_corrected: bool = False
    without: str = ""


@dataclass(frozen=True, slots=True)
class Isolated:
    """A meter that nobody hears from the noon of a day to that of another; it counts on."""

    meter: int
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens; days are counted from the first.

    Attributes:
        join, leave: at whose beginning another agreement holds.
        swap: the day of which a new meter with a new board takes the place of an old one, at 9.
        never: the first of the days of which one member's consumption never comes.
        restarts: days at whose noon the gateway starts anew.
    """

    first: date
    days: int
    join: int
    swap: int
    leave: int
    never: int
    isolated: tuple[Isolated, ...]
    files: tuple[File, ...]
    restarts: tuple[int, ...]

    @property
    def steps(self) -> range:
        end = self.first + timedelta(days=self.days)
        return range(self.of_day(0).start, steps_of_day(end, STEP_S, ZONE).start)

    def of_day(self, day: int) -> range:
        return steps_of_day(self.first + timedelta(days=day), STEP_S, ZONE)


def _files(days: int, never: int, late: range, late_comes: int) -> Iterator[File]:
    """A file of two days on the day after them; those of some days come late, all in one; those of
    the last days lack a member."""
    day = 0
    while day < days - 1:  # nothing comes of the last day
        if day == late.start:
            yield File(late.start, len(late), late_comes)
            day = late.stop
            continue
        until = min(day + 2, days - 1, never if day < never else days)
        if day < late.start:
            until = min(until, late.start)
        without = MEMBERS[FOUNDERS - 1] if day >= never else ""
        yield File(day, until - day, until, without=without)
        day = until


OCTOBER = Scenario(
    first=date(2026, 10, 1),
    days=31,
    join=8,
    swap=12,
    leave=20,
    never=29,
    isolated=(Isolated(2, 5, 8), Isolated(3, 23, 27)),
    files=(
        *_files(31, 29, range(14, 18), 23),
        File(10, 1, 15, is_corrected=True),
        File(24, 1, 28, is_corrected=True),
    ),
    restarts=(3, 15, 23, 27),
)
SHORT = Scenario(
    first=date(2026, 10, 23),
    days=6,
    join=1,
    swap=2,
    leave=4,
    never=4,
    isolated=(Isolated(2, 1, 3), Isolated(3, 3, 5)),
    files=(*_files(6, 4, range(1, 3), 4), File(2, 1, 5, is_corrected=True)),
    restarts=(3,),
)


@dataclass
class Facts:
    """What really happened, by step.

    Attributes:
        used: of each member, µWh.
        corrected: what a later file says instead.
        arrived: by the block in which a meter's energy came, of each meter, µWh.
        told: by the block before which a file came: what it says of members.
    """

    used: dict[int, dict[str, int]] = field(default_factory=dict)
    corrected: dict[int, dict[str, int]] = field(default_factory=dict)
    arrived: dict[int, dict[int, Counter[str]]] = field(default_factory=dict)
    told: dict[int, list[tuple[int, dict[str, int]]]] = field(default_factory=dict)

    def needs(self, step: int, block: int) -> dict[str, int]:
        """What is known before a block is sealed."""
        known: dict[str, int] = {}
        for at, said in self.told.get(step, []):
            if at <= block:
                known |= said
        return known

    def energy(self, step: int, block: int) -> Counter[str]:
        """What has come up to a block."""
        arrivals = self.arrived.get(step, {}).items()
        return sum((some for at, some in arrivals if at <= block), Counter[str]())


@dataclass(frozen=True, slots=True)
class Terms:
    """An agreement as the test knows it: from which step, and the rule."""

    from_step: int
    members: tuple[str, ...]
    rule: sharing_peer.Rule


class Month:
    """The community, from its first block to the end of the month."""

    def __init__(self, folder: Path, scenario: Scenario, seed: int = 1) -> None:
        self.scenario = scenario
        self.draw = random.Random(seed)
        self.facts = Facts()
        self.terms: list[Terms] = []
        self.private = PrivateStore(folder / "private.db")
        self._private_path = folder / "private.db"
        create_store(folder / "store.db", 1)
        self.store = SqliteStore(folder / "store.db")
        first = scenario.steps.start - 2
        self.site = Site(GENERATORS, store=self.store, facts=self.private, first_step=first)
        self.site.found()
        # Of each meter: what nobody has heard yet, and the energy in it by step.
        self._waiting: dict[str, list[Record]] = defaultdict(list)
        self._unsent: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._register(*MEMBERS[:FOUNDERS])
        self._agree(scenario.steps.start, MEMBERS[:FOUNDERS], Method.PRO_RATA)
        self.site.seal()
        assert self.site.next_step == scenario.steps.start
        self._swapped_at = scenario.of_day(scenario.swap).start + 36  # 9 o'clock

    def close(self) -> None:
        self.store.close()
        self.private.close()

    # --- The authority. ---

    def _register(self, *names: str) -> None:
        for name in names:
            key = signer(100 + MEMBERS.index(name)).public
            self._govern(self.site.authority.register(Role.MEMBER, name, key))

    def _govern(self, *signed: Record) -> None:
        self.site.node.take_authority([record.raw for record in signed])

    def _agree(
        self,
        from_step: int,
        members: Sequence[str],
        method: Method,
        *,
        rounds: int = 1,
        losses: Fraction | None = None,
        fee: Fraction | None = None,
    ) -> None:
        claims = [Claim(name, 1 + at % 3, at % 2) for at, name in enumerate(sorted(members))]
        if method is Method.PRO_RATA:
            claims = [replace(one, priority=0) for one in claims]
        self._govern(
            self.site.authority.agree(
                from_step,
                claims,
                method,
                capped=True,
                rounds=rounds,
                losses=losses,
                fee=fee,
                fee_to=None if fee is None else "coop",
            )
        )
        rule = sharing_peer.Rule(
            method.value,
            True,
            rounds,
            [sharing_peer.Claim(c.member, c.weight, c.priority, None, 0) for c in claims],
            losses or Fraction(0),
            fee or Fraction(0),
        )
        self.terms.append(Terms(from_step, tuple(sorted(members)), rule))

    def terms_of(self, step: int) -> Terms:
        return [one for one in self.terms if one.from_step <= step][-1]

    # --- Life. ---

    def live(self) -> None:
        """The whole month, and a block more."""
        for day in range(self.scenario.days):
            steps = self.scenario.of_day(day)
            self._change_agreement(day)
            for quarter, step in enumerate(steps):
                self._draw_consumption(step)
                self._count(day, quarter, step)
                if quarter == 48:
                    self._noon(day)
                self._swap(step)
                self.site.seal()
                assert self.site.node.state.step == step
        last = self.scenario.days
        for file in self.scenario.files:
            assert file.comes < last, "every file comes within the month"
        self.site.seal()

    def _change_agreement(self, day: int) -> None:
        """The evening before another agreement begins, it is signed and imported."""
        scenario = self.scenario
        if day == scenario.join:
            return
        tomorrow = scenario.of_day(day + 1).start
        if day + 1 == scenario.join:
            self._register(*MEMBERS[FOUNDERS:])
            self.site.at(self.site.next_step + 1, 0)
            parts = {"losses": Fraction(1, 50), "fee": Fraction(1, 100)}
            self._agree(tomorrow, MEMBERS, Method.KEYS, rounds=3, **parts)
        if day + 1 == scenario.leave:
            staying = [name for name in MEMBERS if name != "daan"]
            self._agree(tomorrow, staying, Method.EQUAL, rounds=4, fee=Fraction(1, 100))

    def _draw_consumption(self, step: int) -> None:
        draw = self.draw
        used = {name: draw.randrange(NEED_MAX_WH * 1_000) * 1_000 for name in MEMBERS}
        self.facts.used[step] = used
        self.facts.corrected[step] = {
            name: draw.choice((amount, amount // 2, 2 * amount)) for name, amount in used.items()
        }

    def _count(self, day: int, quarter: int, step: int) -> None:
        """What the generators' devices do in a step; who is isolated sends nothing."""
        for number, device in enumerate(self.site.devices[:GENERATORS]):
            made: list[Record] = []
            if device.name == "m1" and self._swapped_at <= step < self._swapped_at + 3:
                continue  # the old one is away, and the new one not there yet
            if device.sequence == 0:
                made.append(device.run_start(step))
            elif device.name == "m1" and step == self._swapped_at + 3:
                since_ms = step_start_ms(self._swapped_at, STEP_S)
                ending = Ending.UNKNOWN
                made.append(device.run_start(step, unwatched_ms=since_ms, ending=ending))
            pulses = self._sun(day, quarter)
            lots = [LOT_PULSES] * (pulses // LOT_PULSES)
            if pulses % LOT_PULSES:
                lots.append(pulses % LOT_PULSES)
            made += device.step(step, *lots)
            self._waiting[device.name] += made
            self._unsent[device.name].append((step, pulses * PULSE_UWH))
            if not self._is_isolated(number, day, quarter):
                self._send(device.name, step)

    def _send(self, meter: str, block: int) -> None:
        """All that a device has comes before a block."""
        self.site.send(*self._waiting.pop(meter, []))
        for step, energy_uwh in self._unsent.pop(meter, []):
            if energy_uwh:
                arrived = self.facts.arrived.setdefault(step, {})
                arrived.setdefault(block, Counter())[meter] += energy_uwh

    def _is_isolated(self, number: int, day: int, quarter: int) -> bool:
        return any(
            one.meter == number and (one.first, 48) <= (day, quarter) < (one.end, 48)
            for one in self.scenario.isolated
        )

    def _sun(self, day: int, quarter: int) -> int:
        """Pulses of a generator in a quarter of an hour after midnight, some ten hours of light."""
        since = quarter - 29
        if not 0 < since < 42:
            return 0
        cloud = random.Random(day).uniform(0.3, 1)
        return round(PEAK_PULSES * cloud * math.sin(math.pi * since / 42) * self.draw.random())

    def _swap(self, step: int) -> None:
        """A new meter with a new board: registered under the same name, and the chain is anchored
        where it stands, as the commands of the authority do it."""
        if step != self._swapped_at:
            return
        site, old = self.site, self.site.devices[1]
        head = site.node.state.meters["m1"].head
        assert (head.sequence, head.register) == (old.sequence, old.register)
        details = replace(DETAILS, serial="MID-0002", index_wh=12)
        key = signer(50)
        registered = site.authority.register(Role.METER, "m1", key.public, details, step + 1)
        anchor = site.authority.re_anchor("m1", head.sequence, head.register or 0)
        self._govern(registered, anchor)
        new = Device(site.id, "m1", key, registered)
        new.go_on_from(anchor)
        site.devices[1] = new

    def _noon(self, day: int) -> None:
        for file in self.scenario.files:
            if file.comes == day:
                self._import(file)
        if day in self.scenario.restarts:
            self.site.start()

    # --- Consumption. ---

    def _import(self, file: File) -> None:
        """A file comes before the next block."""
        curve = read_load_curve([self._text(file).encode()], TEMPLATE, ZONE, STEP_S)
        assert not any(series.gaps() for series in curve.members.values())
        for name, series in curve.members.items():
            self.private.put(name, series.energies_uwh, "file:month", 1)
        facts, block = self.facts, self.site.next_step
        for day in range(file.first, file.first + file.days):
            for step in self.scenario.of_day(day):
                said = facts.corrected[step] if file.is_corrected else facts.used[step]
                known = {name: said[name] for name in MEMBERS if name != file.without}
                facts.told.setdefault(step, []).append((block, known))

    def _text(self, file: File) -> str:
        """The file as a grid operator writes it: local time without an offset."""
        names = [name for name in MEMBERS if name != file.without]
        lines = [";".join(["moment", *names])]
        for day in range(file.first, file.first + file.days):
            for step in self.scenario.of_day(day):
                said = self.facts.corrected[step] if file.is_corrected else self.facts.used[step]
                at = datetime.fromtimestamp(step * STEP_S, UTC).astimezone(ZONE)
                cells = [_kwh(said[name]) for name in names]
                lines.append(";".join([f"{at:%d/%m/%Y %H:%M}", *cells]))
        return "\n".join(lines) + "\n"


def _kwh(energy_uwh: int) -> str:
    """With a decimal comma, exactly."""
    return f"{energy_uwh // 10**9},{energy_uwh % 10**9:09}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a month came to; energies in µWh.

    Attributes:
        distributions: of them, `supplements` were not their step's first, and `corrections` of
            those brought no new energy.
        quarters: of the day that clocks were put back on.
    """

    blocks: int
    leaves: int
    produced: int
    allotted: int
    surplus: int
    waiting: int
    losses: int
    fees: int
    distributions: int
    supplements: int
    corrections: int
    quarters: int


def check(month: Month) -> Outcome:
    """Audits the ledger, and compares it with what the facts give by another implementation.

    Raises:
        AssertionError: they differ.
    """
    site = month.site
    blocks: list[Checked] = []
    steps = month.scenario.steps
    authority = site.store.authority()
    gathered = Gathered(steps, dict.fromkeys(_registrations(month), "MID"))

    def watch(checked: Checked) -> None:
        blocks.append(checked)
        gathered.take(checked)

    report = audit.audit(
        site.tree.read,
        site.community(),
        watch=watch,
        openings=month.private.openings(None, None),
    )
    assert not report.findings, report.findings
    assert not report.quarantined, report.quarantined
    # Every distribution, also those from before a correction: with all openings none is hidden.
    assert set(report.rules) <= {Rule.RECOMPUTED}, report.rules
    accounts, numbers = _recompute(month, blocks)
    members = sum((Counter(one.members) for one in accounts.values()), Counter[str]())
    waiting = _waiting(month)
    produced = sum(
        sum(some.values()) for at in month.facts.arrived.values() for some in at.values()
    )
    balance = report.state.balance
    found = (balance.allocated, balance.losses, balance.fees, balance.surplus, balance.waiting)
    expected = (
        members.total(),
        sum(one.losses for one in accounts.values()),
        sum(one.fee for one in accounts.values()),
        sum(one.surplus for one in accounts.values()),
        waiting,
    )
    assert found == expected, (found, expected)
    assert balance.registered == produced == sum(expected)
    assert dict(report.state.accounts) == {name: one for name, one in members.items() if one}
    _check_virtual_meters(month, gathered, report, accounts)
    _check_shares(month, accounts)
    known = trust(authority[0], authority[1:])
    assert known.id == site.id
    change = date(2026, 10, 25)
    return Outcome(
        report.blocks,
        report.checkpoint.size,
        produced,
        balance.allocated,
        balance.surplus,
        balance.waiting,
        balance.losses,
        balance.fees,
        *numbers,
        len(steps_of_day(change, STEP_S, ZONE)),
    )


def _registrations(month: Month) -> list[bytes]:
    meters = month.site.node.state.meters.values()
    return [terms.registration for meter in meters for terms in meter.terms]


def _recompute(
    month: Month, blocks: Sequence[Checked]
) -> tuple[dict[int, Account], tuple[int, int, int]]:
    """Each step's account as the facts give it, each distribution's outputs among it; and how many
    distributions, supplements and corrections there were."""
    facts = month.facts
    accounts: dict[int, Account] = {}
    spent: Counter[int] = Counter()
    distributions = supplements = corrections = 0
    for checked in blocks:
        for verdict in checked.verdicts:
            body = verdict.record.body
            if not isinstance(body, Distribution):
                continue
            assert verdict.reason is None, verdict
            step, block = body.step, checked.state.step
            terms = month.terms_of(step)
            energy = facts.energy(step, block)
            new = energy.total() - spent[step]
            assert sum(one.energy_uwh for one in body.inputs) == new, (step, block)
            needs = facts.needs(step, block)
            whole = sharing_peer.rule(terms.rule, dict(energy), needs, None)
            before = accounts.get(step) or Account(dict.fromkeys(terms.members, 0), 0, 0, 0)
            after, back = sharing_peer.supplement(before, whole, new)
            given = {name: after.members[name] - before.members[name] for name in terms.members}
            outputs = {one.member: one.energy_uwh for one in body.outputs}
            assert outputs == {name: one for name, one in given.items() if one}, (step, block)
            said = (body.losses_uwh, body.fee_uwh, body.surplus_uwh, body.from_surplus_uwh)
            left = after.surplus - before.surplus + back
            assert said == (after.losses - before.losses, after.fee - before.fee, left, back)
            accounts[step], spent[step] = after, energy.total()
            distributions += 1
            supplements += body.supplement > 0
            corrections += not body.inputs
    for step, account in accounts.items():
        # Nothing is owed any more, by all that is known now.
        terms, energy = month.terms_of(step), facts.energy(step, month.site.next_step)
        assert energy.total() == spent[step]
        needs = facts.needs(step, month.site.next_step)
        whole = sharing_peer.rule(terms.rule, dict(energy), needs, None)
        assert sharing_peer.supplement(account, whole, 0)[0] == account, step
    return accounts, (distributions, supplements, corrections)


def _waiting(month: Month) -> int:
    """The energy of the steps of which some consumption never came."""
    end = month.site.next_step
    return sum(
        month.facts.energy(step, end).total()
        for step in month.scenario.steps
        if not month.facts.needs(step, end).keys() >= set(month.terms_of(step).members)
    )


def _check_virtual_meters(
    month: Month, gathered: Gathered, report: audit.Report, accounts: Mapping[int, Account]
) -> None:
    """What the file of virtual meters says, read as anybody would, adds up to the facts."""
    state = report.state
    source = Source(month.site.id, "month", report.checkpoint, state.step, STEP_S)
    used = {step: month.private.of(step) for step in month.scenario.steps}
    text = virtual_meter_csv(gathered.allotments(state, used), source)
    totals: Counter[str] = Counter()
    market: Counter[str] = Counter()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for row in csv.DictReader(lines):
        step, name = int(row["step"]), row["member"]
        account = accounts.get(step)
        if row["virtual_generation_uwh"]:
            energy = int(row["virtual_generation_uwh"])
            assert energy == (account.members[name] if account else 0), (step, name)
            totals[name] += energy
        if row["market_face_uwh"]:
            market[name] += int(row["market_face_uwh"])
            needs = month.facts.needs(step, state.step)[name]
            assert int(row["market_face_uwh"]) == needs - int(row["virtual_generation_uwh"])
    assert {name: one for name, one in totals.items() if one} == dict(state.accounts)
    assert market.total()


def _check_shares(month: Month, accounts: Mapping[int, Account]) -> None:
    """Shares of random members and steps prove what the facts give, those of the hour that comes
    twice among them."""
    site = month.site
    authority = site.store.authority()
    known = trust(authority[0], authority[1:])
    draw = random.Random(1)
    chosen = draw.sample(sorted(accounts), SHARES)
    for step in chosen:
        name = draw.choice(month.terms_of(step).members)
        opens = partial(open_opening, month._private_path, site.id, name, step)
        data = make_share(name, step, site.store, site.tree.read, known, opens)
        share = verify_share(data, site.community())
        assert (share.member, share.step) == (name, step)
        assert share.energy_uwh == accounts[step].members[name]


def run(scenario: Scenario, folder: Path) -> Outcome:
    """Lives through it, and checks what it came to."""
    with closing(Month(folder, scenario)) as month:
        month.live()
        return check(month)


def folder_parent() -> str | None:
    """Where files cost no disk: no power cut of this machine is part of it."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108


def main() -> int:
    begin = time.process_time()
    with TemporaryDirectory(dir=folder_parent()) as folder:
        outcome = run(OCTOBER, Path(folder))
    print(
        f"{outcome.blocks} blocks, {outcome.leaves} leaves, {outcome.distributions} distributions"
        f" ({outcome.supplements} supplements, of them {outcome.corrections} corrections): of"
        f" {outcome.produced / 10**9:.3f} kWh"
        f" {outcome.allotted / 10**9:.3f} allotted, {outcome.surplus / 10**9:.3f} surplus,"
        f" {outcome.losses / 10**9:.3f} lost, {outcome.fees / 10**9:.3f} fee,"
        f" {outcome.waiting / 10**9:.3f} waiting; as reckoned from the facts, to the µWh"
    )
    print(f"{time.process_time() - begin:.0f} s of processor")
    return 0


if __name__ == "__main__":
    sys.exit(main())
