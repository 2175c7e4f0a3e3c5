"""Pulses that count beside an index that is compared, through real processes: board, broker,
gateway."""

import json
import subprocess
from pathlib import Path

import pytest

from cryptometer import accuracy, audit
from cryptometer.block import Checked
from cryptometer.chain_records import Reading, StepClose
from cryptometer.commands.demo.community import SimulatedMeter
from cryptometer.commands.demo.processes import GATEWAY, program
from cryptometer.commands.sources import ledger_reader
from cryptometer.energy_verdict import Verdict
from tests.system.plant import Plant, kill

SPEED = 60  # a step in 15 s
WATTS = 3_000
METER = SimulatedMeter("pv-roof", "B", 3, 2_000, WATTS)
# Of the machine's time, in which the index grows.
COMPARED = f"""
[compared]
driver = "sim-index"
register = "export"
watts = -{WATTS * SPEED}
exponent = -1
period_machine_ms = 50
"""


def verdicts(plant: Plant) -> list[Verdict]:
    found: list[Verdict] = []

    def watch(checked: Checked) -> None:
        found.extend(checked.verdicts)

    audit.audit(ledger_reader(plant.layout.gateway / "ledger"), plant.community, watch=watch)
    return found


def test_a_killed_board_goes_on_comparing_and_the_gateway_tells_the_difference(
    tmp_path: Path,
) -> None:
    with Plant(tmp_path, [METER], speed=SPEED, device_toml=COMPARED) as plant:
        plant.start_all()
        first = plant.layout.first_step
        plant.wait_for_block(first + 1)
        kill(plant.devices[METER.name])
        plant.start_device(METER)
        plant.wait_for_block(first + 3, blocks_late=1)
        report = plant.audit()
        assert not report.quarantined
        assert not report.findings
        chain = plant.chain(METER)
        closed = [one.step for one in chain if isinstance(one, StepClose)]
        compared = [one for one in chain if isinstance(one, Reading)]
        assert not [one for one in compared if one.counting]
        told = [one.step for one in compared]
        assert told == sorted(set(told))
        assert set(told) <= set(closed)
        rows = accuracy.compare_verdicts(verdicts(plant))
        assert len(rows) >= 2
        for row in rows:
            assert row.source == "sim-index"
            # Of a step that began before the kill a part is compared: what passed since the start.
            passed_ms = row.at_ms - row.since_ms
            in_time = pytest.approx(WATTS * passed_ms, abs=WATTS * 500 * SPEED)  # half a second
            assert row.index_uwh * 3.6 == in_time
            assert abs(row.difference_uwh) <= row.index_uwh // 100 + row.bound_uwh
        words = ("status", "--json", "--config", plant.layout.gateway / "gateway.toml")
        done = subprocess.run(
            program(GATEWAY, *words), capture_output=True, text=True, timeout=60, check=True
        )
        [meter] = json.loads(done.stdout)["meters"]
        assert meter["compared"]["comparisons"] >= 2
        assert meter["compared"]["outside"] == 0
