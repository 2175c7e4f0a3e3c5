"""The published week of a community, 18 consumers and one photovoltaic plant, through real
processes: broker, board, gateway with its virtual power plant. Members' consumption is imported,
half of it days late; every watt-hour of the plant ends at a member, by the registered rule.

    python -m tests.system.week [--hours 168] [--speed 2400] [--members 18]

The meter gives the pulses of an hour within half of it: the published powers are hourly means, and
so each pulse has a machine's long moment to be read in its own hour.
"""

import argparse
import csv
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptometer import audit
from cryptometer.block import Checked
from cryptometer.chain_records import StepClose
from cryptometer.commands import authority
from cryptometer.commands.broker import INSTALLED
from cryptometer.commands.demo.community import Layout, SimulatedMeter
from cryptometer.commands.demo.processes import COMMON, FIRMWARE, GATEWAY, Child, program, run
from cryptometer.commands.folder import BrokerFile
from cryptometer.commands.request import make_request
from cryptometer.commands.sources import ledger_reader
from cryptometer.judging import Rule
from cryptometer.openings import decode_openings
from cryptometer.record_fields import Role
from cryptometer.sharing_records import Distribution
from cryptometer.steps import MS_PER_S, step_of, step_start_ms
from tests.captures.place import CAPTURES
from tests.system.plant import Plant

SERIES = "community_week_2016-07-04.csv"
HOURS = 168
SPEED = 2_400  # of community time: an hour lasts a second and a half
HOUR_S = 3_600
QUARTER_S = 900  # what `Layout` counts in
LEAD_MACHINE_S = 12  # from the meter's begin to the first published hour: all programs start
TAIL_HOURS = 3
UWH_PER_WH = 10**6
METER = SimulatedMeter("pv", "B", 3, 1_000, 0)
# Within an hour: when its pulses begin and end.
BEGIN, END = timedelta(minutes=3), timedelta(minutes=33)
START_MAX_S = 120.0


@dataclass(frozen=True, slots=True)
class Published:
    """The published hours.

    Attributes:
        begin: of the first, UTC.
        produced_wh: by hour; the draw of a night is no production.
        consumed_wh: by member and hour.
        rows: of the file as it is, the heading first.
    """

    begin: datetime
    produced_wh: Sequence[int]
    consumed_wh: Mapping[str, Sequence[int]]
    rows: Sequence[str]

    @property
    def hours(self) -> int:
        return len(self.produced_wh)

    @property
    def members(self) -> list[str]:
        return sorted(self.consumed_wh)

    def shared_wh(self, hour: int) -> int:
        """The lesser of what was produced and what was consumed."""
        return min(self.produced_wh[hour], sum(used[hour] for used in self.consumed_wh.values()))


def read_published(hours: int, members_max: int | None = None) -> Published:
    """Reads the first hours of the published week, of so many of its consumers."""
    rows = (CAPTURES / "series" / SERIES).read_text().splitlines()[: hours + 1]
    cells = list(csv.DictReader(rows))
    members = [name.removeprefix("c_") for name in cells[0] if name.startswith("c_")]
    members = members[:members_max]
    return Published(
        datetime.fromisoformat(cells[0]["utc"]),
        [max(0, int(row["pv_w"])) for row in cells],
        {name: [int(row[f"c_{name}"]) for row in cells] for name in members},
        rows,
    )


def stated_wh() -> int:
    """What the plant produced in the whole week, as published beside it."""
    stated: int = json.loads((CAPTURES / "series" / f"{SERIES}.expect.json").read_bytes())["pv_wh"]
    return stated


@dataclass(frozen=True, slots=True)
class Shared:
    """What the week came to, of the ledger alone.

    Attributes:
        allotted_uwh: of all members.
        blocks: of the audited ledger.
        waited: most hours' energy that waited at the plant for consumption.
        share_bytes: of a member's share of one hour, as a file.
    """

    allotted_uwh: int
    blocks: int
    waited: int
    share_bytes: int


class Week(Plant):
    """The processes of the week; community time is that of the published hours."""

    def __init__(self, folder: Path, published: Published, speed: int) -> None:
        super().__init__(folder, [METER], speed=speed)
        self.published = published
        self.first_hour = step_of(round(published.begin.timestamp()) * MS_PER_S, HOUR_S)
        self._lead_hours = -(-LEAD_MACHINE_S * speed // HOUR_S)
        self._begin_ms = step_start_ms(self.first_hour - self._lead_hours, HOUR_S)

    # --- The community, by the functions of its people's commands, at the time of the week. ---

    def _found(self, url: str) -> Layout:
        first_hour = step_of(self._begin_ms, HOUR_S)
        layout = Layout(self.folder, (METER,), self._begin_ms // MS_PER_S // QUARTER_S)
        at, now_ms = layout.authority, self._begin_ms
        authority.init(
            at,
            name="Published week",
            broker=BrokerFile(url, INSTALLED),
            step_s=HOUR_S,
            grace_ms=self._grace_s * MS_PER_S,
            late_ms=35 * 24 * HOUR_S * MS_PER_S,
            token_uwh=1_000 * UWH_PER_WH,
            first_step=first_hour - 1,
            now_ms=now_ms,
        )
        run(GATEWAY, "init", layout.gateway)
        for role in (Role.GATEWAY, Role.VPP):
            request = layout.gateway / f"{role}.request"
            authority.register_party(at, request, role, role.value, None, now_ms)
        for name in self.published.members:
            folder = self.folder / "members" / name
            make_request(folder, Role.MEMBER, now_ms)
            request = folder / "member.request"
            authority.register_party(at, request, Role.MEMBER, name, None, now_ms)
        self._agree(layout, now_ms)
        self._register_meter(layout, now_ms)
        bundles = at / "bundles"
        run(FIRMWARE, "enrol", bundles / "pv.bundle", "--state", layout.device(METER))
        imported = (bundles / "gateway.bundle", at / "authority.records")
        run(GATEWAY, "import", *imported, "--config", layout.gateway)
        (self.folder / "community.pub").write_bytes((at / "community.pub").read_bytes())
        return layout

    def _agree(self, layout: Layout, now_ms: int) -> None:
        """As the French default has it (D.315-6)."""
        members = "".join(f'[[member]]\nname = "{name}"\n' for name in self.published.members)
        file = self.folder / "agreement.toml"
        file.write_text(f'method = "pro-rata"\nsurplus_to = "grid"\n{members}')
        authority.agree(layout.authority, file, now_ms)

    def _register_meter(self, layout: Layout, now_ms: int) -> None:
        run(FIRMWARE, "init", "--state", layout.device(METER))
        beginning = datetime.fromtimestamp(self._begin_ms // MS_PER_S, UTC).isoformat()
        listing = layout.authority / "meters.toml"
        listing.write_text(f'{METER.table}from = "{beginning}"\n')
        authority.register_meters(layout.authority, listing, None, now_ms)

    def begin(self) -> None:
        super().begin()
        # Its error bound is above a second at this speed, which every header says.
        config = self.layout.gateway / "gateway.toml"
        config.write_text(f"accept_unsynchronised = true\n{config.read_text()}")

    # --- The week. ---

    def start_meter(self) -> None:
        """Starts the meter, and community time with it."""
        series = self.folder / "series.csv"
        series.write_text("\n".join(self._powers()) + "\n")
        device = self.layout.device(METER)
        words = ("--tty", self.layout.line(METER), "--constant", str(METER.constant))
        power = ("--series", series, "--speed", str(self.speed), "--log", device / "pulses.log")
        child = self._keep(
            Child(
                "simulator", program(FIRMWARE, "simulate", *words, *power), device / "simulate.log"
            )
        )
        self.simulators[METER.name] = child
        self.wait(self.layout.line(METER).exists, "the meter's line", START_MAX_S)
        self.begin()

    def _powers(self) -> Iterator[str]:
        """The meter's powers, row by row: nothing in the hours before, then each hour's energy."""
        yield "utc,w"
        yield f"{datetime.fromtimestamp(self._begin_ms // MS_PER_S, UTC).isoformat()},0"
        more = timedelta(hours=1) / (END - BEGIN)
        for hour, wh in enumerate(self.published.produced_wh):
            begin = self.published.begin + timedelta(hours=hour)
            yield f"{(begin + BEGIN).isoformat()},{wh * more:g}"
            yield f"{(begin + END).isoformat()},0"

    def import_consumption(self, hours: int) -> str:
        """Gives the gateway the first hours of the published file, as they are."""
        file = self.folder / f"consumption-{hours}.csv"
        file.write_text("\n".join(self.published.rows[: hours + 1]) + "\n")
        template = self.folder / "template.toml"
        members = "".join(f'c_{name} = "{name}"\n' for name in self.published.members)
        template.write_text(
            'time = "utc"\nzone = "UTC"\nstamp = "begin"\ninterval_minutes = 60\nunit = "W"\n'
            f'separator = ","\n\n[members]\n{members}'
        )
        gateway = ("--config", self.layout.gateway)
        return run(GATEWAY, "consumption", "import", file, "--template", template, *gateway)

    def wait_for_hour(self, hour: int) -> None:
        """Waits until the block of a published hour is sealed."""
        step = self.first_hour + hour
        end_ms = step_start_ms(step + 1, HOUR_S)
        ahead_s = max(0, end_ms - self.now_ms()) / MS_PER_S / self.speed
        self.wait(
            lambda: self.newest_block() >= step,
            f"the block of hour {hour}",
            ahead_s + START_MAX_S,
        )


def live(folder: Path, hours: int, speed: int, members_max: int | None = None) -> Shared:
    """Runs the first hours of the week; checks every step of it.

    Args:
        members_max: so many consumers; all of them always consume more than the plant gives.

    Raises:
        AssertionError: something is not as it was published.
    """
    published = read_published(hours, members_max)
    with Week(folder, published, speed) as week:
        known = max(1, hours // 2)
        week.start_meter()
        week.start_gateway()
        week.start_device(METER)
        # A gateway that has taken in its authority's records knows the length of a step.
        week.wait(lambda: week.newest_block() >= 0, "the first block", START_MAX_S)
        week.import_consumption(known)
        # The consumption of the second half comes when most of it is over: its energy waits.
        week.wait_for_hour(hours * 5 // 6)
        week.import_consumption(hours)
        week.wait_for_hour(hours - 1 + TAIL_HOURS)
        assert week.simulators[METER.name].wait() == 0
        for child in (week.devices[METER.name], week.gateway):
            assert child is not None
            child.check()
            assert child.end() == 0, child.last_lines()
        return check(week)


def check(week: Week) -> Shared:
    """What must hold of the ledger, of the published files, and of a member's share."""
    published, first = week.published, week.first_hour
    openings = week.folder / "openings.csv"
    gateway = ("--config", week.layout.gateway)
    run(GATEWAY, "consumption", "openings", "--out", openings, *gateway)
    produced: dict[int, int] = defaultdict(int)
    given: dict[int, dict[str, int]] = defaultdict(dict)
    surplus: dict[int, int] = defaultdict(int)
    waited = 0

    def watch(checked: Checked) -> None:
        nonlocal waited
        for verdict in checked.verdicts:
            assert verdict.reason is None, verdict
            body = verdict.record.body
            if isinstance(body, StepClose):
                produced[body.step] += verdict.energy_uwh
            if isinstance(body, Distribution):
                assert verdict.rule is Rule.RECOMPUTED, verdict
                surplus[body.step] += body.surplus_uwh - body.from_surplus_uwh
                for one in body.outputs:
                    mine = given[body.step]
                    mine[one.member] = mine.get(one.member, 0) + one.energy_uwh
        waited = max(waited, sum(bool(one.waiting) for one in checked.state.settlements.values()))

    report = audit.audit(
        ledger_reader(week.layout.gateway / "ledger"),
        week.community,
        watch=watch,
        openings=decode_openings(openings.read_text()),
    )
    assert not report.findings, report.findings
    assert not report.quarantined, report.quarantined
    for hour in range(published.hours):
        step = first + hour
        stated = published.produced_wh[hour] * UWH_PER_WH
        assert produced.get(step, 0) == stated, (hour, produced.get(step), stated)
        allotted = sum(given[step].values())
        shared = published.shared_wh(hour) * UWH_PER_WH
        assert allotted == shared, (hour, allotted, shared)
        assert surplus[step] == stated - shared
        for name, energy in given[step].items():
            assert energy <= published.consumed_wh[name][hour] * UWH_PER_WH, (hour, name)
    assert sum(produced.values()) == sum(published.produced_wh) * UWH_PER_WH
    balance = report.state.balance
    assert (balance.waiting, balance.untransferred, balance.quarantined) == (0, 0, 0)
    assert balance.allocated == sum(map(published.shared_wh, range(published.hours))) * UWH_PER_WH
    assert dict(report.state.accounts) == {
        name: sum(mine.get(name, 0) for mine in given.values())
        for name in published.members
        if any(name in mine for mine in given.values())
    }
    if published.hours == HOURS:
        assert balance.registered == stated_wh() * UWH_PER_WH
    hours = [one for one in range(published.hours) if published.produced_wh[one]]
    share_bytes = _check_share(week, first + hours[-1], given[first + hours[-1]])
    return Shared(balance.allocated, report.blocks, waited, share_bytes)


def _check_share(week: Week, step: int, given: Mapping[str, int]) -> int:
    """A member's share as a file, verified by the command that an outsider has."""
    member, energy = max(given.items(), key=lambda one: one[1])
    file = week.folder / "member.share"
    run(GATEWAY, "share", member, str(step), "--out", file, "--config", week.layout.gateway)
    said = run(COMMON, "verify", file, "--community", week.layout.community_pub)
    assert f"{energy / UWH_PER_WH / 1000:.3f}"[:-1] in said, (energy, said)
    return file.stat().st_size


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=int, default=HOURS, help="of the published week")
    parser.add_argument("--speed", type=int, default=SPEED, help="how much faster it passes")
    parser.add_argument("--members", type=int, help="of the published consumers (all)")
    arguments = parser.parse_args()
    begin = time.monotonic()
    with TemporaryDirectory(prefix="cryptometer-week-") as folder:
        shared = live(Path(folder), arguments.hours, arguments.speed, arguments.members)
    print(
        f"{arguments.hours} hours, {shared.blocks} blocks:"
        f" {shared.allotted_uwh / UWH_PER_WH:.0f} Wh allotted as published, each hour the lesser of"
        f" production and consumption; up to {shared.waited} hours' energy waited for consumption;"
        f" a share of {shared.share_bytes:,} bytes verified;"
        f" {time.monotonic() - begin:.0f} s"
    )
    return 0


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
