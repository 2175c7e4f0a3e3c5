"""A meter that says its index itself, through real processes: board, broker, gateway."""

from itertools import pairwise
from pathlib import Path

from cryptometer.chain_records import Reading, RunStart, StepClose
from cryptometer.commands.demo.community import SimulatedMeter
from tests.system.plant import Plant, kill

SPEED = 60  # a step in 15 s; a reading may be 0.3 s old at its end
STEP_S = 900
WATTS = 3_600  # of the machine's time: a watt-hour a second


class IndexMeter(SimulatedMeter):
    """Registered with its index in place of pulses."""

    @property
    def table(self) -> str:
        """As the authority lists it."""
        lines = super().table.splitlines()
        kept = [line for line in lines if not line.startswith("constant")]
        return "\n".join([*kept, 'source = "index"', "resolution_wh = 0.001", ""])


METER = IndexMeter("pv-roof", "B", 3, 10_000, WATTS)
SOURCE = f"""\
[source]
driver = "sim-index"
register = "export"
watts = -{WATTS}
exponent = -3
period_machine_ms = 50
settle_machine_ms = 100
"""


def speak(plant: Plant) -> None:
    """Puts the meter's own index in place of the pulse line in the board's configuration."""
    toml = plant.layout.device(METER) / "meter.toml"
    begin, rest = toml.read_text().split("[source]\n")
    _, rest = rest.split("\n\n", 1)
    toml.write_text(f"{begin}{SOURCE}\n{rest}")


def test_an_index_comes_through_a_kill_and_every_step_is_told(tmp_path: Path) -> None:
    with Plant(tmp_path, [METER], speed=SPEED) as plant:
        speak(plant)
        plant.start_gateway()
        plant.start_device(METER)
        first = plant.layout.first_step
        plant.wait_for_block(first + 1)
        kill(plant.devices[METER.name])
        plant.start_device(METER)
        plant.wait_for_block(first + 3, blocks_late=1)
        report = plant.audit()
        assert not report.quarantined
        assert not report.findings
        chain = plant.chain(METER)
        assert isinstance(chain[0], RunStart)
        assert sum(isinstance(one, RunStart) for one in chain) == 2
        readings = [one for one in chain if isinstance(one, Reading)]
        closes = [one for one in chain if isinstance(one, StepClose)]
        assert [one.step for one in closes] == list(range(closes[0].step, closes[-1].step + 1))
        meter = report.state.meters[METER.name]
        grown = closes[-1].register_after - chain[0].register
        assert meter.transferred_uwh == grown * 1_000  # a milliwatt-hour each
        for before, after in pairwise(closes):
            told = after.register_after - before.register_after
            # The meter's power is of machine time: a step lasts 15 s of it.
            assert abs(told - 15_000) <= 400
        assert all(one.source == "sim-index" and one.counting for one in readings)


def test_a_pulse_line_for_a_registered_index_is_refused(tmp_path: Path) -> None:
    with Plant(tmp_path, [METER], speed=SPEED) as plant:
        child = plant.start_device(METER)
        assert child.wait() == 2
        assert "counts its index" in child.log.read_text()
