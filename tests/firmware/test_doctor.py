"""The doctor as a real process: real pseudo-terminals, a real Mosquitto, the real firmware beside
it, and boards that are broken in every way that can be made here."""

import json
import os
import pty
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from cryptometer import cbor, records
from cryptometer.acknowledgement import Acknowledgement, Stop
from cryptometer.enrolment import Broker
from cryptometer.errors import Reason
from cryptometer.keys import Algorithm
from cryptometer.record_fields import Role
from firmware import device_key, doctor, folder
from firmware.checkup import Finding, Verdict, worst
from firmware.segments import SegmentedLog
from hal.clock import kernel_clock
from hal.files import DiskDirectory, hold, is_held
from tests.brokers import (
    BrokerProcess,
    find_mosquitto,
    free_ports,
    party,
    plain,
    plain_mosquitto,
    running,
    until,
)
from tests.firmware.kit import Office
from tests.firmware.test_folder import bundle_for
from tests.test_mosquitto import Site, found

PROGRAM = [sys.executable, "-m", "firmware.main"]
LIMIT_S = 60.0
LOOK_S = 0.4


@dataclass
class Board:
    """A board's folder, its line's far end, and the office that registers it."""

    path: Path
    master: int
    line: str
    office: Office

    @property
    def state(self) -> Path:
        return self.path / "state"

    @property
    def config(self) -> Path:
        return self.path / "meter.toml"

    def configure(self, line: str = "", more: str = "", driver: str = "serial") -> None:
        device = line or f'device = "{self.line}"'
        now_ms, mono_ms = time.time_ns() // 1_000_000, time.monotonic_ns() // 1_000_000
        self.config.write_text(
            f'state = "state"\n[source]\ndriver = "{driver}"\n{device}\n'
            f'[clock]\ndriver = "scaled"\nspeed = 1\norigin_ms = {now_ms}\nanchor_ms = {mono_ms}\n'
            f"{more}"
        )

    def enrol(self, broker: Broker) -> None:
        folder.enrol(self.state, bundle_for(self.office, self.state, broker=broker))


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    """A board with a key, on a line of its own."""
    master, slave = pty.openpty()
    one = Board(tmp_path, master, os.ttyname(slave), Office())
    device_key.initialise(one.state, Algorithm.EDDSA)
    one.configure()
    yield one
    os.close(master)
    os.close(slave)


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    with running(plain_mosquitto(tmp_path_factory.mktemp("broker"))) as one:
        yield one


def address(broker: BrokerProcess) -> Broker:
    return Broker(f"mqtt://127.0.0.1:{broker.port}")


Findings = list[dict[str, Any]]


def examine(config: Path, seconds: float = LOOK_S) -> tuple[Verdict, Findings]:
    """What the doctor finds."""
    findings = [asdict(one) for one in doctor.examine(config, seconds)]
    return worst([Finding(**one) for one in findings]), findings


def call(config: Path, *words: str, file_size: int = -1) -> "subprocess.CompletedProcess[str]":
    """Runs the doctor as users do; the limit is that of RLIMIT_FSIZE."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))

    return subprocess.run(
        [*PROGRAM, "doctor", "--config", str(config), "--seconds", str(LOOK_S), *words],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        preexec_fn=limit,
    )


def about(findings: Findings, part: str, verdict: str = "") -> str:
    """What was said about a part of the board."""
    return "\n".join(
        f"{one['says']} -> {one['do']}"
        for one in findings
        if one["about"] == part and verdict in ("", one["verdict"])
    )


def wrong_parts(findings: Findings) -> set[str]:
    return {one["about"] for one in findings if one["verdict"] == "wrong"}


@contextmanager
def pulsing(master: int, data: bytes = b"x", every_s: float = 0.05) -> Iterator[None]:
    stop = threading.Event()

    def emit() -> None:
        while not stop.wait(every_s):
            os.write(master, data)

    thread = threading.Thread(target=emit)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def firmware(config: Path) -> Iterator["subprocess.Popen[str]"]:
    """The real firmware, once it watches."""
    log = config.parent / "run.log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            [*PROGRAM, "run", "--config", str(config)], stderr=output, text=True
        ) as process,
    ):
        try:
            until(lambda: "watching" in log.read_text(), "the firmware to watch")
            until(lambda: "connected" in log.read_text(), "the firmware to be connected")
            yield process
        finally:
            process.terminate()
            process.wait(LIMIT_S)


# --- A healthy board. ----------------------------------------------------------------------------


def test_a_healthy_board_is_told_so(board: Board, mosquitto: BrokerProcess) -> None:
    board.enrol(address(mosquitto))
    os.write(board.master, b"xx")
    with pulsing(board.master):
        verdict, findings = examine(board.config, 1)
    assert verdict is not Verdict.WRONG, findings
    assert "W at 0.1 Wh a pulse" in about(findings, "line", "ok")
    assert "pulses had waited" in about(findings, "line", "note")
    assert "name, connection, login" in about(findings, "broker", "ok")
    assert device_key.load_device_key(board.state).public.thumbprint.hex() in about(findings, "key")
    assert not [*board.state.glob(".probe*")]
    assert not (board.state / "device.lock").exists()
    assert not (board.state / "journal").exists()


def test_what_the_broker_keeps_for_the_board_is_heard(board: Board) -> None:
    broker = plain_mosquitto(board.path)
    board.enrol(address(broker))
    office, key = board.office, device_key.load_device_key(board.state).public
    base = f"cryptometer/1/{office.id.hex()}"
    stopped = Acknowledgement("m0", 1, 3, bytes(32), 0, Stop(3, Reason.GAP))
    newer = office.authority.register(
        Role.METER,
        "m0",
        key,
        folder.read_enrolment(board.state, key).details,  # type: ignore[union-attr]
    )
    with running(broker), party(plain(broker), "gateway") as gateway:
        gateway.until_up()
        for topic, payload in (
            (f"{base}/meter/m0/ack/gw", records.seal(stopped, office.id, office.gateway).raw),
            (f"{base}/meter/m0/registration", cbor.encode([newer.raw])),
            (f"{base}/checkpoint", b"no note at all"),
        ):
            gateway.say(topic, payload, retain=True)
        time.sleep(0.2)
        _, findings = examine(board.config)
    assert wrong_parts(findings) == {"gateway"}
    assert "the chain cannot go on at record 3: gap" in about(findings, "gateway", "wrong")
    assert "something new" in about(findings, "gateway", "note")
    assert "1 retained messages" in about(findings, "gateway", "note")
    assert not (board.state / "authority.update").exists()  # it looks, and keeps nothing


def test_beside_the_running_firmware_its_line_is_left_alone(
    board: Board, mosquitto: BrokerProcess
) -> None:
    board.enrol(address(mosquitto))
    with firmware(board.config) as process:
        with pulsing(board.master):
            verdict, findings = examine(board.config, 1)
        assert process.poll() is None
    assert verdict is not Verdict.WRONG, findings
    assert "the running program counts" in about(findings, "line", "ok")
    assert "login" in about(findings, "broker", "ok")
    log = (board.path / "run.log").read_text()
    assert log.count("connected") == 1  # the doctor's login has another name
    assert log.count("watching") == 1


def test_with_a_credential_of_its_own_the_running_firmware_is_not_thrown_out(
    tmp_path: Path, board: Board
) -> None:
    """The written configuration of Mosquitto ties a credential to one connection."""
    site: Site = found(tmp_path / "site")
    state = tmp_path / "site" / "pv-1"
    folder.enrol(state, site.bundle("pv-1"))
    board.configure()
    text = board.config.read_text().replace('state = "state"', f'state = "{state}"')
    board.config.write_text(text)
    with running(site.broker()):
        verdict, findings = examine(board.config)
        assert verdict is not Verdict.WRONG, findings
        assert "name, connection, TLS, login" in about(findings, "broker", "ok")
        with firmware(board.config):
            verdict, findings = examine(board.config)
            assert verdict is not Verdict.WRONG, findings
            assert "TLS; the running program is connected" in about(findings, "broker", "ok")
            time.sleep(0.5)
            log = (board.path / "run.log").read_text()
        assert log.count("connected") == 1
        assert "broke" not in log


# --- Broken boards. ------------------------------------------------------------------------------


def test_no_configuration(tmp_path: Path) -> None:
    verdict, findings = examine(tmp_path / "none.toml")
    assert verdict is Verdict.WRONG
    assert wrong_parts(findings) == {"configuration"}


def test_no_key(board: Board) -> None:
    (board.state / "device.key").unlink()
    verdict, findings = examine(board.config)
    assert verdict is Verdict.WRONG
    assert wrong_parts(findings) == {"key"}
    assert "cryptometer-firmware init" in about(findings, "key")


def test_a_key_that_others_may_read(board: Board) -> None:
    (board.state / "device.key").chmod(0o644)
    _, findings = examine(board.config)
    assert wrong_parts(findings) == {"key"}
    assert "chmod 600" in about(findings, "key")


def test_no_bundle(board: Board) -> None:
    _, findings = examine(board.config)
    assert wrong_parts(findings) == {"registration"}
    assert "enrol BUNDLE" in about(findings, "registration")


def test_a_bundle_that_is_damaged(board: Board, mosquitto: BrokerProcess) -> None:
    board.enrol(address(mosquitto))
    raw = bytearray((board.state / "device.bundle").read_bytes())
    raw[-1] ^= 1
    (board.state / "device.bundle").write_bytes(raw)
    _, findings = examine(board.config)
    assert wrong_parts(findings) == {"registration"}


def test_a_meter_that_was_revoked(board: Board, mosquitto: BrokerProcess) -> None:
    board.enrol(address(mosquitto))
    revocation = board.office.authority.revoke(Role.METER, "m0")
    key = device_key.load_device_key(board.state).public
    assert folder.keep_update(board.state, key, cbor.encode([revocation.raw]))
    _, findings = examine(board.config)
    assert wrong_parts(findings) == {"registration"}
    assert "revoked" in about(findings, "registration", "wrong")


def test_a_line_that_is_missing(board: Board, mosquitto: BrokerProcess) -> None:
    board.enrol(address(mosquitto))
    board.configure('device = "/dev/serial/by-id/none"')
    _, findings = examine(board.config)
    assert wrong_parts(findings) == {"line"}
    assert "there is no such device" in about(findings, "line")


def test_a_port_that_does_not_count_its_modem_lines(board: Board, mosquitto: BrokerProcess) -> None:
    board.enrol(address(mosquitto))
    board.configure(f'device = "{board.line}"\nline = "dcd"', driver="modem")
    _, findings = examine(board.config)
    assert wrong_parts(findings) == {"line"}
    assert "take another adapter, or RX with driver serial" in about(findings, "line", "wrong")


def test_a_line_that_is_silent(board: Board, mosquitto: BrokerProcess) -> None:
    board.enrol(address(mosquitto))
    verdict, findings = examine(board.config)
    assert verdict is Verdict.NOTE  # an idle meter is silent
    assert "switch on a load" in about(findings, "line", "note")


def test_a_line_of_noise(board: Board, mosquitto: BrokerProcess) -> None:
    board.enrol(address(mosquitto))
    board.configure(f'device = "{board.line}"\nline = "s0"')
    with pulsing(board.master, b"\x15\x2a"):
        _, findings = examine(board.config)
    assert wrong_parts(findings) == {"line"}
    assert "no pulse" in about(findings, "line", "wrong")


def test_a_line_that_bursts(board: Board, mosquitto: BrokerProcess) -> None:
    board.enrol(address(mosquitto))
    with pulsing(board.master, b"x" * 100):  # 2,000 a second; I_max gives 125
        _, findings = examine(board.config)
    assert wrong_parts(findings) == {"line"}
    assert "faster than the meter gives them" in about(findings, "line", "wrong")


def test_a_broker_that_refuses_the_connection(board: Board) -> None:
    board.enrol(Broker(f"mqtt://127.0.0.1:{free_ports()}"))
    _, findings = examine(board.config)
    assert wrong_parts(findings) == {"broker"}
    assert "Connection refused" in about(findings, "broker")
    assert "well so far: name" in about(findings, "broker")


def test_a_broker_whose_name_nobody_knows(board: Board) -> None:
    board.enrol(Broker("mqtt://broker.invalid:1883"))  # RFC 6761 §6.4: there never is one
    _, findings = examine(board.config)
    assert wrong_parts(findings) == {"broker"}
    assert "cannot find broker.invalid" in about(findings, "broker")


def test_a_password_the_broker_does_not_know(board: Board, tmp_path: Path) -> None:
    port, none = free_ports(), tmp_path / "passwords"
    none.touch(mode=0o600)
    conf = tmp_path / "closed.conf"
    user = f"user {os.environ.get('USER', 'root')}\n" if os.getuid() else "user root\n"
    conf.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {none}\n{user}"
    )
    closed = BrokerProcess([find_mosquitto(), "-c", str(conf)], [port], tmp_path / "closed.log")
    board.enrol(Broker(f"mqtt://127.0.0.1:{port}", username="m0", password="wrong"))  # noqa: S106
    with running(closed):
        _, findings = examine(board.config)
    assert wrong_parts(findings) == {"broker"}
    assert "refuses us" in about(findings, "broker")
    assert "well so far: name, connection" in about(findings, "broker")


def test_a_broker_that_shows_the_certificate_of_another_authority(
    tmp_path: Path, board: Board
) -> None:
    mine, other = found(tmp_path / "mine"), found(tmp_path / "other")
    folder.enrol(tmp_path / "mine" / "pv-1", mine.bundle("pv-1"))
    text = board.config.read_text()
    text = text.replace('state = "state"', f'state = "{tmp_path}/mine/pv-1"')
    board.config.write_text(f'{text}[broker]\nurl = "mqtts://127.0.0.1:{other.port}"\n')
    with running(other.broker()):
        _, findings = examine(board.config)
    assert wrong_parts(findings) == {"broker"}
    assert "does not show the certificate of our broker" in about(findings, "broker")
    assert "well so far: name, connection" in about(findings, "broker")


def test_the_system_s_clock_is_told_as_the_kernel_tells_it(board: Board) -> None:
    text = board.config.read_text()
    board.config.write_text(text[: text.index("[clock]")])
    synchronised = kernel_clock().synchronised
    _, findings = examine(board.config)
    assert ("clock" in wrong_parts(findings)) is not synchronised


def test_a_journal_whose_end_is_torn(board: Board, mosquitto: BrokerProcess) -> None:
    board.enrol(address(mosquitto))
    with firmware(board.config):
        os.write(board.master, b"xxx")
        time.sleep(0.3)
    [journal] = (board.state / "journal").glob("*.log")
    with journal.open("ab") as file:
        file.write(b"\x00\x00")
    before = journal.read_bytes()
    _, findings = examine(board.config)
    assert wrong_parts(findings) == {"journal"}
    assert "2 bytes at the end" in about(findings, "journal", "wrong")
    assert journal.read_bytes() == before
    assert "register 3 pulses" in about(findings, "chain")


def test_a_journal_of_another_version(board: Board) -> None:
    SegmentedLog(DiskDirectory(board.state / "journal"), "journal").append([cbor.encode([1, 2])])
    _, findings = examine(board.config)
    assert "chain" in wrong_parts(findings)
    assert "another version" in about(findings, "chain")


def test_a_card_that_takes_no_more(board: Board, mosquitto: BrokerProcess) -> None:
    """A limit on the size of files stands for a full card: the write fails in the same place."""
    board.enrol(address(mosquitto))
    done = call(board.config, "--json", file_size=100)
    assert (done.returncode, done.stderr) == (1, "")
    findings = json.loads(done.stdout)["findings"]
    assert wrong_parts(findings) == {"disk"}
    assert "nothing can be written" in about(findings, "disk")
    assert not [*board.state.glob(".probe*")]


# --- The lock. -----------------------------------------------------------------------------------


def test_asking_who_holds_a_folder_takes_nothing_and_makes_nothing(tmp_path: Path) -> None:
    lock = tmp_path / "device.lock"
    assert not is_held(lock)
    assert not lock.exists()
    with hold(lock):
        assert is_held(lock)
    assert not is_held(lock)
    with hold(lock):
        pass


def test_the_report_for_people(board: Board) -> None:
    done = call(board.config)
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ok     configuration ")
    wrong = next(at for at, line in enumerate(lines) if line.startswith("wrong"))
    assert lines[wrong + 1].lstrip().startswith("-> ")


def test_the_report_for_programs(board: Board, mosquitto: BrokerProcess) -> None:
    board.enrol(address(mosquitto))
    done = call(board.config, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["verdict"] == "note"
    assert set(report["findings"][0]) == {"about", "verdict", "says", "do"}
