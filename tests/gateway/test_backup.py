"""Backup and restore: one file of one moment, taken while the gateway runs; and a store that begins
a new epoch, comes forward with the ledger's files, and has the devices send again what it lost."""

import gzip
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cryptometer import audit
from cryptometer.commands.demo.community import SimulatedMeter
from cryptometer.errors import ConfigurationError, Rejected
from cryptometer.openings import Opening
from cryptometer.tiles import CHECKPOINT_PATH
from gateway.backup import backup, restore
from gateway.behind import Behind
from gateway.folder import Folder, clear_left, open_folder, waiting_imports
from gateway.ledger import Ledger
from gateway.main import EXIT_BEHIND
from gateway.node import Node
from gateway.private import PrivateStore
from gateway.sqlite_file import create_store
from gateway.sqlite_store import SqliteStore
from hal.faults import CRASH_VARIABLE, Point
from hal.files import DiskTree, hold
from hal.ports import Message
from tests.core.community import FIRST_STEP
from tests.gateway.crash_child import METERS
from tests.gateway.kit import EVERY_BLOCK, POLICY, Premises, Site, acknowledgements, content, sealed
from tests.system.plant import Plant, kill

ROOT = Path(__file__).parents[2]
SECOND = FIRST_STEP + 1
CHILD_MAX_S = 60


class Works:
    """A gateway's folder with a node on it that has made some blocks."""

    def __init__(self, path: Path, toml: str = "") -> None:
        self.premises = Premises(path, toml)
        self.premises.enrol()
        self.folder = self.premises.folder
        self.store = self.folder.open_store()
        self.site = self.premises.site(self.store)
        self.site.found()
        self.site.run([3], [5, 2])


@pytest.fixture
def works(tmp_path: Path) -> Iterator[Works]:
    made = Works(tmp_path / "gateway")
    yield made
    made.store.close()


@contextmanager
def restored(works: Works, folder: Folder) -> Iterator[Site]:
    """A node on a restored folder, at the moment at which the old one stood."""
    with closing(folder.open_store()) as store:
        site = works.premises.site(store, folder)
        site.clock.advance(works.site.clock.utc_ns - site.clock.utc_ns)
        site.start()
        yield site


def modes(path: Path) -> dict[str, int]:
    return {
        str(one.relative_to(path)): one.stat().st_mode & 0o777
        for one in path.rglob("*")
        if not one.name.endswith(("-wal", "-shm"))
    }


# --- The backup. ---------------------------------------------------------------------------------


def test_a_backup_is_one_closed_file_that_holds_all_of_one_moment(
    works: Works, tmp_path: Path
) -> None:
    out = tmp_path / "gateway.backup"
    said = backup(works.folder, out)
    assert "private keys" in said
    assert out.stat().st_mode & 0o777 == 0o600
    with tarfile.open(out) as archive:
        names = archive.getnames()
    assert names[0] == "gateway.toml"
    assert {name for name in names if not name.startswith("ledger/")} == {
        "gateway.toml",
        "gateway.key",
        "vpp.key",
        "gateway.request",
        "vpp.request",
        "gateway.bundle",
        "store.sqlite",
        "imports/" + waiting_imports(works.folder)[0].name,
    }
    assert names[-1] == "ledger/checkpoint"
    assert not list(tmp_path.glob("*.new"))


def test_a_backup_is_never_overwritten(works: Works, tmp_path: Path) -> None:
    out = tmp_path / "gateway.backup"
    out.write_bytes(b"the last one")
    with pytest.raises(ConfigurationError, match="never overwritten"):
        backup(works.folder, out)
    assert out.read_bytes() == b"the last one"


def test_without_a_store_there_is_nothing_to_back_up(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text("")
    with pytest.raises(ConfigurationError, match="no store"):
        backup(open_folder(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_store_is_copied_and_put_back_piece_by_piece(
    works: Works, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No store of years is in memory as a whole: with as little as a page each it comes back."""
    private = works.folder.private
    with closing(PrivateStore(private)) as store:
        store.put("ada", dict.fromkeys(range(200_000), 7), "file:a", 1)
    monkeypatch.setattr("gateway.backup._CHUNK", 4096)
    tracemalloc.start()
    backup(works.folder, tmp_path / "b")
    restore(tmp_path / "b", tmp_path / "new", None)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < private.stat().st_size / 2 < 50 * 2**20
    folder = open_folder(tmp_path / "new")
    with closing(PrivateStore(folder.private)) as store:
        assert sum(store.of(step)["ada"] for step in (0, 100_000, 199_999)) == 21
    assert not works.folder.scratch.exists()


@pytest.mark.parametrize("which", ["private", "store"])
def test_of_a_damaged_database_no_backup_is_made(works: Works, tmp_path: Path, which: str) -> None:
    works.store.close()
    with closing(PrivateStore(works.folder.private)) as store:
        store.put("ada", dict.fromkeys(range(2_000), 7), "file:a", 1)
    path = getattr(works.folder, which)
    whole = path.read_bytes()
    for damaged in (b"\xff" * 100 + whole[100:], whole[:8192] + b"\xaa" * (len(whole) - 8192)):
        path.write_bytes(damaged)
        with pytest.raises(ConfigurationError, match=rf"{path.name} is damaged .* keep the older"):
            backup(works.folder, tmp_path / "b")
    assert not list(tmp_path.glob("b*"))
    assert not works.folder.scratch.exists()


def test_what_killed_programs_have_left_goes_at_the_next_start_or_backup(
    works: Works, tmp_path: Path
) -> None:
    folder = works.folder
    for path in ("tile/entries/000.p/9.new", "checkpoint.new"):
        (folder.ledger / path).write_bytes(b"torn")
    folder.scratch.mkdir()
    (folder.scratch / "private.db").write_bytes(b"what ada consumed")
    with hold(folder.backup_lock):  # a backup is made at this moment
        clear_left(folder)
        assert folder.scratch.exists()
    assert not list(folder.ledger.rglob("*.new"))
    clear_left(folder)
    assert not folder.scratch.exists()
    folder.scratch.mkdir()
    (folder.scratch / "private.db").write_bytes(b"what ada consumed")
    backup(folder, tmp_path / "b")
    assert not folder.scratch.exists()


# --- The restored folder. ------------------------------------------------------------------------


def test_a_restored_folder_is_the_old_one_in_a_new_epoch(works: Works, tmp_path: Path) -> None:
    works.site.send(works.site.device.batch(works.site.next_step, 4))
    before = content(works.store)
    out, target = tmp_path / "gateway.backup", tmp_path / "new"
    backup(works.folder, out)
    said = restore(out, target, None)
    assert f"newest step {SECOND + 1}" in said
    assert "0 blocks brought forward" in said
    folder = open_folder(target)
    with closing(folder.open_store()) as store:
        assert store.epoch > works.store.epoch
        assert content(store) == {**before, "epoch": store.epoch}
    assert folder.load_key().public == works.folder.load_key().public
    # Of the ledger's partial tiles only those that its checkpoint names.
    assert modes(target).items() <= modes(works.folder.path).items()
    report = audit.audit(DiskTree(folder.ledger).read, works.premises.community())
    assert report.state == works.site.node.state


def test_devices_send_again_what_came_after_the_backup(works: Works, tmp_path: Path) -> None:
    site = works.site
    backup(works.folder, tmp_path / "b")
    lost = site.device.step(site.next_step, 6)
    words = acknowledgements(site.send(*lost), site.key)
    restore(tmp_path / "b", tmp_path / "new", None)
    with restored(works, open_folder(tmp_path / "new")) as again:
        word = acknowledgements(again.node.connected(again.clock.now()), again.key)["m0"]
        assert word.epoch > words["m0"].epoch
        assert word.sequence == words["m0"].sequence - len(lost)
        # The firmware sends on from there (tests/firmware/test_outbox.py).
        words = acknowledgements(again.send(*lost), again.key)
        assert words["m0"].sequence == word.sequence + len(lost)
        again.seal()
        report = again.audit()
        assert report.energy_uwh["waiting"] == (3 + 7 + 6) * 100_000


def test_a_store_is_brought_forward_with_a_newer_ledger(works: Works, tmp_path: Path) -> None:
    site = works.site
    backup(works.folder, tmp_path / "b")
    # After the backup: blocks, a record that only the store has, a meter, a re-anchor.
    site.run([1], [2])
    added = works.premises.register("m1", 11)
    anchor = site.authority.re_anchor("m0", site.device.sequence, 900)
    site.node.take_authority([added.raw, anchor.raw])
    site.seal()
    site.device.go_on_from(anchor)
    site.run([4])
    late = site.device.batch(site.next_step, 8)
    site.send(late)
    said = restore(tmp_path / "b", tmp_path / "new", works.folder.ledger)
    assert "4 blocks brought forward" in said
    assert f"newest step {site.node.state.step}" in said
    with restored(works, open_folder(tmp_path / "new")) as again:
        assert again.node.state == site.node.state
        assert again.store.authority() == works.store.authority()
        assert again.store.tallies() == works.store.tallies()
        assert [(row.step, row.size) for row in again.store.blocks(EVERY_BLOCK)] == [
            (row.step, row.size) for row in works.store.blocks(EVERY_BLOCK)
        ]
        assert again.store.blocks(1)[0].note == works.store.blocks(1)[0].note
        assert again.store.leaf_at("m0", 3) == works.store.leaf_at("m0", 3)
        word = acknowledgements(again.send(late), again.key)["m0"]
        assert (word.sequence, word.stop) == (site.device.sequence, None)
        assert len(sealed(again.seal())) == 1
        again.audit()


def test_what_waited_in_the_backup_and_stands_in_the_newer_ledger_is_there_once(
    works: Works, tmp_path: Path
) -> None:
    site = works.site
    waiting = site.device.step(site.next_step, 5)
    site.send(*waiting)
    backup(works.folder, tmp_path / "b")
    site.seal()
    restore(tmp_path / "b", tmp_path / "new", works.folder.ledger)
    with restored(works, open_folder(tmp_path / "new")) as again:
        assert list(again.store.pending()) == []
        before = content(again.store)
        again.send(*waiting)
        assert content(again.store) == before


def test_what_waited_in_the_backup_of_a_chain_that_was_re_anchored_since_is_dropped(
    works: Works, tmp_path: Path
) -> None:
    site = works.site
    old = site.device.step(site.next_step + 1, 5)
    site.send(*old)
    backup(works.folder, tmp_path / "b")
    anchor = site.authority.re_anchor("m0", site.device.sequence - 2, 900)
    site.node.take_authority([anchor.raw])
    site.seal()
    restore(tmp_path / "b", tmp_path / "new", works.folder.ledger)
    with restored(works, open_folder(tmp_path / "new")) as again:
        assert list(again.store.pending()) == []
        assert [one.raw for one in again.store.evidence()] == [record.raw for record in old]
        site.device.go_on_from(anchor)
        again.send(*site.device.step(again.next_step, 1))
        assert again.node.pending_count == 2


def test_a_restored_store_refuses_to_run_behind_the_newest_checkpoint(
    works: Works, tmp_path: Path
) -> None:
    backup(works.folder, tmp_path / "b")
    works.site.run([1])
    newest = works.store.blocks(1)[0].note.encode()
    restore(tmp_path / "b", tmp_path / "new", None)
    folder = open_folder(tmp_path / "new")
    with closing(folder.open_store()) as store:
        # The old disk's ledger comes back, but not through `restore`.
        with pytest.raises(Behind, match="cryptometer-gateway restore"):
            Node(store, Ledger(DiskTree(works.folder.ledger)), folder.load_key(), POLICY)
        site = works.premises.site(store, folder)
        with pytest.raises(Behind, match="broker keeps a checkpoint"):
            site.receive([Message(f"{site.topic}/checkpoint", newest, True, (1, 1))])


def test_a_gateway_that_stopped_between_store_and_ledger_can_be_backed_up(tmp_path: Path) -> None:
    """The store is one block ahead of the files, and its copy publishes that block."""
    folder = child_folder(tmp_path / "gateway")
    until = FIRST_STEP + 5
    code = run_child(folder.path, until, f"{Point.STORE_COMMITTED}:4").wait(CHILD_MAX_S)
    # Whichever commit it was, go on until it is one of a block.
    for _ in range(6):
        ahead = _ahead(folder)
        if ahead:
            break
        code = run_child(folder.path, until, f"{Point.LEDGER_TILES}:1").wait(CHILD_MAX_S)
    assert code == -signal.SIGKILL
    assert _ahead(folder)
    backup(folder, tmp_path / "b")
    restore(tmp_path / "b", tmp_path / "new", None)
    with closing(open_folder(tmp_path / "new").open_store()) as store:
        site = Site(METERS, store=store, tree=DiskTree(tmp_path / "new" / "ledger"))
        assert site.audit().state == store.state()


def _ahead(folder: Folder) -> bool:
    read = DiskTree(folder.ledger).read
    if read(CHECKPOINT_PATH) is None:
        return False
    published = audit.audit(read, Site(METERS).community()).checkpoint
    with closing(folder.open_store(read_only=True)) as store:
        state = store.state()
    return state is not None and state.frontier.size > published.size


# --- Beside a gateway that works. ----------------------------------------------------------------


def child_folder(path: Path) -> Folder:
    """A folder for `tests.gateway.crash_child`."""
    path.mkdir()
    (path / "gateway.toml").write_text("")
    create_store(path / "store.sqlite", epoch=1)
    return open_folder(path)


def run_child(path: Path, until: int, crash: str = "") -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "tests.gateway.crash_child", str(path), str(until)],
        cwd=ROOT,
        env={**os.environ, CRASH_VARIABLE: crash},
        stdout=subprocess.DEVNULL,
    )


def test_every_backup_of_a_gateway_at_full_speed_is_whole(tmp_path: Path) -> None:
    folder = child_folder(tmp_path / "gateway")
    with run_child(folder.path, FIRST_STEP + 10**6) as child:
        try:
            deadline = time.monotonic() + CHILD_MAX_S
            while DiskTree(folder.ledger).read(CHECKPOINT_PATH) is None:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            for number in range(12):
                backup(folder, tmp_path / f"b{number}")
        finally:
            child.kill()
    sizes = []
    for number in range(12):
        target = tmp_path / f"new{number}"
        restore(tmp_path / f"b{number}", target, None)
        with closing(open_folder(target).open_store()) as store:
            site = Site(METERS, store=store, tree=DiskTree(target / "ledger"))
            report = site.audit()
            assert report.state == store.state()
            sizes.append(report.checkpoint.size)
    assert sizes == sorted(sizes)
    assert sizes[-1] > sizes[0]  # it did run


def test_a_restored_gateway_of_real_processes_loses_nothing(tmp_path: Path) -> None:
    meter = SimulatedMeter("roof", "B", 3, 10_000, 400)
    with Plant(tmp_path / "plant", [meter], speed=300) as plant:
        plant.start_all()
        gateway = plant.layout.gateway
        plant.wait_for_block(plant.step())
        out = tmp_path / "gateway.backup"
        said = backup_command("backup", "--config", str(gateway), "--out", str(out))
        assert "private keys" in said
        plant.wait_for_block(plant.step(), blocks_late=1)
        assert plant.gateway is not None
        kill(plant.gateway)

        # The disk is lost, and with it the ledger: the broker still keeps a newer checkpoint.
        old = gateway.rename(tmp_path / "old")
        backup_command("restore", str(out), str(gateway))
        behind = plant.start_gateway()
        assert behind.wait(60) == EXIT_BEHIND
        assert "broker keeps a checkpoint" in behind.last_lines()

        # A mirror has kept the ledger's files.
        gateway.rename(tmp_path / "behind")
        said = backup_command("restore", str(out), str(gateway), "--ledger", str(old / "ledger"))
        assert " 0 blocks brought forward" not in said
        plant.start_gateway()
        emitted = plant.stop_simulators()
        plant.wait_for_block(plant.step(), blocks_late=1)
        assert plant.registers() == emitted
        assert not plant.audit().quarantined


def backup_command(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "gateway.main", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=CHILD_MAX_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- Other places, and what is refused. ----------------------------------------------------------


def test_keys_and_ledger_in_folders_of_their_own_come_back_to_them(tmp_path: Path) -> None:
    elsewhere = tmp_path / "www" / "ledger"
    toml = f'state = "private"\nledger = "{elsewhere}"\n'
    works = Works(tmp_path / "gateway", toml)
    works.store.close()
    backup(works.folder, tmp_path / "b")
    with pytest.raises(ConfigurationError, match="where a gateway has been; move them away"):
        restore(tmp_path / "b", tmp_path / "new", None)
    elsewhere.rename(tmp_path / "www" / "old")
    restore(tmp_path / "b", tmp_path / "newer", None)
    folder = open_folder(tmp_path / "newer")
    assert (tmp_path / "newer" / "gateway.toml").read_text() == toml
    assert (tmp_path / "newer" / "private" / "gateway.key").exists()
    assert folder.ledger == elsewhere
    assert elsewhere.stat().st_mode & 0o777 == 0o755
    with restored(works, folder) as site:
        assert site.audit().state == works.site.node.state


def test_a_configuration_by_another_name_comes_back_as_gateway_toml(
    works: Works, tmp_path: Path
) -> None:
    other = works.folder.path / "site.toml"
    (works.folder.path / "gateway.toml").rename(other)
    other.write_text("accept_unsynchronised = true\n")
    backup(open_folder(other), tmp_path / "b")
    restore(tmp_path / "b", tmp_path / "new", None)
    assert open_folder(tmp_path / "new").config.accept_unsynchronised


def test_a_folder_before_its_first_run_can_be_restored(tmp_path: Path) -> None:
    premises = Premises(tmp_path / "gateway")
    premises.enrol()
    backup(premises.folder, tmp_path / "b")
    assert "newest step none" in restore(tmp_path / "b", tmp_path / "new", None)
    folder = open_folder(tmp_path / "new")
    assert [one.name for one in waiting_imports(folder)] == [
        one.name for one in waiting_imports(premises.folder)
    ]


def test_a_restore_begins_in_a_new_folder(works: Works, tmp_path: Path) -> None:
    backup(works.folder, tmp_path / "b")
    before = modes(works.folder.path)
    with pytest.raises(ConfigurationError, match="is not empty"):
        restore(tmp_path / "b", works.folder.path, None)
    with pytest.raises(ConfigurationError, match="is not empty"):
        restore(tmp_path / "b", tmp_path / "b", None)
    assert modes(works.folder.path) == before
    (tmp_path / "empty").mkdir()
    restore(tmp_path / "b", tmp_path / "empty", None)


def test_an_older_ledger_or_none_is_not_taken_for_a_newer(works: Works, tmp_path: Path) -> None:
    tree = DiskTree(tmp_path / "mirror")
    for path in works.folder.ledger.rglob("*"):
        if path.is_file():
            tree.put_all({path.relative_to(works.folder.ledger).as_posix(): path.read_bytes()})
    works.site.run([1])
    backup(works.folder, tmp_path / "b")
    with pytest.raises(ConfigurationError, match="restore without --ledger"):
        restore(tmp_path / "b", tmp_path / "new", tmp_path / "mirror")
    with pytest.raises(ConfigurationError, match="no ledger: it has no checkpoint"):
        restore(tmp_path / "b", tmp_path / "new2", tmp_path)
    with pytest.raises(ConfigurationError, match="no ledger: it has no checkpoint"):
        restore(tmp_path / "b", tmp_path / "new3", tmp_path / "nowhere")


def test_a_damaged_newer_ledger_is_refused_and_what_is_left_runs_in_no_old_epoch(
    works: Works, tmp_path: Path
) -> None:
    backup(works.folder, tmp_path / "b")
    works.site.run([8], [8])
    [newest] = [
        path
        for path in works.folder.ledger.rglob("tile/entries/000.p/*")
        if int(path.name) == works.site.node.state.frontier.size
    ]
    whole = newest.read_bytes()
    changed = bytearray(whole)
    changed[-100] ^= 1  # in the newest header
    newest.write_bytes(bytes(changed))
    with pytest.raises(Rejected):
        restore(tmp_path / "b", tmp_path / "new", works.folder.ledger)
    with closing(SqliteStore(tmp_path / "new" / "store.sqlite", read_only=True)) as store:
        assert store.epoch > works.store.epoch


def test_a_ledger_of_another_community_is_refused(works: Works, tmp_path: Path) -> None:
    other = Works(tmp_path / "other")
    other.store.close()
    backup(works.folder, tmp_path / "b")
    with pytest.raises(Rejected):
        restore(tmp_path / "b", tmp_path / "new", other.folder.ledger)


def archive(*members: tuple[str, bytes | None]) -> bytes:
    """A tar of files; a member without content is a link to /etc/passwd."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as made:
        for name, data in members:
            member = tarfile.TarInfo(name)
            if data is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
                made.addfile(member)
            else:
                member.size = len(data)
                made.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


TOML = ("gateway.toml", b"")
HOSTILE: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "no archive": lambda: b"not a backup" * 99,
    "cut": lambda: archive(TOML, ("gateway.key", os.urandom(9_000)))[:4_000],
    "gzip of no tar": lambda: gzip.compress(b"text" * 999),
    "empty": archive,
    "no configuration first": lambda: archive(("store.sqlite", b"")),
    "above": lambda: archive(TOML, ("../escaped", b"x")),
    "within and above": lambda: archive(TOML, ("ledger/../../escaped", b"x")),
    "absolute": lambda: archive(TOML, ("/escaped", b"x")),
    "a link": lambda: archive(TOML, ("gateway.key", None)),
    "a name of no ours": lambda: archive(TOML, ("evil.sh", b"x")),
    "deeper than ours": lambda: archive(TOML, ("broker/x/y", b"x")),
    "no store": lambda: archive(TOML),
    "a wrong configuration": lambda: archive(("gateway.toml", b"nonsense = 1")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_backup_of_ours_is_refused_and_writes_nowhere_else(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "b").write_bytes(HOSTILE[name]())
    target = tmp_path / "deep" / "new"
    with pytest.raises(ConfigurationError):
        restore(tmp_path / "b", target, None)
    written = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert written <= {"b", "gateway.toml"}
    assert not Path("/escaped").exists()


def test_a_backup_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot restore the backup .*nowhere"):
        restore(tmp_path / "nowhere", tmp_path / "new", None)


# --- What is known of members. -------------------------------------------------------------------


def test_what_opens_commitments_outlives_the_disk(tmp_path: Path) -> None:
    premises = Premises(tmp_path / "gateway")
    premises.enrol()
    with closing(PrivateStore(premises.folder.private)) as store:
        store.put("ada", {7: 600_000}, "file:test", 0)
        salt = store.salt("ada", 7, 600_000)
    backup(premises.folder, tmp_path / "kept")
    restore(tmp_path / "kept", tmp_path / "anew", None)
    anew = open_folder(tmp_path / "anew").private
    assert anew.stat().st_mode & 0o777 == 0o600
    with closing(PrivateStore(anew)) as store:
        assert store.openings(None, None) == {(7, "ada"): [Opening(600_000, salt)]}
