"""Simulated meters that speak, as users start them: a real process, a pseudo-terminal, and the
driver that a configuration names. What each driver reads is what the simulator's log says."""

import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from firmware.analysis import analyse
from firmware.recording import recording_of
from firmware.simulating import Kind
from firmware.speaking import HABITS
from hal.drivers import Buses, open_index
from hal.index.plausible import Before, Limits, Plausible
from hal.index.reading import Index, Reading, Refusal, Refused, Register

PATIENCE_S = 30.0
START_WH = 1_000_000
FASTER = {Kind.DLMS_PUSH: ("--period-ms", "1100"), Kind.D0: ("--period-ms", "500")}
SOURCES: dict[Kind, dict[str, object]] = {
    Kind.LINKY: {"driver": "linky"},
    Kind.LINKY_HISTORIC: {"driver": "linky"},
    Kind.P1: {"driver": "p1"},
    Kind.D0: {"driver": "d0", "mode": "pushed", "baud": 9_600},
    Kind.D0_ASKED: {"driver": "d0", "mode": "asked", "period_machine_ms": 1_000},
    Kind.SML: {"driver": "sml"},
    Kind.DLMS_PUSH: {"driver": "dlms-push"},
    Kind.DLMS: {"driver": "dlms", "period_machine_ms": 500},
    Kind.MODBUS: {"driver": "modbus", "map": "eastron-sdm", "address": 1},
}


class Meter:
    """One running simulator, and its log."""

    def __init__(self, folder: Path, kind: Kind, *words: str) -> None:
        self.link, self.log = folder / f"{kind}.tty", folder / f"{kind}.log"
        command = [sys.executable, "-m", "firmware.main", "simulate", "--tty", str(self.link)]
        self.process = subprocess.Popen(
            [*command, "--log", str(self.log), "--meter", kind, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        until_s = time.monotonic() + PATIENCE_S
        while not self.link.is_symlink():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < until_s
            time.sleep(0.01)

    def shown(self) -> list[tuple[int, int]]:
        """What it has shown: import and export, Wh."""
        rows = [line.split() for line in self.log.read_text().splitlines()]
        return [(int(row[1]), int(row[2])) for row in rows]

    def end(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        out, error = self.process.communicate(timeout=PATIENCE_S)
        assert (self.process.returncode, error) == (0, "")
        return out


@pytest.fixture
def simulate(tmp_path: Path) -> Iterator[Callable[..., Meter]]:
    running: list[Meter] = []

    def start(kind: Kind, *words: str) -> Meter:
        running.append(Meter(tmp_path, kind, *words))
        return running[-1]

    yield start
    for one in running:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate(timeout=PATIENCE_S)


def listen(
    meter: Meter, kind: Kind, least: int, seconds: float = PATIENCE_S
) -> tuple[list[Reading], list[Refusal], bytes]:
    """Readings until there are so many, and two that differ; what was refused; and the bytes of the
    line."""
    readings: list[Reading] = []
    refusals: list[Refusal] = []
    raw = b""
    until_s = time.monotonic() + seconds
    table = {"device": str(meter.link), "register": Register.IMPORT, **SOURCES[kind]}
    with closing(open_index(table, Buses())) as source:
        while time.monotonic() < until_s:
            seen = {(one.imported, one.exported) for one in readings}
            if len(readings) >= least and len(seen) > 1:
                break
            due_ns = source.due_ns
            wait_s = 0.2 if due_ns is None else (due_ns - time.monotonic_ns()) / 1e9
            select.select([source.fileno()], [], [], min(0.2, max(0.002, wait_s)))
            heard = source.take()
            raw += heard.raw
            readings += [one for one in heard.said if isinstance(one, Reading)]
            refusals += [one for one in heard.said if isinstance(one, Refusal)]
    return readings, refusals, raw


def judged(gate: Plausible, readings: list[Reading]) -> tuple[int, set[Refused]]:
    """How many of them are believed, and why others are not."""
    outcome = [one for reading in readings for one in gate.judge(reading)]
    refused = {one.reason for one in outcome if isinstance(one, Refusal)}
    return sum(isinstance(one, Reading) for one in outcome), refused


@pytest.mark.parametrize("kind", list(Kind))
def test_a_0_of_a_meter_that_was_just_switched_on_is_believed_by_no_driver(
    kind: Kind, simulate: Callable[..., Meter]
) -> None:
    began_ns = time.monotonic_ns()
    limits = Limits("", Register.IMPORT, 36_000)
    shown = Before(Index(START_WH), began_ns)
    fresh, older = Plausible(limits, registered=shown), Plausible(limits, before=shown)
    words = ("--watts", "36000", "--speed", "60", *FASTER.get(kind, ()))
    meter = simulate(kind, *words, "--start-wh", "0")
    readings, _, _ = listen(meter, kind, least=3)
    assert judged(fresh, readings) == (0, {Refused.BELOW_REGISTERED})
    assert judged(older, readings) == (0, {Refused.WENT_BACK})
    meter.end()
    meter = simulate(kind, "--watts", "3600", *FASTER.get(kind, ()), "--start-wh", str(START_WH))
    readings, _, _ = listen(meter, kind, least=3)
    for gate in (fresh, older):
        believed, refused = judged(gate, readings)
        assert believed >= 2
        assert not refused
    meter.end()


def wh(reading: Reading, register: Register) -> int | None:
    index = reading.index_of(register)
    return None if index is None else index.uwh // 10**6


@pytest.mark.parametrize("kind", [*Kind])
def test_what_a_driver_reads_is_what_the_simulated_meter_showed(
    kind: Kind, simulate: Callable[..., Meter]
) -> None:
    meter = simulate(kind, "--watts", "3600", "--speed", "100", *FASTER.get(kind, ()))
    readings, _, raw = listen(meter, kind, 2)
    assert len(readings) >= 2
    shown = meter.shown()
    for one in readings:
        assert one.identity == HABITS[kind].identity
        exported = None if kind is Kind.LINKY_HISTORIC else START_WH
        assert (wh(one, Register.IMPORT), wh(one, Register.EXPORT)) in [
            (imported, exported) for imported, _ in shown
        ]
    values = [wh(one, Register.IMPORT) for one in readings]
    assert values == sorted(values, key=lambda one: one or 0)
    assert values[0] != values[-1]
    assert meter.end().startswith(f"said {len(meter.shown())} messages")
    assert not meter.link.is_symlink()
    if raw and kind is not Kind.DLMS:  # whose answers say nothing without the questions
        found = analyse(recording_of(raw))
        assert found.driver == SOURCES[kind]["driver"], found
        assert found.identities == (HABITS[kind].identity,)


def test_the_other_register_grows_where_energy_is_given_to_the_grid(
    simulate: Callable[..., Meter],
) -> None:
    meter = simulate(
        Kind.P1, "--watts", "3600", "--speed", "100", "--register", "export", "--start-wh", "7"
    )
    readings, _, _ = listen(meter, Kind.P1, 2)
    assert {wh(one, Register.IMPORT) for one in readings} == {7}
    assert wh(readings[-1], Register.EXPORT) in [exported for _, exported in meter.shown()]
    assert wh(readings[-1], Register.EXPORT) != 7


def test_damaged_messages_are_refused_and_the_others_are_read(
    simulate: Callable[..., Meter],
) -> None:
    words = ("--watts", "3600", "--speed", "100", "--period-ms", "100")
    meter = simulate(Kind.SML, *words, "--damage", "0.4", "--seed", "5")
    readings, refusals, _ = listen(meter, Kind.SML, 8)
    shown = {imported for imported, _ in meter.shown()}
    assert {wh(one, Register.IMPORT) for one in readings} <= shown
    assert refusals
    marked = [line for line in meter.log.read_text().splitlines() if line.endswith(" damaged")]
    assert f"{len(marked)} of them damaged" in meter.end()


def test_it_ends_by_itself_with_its_time_and_says_what_is_wrong_with_its_options(
    tmp_path: Path,
) -> None:
    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "firmware.main",
                "simulate",
                "--tty",
                str(tmp_path / "t"),
                *words,
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )

    good = run("--meter", "p1", "--watts", "5", "--seconds", "0.2")
    assert (good.returncode, good.stdout) == (0, "said 1 messages\n")
    for words, why in (
        (("--watts", "5"), "--constant"),
        (("--watts", "5", "--meter", "p1", "--constant", "1000"), "no pulses"),
        (("--watts", "5", "--meter", "p1", "--damage", "2"), "--damage"),
        (("--watts", "5", "--meter", "linky", "--identity", "7"), "the number"),
    ):
        bad = run(*words)
        assert bad.returncode == 2
        assert why in bad.stderr
