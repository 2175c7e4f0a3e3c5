"""Killed at any instant, nothing is counted twice, and what is lost was declared (promise C)."""

import os
import random
import signal
import time
from pathlib import Path

from cryptometer.commands.demo.community import SimulatedMeter
from cryptometer.commands.demo.processes import FIRMWARE, Child, program
from hal.faults import CRASH_VARIABLE, Point
from tests.system.plant import Plant, check_every_pulse, kill, unwatched

KILLS = int(os.environ.get("CRYPTOMETER_KILLS", "100"))
SPEED = 90  # a step in 10 s
WATCH_MACHINE_MS = 500
TOML = f"\n[journal]\nwatch_machine_ms = {WATCH_MACHINE_MS}\nsync_machine_ms = 500\n"
SLACK_MS = 100 * SPEED  # the simulator, the kernel and the program share two cores with others
METERS = (
    SimulatedMeter("fast", "B", 3, 10_000, 400),  # 100 pulses per second of the machine
    SimulatedMeter("slow", "A", 1, 5_000, 20),  # 2.5
)


def settle(plant: Plant) -> dict[str, int]:
    """Ends the pulses, waits for the last closes and their block; returns what was emitted."""
    emitted = plant.stop_simulators()
    plant.wait_for_block(plant.step(), blocks_late=1)
    return emitted


def check(plant: Plant, emitted: dict[str, int], kills_ms: dict[str, list[int]]) -> int:
    """Returns the pulses lost in declared intervals."""
    report = plant.audit()
    assert not report.quarantined
    assert not report.findings
    registers = plant.registers()
    lost = 0
    for meter in plant.meters:
        emissions = plant.emissions_ms(meter)
        assert len(emissions) == emitted[meter.name]
        chain = plant.chain(meter)
        lost += check_every_pulse(chain, emissions, registers[meter.name], SLACK_MS)
        # No interval begins earlier than the watch period before the kill that opened it.
        bound_ms = WATCH_MACHINE_MS * SPEED + SLACK_MS
        for one in unwatched(chain):
            opened = min((at for at in kills_ms[meter.name] if at >= one.from_ms), default=None)
            assert opened is not None, one
            assert opened - one.from_ms <= bound_ms, (one, opened)
            assert one.to_ms >= opened
    return lost


def test_a_hundred_kills_lose_no_pulse_that_was_not_declared(tmp_path: Path) -> None:
    seed = int(os.environ.get("CRYPTOMETER_SEED", time.time_ns() % 10**6))
    draw = random.Random(seed)
    kills_ms: dict[str, list[int]] = {meter.name: [] for meter in METERS}
    with Plant(tmp_path, METERS, speed=SPEED, device_toml=TOML) as plant:
        plant.start_all()
        for _ in range(KILLS):
            time.sleep(draw.uniform(0, 0.9))  # from its first imports to its steady work
            victim = draw.choice([*METERS, None])
            if victim is None:
                assert plant.gateway is not None
                kill(plant.gateway)
                plant.start_gateway()
            else:
                # Noted before: what the victim did until now may be its newest sign of life.
                kills_ms[victim.name].append(plant.now_ms())
                kill(plant.devices[victim.name])
                plant.start_device(victim)
        emitted = settle(plant)
        lost = check(plant, emitted, kills_ms)
    print(f"seed {seed}: {KILLS} kills, {sum(emitted.values())} pulses, {lost} lost and declared")


ENROL_POINTS = (Point.FILE_PUT_WRITTEN, Point.FILE_PUT_RENAMED)
DEVICE_POINTS = (
    Point.FILE_APPEND,
    Point.FILE_APPENDED,
    Point.FILE_SYNCED,
    Point.FILE_TRUNCATED,
    Point.FILE_REMOVED,
    Point.DEVICE_SIGNED,
    Point.DEVICE_SNAPSHOT,
    Point.DEVICE_PUBLISH,
)
# What a start does once, and a run seldom or never again.
ONCE_A_START = {Point.FILE_TRUNCATED, Point.FILE_REMOVED, Point.DEVICE_SNAPSHOT}
GUARD_POINTS = (Point.GUARD_NOTED,)  # with a TPM: tests/firmware/test_tpm.py
KEY_POINTS = (Point.KEY_MOVED,)  # tests/firmware/test_device_key.py
GATEWAY_POINTS = (
    Point.STORE_COMMIT,
    Point.STORE_COMMITTED,
    Point.LEDGER_TILES,
    Point.LEDGER_CHECKPOINT,
)


# Of what members consume: tried in test_private_path.
PRIVATE_POINTS = (Point.PRIVATE_COMMIT, Point.PRIVATE_COMMITTED)


def test_the_lists_name_every_point() -> None:
    gateways = {*GATEWAY_POINTS, *PRIVATE_POINTS}
    assert {*ENROL_POINTS, *DEVICE_POINTS, *GUARD_POINTS, *KEY_POINTS, *gateways} == set(Point)


def crashes(plant: Plant, child: Child, what: str) -> None:
    """Waits until the program has killed itself."""
    plant.wait(lambda: child.exit_code() is not None, f"a crash at {what}")
    assert child.exit_code() == -signal.SIGKILL


def test_a_crash_at_every_named_point_is_recovered(tmp_path: Path) -> None:
    meter = METERS[0]
    kills_ms: dict[str, list[int]] = {meter.name: []}
    with Plant(tmp_path, [meter], speed=SPEED, device_toml=TOML) as plant:
        device = plant.layout.device(meter)
        for point in ENROL_POINTS:
            bundle = plant.layout.authority / "bundles" / f"{meter.name}.bundle"
            command = program(FIRMWARE, "enrol", bundle, "--state", device)
            child = Child("enrol", command, device / "enrol.log", {CRASH_VARIABLE: point})
            crashes(plant, child, point)
            assert Child("enrol", command, device / "enrol.log").wait() == 0
        plant.start_all()
        for point in DEVICE_POINTS:
            for passage in (1,) if point in ONCE_A_START else (1, 2, 5):
                kills_ms[meter.name].append(plant.now_ms())
                kill(plant.devices[meter.name])
                if point is Point.FILE_TRUNCATED:
                    tear(device / "journal")
                child = plant.start_device(meter, point, passage)
                crashes(plant, child, f"{point}:{passage}")
                kills_ms[meter.name].append(plant.now_ms())
                plant.start_device(meter)
        for point in GATEWAY_POINTS:
            for passage in (1, 2):
                assert plant.gateway is not None
                kill(plant.gateway)
                child = plant.start_gateway(point, passage)
                crashes(plant, child, f"{point}:{passage}")
                plant.start_gateway()
        emitted = settle(plant)
        check(plant, emitted, kills_ms)


def tear(journal: Path) -> None:
    """Leaves the newest segment as a power cut in mid-write does."""
    newest = max(journal.iterdir())
    with newest.open("ab") as file:
        file.write(b"\x05\x00\x00")
