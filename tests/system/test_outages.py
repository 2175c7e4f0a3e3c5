"""Broker, gateway, network and line fail; what was counted arrives once, under its own step."""

import socket
import threading
from bisect import bisect
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptometer.block_header import Header
from cryptometer.chain_records import Batch, Ending, RunStart, StepClose
from cryptometer.commands.demo.broker import HOST, free_port
from cryptometer.commands.demo.community import STEP_S, SimulatedMeter
from cryptometer.commands.demo.processes import Child
from cryptometer.steps import step_start_ms
from tests.system.plant import Plant, kill

METER = SimulatedMeter("pv-roof", "B", 3, 10_000, 200)
OTHER = SimulatedMeter("pv-shed", "A", 1, 5_000, 100)
BACKOFF_LONGEST_S = 120.0  # hal.mqtt: a minute at most between two attempts


def connections(plant: Plant) -> list[int]:
    """How often each program has connected so far."""
    programs = [plant.gateway, *plant.devices.values()]
    return [one.log.read_text().splitlines().count("connected") for one in programs if one]


def check_all_arrived(plant: Plant) -> None:
    """Ends the pulses, waits for the last closes and their block: nothing is missing or twice."""
    emitted = plant.stop_simulators()
    last = plant.step()
    plant.wait_for_block(last)
    # On a machine that is busy a close may miss its own block, and stands in the next.
    plant.wait(lambda: plant.registers() == emitted, "all pulses to stand in blocks")
    report = plant.audit()
    assert not report.quarantined
    assert not report.findings
    headers = [one.body for one in plant.leaves() if isinstance(one.body, Header)]
    steps = [header.step for header in headers]
    assert steps == list(range(steps[0], steps[0] + len(steps)))


def test_a_broker_that_is_stopped_restarted_and_wiped_costs_nothing(tmp_path: Path) -> None:
    with Plant(tmp_path, [METER, OTHER], speed=180) as plant:
        plant.start_all()
        plant.wait_for_block(plant.layout.first_step)
        # Restarted in order with all it had kept; killed, with some of it; wiped.
        for keeps, end in ((True, Child.end), (True, kill), (False, kill)):
            assert plant.broker is not None
            heard = connections(plant)
            end(plant.broker)
            gone = plant.step()
            plant.wait_for_step(gone + 2)
            if keeps:
                plant.start_keeping_broker()
            else:
                plant.start_broker()
            # Back-off grows with each outage in a row: up to a minute until all have come again.
            plant.wait(
                lambda heard=heard: all(map(int.__lt__, heard, connections(plant))),  # type: ignore[misc]
                "all to come again",
                BACKOFF_LONGEST_S,
            )
            plant.wait_for_block(plant.step())
        check_all_arrived(plant)


def test_a_gateway_that_was_down_over_several_steps_catches_up(tmp_path: Path) -> None:
    with Plant(tmp_path, [METER], speed=180) as plant:
        plant.start_all()
        plant.wait_for_block(plant.layout.first_step)
        assert plant.gateway is not None
        kill(plant.gateway)
        down = plant.step()
        plant.wait_for_step(down + 4)
        plant.start_gateway()
        plant.wait_for_block(plant.step())
        check_all_arrived(plant)
        headers = {
            one.body.step: one.body for one in plant.leaves() if isinstance(one.body, Header)
        }
        # The steps in between were closed in time, waited, and stand in their own blocks.
        for step in range(down + 1, down + 3):
            assert headers[step].caught_up
            assert headers[step].meters == (1, 1)
            assert headers[step].flow.registered > 0


class Cable:
    """A connection to the broker that can be pulled: forwards bytes between two TCP ports."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server((HOST, 0))
        self.port = int(self._listener.getsockname()[1])
        self._sockets: set[socket.socket] = set()
        self._is_pulled = False
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.pull()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in list(self._threads):
            thread.join(timeout=5)

    def pull(self) -> None:
        self._is_pulled = True
        for one in list(self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def plug(self) -> None:
        self._is_pulled = False

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            if self._is_pulled:
                here.close()
                continue
            there = socket.create_connection((HOST, self._to))
            self._sockets |= {here, there}
            for source, target in ((here, there), (there, here)):
                thread = threading.Thread(target=self._forward, args=(source, target), daemon=True)
                thread.start()
                self._threads.append(thread)

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._sockets.discard(source)
        source.close()


def test_a_meter_that_was_offline_for_a_day_comes_back_under_its_own_steps(tmp_path: Path) -> None:
    day = 96  # quarter hours
    with Plant(tmp_path, [METER, OTHER], speed=900) as plant, Cable(plant.port) as cable:
        toml = plant.layout.device(METER) / "meter.toml"
        toml.write_text(f'{toml.read_text()}\n[broker]\nurl = "mqtt://{HOST}:{cable.port}"\n')
        plant.start_all()
        plant.wait_for_block(plant.layout.first_step + 1)
        cable.pull()
        gone = plant.step()
        plant.wait_for_step(gone + day + 1)
        back = plant.step()
        cable.plug()
        check_all_arrived(plant)
        block, blocks = 0, {}
        closes = {}
        for record in plant.leaves():
            body = record.body
            if isinstance(body, Header):
                block = body.step
                blocks[block] = body
            elif isinstance(body, StepClose) and body.meter == METER.name:
                closes[body.step] = len(blocks)
        away = range(gone + 1, back - 1)
        assert len(away) >= day - 2
        # Each step of the day was closed, with its energy, in a block made after the return.
        assert set(away) <= set(closes)
        assert all(blocks[step].meters[1] < blocks[step].meters[0] for step in away)
        sums: Counter[int] = Counter()
        for batch in plant.chain(METER):
            if isinstance(batch, Batch):
                sums[batch.step] += sum(batch.pulses)
        assert all(sums[step] for step in away)
        # 200 W at 10,000 imp/kWh: 500 pulses a step, which lasts a second of this machine. A pulse
        # is displaced by the time it takes this machine to come round to the line: never a step.
        emitted_ms = plant.emissions_ms(METER)
        for step in away:
            emitted = bisect(emitted_ms, step_start_ms(step + 1, STEP_S))
            counted = sum(pulses for at, pulses in sums.items() if at <= step)
            assert abs(emitted - counted) <= 500, (step, emitted, counted)
        assert sum(header.late[0] for header in blocks.values()) >= 2 * len(away)


def test_a_line_that_is_unplugged_closes_its_step_and_declares_the_gap(tmp_path: Path) -> None:
    with Plant(tmp_path, [METER], speed=180) as plant:
        plant.start_all()
        plant.wait_for_block(plant.layout.first_step)
        assert plant.simulators[METER.name].end() == 0
        emitted = len(plant.emissions_ms(METER))
        # The step in which the line went is closed at its end, though nobody watches it.
        plant.wait_for_block(plant.step())
        plant.wait(lambda: plant.registers()[METER.name] == emitted, "what came before the gap")
        assert plant.audit().state.balance.untransferred == 0
        gap = plant.step()
        plant.wait_for_step(gap + 2)
        (plant.layout.device(METER) / "pulses.log").unlink()
        plant.start_simulator(METER)
        plant.wait_for_block(plant.step() + 1)
        plant.stop_simulators()
        plant.wait_for_block(plant.step())
        total = emitted + len(plant.emissions_ms(METER))
        plant.wait(lambda: plant.registers()[METER.name] == total, "what came after the gap")
        chain = plant.chain(METER)
        [_, back] = [body for body in chain if isinstance(body, RunStart)]
        assert back.ending is Ending.LINE_LOST
        assert back.unwatched_ms is not None
        # Silence is an outage: the step nobody watched has no close.
        assert gap + 1 not in {body.step for body in chain if isinstance(body, StepClose)}


def test_a_port_on_which_nobody_listens_is_tried_again(tmp_path: Path) -> None:
    with Plant(tmp_path, [METER], speed=180) as plant:
        toml = plant.layout.device(METER) / "meter.toml"
        text = toml.read_text()
        toml.write_text(f'{text}\n[broker]\nurl = "mqtt://{HOST}:{free_port()}"\n')
        plant.start_all()
        plant.wait_for_block(plant.layout.first_step)
        assert plant.registers()[METER.name] == 0
        assert plant.devices[METER.name].exit_code() is None
        # Started again with the right address, in order this time: nothing is unwatched for long.
        assert plant.devices[METER.name].end() == 0
        toml.write_text(text)
        plant.start_device(METER)
        plant.wait_for_block(plant.step())
        check_all_arrived(plant)
        [_, second] = [body for body in plant.chain(METER) if isinstance(body, RunStart)]
        assert second.ending is Ending.STOPPED
