"""A board's key is changed while everything runs: real broker, gateway, board and authority."""

from pathlib import Path

from cryptometer.chain_records import ChainRecord
from cryptometer.commands.demo.community import SimulatedMeter
from cryptometer.commands.demo.processes import COMMON, FIRMWARE, GATEWAY, run
from tests.system.plant import Plant, check_every_pulse

SPEED = 300  # a step in 3 s
SLACK_MS = 100 * SPEED
METER = SimulatedMeter("pv-roof", "B", 3, 10_000, 200)  # 167 pulses per second of the machine


def test_a_chain_goes_on_unbroken_with_a_new_key_and_loses_nothing(tmp_path: Path) -> None:
    with Plant(tmp_path, [METER], speed=SPEED) as plant:
        layout = plant.layout
        plant.start_all()
        plant.wait_for_block(layout.first_step)
        board = layout.device(METER)
        config = board / "meter.toml"
        made = run(FIRMWARE, "successor", "--config", config)
        request = board / "successor.request"
        changed = tmp_path / "changed.toml"
        meters = (layout.authority / "meters.toml").read_text().splitlines()
        asked = f'request = "{request}"'
        lines = [asked if line.startswith("request") else line for line in meters]
        changed.write_text("\n".join(lines))
        said = run(COMMON, "authority", "register", layout.authority, "--meters", changed)
        assert "has a new key: a board that made it with cryptometer-firmware successor" in said
        records = layout.authority / "authority.records"
        run(GATEWAY, "import", records, "--config", layout.gateway)
        plant.wait(lambda: not request.exists(), "the successor to take over")
        plant.wait_for_block(plant.step(), blocks_late=1)
        emitted = plant.stop_simulators()
        plant.wait_for_block(plant.step(), blocks_late=1)
        plant.wait(lambda: plant.registers() == emitted, "all pulses to stand in blocks")
        report = plant.audit()
        assert not report.quarantined
        assert not report.findings
        mine = [record for record in plant.leaves() if isinstance(record.body, ChainRecord)]
        keys = list(dict.fromkeys(record.key_id.hex() for record in mine))
        assert len(keys) == 2
        assert keys[1] == made.split()[2]
        # One chain: nothing by the old key behind the first by the new one, no re-anchor.
        signers = [record.key_id.hex() for record in mine]
        assert signers == sorted(signers, key=keys.index)
        chain, emissions_ms = plant.chain(METER), plant.emissions_ms(METER)
        assert check_every_pulse(chain, emissions_ms, emitted[METER.name], SLACK_MS) == 0
