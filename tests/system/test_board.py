"""Several meters in one process, each with its chain in the ledger."""

from pathlib import Path

from cryptometer.chain_records import RunStart
from cryptometer.commands.demo.community import SimulatedMeter
from cryptometer.commands.demo.processes import FIRMWARE, Child, program
from tests.system.plant import Plant, check_every_pulse, kill

SPEED = 180
METERS = tuple(SimulatedMeter(f"pv-{number}", "B", 3, 10_000, 100) for number in range(3))
SLACK_MS = 100 * SPEED


def test_many_meters_in_one_process_lose_nothing_also_when_it_is_killed(tmp_path: Path) -> None:
    with Plant(tmp_path / "plant", METERS, speed=SPEED) as plant:
        for meter in METERS:
            plant.start_simulator(meter)
        plant.start_gateway()
        folder, log = tmp_path / "meters", tmp_path / "board.log"
        folder.mkdir()
        for meter in METERS:
            state = plant.layout.device(meter)
            text = (state / "meter.toml").read_text().replace('"."', f'"{state}"')
            (folder / f"{meter.name}.toml").write_text(text)
        command = program(FIRMWARE, "run", "--config", folder)

        def start(lives: int) -> Child:
            board = plant._keep(Child("board", command, log))
            watching = len(METERS) * lives
            plant.wait(lambda: log.read_text().count("watching") == watching, "the lines")
            plant.wait_for_block(plant.step() + 1)
            return board

        kill(start(1))
        board = start(2)
        emitted = plant.stop_simulators()
        plant.wait_for_block(plant.step(), blocks_late=1)
        registers = plant.registers()
        for meter in METERS:
            chain, times_ms = plant.chain(meter), plant.emissions_ms(meter)
            lost = check_every_pulse(chain, times_ms, registers[meter.name], SLACK_MS)
            assert registers[meter.name] == emitted[meter.name] - lost
            runs = [body.ending.value for body in chain if isinstance(body, RunStart)]
            assert runs == ["first", "unknown"]
        assert board.end() == 0
        said = log.read_text()
        for meter in METERS:  # each line names its meter
            assert f"{meter.name}: watching" in said
            assert f"{meter.name}: ended: " in said
