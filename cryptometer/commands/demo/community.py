"""Founds a community in a folder, by the same commands its people would type.

FOLDER/community.pub            what outsiders need
FOLDER/authority/               the authority's key and records
FOLDER/gateway/                 the gateway's keys and store, and the ledger
FOLDER/<meter>/                 a device: meter.toml, key, journal, outbox, and its line
FOLDER/<member>/                a member's key and request
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptometer.commands import authority
from cryptometer.commands.demo.processes import COMMON, FIRMWARE, GATEWAY, run
from cryptometer.commands.request import make_request
from cryptometer.record_fields import Role
from cryptometer.steps import MS_PER_S, step_of, step_start_ms
from hal.clock import ScaledClock

STEP_S = 900


@dataclass(frozen=True, slots=True)
class SimulatedMeter:
    """A meter whose pulses a simulator emits.

    Attributes:
        constant: pulses per kWh.
        watts: what it measures all the time.
    """

    name: str
    accuracy_class: str
    phases: int
    constant: int
    watts: int

    @property
    def table(self) -> str:
        """The authority's description of it, TOML."""
        return f"""\
[[meter]]
name = "{self.name}"
request = "../{self.name}/device.request"
serial = "SIM-{self.name.upper()}"
use = "generation"
class = "{self.accuracy_class}"
phases = {self.phases}
voltage_v = 230
i_min_a = 0.25
i_max_a = 60
index_kwh = 0
constant = {self.constant}
"""


# What is common on roofs: three phases with 10000 imp/kWh (8 pulses a lot), one with 5000 (2).
_KINDS = (("pv-roof", "B", 3, 10_000, 2_400), ("pv-shed", "A", 1, 5_000, 900))


def simulated_meters(number: int) -> list[SimulatedMeter]:
    """So many meters, alternating between two common kinds."""
    meters = []
    for index in range(number):
        name, accuracy_class, phases, constant, watts = _KINDS[index % len(_KINDS)]
        meters.append(
            SimulatedMeter(f"{name}-{index + 1}", accuracy_class, phases, constant, watts)
        )
    return meters


@dataclass(frozen=True, slots=True)
class SimulatedMember:
    """A member, and the key of the agreement."""

    name: str
    key: int


SIMULATED_MEMBERS = (
    SimulatedMember("ada", 50),
    SimulatedMember("bo", 30),
    SimulatedMember("cy", 20),
)


@dataclass(frozen=True, slots=True)
class Layout:
    """A founded community: where its parts lie, and its first step with energy."""

    folder: Path
    meters: tuple[SimulatedMeter, ...]
    first_step: int
    members: tuple[SimulatedMember, ...] = ()

    @property
    def authority(self) -> Path:
        return self.folder / "authority"

    @property
    def gateway(self) -> Path:
        return self.folder / "gateway"

    @property
    def community_pub(self) -> Path:
        return self.folder / "community.pub"

    def device(self, meter: SimulatedMeter) -> Path:
        return self.folder / meter.name

    def line(self, meter: SimulatedMeter) -> Path:
        """The pseudo-terminal the meter's pulses come over."""
        return self.device(meter) / "line"


def found(
    folder: Path,
    meters: Sequence[SimulatedMeter],
    broker_url: str,
    grace_s: int,
    members: Sequence[SimulatedMember] = (),
) -> Layout:
    """Founds a community whose first step with energy is the present one, and enrols everyone.
    `configure` comes next.

    Args:
        folder: where; made when missing.
        meters: with names of their own.
        broker_url: a plain broker on this machine.
        grace_s: how long a block waits for closes, community seconds.
        members: who share the energy by fixed keys; without any, it waits at the VPP.

    Raises:
        ProgramError, ConfigurationError: one of the commands failed.
    """
    now_ms = time.time_ns() // 1_000_000
    first_step = step_of(now_ms, STEP_S)
    layout = Layout(folder, tuple(meters), first_step, tuple(members))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _found_authority(layout, broker_url, grace_s)
    run(GATEWAY, "init", layout.gateway)
    _register(layout, layout.gateway / "vpp.request", "vpp", "vpp")
    if members:
        # Before there is a gateway: the first block holds the agreement, whatever the time is.
        _agree(layout, now_ms)
    _register(layout, layout.gateway / "gateway.request", "gateway", "gateway")
    for meter in meters:
        run(FIRMWARE, "init", "--state", layout.device(meter))
    listing = layout.authority / "meters.toml"
    beginning = _iso(step_start_ms(first_step, STEP_S))
    listing.write_text("\n".join(f'{meter.table}from = "{beginning}"\n' for meter in meters))
    run(COMMON, "authority", "register", layout.authority, "--meters", listing)
    bundles = layout.authority / "bundles"
    for meter in meters:
        bundle = bundles / f"{meter.name}.bundle"
        run(FIRMWARE, "enrol", bundle, "--state", layout.device(meter))
    run(
        GATEWAY,
        *("import", bundles / "gateway.bundle", layout.authority / "authority.records"),
        *("--config", layout.gateway),
    )
    shutil.copy(layout.authority / "community.pub", layout.community_pub)
    return layout


def configure(layout: Layout, speed: int) -> ScaledClock:
    """Writes `gateway.toml` and every `meter.toml`, and returns their clock. Community time begins
    now: at the start of the first step, `speed` times faster than the machine."""
    origin_ms = step_start_ms(layout.first_step, STEP_S)
    anchor_ms = time.monotonic_ns() // 1_000_000
    clock = f"""\
[clock]
driver = "scaled"
speed = {speed}
origin_ms = {origin_ms}
anchor_ms = {anchor_ms}
"""
    (layout.gateway / "gateway.toml").write_text(clock)
    for meter in layout.meters:
        text = f"""\
state = "."

[source]
driver = "serial"
device = "{layout.line(meter)}"
line = "byte"

{clock}"""
        (layout.device(meter) / "meter.toml").write_text(text)
    return ScaledClock(speed, origin_ms, anchor_ms)


def _found_authority(layout: Layout, broker_url: str, grace_s: int) -> None:
    # The step before the first one holds the registrations: they act from the next block on.
    before = _iso(step_start_ms(layout.first_step - 1, STEP_S))
    run(
        COMMON,
        *("authority", "init", layout.authority, "--name", "Demonstration"),
        *("--broker", broker_url, "--first-step", before, "--grace", f"{grace_s}s"),
    )


def _register(layout: Layout, request: Path, role: str, name: str) -> None:
    words = ("--role", role, "--name", name)
    run(COMMON, "authority", "register", layout.authority, request, *words)


def _agree(layout: Layout, now_ms: int) -> None:
    """Registers the members, and signs what they agree on from the first step with energy on: what
    `request`, `authority register` and `authority agree` do, in this process, since each start of
    another costs a slow board seconds."""
    tables = []
    for member in layout.members:
        folder = layout.folder / member.name
        make_request(folder, Role.MEMBER, now_ms)
        request = folder / "member.request"
        authority.register_party(layout.authority, request, Role.MEMBER, member.name, None, now_ms)
        tables.append(f'[[member]]\nname = "{member.name}"\nkey = {member.key}\n')
    file = layout.authority / "agreement.toml"
    rule = f'method = "keys"\nsurplus_to = "supplier"\nfrom_step = {layout.first_step}\n'
    file.write_text("\n".join([rule, *tables]))
    authority.agree(layout.authority, file, now_ms)


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms // MS_PER_S, UTC).isoformat()
