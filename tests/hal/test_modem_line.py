"""The modem lines of a serial port: however late a look comes, its pulses are the edges that the
kernel has counted, and nothing else is one."""

import errno
import os
import pty
import select
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.errors import ConfigurationError
from cryptometer.steps import NS_PER_MS
from hal import modem_line
from hal.drivers import open_source
from hal.modem_line import DOUBT_NS, UNSEEN_MAX, Edge, ModemLine, ModemSettings, ModemSignal
from hal.ports import LineLost, Taken
from hal.serial_line import SerialLine, SerialSettings
from tests.core.strategies import examples
from tests.hal.modem_port import BIT, INDEX, ModemPort, plugged

PATIENCE_S = 10.0
BOTH_EDGES = ["cts", "dsr", "dcd"]


@pytest.fixture
def port() -> Iterator[ModemPort]:
    with plugged() as made:
        yield made


@pytest.fixture
def line(port: ModemPort) -> Iterator[ModemLine]:
    with closing(ModemLine(port.settings())) as opened:
        yield opened


def is_readable(line: ModemLine, within_s: float = 0) -> bool:
    return bool(select.select([line], [], [], within_s)[0])


# --- What counts. --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BOTH_EDGES)
def test_a_pulse_is_two_changes_and_counts_at_its_end(name: str) -> None:
    with plugged(name) as port, closing(ModemLine(port.settings())) as line:
        assert line.take() == Taken(0)
        port.change()
        assert line.take() == Taken(0)
        port.change()
        assert line.take() == Taken(1)
        assert line.take() == Taken(0)


def test_the_edge_that_switches_on_can_be_the_one_that_counts(port: ModemPort) -> None:
    with closing(ModemLine(port.settings(edge="on"))) as line:
        port.change()
        assert line.take() == Taken(1)
        port.change()
        assert line.take() == Taken(0)


def test_a_line_that_is_on_when_it_is_opened_ends_a_pulse_first() -> None:
    with plugged(is_on=True) as port, closing(ModemLine(port.settings())) as line:
        port.change()
        assert line.take() == Taken(1)
        port.change()
        assert line.take() == Taken(0)


def test_what_was_counted_before_the_line_was_opened_is_nobodys() -> None:
    with plugged(count=12_345) as port, closing(ModemLine(port.settings())) as line:
        assert line.take() == Taken(0)
        port.pulse()
        assert line.take() == Taken(1)


def test_a_burst_between_two_looks_is_counted_whole(port: ModemPort, line: ModemLine) -> None:
    port.pulse(1_000_000)
    assert line.take() == Taken(1_000_000)


@pytest.mark.parametrize("count", [2**31 - 2, 2**32 - 2, 2**32 - 1])
def test_a_count_may_run_over(count: int) -> None:
    with plugged(count=count) as port, closing(ModemLine(port.settings())) as line:
        for _ in range(3):
            port.pulse()
            assert line.take() == Taken(1)


def test_what_the_kernel_counts_beside_the_line_is_no_pulse(
    port: ModemPort, line: ModemLine
) -> None:
    for index in range(20):
        if index != INDEX["dcd"]:
            port.counts[index] += 7
    port.state ^= BIT["cts"] | BIT["ri"] | BIT["dsr"]
    assert line.take() == Taken(0)
    port.pulse()
    assert line.take() == Taken(1)


def test_a_ring_is_counted_by_its_end_where_the_driver_counts_only_that() -> None:
    with plugged("ri") as port, closing(ModemLine(port.settings(counts="pulses"))) as line:
        port.change(counted=0)
        for _ in range(3):
            assert line.take() == Taken(0)
            port.pass_time(DOUBT_NS)
        port.change(counted=1)
        assert line.take() == Taken(1)


def test_a_ring_is_two_changes_where_the_driver_counts_both() -> None:
    with plugged("ri") as port, closing(ModemLine(port.settings(counts="edges"))) as line:
        port.pulse(3)
        port.change()
        assert line.take() == Taken(3)


def test_a_ring_driver_that_counts_ends_only_makes_no_pulses_of_edges_but_noise() -> None:
    """The wrong setting is seen: the doctor tells of noise."""
    with plugged("ri") as port, closing(ModemLine(port.settings(counts="edges"))) as line:
        for _ in range(4):
            port.change(2, counted=1)
            assert line.take() == Taken(0)
            line.take()
            port.pass_time(DOUBT_NS)
            assert line.take() == Taken(0, noise=1)


Act = int | None  # so many changes of the line, or a look


@examples(200)
@given(
    acts=st.lists(st.none() | st.integers(1, 9), max_size=40),
    edge=st.sampled_from(Edge),
    is_on=st.booleans(),
    count=st.sampled_from([0, 5, 2**31 - 3, 2**32 - 4]),
    name=st.sampled_from(BOTH_EDGES),
    idle_ns=st.integers(0, 2 * DOUBT_NS),
)
def test_in_whatever_order_edges_and_looks_come_the_pulses_are_the_edges_of_the_kind(
    acts: list[Act], edge: Edge, is_on: bool, count: int, name: str, idle_ns: int
) -> None:
    with (
        plugged(name, count, is_on=is_on) as port,
        closing(ModemLine(port.settings(edge=edge))) as line,
    ):
        expected = taken = noise = 0
        for act in [*acts, None]:
            for _ in range(act or 0):
                port.change()
                expected += port.is_on == (edge is Edge.ON)
            if act is None:
                look = line.take()
                taken, noise = taken + look.pulses, noise + look.noise
                assert taken == expected  # at every look, not only in the end
            port.pass_time(idle_ns)
        assert noise == 0


# --- A line that changes otherwise than it is counted. -------------------------------------------


def test_a_spike_that_the_kernel_took_for_one_change_is_noise_and_no_pulse(
    port: ModemPort, line: ModemLine
) -> None:
    for _ in range(5):
        port.change(2, counted=1)
        assert line.take() == Taken(0)
        assert line.take() == Taken(0)
        port.pass_time(DOUBT_NS)
        assert line.take() == Taken(0, noise=1)
        port.pulse(2)
        assert line.take() == Taken(2)


def test_an_adapter_may_tell_its_state_before_its_count(port: ModemPort, line: ModemLine) -> None:
    for _ in range(3 * UNSEEN_MAX):
        port.change(counted=0)
        assert line.take() == Taken(0)
        port.pass_time(16 * NS_PER_MS)
        port.change(0, counted=1)
        assert line.take().noise == 0
        port.pass_time(DOUBT_NS)
    assert line.take() == Taken(0)


def test_a_change_that_is_seen_for_long_and_never_counted_is_a_lost_line(
    port: ModemPort, line: ModemLine
) -> None:
    port.change(counted=0)
    assert line.take() == Taken(0)
    port.pass_time(DOUBT_NS - 1)
    assert line.take() == Taken(0)
    port.pass_time(1)
    with pytest.raises(LineLost, match=f"{port.device} shows dcd change and does not count it"):
        line.take()


def _pulse(port: ModemPort) -> None:
    port.pulse()


def _spike(port: ModemPort) -> None:
    port.change(2, counted=1)


@pytest.mark.parametrize("before", [_pulse, _spike])
def test_a_count_speaks_only_for_the_changes_before_it(
    port: ModemPort, line: ModemLine, before: Callable[[ModemPort], None]
) -> None:
    before(port)
    for _ in range(3):
        line.take()
        port.pass_time(DOUBT_NS)
    port.change(counted=0)
    assert line.take() == Taken(0)
    port.pass_time(DOUBT_NS)
    with pytest.raises(LineLost, match="does not count it"):
        line.take()


def test_short_pulses_that_are_seen_and_never_counted_are_a_lost_line(
    port: ModemPort, line: ModemLine
) -> None:
    for _ in range(UNSEEN_MAX):
        assert line.take() == Taken(0)
        port.change(counted=0)
        assert line.take() == Taken(0)
        port.change(counted=0)
        port.pass_time(30 * NS_PER_MS)
    with pytest.raises(LineLost, match="take another adapter, or RX with driver serial, line s0"):
        line.take()


def test_a_count_clears_what_was_seen_before_it(port: ModemPort, line: ModemLine) -> None:
    for _ in range(3 * UNSEEN_MAX):
        port.change(counted=0)
        line.take()
        port.change(counted=0)
        line.take()
        port.pulse()
        assert line.take() == Taken(1)


@pytest.mark.parametrize("changes", [1, 2])
def test_a_change_while_the_line_is_opened_puts_nothing_out_of_step(
    port: ModemPort, changes: int
) -> None:
    port.during_state = [changes]
    with closing(ModemLine(port.settings())) as line:
        if port.is_on:
            port.change()
            assert line.take() == Taken(1)
        port.pulse()
        assert line.take() == Taken(1)


def test_a_line_that_never_rests_is_opened_all_the_same(port: ModemPort) -> None:
    port.during_state = [1] * 1_000
    with closing(ModemLine(port.settings())) as line:
        port.during_state = []
        taken = line.take()
        line.take()
        port.pass_time(DOUBT_NS)
        taken = Taken(taken.pulses, noise=line.take().noise)
        assert taken.pulses + taken.noise <= 1
        port.pulse(3)
        assert line.take() == Taken(3)


# --- Lines that go and come. ---------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EIO, errno.ENODEV])
def test_an_unplugged_adapter_is_a_lost_line_and_stays_lost(
    port: ModemPort, line: ModemLine, number: int
) -> None:
    port.unplug(number)
    assert is_readable(line, PATIENCE_S)
    for _ in range(2):
        with pytest.raises(LineLost, match=f"{port.device} is gone: {os.strerror(number)}"):
            line.take()
    port.refused = None
    with closing(ModemLine(_elsewhere(port))) as again:
        port.pulse()
        assert again.take() == Taken(1)


def _elsewhere(port: ModemPort) -> ModemSettings:
    """The adapter, plugged in again, has another terminal."""
    port.close()
    port.master, port.far = pty.openpty()
    tty.setraw(port.far)
    port.device = os.ttyname(port.far)
    return port.settings()


def test_a_port_that_has_hung_up_is_a_lost_line(port: ModemPort, line: ModemLine) -> None:
    os.close(port.master)
    port.master = os.dup(port.far)
    with pytest.raises(LineLost, match="is gone: Input/output error"):
        line.take()


@pytest.mark.parametrize("count", [1, 100, 2**31 - 1])
def test_a_count_that_goes_back_is_a_lost_line_and_no_pulses(count: int) -> None:
    with plugged(count=count) as port, closing(ModemLine(port.settings())) as line:
        port.counts = [0] * 20
        with pytest.raises(LineLost, match="counts anew: it was reset"):
            line.take()


def test_a_real_pseudo_terminal_counts_no_modem_lines_and_is_refused() -> None:
    master, far = pty.openpty()
    tty.setraw(far)
    device = os.ttyname(far)
    before = _open_files()
    for _ in range(3):
        with pytest.raises(LineLost) as refused:
            open_source({"driver": "modem", "device": device, "line": "cts"})
        assert str(refused.value) == (
            f"cannot open {device}: it does not count its modem lines (TIOCGICOUNT), as"
            " pseudo-terminals and some adapters do not: take another adapter, or RX with driver"
            " serial, line s0"
        )
    assert _open_files() == before
    SerialLine(SerialSettings(device)).close()  # and is free for another driver
    os.close(master)
    os.close(far)


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize(
    ("device", "why"),
    [
        ("/dev/serial/by-id/none", "there is no such device; look under /dev/serial/by-id"),
        ("/dev/null", "it is no serial line"),
        ("/", "it is no serial line"),
    ],
)
def test_a_port_that_cannot_be_opened_says_why(device: str, why: str) -> None:
    before = _open_files()
    with pytest.raises(LineLost) as lost:
        ModemLine(ModemSettings(device, ModemSignal.CTS))
    assert str(lost.value) == f"cannot open {device}: {why}"
    assert _open_files() == before


def test_a_port_that_is_pulled_while_it_is_opened_is_no_line_yet(port: ModemPort) -> None:
    port.unplug(errno.ENODEV)
    with pytest.raises(LineLost, match="there is no such device"):
        ModemLine(port.settings())


@pytest.mark.parametrize("second", [ModemLine, SerialLine])
def test_a_second_program_on_the_port_is_refused(
    port: ModemPort, line: ModemLine, second: Callable[..., object]
) -> None:
    settings = port.settings() if second is ModemLine else SerialSettings(port.device)
    with pytest.raises(LineLost, match="another program reads it"):
        second(settings)


# --- Waking. -------------------------------------------------------------------------------------


def test_an_idle_line_wakes_nobody(port: ModemPort, line: ModemLine) -> None:
    assert not is_readable(line, 0.1)
    port.counts[INDEX["cts"]] += 1
    port.counts[4] += 100  # characters
    assert not is_readable(line, 0.1)


def test_a_change_wakes_and_a_look_takes_the_wake(port: ModemPort, line: ModemLine) -> None:
    for _ in range(3):
        port.pulse()
        assert is_readable(line, PATIENCE_S)
        assert line.take() == Taken(1)
    assert not is_readable(line, 0.1)


def test_a_wake_that_is_missed_costs_no_pulse(
    port: ModemPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modem_line, "WATCH_NS", 3_600 * 10**9)
    with closing(ModemLine(port.settings())) as line:
        port.pulse(5)
        assert not is_readable(line, 0.05)
        assert line.take() == Taken(5)


def test_a_closed_line_leaves_no_thread_and_no_file(port: ModemPort) -> None:
    threads, files = threading.active_count(), _open_files()
    for _ in range(3):
        line = ModemLine(port.settings())
        assert threading.active_count() == threads + 1
        port.unplug()
        assert is_readable(line, PATIENCE_S)
        port.refused = None
        line.close()
    assert (threading.active_count(), _open_files()) == (threads, files)


def test_a_line_is_closed_once_its_watcher_has_ended(
    port: ModemPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it might ask a descriptor that is somebody else's by then."""
    is_asking, may_go_on = threading.Event(), threading.Event()

    def ask_slowly() -> int:
        is_asking.set()
        may_go_on.wait(PATIENCE_S)
        return 0

    line = ModemLine(port.settings())
    monkeypatch.setattr(line, "_read_count", ask_slowly)
    assert is_asking.wait(PATIENCE_S)
    files = _open_files()
    closer = threading.Thread(target=line.close)
    closer.start()
    closer.join(0.05)
    assert _open_files() == files
    may_go_on.set()
    closer.join(PATIENCE_S)
    assert _open_files() == files - 2


def test_a_look_lets_no_characters_pile_up(port: ModemPort, line: ModemLine) -> None:
    os.write(port.master, bytes(4_000))
    assert select.select([port.far], [], [], PATIENCE_S)[0]
    assert line.take() == Taken(0)
    assert not select.select([port.far], [], [], 0.05)[0]


# --- The terminal and the settings. --------------------------------------------------------------


@pytest.mark.parametrize(("name", "watched"), [("cts", 0), ("dsr", 1), ("dcd", 1), ("ri", 1)])
def test_the_driver_is_told_to_watch_its_modem_lines(name: str, watched: int) -> None:
    """A UART's driver does with CRTSCTS or without CLOCAL; an end of DCD may hang nothing up."""
    with plugged(name) as port:
        settings = port.settings(counts="edges") if name == "ri" else port.settings()
        with closing(ModemLine(settings)) as line:
            assert not os.get_blocking(line._port)  # an open may else wait for a carrier
            attributes = termios.tcgetattr(port.far)
            flags = termios.CLOCAL | termios.CRTSCTS
            assert attributes[2] & flags == watched * flags
            assert (attributes[0], attributes[1], attributes[3]) == (0, 0, 0)
            assert attributes[4:6] == [termios.B9600, termios.B9600]


@pytest.mark.parametrize(
    ("table", "advice"),
    [
        ({}, r"\[source\] lacks 'device'"),
        ({"device": "/dev/x"}, r"\[source\] lacks 'line': cts, dsr, dcd or ri"),
        ({"device": "/dev/x", "line": "rts"}, "line is one of cts, dsr, dcd, ri, not 'rts'"),
        ({"device": "/dev/x", "line": "cts", "edge": "up"}, "edge is one of on, off, not 'up'"),
        ({"device": "/dev/x", "line": "cts", "egde": "on"}, "did you mean 'edge'"),
        ({"device": "/dev/x", "line": "ri"}, 'line ri needs counts: "pulses" where'),
        ({"device": "/dev/x", "line": "ri", "counts": "both"}, "line ri needs counts"),
        ({"device": "/dev/x", "line": "dsr", "counts": "edges"}, "counts is for line ri"),
        (
            {"device": "/dev/x", "line": "ri", "counts": "pulses", "edge": "on"},
            'counts the edge "off"',
        ),
    ],
)
def test_a_wrong_setting_is_refused_with_what_to_do(table: dict[str, object], advice: str) -> None:
    with pytest.raises(ConfigurationError, match=advice):
        open_source({"driver": "modem", **table})


def test_the_latency_is_that_of_a_usb_adapter_and_the_capacity_half_the_counts_range(
    line: ModemLine,
) -> None:
    assert (line.latency_ns, line.capacity) == (20 * NS_PER_MS, 2**30)
