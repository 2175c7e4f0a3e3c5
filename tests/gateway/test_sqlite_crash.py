"""Killed at every named point and at random, the store and the ledger's files go on as one: nothing
that was said is lost, one block per step, and the checkpoint never goes back."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from cryptometer import audit
from cryptometer.chain_records import ChainRecord
from cryptometer.record_fields import Checkpoint
from cryptometer.tiles import CHECKPOINT_PATH
from gateway.sqlite_file import create_store
from gateway.sqlite_store import SqliteStore
from hal.faults import CRASH_VARIABLE, Point
from hal.files import DiskTree
from tests.core.community import FIRST_STEP
from tests.gateway.crash_child import LEDGER, METERS, STORE, Crew
from tests.gateway.kit import EVERY_BLOCK, Site

ROOT = Path(__file__).parents[2]
POINTS = (
    Point.STORE_COMMIT,
    Point.STORE_COMMITTED,
    Point.LEDGER_TILES,
    Point.LEDGER_CHECKPOINT,
)
PASSAGES = (1, 2, 5)
KILLS = 15
CHILD_MAX_S = 60
FOREVER = FIRST_STEP + 10**6  # more steps than a child makes before it is killed


class Victim:
    """One folder, and the children that work on it one after another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.site = Site(METERS)  # the same keys, and so the same community
        self.acknowledged = dict.fromkeys((f"m{number}" for number in range(METERS)), 0)
        self.newest = Checkpoint(0, b"")
        create_store(folder / STORE, epoch=1)

    def start(self, until: int, crash: str = "") -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "tests.gateway.crash_child", str(self.folder), str(until)],
            cwd=ROOT,
            env={**os.environ, CRASH_VARIABLE: crash},
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, until: int, crash: str = "") -> int:
        """A child's whole life; returns its exit code."""
        with self.start(until, crash) as child:
            said, _ = child.communicate(timeout=CHILD_MAX_S)
        self.check(said)
        return child.returncode

    def check(self, said: str) -> None:
        """What the child has said is durable, and what it left is whole, before any recovery."""
        size = 0
        # The last line may have been cut short.
        for line in said.splitlines(keepends=True):
            words = line.split()
            if line.endswith("\n") and words[0] == "ack":
                self.acknowledged[words[1]] = max(self.acknowledged[words[1]], int(words[2]))
            elif line.endswith("\n") and words[0] == "checkpoint":
                size = max(size, int(words[1]))
        read = DiskTree(self.folder / LEDGER).read
        if read(CHECKPOINT_PATH) is not None:
            since = self.newest if self.newest.size else None
            report = audit.audit(read, self.site.community(), since=since)
            self.newest = report.checkpoint
        assert self.newest.size >= size
        with closing(SqliteStore(self.folder / STORE, read_only=True)) as store:
            state = store.state()
            for name, sequence in self.acknowledged.items():
                if sequence:
                    assert store.identity_at(name, sequence - 1) is not None
            rows = store.blocks(EVERY_BLOCK)[::-1]
            assert [row.step for row in rows] == list(range(FIRST_STEP, FIRST_STEP + len(rows)))
            # The store is never behind what was published, and at most one block ahead.
            have = 0 if state is None else state.frontier.size
            ahead = rows[-2].size if len(rows) > 1 else 0
            assert self.newest.size in (have, ahead)

    def step(self) -> int:
        """Of the newest block."""
        with closing(SqliteStore(self.folder / STORE, read_only=True)) as store:
            state = store.state()
        return FIRST_STEP - 1 if state is None else state.step

    def finish(self) -> None:
        """Lets a last child work in peace; every record is in the blocks once, in its step."""
        last = self.step() + 3
        assert self.run(last) == 0
        tree = DiskTree(self.folder / LEDGER)
        self.site.tree = tree
        crew = Crew(self.site)
        crew.work(last)
        for name, records in crew.signed.items():
            mine = [
                record.raw
                for record in self.site.leaves()
                if isinstance(record.body, ChainRecord) and record.body.meter == name
            ]
            assert mine == [record.raw for record in records]
        report = self.site.audit()
        assert report.blocks == last - FIRST_STEP + 1
        assert report.late == 0
        assert not report.quarantined
        assert report.energy_uwh["untransferred"] == 0
        with closing(SqliteStore(self.folder / STORE, read_only=True)) as store:
            assert store.state() == report.state
            assert list(store.pending()) == []
            assert store.refusals() == []


def test_the_points_here_are_all_those_of_the_gateway() -> None:
    named = set()
    for module in (ROOT / "gateway").glob("*.py"):
        named |= {Point[name] for name in re.findall(r"\bPoint\.([A-Z_]+)", module.read_text())}
    # Those of the private store have tests of their own: test_private_path.
    assert named == {*POINTS, Point.PRIVATE_COMMIT, Point.PRIVATE_COMMITTED}


def test_a_crash_at_every_named_point_is_recovered(tmp_path: Path) -> None:
    victim = Victim(tmp_path)
    for passage in PASSAGES:
        for point in POINTS:
            before = victim.step()
            assert victim.run(FOREVER, f"{point}:{passage}") == -signal.SIGKILL
            assert victim.step() >= before
    victim.finish()


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_in_the_very_first_blocks_is_recovered(tmp_path: Path, point: Point) -> None:
    victim = Victim(tmp_path)
    for _ in range(2):
        assert victim.run(FOREVER, f"{point}:1") == -signal.SIGKILL
    victim.finish()


def test_kills_at_random_instants_are_recovered(tmp_path: Path) -> None:
    seed = int(os.environ.get("CRYPTOMETER_SEED", time.time_ns() % 10**6))
    print(f"seed {seed}")
    draw = random.Random(seed)
    victim = Victim(tmp_path)
    for _ in range(KILLS):
        with victim.start(FOREVER) as child:
            assert child.stdout is not None
            first = child.stdout.readline()
            time.sleep(draw.uniform(0, 0.06))  # some steps' work
            child.kill()
            said, _ = child.communicate(timeout=CHILD_MAX_S)
        assert child.returncode == -signal.SIGKILL
        victim.check(first + said)
    assert victim.step() > FIRST_STEP
    victim.finish()
