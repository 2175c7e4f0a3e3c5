"""Several meters that are asked on one line: real pseudo-terminals and connections, looked at as
the program's loop looks at its lines."""

import os
import select
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest

from cryptometer.errors import ConfigurationError
from cryptometer.steps import NS_PER_MS, NS_PER_S
from hal.drivers import Buses, open_index
from hal.index.d0_meter import D0Meter, Mode, Plate
from hal.index.dlms_answering import AnsweringMeter, MeterSettings
from hal.index.dlms_meter import Told
from hal.index.hdlc import Control, Frame, HdlcReceiver
from hal.index.reading import Reading, Refusal, Refused
from hal.ports import IndexSource, LineLost
from tests.hal.test_index_line import (
    ASSOCIATED,
    PATIENCE_S,
    Server,
    Wire,
    behind,
    secrets,
    server,
    wire,
)

__all__ = ["secrets", "server", "wire"]  # fixtures

FAST: dict[str, object] = {"period_machine_ms": 200, "answer_machine_ms": 200, "address_size": 2}


def answering(address: int, settings: MeterSettings | None = None) -> AnsweringMeter:
    """A meter that has this address, and an index that tells it."""
    own = replace(settings or MeterSettings(), number=f"METER{address:03}", physical=address)
    return AnsweringMeter(own, lambda _: Told(1_000 * address, 0, 0, int(time.time())), os.urandom)


@dataclass(frozen=True, slots=True)
class Said:
    """What one of several meters said, and when it was heard."""

    address: int
    at_ns: int
    one: Reading | Refusal


def go_on(sources: dict[int, IndexSource], until: Callable[[list[Said]], bool]) -> list[Said]:
    """Looks at all of them when they want it, and not otherwise."""
    said: list[Said] = []
    until_ns = time.monotonic_ns() + int(PATIENCE_S * NS_PER_S)
    poll = select.poll()
    for source in sources.values():
        poll.register(source.fileno(), select.POLLIN)
    while not until(said):
        now_ns = time.monotonic_ns()
        assert now_ns < until_ns, said[-5:]
        dues = {address: source.due_ns for address, source in sources.items()}
        wait_ns = min((due for due in dues.values() if due is not None), default=until_ns) - now_ns
        readable = {number for number, _ in poll.poll(max(0, wait_ns) // NS_PER_MS + 1)}
        now_ns = time.monotonic_ns()
        for address, source in sources.items():
            due_ns = dues[address]
            if source.fileno() in readable or (due_ns is not None and due_ns <= now_ns):
                heard = source.take().said
                said += (Said(address, time.monotonic_ns(), one) for one in heard)
    return said


def read(said: list[Said]) -> Counter[int]:
    """How many readings each meter gave; all of them its own."""
    counts: Counter[int] = Counter()
    for address, one in ((each.address, each.one) for each in said):
        if isinstance(one, Reading):
            assert one.imported is not None
            assert (one.identity, one.imported.uwh) == (f"METER{address:03}", address * 10**9)
            counts[address] += 1
    return counts


def each(addresses: tuple[int, ...], least: int) -> Callable[[list[Said]], bool]:
    """Until each of them gave so many readings."""
    return lambda said: all(read(said)[address] >= least for address in addresses)


@contextmanager
def joined(
    place: dict[str, object], own: dict[int, dict[str, object]], buses: Buses | None = None
) -> Iterator[dict[int, IndexSource]]:
    """DLMS meters of these addresses on one line."""
    lines = buses or Buses()
    with ExitStack() as stack:
        yield {
            address: stack.enter_context(
                closing(
                    open_index(
                        {
                            "driver": "dlms",
                            "register": "import",
                            **FAST,
                            **place,
                            "physical": address,
                            **settings,
                        },
                        lines,
                    )
                )
            )
            for address, settings in own.items()
        }


class Bus:
    """Meters on the far side of a wire: each hears all of it."""

    def __init__(self, wire: Wire, *meters: AnsweringMeter) -> None:
        self._wire, self.meters = wire, meters
        self.heard = bytearray()

    def live(self) -> None:
        came = self._wire.receive()
        if came:
            self.heard += came
            for meter in self.meters:
                self._wire.send(meter.receive(came, time.monotonic_ns()))

    def calls(self, address: int) -> int:
        """How often a meter was called to set up a link."""
        frames = HdlcReceiver().receive(bytes(self.heard), 0)
        return sum(
            isinstance(one, Frame)
            and one.control == Control.SNRM
            and one.destination.lower == address
            for one in frames
        )


def test_meters_of_one_line_are_read_in_turn(wire: Wire, secrets: dict[str, object]) -> None:
    bus = Bus(wire, answering(17), answering(18, ASSOCIATED), answering(19))
    own: dict[int, dict[str, object]] = {17: {}, 18: secrets, 19: {}}
    place: dict[str, object] = {"device": wire.device}
    with joined(place, own) as sources, behind(bus.live):
        counts = read(go_on(sources, each((17, 18, 19), 5)))
    assert max(counts.values()) <= 3 * 5  # one of them is due twice as often
    # Each association was kept while the others were asked.
    assert [bus.calls(address) for address in (17, 18, 19)] == [1, 1, 1]


def test_a_meter_that_is_always_due_leaves_the_others_their_turn(wire: Wire) -> None:
    bus = Bus(wire, *map(answering, (17, 18, 19)))
    own: dict[int, dict[str, object]] = {
        address: {"period_machine_ms": 100 if address == 17 else 500} for address in (17, 18, 19)
    }
    with joined({"device": wire.device}, own) as sources, behind(bus.live, 0.03):
        said = go_on(sources, each((18, 19), 6))
    for address in (18, 19):
        times_ns = [one.at_ns for one in said if one.address == address]
        assert max(later - before for before, later in pairwise(times_ns)) < 4 * NS_PER_S


def test_a_silent_meter_does_not_starve_the_others(wire: Wire) -> None:
    bus = Bus(wire, answering(17), answering(19))
    own: dict[int, dict[str, object]] = {17: {}, 18: {"answer_machine_ms": 1_000}, 19: {}}
    with joined({"device": wire.device}, own) as sources, behind(bus.live):
        # Beyond the silent one's second call, five seconds after its first three.
        said = go_on(sources, lambda said: sum(one.address == 18 for one in said) == 2)
    silences = [one for one in said if one.address == 18]
    assert [one.one.reason for one in silences if isinstance(one.one, Refusal)] == [
        Refused.SILENT,
        Refused.SILENT,
    ]
    assert bus.calls(18) == 3 + 1
    for address in (17, 19):
        times_ns = [one.at_ns for one in said if one.address == address]
        since_ns = [time_ns for time_ns in times_ns if time_ns > silences[0].at_ns]
        # Once it is known as silent, one answer's time is all that it takes from the others.
        assert max(later - before for before, later in pairwise(since_ns)) < 2.5 * NS_PER_S
        assert len(since_ns) > 10


def test_an_answer_that_comes_in_anothers_turn_is_nobodys(wire: Wire) -> None:
    late = Bus(wire, answering(17))
    prompt = answering(18)
    under_way: list[tuple[int, bytes]] = []

    def live() -> None:
        now_ns = time.monotonic_ns()
        came = wire.receive()
        if came:
            wire.send(prompt.receive(came, now_ns))
            under_way.append((now_ns + 450 * NS_PER_MS, late.meters[0].receive(came, now_ns)))
        while under_way and under_way[0][0] <= now_ns:
            wire.send(under_way.pop(0)[1])

    own: dict[int, dict[str, object]] = {17: {"tries": 1}, 18: {}}
    with joined({"device": wire.device}, own) as sources, behind(live):
        said = go_on(sources, each((18,), 10))
    assert any(isinstance(one.one, Refusal) for one in said if one.address == 17)


def test_a_line_that_is_gone_is_lost_for_all_its_meters_and_opened_anew(wire: Wire) -> None:
    buses = Buses()
    own: dict[int, dict[str, object]] = {17: {}, 18: {}}
    bus = Bus(wire, *map(answering, own))
    with joined({"device": wire.device}, own, buses) as sources:
        with behind(bus.live):
            go_on(sources, each((17, 18), 1))
        wire.unplug()
        for source in sources.values():
            with pytest.raises(LineLost, match=r"gone|hung up"):
                go_on({0: source}, lambda _: False)
    again = Wire()
    live = Bus(again, *map(answering, own)).live
    with joined({"device": again.device}, own, buses) as sources, behind(live):
        assert read(go_on(sources, each((17, 18), 1)))
    again.unplug()


def test_one_meter_may_leave_in_its_turn_and_come_back(wire: Wire) -> None:
    buses = Buses()
    bus = Bus(wire, answering(18))
    own: dict[int, dict[str, object]] = {17: {}, 18: {}}
    place: dict[str, object] = {"device": wire.device}
    with joined(place, {18: {}}, buses) as sources, behind(bus.live):
        with joined(place, {17: {"answer_machine_ms": 10_000}}, buses) as others:
            both = {**sources, **others}
            go_on(both, lambda _: bus.calls(17) > 0)  # and now its answer is awaited
        read(go_on(sources, each((18,), 2)))
        bus.meters = (*bus.meters, answering(17))
        with joined(place, {17: {}}, buses) as others:
            assert read(go_on({**sources, **others}, each(tuple(own), 2)))


def test_meters_behind_a_serial_server_share_its_connection(server: Server) -> None:
    meters = [answering(17), answering(18)]

    def live() -> None:
        with suppress(BlockingIOError):
            connection = server.connection or server.accept()
            came = connection.recv(4_096)
            for meter in meters:
                connection.sendall(meter.receive(came, time.monotonic_ns()))

    with joined(dict(server.place), {17: {}, 18: {}}) as sources, behind(live):
        assert read(go_on(sources, each((17, 18), 3)))


@pytest.mark.parametrize(
    ("second", "advice"),
    [
        ({"baud": 19_200}, "state its protocol, speed or wiring differently"),
        ({"physical": 17}, "the address .* twice"),
        ({"driver": "d0", "mode": "asked", "address": "1"}, "state its protocol"),
    ],
)
def test_what_contradicts_another_meter_of_the_line_is_refused(
    wire: Wire, second: dict[str, object], advice: str
) -> None:
    buses = Buses()
    common = {"driver": "dlms", "register": "import", "device": wire.device}
    with closing(open_index({**common, "physical": 17}, buses)):
        with pytest.raises(ConfigurationError, match=advice):
            open_index({**common, **second}, buses)
        open_index({**common, "physical": 18}, buses).close()


def test_what_keeps_one_meters_counter_is_no_matter_of_the_others(
    wire: Wire, secrets: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hal.counter_file.CounterFile.keep", fail)
    buses = Buses()
    bus = Bus(wire, answering(17), answering(18, ASSOCIATED))
    place: dict[str, object] = {"device": wire.device}
    with joined(place, {17: {}}, buses) as sources, behind(bus.live):
        with (
            joined(place, {18: secrets}, buses) as others,
            pytest.raises(LineLost, match="cannot keep the invocation counter"),
        ):
            go_on({**sources, **others}, each((18,), 1))
        assert read(go_on(sources, each((17,), 2)))


def test_d0_meters_with_addresses_share_a_line(wire: Wire) -> None:
    meters = {
        str(address): D0Meter(
            Plate("TST", f"M{address}", Mode.C, 9_600, address=str(address)),
            lambda _, address=address: [f"0.0.0({address})", f"1.8.0({address:06}.0*kWh)"],  # type: ignore[misc]
        )
        for address in (1, 2)
    }
    under_way: list[tuple[int, bytes]] = []

    def live() -> None:
        now_ns = time.monotonic_ns()
        heard, baud = wire.receive(), wire.baud
        if heard:
            arrives_ns = now_ns + len(heard) * 10 * NS_PER_S // baud
            under_way.append((arrives_ns, bytes(byte & 0x7F for byte in heard)))
        while under_way and under_way[0][0] <= now_ns:
            came = under_way.pop(0)[1]
            for meter in meters.values():
                meter.receive(came, now_ns)
        for meter in meters.values():
            said = meter.speak(now_ns)
            if said:
                wire.send(said if wire.baud == meter.form.baud else os.urandom(len(said)))

    buses = Buses()
    common = {"driver": "d0", "register": "import", "device": wire.device, "mode": "asked"}
    with ExitStack() as stack:
        sources: dict[int, IndexSource] = {
            address: stack.enter_context(
                closing(open_index({**common, "address": str(address)}, buses))
            )
            for address in (1, 2)
        }
        stack.enter_context(behind(live))
        said = go_on(sources, lambda said: {one.address for one in said} == {1, 2})
    assert {one.one.identity for one in said if isinstance(one.one, Reading)} == {"1", "2"}
