"""`cryptometer-gateway` as a process: exit codes, messages that say what to do, and a service that
takes records from a real broker, seals, stops on request, and comes back."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cryptometer import audit, note, records
from cryptometer.acknowledgement import Acknowledgement
from cryptometer.commands.demo.broker import HOST, free_port, listens, start_broker
from cryptometer.commands.demo.processes import COMMON, GATEWAY, Child, program
from cryptometer.community import encode_community, trust
from cryptometer.proof import verify_proof
from cryptometer.record_fields import Role
from cryptometer.records import Record
from cryptometer.steps import step_start_ms
from cryptometer.tiles import CHECKPOINT_PATH
from gateway.main import EXIT_BEHIND
from hal.broker import BrokerSettings
from hal.faults import CRASH_VARIABLE
from hal.files import DiskTree
from hal.mqtt import Link
from hal.ports import Message
from hal.program import EXIT_CONFIGURATION, EXIT_FAILED
from tests.core.community import FIRST_STEP, STEP_S
from tests.gateway.kit import EVERY_BLOCK, Premises

ROOT = Path(__file__).parents[2]
COMMAND_MAX_S = 60
WAIT_MAX_S = 30
SPEED = 300  # a step in 3 s
SECOND = FIRST_STEP + 1


def gateway(
    *words: str | Path, limit: Callable[[], None] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Runs the program to its end. `limit` is called in the child before the program begins."""
    return subprocess.run(
        program(GATEWAY, *words),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=COMMAND_MAX_S,
        check=False,
        preexec_fn=limit,
        env={**os.environ, CRASH_VARIABLE: ""},
    )


def refused(*words: str | Path, code: int = EXIT_CONFIGURATION) -> str:
    """What the program says when it ends with this code: one line, and no traceback."""
    done = gateway(*words)
    assert done.returncode == code, done
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("cryptometer-gateway: ")
    return line.removeprefix("cryptometer-gateway: ")


def wait(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_MAX_S
    while not true():
        assert time.monotonic() < deadline, f"waited {WAIT_MAX_S} s for {what}"
        time.sleep(0.02)


@pytest.fixture
def premises(tmp_path: Path) -> Premises:
    return Premises(tmp_path / "gateway")


@pytest.fixture
def worked(tmp_path: Path) -> Premises:
    """A folder whose gateway has made four blocks."""
    made = Premises(tmp_path / "gateway")
    made.enrol()
    with closing(made.folder.open_store()) as store:
        site = made.site(store)
        site.found()
        site.run([3], [5, 2], [])
    return made


# --- Commands. -----------------------------------------------------------------------------------


def test_without_a_command_it_says_which_there_are() -> None:
    done = gateway()
    assert done.returncode == EXIT_CONFIGURATION
    assert "usage: cryptometer-gateway" in done.stderr
    done = gateway("--help")
    assert done.returncode == 0
    for command in ("init", "import", "run", "status", "serve", "prove", "backup", "restore"):
        assert f"    {command} " in done.stdout


def test_init_makes_a_folder_once(tmp_path: Path) -> None:
    done = gateway("init", tmp_path / "g")
    assert (done.returncode, done.stderr) == (0, "")
    assert "cryptometer-gateway import BUNDLE" in done.stdout
    assert "never overwritten" in refused("init", tmp_path / "g")


@pytest.mark.parametrize("command", ["run", "status"])
def test_a_folder_that_is_none_is_told_to_be_made(tmp_path: Path, command: str) -> None:
    said = refused(command, "--config", tmp_path / "nowhere")
    assert said.endswith(f"run cryptometer-gateway init {tmp_path / 'nowhere'}")
    said = refused(command, "--config", tmp_path / "here" / "my.toml")
    assert said.endswith(f"run cryptometer-gateway init {tmp_path / 'here'}")


def test_run_without_a_bundle_says_what_to_import(premises: Premises) -> None:
    said = refused("run", "--config", premises.path)
    assert said == "this gateway is not enrolled: cryptometer-gateway import gateway.bundle"


def test_run_without_records_says_what_to_import(premises: Premises) -> None:
    bundle = premises.put("gateway.bundle", premises.bundle())
    assert gateway("import", bundle, "--config", premises.path).returncode == 0
    said = refused("run", "--config", premises.path)
    assert said == (
        "there are no authority records yet: cryptometer-gateway import authority.records"
    )


def test_run_with_records_that_do_not_know_it_says_so(premises: Premises, tmp_path: Path) -> None:
    premises.enrol()
    for path in premises.folder.imports.iterdir():
        path.unlink()
    premises.chain = premises.chain[:1]
    early = premises.put("authority.records", premises.records())
    assert gateway("import", early, "--config", premises.path).returncode == 0
    said = refused("run", "--config", premises.path)
    assert said.endswith("do not register this gateway's key; import newer")


def test_several_files_are_imported_at_once(premises: Premises) -> None:
    bundle = premises.put("gateway.bundle", premises.bundle())
    chain = premises.put("authority.records", premises.records())
    done = gateway("import", bundle, chain, "--config", premises.path)
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["enrolled", "4"]


def test_what_is_no_import_is_refused_with_its_reason(premises: Premises, tmp_path: Path) -> None:
    assert refused("import", tmp_path / "none", "--config", premises.path).startswith("cannot read")
    strange = premises.put("strange", b"strange")
    assert refused("import", strange, "--config", premises.path).startswith("malformed: ")


def test_status_before_the_first_import_says_what_to_do(premises: Premises) -> None:
    said = refused("status", "--config", premises.path)
    assert said == "there is no block yet: import the authority's files, then run the gateway"


def test_status_is_text_for_people_and_json_for_programs(worked: Premises) -> None:
    done = gateway("status", "--config", worked.path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "meter m0  serial MID-0001" in done.stdout
    assert f"  last step    {SECOND + 2}, gaps 0, late 0" in done.stdout
    assert "  register     10 pulses, 0.001 kWh, next record " in done.stdout
    done = gateway("status", "--json", "--config", worked.path)
    found = json.loads(done.stdout)
    assert found["blocks"] == 4
    assert found["meters"][0]["register"] == 10
    assert found["meters"][0]["expected_index_wh"] == 1_234_568


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_status_is_watched_while_blocks_are_made_until_it_is_told_to_end(
    worked: Premises, number: signal.Signals
) -> None:
    words = program(GATEWAY, "status", "--watch", "0.2", "--config", worked.path)
    with (
        subprocess.Popen(
            words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as watching,
        closing(worked.folder.open_store()) as store,
    ):
        assert watching.stdout is not None
        site = worked.site(store)

        def seen(step: int) -> None:
            for line in watching.stdout or []:
                if line.startswith(f"newest block   step {step} ("):
                    return
            pytest.fail(f"step {step} is not shown")

        seen(SECOND + 2)
        site.seal()
        seen(SECOND + 3)
        watching.send_signal(number)
        _, error = watching.communicate(timeout=COMMAND_MAX_S)
        assert (watching.returncode, error) == (0, "")


def test_prove_writes_a_file_that_the_common_command_verifies(
    worked: Premises, tmp_path: Path
) -> None:
    pub, out = tmp_path / "community.pub", tmp_path / "m0.tlog-proof"
    pub.write_text(encode_community(worked.community()))
    done = gateway("prove", "m0/1", "--out", out, "--config", worked.path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "check it with cryptometer verify" in done.stdout
    assert out.stat().st_mode & 0o777 == 0o644
    proven = verify_proof(out.read_text(), worked.community())
    assert proven.record.body.sequence == 1  # type: ignore[union-attr]
    verified = subprocess.run(
        program(COMMON, "verify", out, "--community", pub),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=COMMAND_MAX_S,
        check=False,
    )
    assert verified.returncode == 0, verified.stderr


def test_prove_of_nothing_writes_nothing(worked: Premises, tmp_path: Path) -> None:
    out = tmp_path / "proof"
    assert refused("prove", "m0/77", "--out", out, "--config", worked.path) == (
        "there is no m0/77 here"
    )
    assert not out.exists()


def test_backup_and_restore_are_two_commands(worked: Premises, tmp_path: Path) -> None:
    out = tmp_path / "b"
    assert gateway("backup", "--out", out, "--config", worked.path).returncode == 0
    assert "never overwritten" in refused("backup", "--out", out, "--config", worked.path)
    done = gateway("restore", out, tmp_path / "new")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("restored in epoch ")
    assert "is not empty" in refused("restore", out, tmp_path / "new")
    status = gateway("status", "--json", "--config", tmp_path / "new")
    assert json.loads(status.stdout)["blocks"] == 4


def test_a_damaged_ledger_or_store_ends_with_a_word_on_what_is_wrong(worked: Premises) -> None:
    checkpoint = worked.folder.ledger / "checkpoint"
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[:-9])
    assert "the ledger's checkpoint file" in refused("run", "--config", worked.path)
    checkpoint.write_bytes(whole)
    worked.folder.store.write_bytes(b"no database" * 99)
    for command in ("run", "status"):
        assert "cryptometer-gateway restore" in refused(command, "--config", worked.path)


def test_a_store_behind_its_ledger_has_an_exit_code_of_its_own(
    worked: Premises, tmp_path: Path
) -> None:
    gateway("backup", "--out", tmp_path / "b", "--config", worked.path)
    with closing(worked.folder.open_store()) as store:
        site = worked.site(store)
        site.at(site.next_step)
        site.start()
        site.seal()
    gateway("restore", tmp_path / "b", tmp_path / "new")
    toml = tmp_path / "new" / "gateway.toml"
    toml.write_text(f'ledger = "{worked.folder.ledger}"\n')
    said = refused("run", "--config", tmp_path / "new", code=EXIT_BEHIND)
    assert "Restore a newer backup: cryptometer-gateway restore" in said


def test_a_disk_that_takes_no_more_ends_it_for_the_service_manager_to_start_again(
    premises: Premises,
) -> None:
    """Files may not outgrow a limit: the founding commit does, in the write-ahead log."""
    for number in range(1, 200):
        premises.register(f"m{number}", 100 + number)
    premises.enrol()

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    done = gateway("run", "--config", premises.path, limit=limit)
    assert done.returncode == EXIT_FAILED, done
    assert done.stderr.startswith("cryptometer-gateway: stopping: the store cannot be written")
    assert "Traceback" not in done.stderr
    with closing(premises.folder.open_store()) as store:
        assert store.authority() == []  # nothing of the commit is there
    made = gateway("init", premises.path.parent / "g", limit=lambda: _limit(50))
    assert made.returncode == EXIT_FAILED
    assert made.stderr.startswith("cryptometer-gateway: stopping: ")


def _limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


# --- The service. --------------------------------------------------------------------------------


class Service:
    """A folder whose gateway runs against a real broker, with a scaled clock."""

    def __init__(self, tmp_path: Path, *, broker: bool = True) -> None:
        self.port = free_port()
        now_ms = time.monotonic_ns() // 10**6
        # The founding block's step has just ended.
        toml = (
            f'[clock]\ndriver = "scaled"\nspeed = {SPEED}\nanchor_ms = {now_ms}\n'
            f"origin_ms = {step_start_ms(SECOND, STEP_S)}\n"
        )
        self.premises = Premises(tmp_path / "gateway", toml, grace_ms=SPEED * 300)
        self.premises.enrol(url=f"mqtt://{HOST}:{self.port}")
        self.log = tmp_path / "run.log"
        self.tmp_path = tmp_path
        self.children: list[Child] = []
        if broker:
            self.start_broker()

    def start_broker(self) -> Child:
        child = start_broker(self.tmp_path / "broker", self.port)
        self.children.append(child)
        wait(lambda: listens(self.port), "the broker")
        return child

    def start(self) -> Child:
        command = program(GATEWAY, "run", "--config", self.premises.path)
        child = Child("gateway", command, self.log, {CRASH_VARIABLE: ""})
        self.children.append(child)
        return child

    def end(self) -> None:
        for child in reversed(self.children):
            child.end()

    def said(self) -> str:
        return self.log.read_text()

    def wait_for(self, text: str, times: int = 1) -> None:
        wait(lambda: self.said().count(text) >= times, f"{text!r} in {self.said()}")

    def step(self) -> int:
        """Of the newest block."""
        with closing(self.premises.folder.open_store(read_only=True)) as store:
            state = store.state()
        return FIRST_STEP - 1 if state is None else state.step

    @contextmanager
    def device(self) -> Iterator["Voice"]:
        """A device's connection to the broker."""
        voice = Voice(self)
        try:
            yield voice
        finally:
            voice.link.stop()


class Voice:
    """Sends a device's records, and hears the gateway's word."""

    def __init__(self, service: Service) -> None:
        self.own = f"cryptometer/1/{service.premises.id.hex()}/meter/m0"
        settings = BrokerSettings(url=f"mqtt://{HOST}:{service.port}")
        self.link = Link(settings, "a-device", [f"{self.own}/ack/gw"])
        self.words: list[Acknowledgement] = []
        self.link.start()
        wait(self._is_connected, "the device to connect")

    def _is_connected(self) -> bool:
        return self.link.publish(f"{self.own}/status", b"online", retain=True)

    def send(self, sent: Sequence[Record]) -> None:
        for record in sent:
            assert self.link.publish(f"{self.own}/record", record.raw)

    def wait_for_word(self, sequence: int) -> Acknowledgement:
        wait(lambda: self._listen() and self.words[-1].sequence >= sequence, "an acknowledgement")
        return self.words[-1]

    def _listen(self) -> bool:
        for event in self.link.drain(100):
            if isinstance(event, Message):
                body = records.decode(event.payload).body
                assert isinstance(body, Acknowledgement)
                self.words.append(body)
                self.link.confirm(event.token)
        return bool(self.words)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path)
    try:
        yield made
    finally:
        made.end()


def test_a_service_takes_records_seals_stops_on_request_and_comes_back(service: Service) -> None:
    first = service.start()
    service.wait_for("block step=")
    with service.device() as voice:
        device = service.premises.devices[0]
        step = service.step() + 1
        sent = [device.run_start(step), *device.step(step, 8, 3)]
        voice.send(sent)
        word = voice.wait_for_word(3)
        assert (word.previous, word.register, word.stop) == (sent[-1].identity, 11, None)

        # New authority records are found while it runs.
        service.premises.register("m1", 11)
        newer = service.premises.put("authority.records", service.premises.records())
        assert gateway("import", newer, "--config", service.premises.path).returncode == 0
        service.wait_for("1 new authority records; they act after the next block")
        newest = service.step()
        wait(lambda: service.step() > newest + 1, "two blocks more")

        assert first.end(signal.SIGTERM) == 0
        second = service.start()
        service.wait_for("sealing blocks", 2)
        # Yesterday's records again, and today's.
        step = service.step() + 1
        voice.send([*sent, *device.step(step, 5)])
        voice.wait_for_word(5)
        wait(lambda: service.step() >= step, "its block")
        assert second.end(signal.SIGINT) == 0
    report = audit.audit(
        DiskTree(service.premises.folder.ledger).read, service.premises.community()
    )
    assert report.energy_uwh["registered"] == 16 * 100_000
    assert not report.quarantined
    assert set(report.state.meters) == {"m0", "m1"}
    with closing(service.premises.folder.open_store(read_only=True)) as store:
        assert report.state == store.state()
        rows = store.blocks(EVERY_BLOCK)[::-1]
        assert [row.step for row in rows] == list(range(FIRST_STEP, FIRST_STEP + len(rows)))
    assert list(service.premises.folder.imports.iterdir()) == []


def test_a_service_goes_on_under_a_key_made_while_it_runs(service: Service) -> None:
    first = service.start()
    service.wait_for("block step=")
    premises = service.premises
    assert gateway("successor", "--config", premises.path).returncode == 0
    new = premises.folder.load_next_key()
    assert new is not None
    premises.chain.append(premises.authority.register(Role.GATEWAY, "gw", new.public))
    newer = premises.put("authority.records", premises.records())
    assert gateway("import", newer, "--config", premises.path).returncode == 0
    service.wait_for("1 new authority records")
    newest = service.step()
    wait(lambda: service.step() > newest + 2, "blocks of both keys")
    assert first.end() == 0
    service.start()
    service.wait_for("the new key has taken the place of the old one")
    service.wait_for("sealing blocks", 2)
    tree = DiskTree(premises.folder.ledger)
    signed = tree.read(CHECKPOINT_PATH) or b""
    note.open_checkpoint(signed, note.Verifier(premises.community().origin, new.public))
    known = [premises.gateway_registration.raw, premises.chain[-1].raw]
    audit.audit(tree.read, trust(premises.chain[0].raw, known))


def test_only_one_gateway_runs_on_a_folder(service: Service) -> None:
    service.start()
    service.wait_for("connected")
    assert "another program runs on" in refused("run", "--config", service.premises.path)
    # Reading beside it is no contradiction.
    assert gateway("status", "--config", service.premises.path).returncode == 0


def test_without_a_broker_it_waits_seals_nothing_and_stops_when_told(tmp_path: Path) -> None:
    service = Service(tmp_path, broker=False)
    try:
        child = service.start()
        service.wait_for("waiting for the broker before the first block")
        service.wait_for(f"cannot reach {HOST}:{service.port}")
        assert child.exit_code() is None
        service.start_broker()
        service.wait_for("connected")
        service.wait_for("block step=")
        assert child.end() == 0
    finally:
        service.end()


def test_a_file_in_its_imports_that_is_none_is_set_aside_and_named(service: Service) -> None:
    child = service.start()
    service.wait_for("sealing blocks")
    bad = service.premises.folder.imports / "00000009-bad.records"
    bad.write_bytes(b"no records")
    service.wait_for("refused 00000009-bad.records: malformed")
    wait(lambda: bad.with_suffix(".refused").exists(), "the file to be set aside")
    assert not bad.exists()
    # Nor does a next key that cannot be read end what runs under the present one.
    service.premises.folder.next_key.write_bytes(b"no key")
    service.premises.folder.next_key.chmod(0o600)
    service.premises.register("m1", 11)
    newer = service.premises.put("authority.records", service.premises.records())
    assert gateway("import", newer, "--config", service.premises.path).returncode == 0
    service.wait_for("gateway-next.key is no unencrypted PEM private key")
    service.wait_for("1 new authority records")
    assert child.exit_code() is None


def test_a_gateway_without_the_time_does_not_spin(tmp_path: Path) -> None:
    service = Service(tmp_path)
    try:
        # Above 1 s of error a scaled clock is not synchronised: 1 ms of the machine, times speed.
        toml = service.premises.path / "gateway.toml"
        toml.write_text(toml.read_text().replace(f"speed = {SPEED}", "speed = 1001"))
        child = service.start()
        service.wait_for("the clock is not synchronised: no block is sealed")
        before = _cpu_s(child.pid)
        time.sleep(1)
        assert _cpu_s(child.pid) - before < 0.5
        assert service.step() == FIRST_STEP - 1
    finally:
        service.end()


def _cpu_s(pid: int) -> float:
    """CPU time a process has used (proc_pid_stat(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_the_console_script_is_this_program() -> None:
    script = Path(sys.executable).with_name("cryptometer-gateway")
    done = subprocess.run(
        [script, "--help"], capture_output=True, text=True, timeout=COMMAND_MAX_S, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("usage: cryptometer-gateway")
