"""A meter for consumption through real processes: board, broker, gateway, which is killed again and
again. Every pulse is consumption of its member, once, and none is in the ledger."""

from contextlib import closing
from pathlib import Path

from cryptometer.chain_records import ChainRecord
from cryptometer.commands.demo.community import SimulatedMeter
from gateway.folder import open_folder
from gateway.private_chains import PrivateChains
from hal.faults import Point
from tests.system.plant import Plant
from tests.system.test_kill import crashes

SPEED = 60  # a step in 15 s
PULSE_UWH = 100_000  # 10 000 pulses for each kWh
KILLS = (
    (Point.PRIVATE_COMMIT, 2),
    (Point.PRIVATE_COMMITTED, 2),
    (Point.STORE_COMMIT, 4),
    (Point.STORE_COMMITTED, 4),
)


class Consumer(SimulatedMeter):
    """Registered for what a member consumes."""

    @property
    def table(self) -> str:
        """As the authority lists it."""
        return super().table.replace('use = "generation"', 'use = "consumption"')


ROOF = SimulatedMeter("pv-roof", "B", 3, 10_000, 2_400)
FLAT = Consumer("flat-1", "B", 3, 10_000, 1_200)


def test_what_a_flat_consumes_is_counted_once_and_in_no_ledger_whatever_is_killed(
    tmp_path: Path,
) -> None:
    with Plant(tmp_path, [ROOF, FLAT], speed=SPEED) as plant:
        for meter in plant.meters:
            plant.start_simulator(meter)
            plant.start_device(meter)
        folder = open_folder(plant.layout.gateway)
        for point, passage in KILLS:
            child = plant.start_gateway(point, passage)
            crashes(plant, child, point)
        plant.start_gateway()
        with closing(PrivateChains(folder.private)) as chains:
            chains.bind(FLAT.name, "ada", 0, plant.now_ms())
            plant.wait_for_block(plant.layout.first_step + 2)
            emitted = plant.stop_simulators()
            plant.wait_for_block(plant.step(), blocks_late=2)
            [metered] = chains.metered()
            known = list(chains.curve("ada", None, None))
        account = metered.account
        assert account.head.register == emitted[FLAT.name] > 0
        assert account.registered_uwh == emitted[FLAT.name] * PULSE_UWH
        assert (account.untransferred_uwh, metered.aside, metered.evidence) == (0, {}, 0)
        assert sum(one.value.energy_uwh for one in known) == account.transferred_uwh
        report = plant.audit()
        assert not report.findings
        assert report.state.meters[FLAT.name].head.register is None
        assert report.state.balance.registered == emitted[ROOF.name] * PULSE_UWH
        bodies = [record.body for record in plant.leaves()]
        assert {one.meter for one in bodies if isinstance(one, ChainRecord)} == {ROOF.name}
