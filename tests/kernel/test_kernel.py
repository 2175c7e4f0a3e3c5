"""The board's program on a real kernel: every edge of a line is counted once, or declared."""

import compileall
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cryptometer import records
from cryptometer.records import Broker, Bundle, ChainRecord, Mark, Registration
from cryptometer.steps import NS_PER_MS, step_start_ms
from firmware import folder
from firmware.outbox import Outbox
from hal.files import DiskDirectory
from hal.keyfile import create_key
from tests.core.community import FIRST_STEP, STEP_S, Village
from tests.kernel.account import Life, counted, marked, settle
from tests.kernel.machine import ROOT, Boot, Machine
from tests.kernel.plan import EVENTS_MAX, Plan, Play
from tests.keys import signer

CUTS = int(os.environ.get("CRYPTOMETER_CUTS", "20"))
BOOT_MAX_S = 180.0  # of a shared core under emulation; usually 15
SPEED = 30  # a step in 30 s, and a boot in far less than the four steps ahead that are believed
ORIGIN_MS = step_start_ms(FIRST_STEP + 2, STEP_S)
SYNC_MS = 1_000
# A pulse is taken 200 ms after it came at the latest (`gather_machine_ms`) and is made durable
# `sync_ms` after that; the rest is what an emulated core that others use takes for it.
BOUND_NS = (SYNC_MS + 200 + 1_000) * NS_PER_MS
ANY = 'pulse = "any"\ndebounce_us = 0\n'
OWN = """\
pulse = "own"

[source.own]
bounce_us = 1
min_on_us = 2
max_on_us = 1000000
min_off_us = 2
"""


class Board:
    """A machine whose disk holds an enrolled device, and the community that it belongs to."""

    def __init__(self, path: Path) -> None:
        state = path / "state"
        state.mkdir(parents=True)
        self.village = Village(0)
        device = self.village.add_meter("m0", create_key(state / "device.key"))
        self.village.block()
        registered = [
            record.raw
            for block in self.village.blocks
            for record in block
            if isinstance(record.body, Registration)
        ]
        body = Bundle(
            device.name,
            self.village.authority.genesis.raw,
            tuple(registered),
            Broker("mqtt://127.0.0.1:1883"),
        )
        bundle = path / "m0.bundle"
        bundle.write_bytes(records.seal(body, self.village.id, signer(1)).raw)
        folder.enrol(state, bundle)
        self.machine = Machine(path, state)
        self._wall_ms = time.time_ns() // NS_PER_MS

    def plan(self, play: Play, pulse: str, edges: int, **changes: Any) -> Plan:
        fields: dict[str, Any] = {"speed": SPEED, "sync_ms": SYNC_MS, **changes}
        return Plan(play, pulse, edges, origin_ms=ORIGIN_MS, wall_ms=self._wall_ms, **fields)

    def chain(self) -> list[ChainRecord]:
        """The records that the device has signed, each judged as a gateway's door judges it: the
        signature, and whether it continues the chain."""
        outbox = Outbox(
            DiskDirectory(self.machine.read_disk() / "outbox"), limit_bytes=2**40, window=2**40
        )
        assert not outbox.recover(0)
        outbox.sync()
        outbox.connected(0)
        found = [records.decode(raw) for raw in outbox.take_due(0)]
        self.village.send(*found)
        return [record.body for record in found if isinstance(record.body, ChainRecord)]


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """The guest reads our files and cannot keep what it has compiled."""
    for package in ("cryptometer", "hal", "firmware", "tests/kernel"):
        assert compileall.compile_dir(ROOT / package, quiet=1)


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    made = Board(tmp_path)
    with made.machine:
        yield made


def ends(board: Board, boot: Boot, longest_s: float = BOOT_MAX_S) -> dict[str, int]:
    """Waits until a boot has ended in order, and the program in it; returns what was told."""
    board.machine.await_end(boot, longest_s)
    assert boot.story["code"] == 0, boot.said
    return boot.story


@pytest.mark.parametrize(("pulse", "edges"), [(ANY, 1), (OWN, 2)], ids=["any", "own"])
def test_every_edge_is_counted_up_to_what_the_kernel_keeps_and_beyond_it_declared(
    board: Board, pulse: str, edges: int
) -> None:
    boot = board.machine.boot(board.plan(Play.LIMITS, pulse, edges, speed=90))
    told = ends(board, boot)
    chain = board.chain()
    emitted, dropped = told["emitted"], told["overflowed"] * edges - EVENTS_MAX
    print(
        f"\nbooted in {told['booted_ns'] / 1e9:.1f} s, {emitted} pulses:"
        f" {told['paced'] * edges / (told['paced_ns'] / 1e9):.0f} edges/s taken while they came,"
        f" {told['overflowed'] * edges / (told['burst_ns'] / 1e9):.0f} emitted at once,"
        f" {dropped} dropped by the kernel"
    )
    assert told["paced"] >= 4_000
    assert dropped > 0
    assert marked(chain, Mark.LOST) == dropped
    assert counted(chain) * edges == emitted * edges - dropped
    assert not marked(chain, Mark.NOISE)


def live(board: Board, plan: Plan, began_s: float | None, lasted_s: float) -> Life:
    """One boot, and its end by a power cut.

    Args:
        began_s: how long after power-on the time until the cut begins to run; None: once the
            program watches.
        lasted_s: that time.
    """
    boot = board.machine.boot(plan)
    if began_s is None:
        boot.wait_for("watching_ns", BOOT_MAX_S)
    time.sleep((began_s or 0.0) + lasted_s)
    board.machine.cut()
    return life_of(boot, plan, is_cut=True)


def life_of(boot: Boot, plan: Plan, *, is_cut: bool) -> Life:
    told = boot.story
    return Life(
        told.get("launched_ns"),
        told.get("watching_ns"),
        tuple(boot.pulses_ns),
        told.get("anchor_ms", 0) * NS_PER_MS,
        told.get("origin_ms", 0),
        plan.speed,
        is_cut,
    )


def finish(board: Board, plan: Plan) -> Life:
    """The last boot: no pulses, and an end in order."""
    boot = board.machine.boot(plan)
    ends(board, boot)
    return life_of(boot, plan, is_cut=False)


@pytest.mark.parametrize(("pulse", "edges"), [(ANY, 1), (OWN, 2)], ids=["any", "own"])
def test_a_power_cut_costs_what_was_not_synced_yet_and_nothing_counts_twice(
    board: Board, pulse: str, edges: int
) -> None:
    seed = int(os.environ.get("CRYPTOMETER_SEED", time.time_ns() % 10**6))
    draw = random.Random(seed)
    plan = board.plan(Play.CUT, pulse, edges)
    began_s = time.monotonic()
    lives = [live(board, plan, None, 4.0)]
    steady_s = time.monotonic() - began_s - 4.0
    while len(lives) < CUTS // 2:
        # Some of them anywhere between power-on and steady work.
        is_early = draw.random() < 0.25
        lasted_s = draw.uniform(0, steady_s) if is_early else draw.uniform(0, 5)
        lives.append(live(board, plan, 0.0 if is_early else None, lasted_s))
    lives.append(finish(board, board.plan(Play.REST, pulse, edges)))
    chain = board.chain()
    account = settle(chain, lives, BOUND_NS)
    print(f"\nseed {seed}: {len(lives) - 1} cuts, steady after {steady_s:.1f} s, {account}")
    assert account.counted > 0
    assert account.cut_off > 0  # else nothing was cut
    assert not marked(chain, Mark.LOST)


def test_a_program_that_does_not_sync_is_seen(board: Board) -> None:
    plan = board.plan(Play.CUT, ANY, 1, is_synced=False)
    lives = [live(board, plan, None, 3 * BOUND_NS / 1e9)]
    lives.append(finish(board, board.plan(Play.REST, ANY, 1)))
    with pytest.raises(AssertionError, match="and not"):
        settle(board.chain(), lives, BOUND_NS)


def test_edges_that_the_kernel_merges_on_several_cores_are_declared_with_a_witness(
    board: Board,
) -> None:
    plan = board.plan(Play.RACE, f"witness = 5\n{OWN}", 2, speed=90, pulses=2_000)
    told = ends(board, board.machine.boot(plan, cores=2))
    chain = board.chain()
    missing = told["emitted"] - counted(chain)
    lost = marked(chain, Mark.LOST)
    print(f"\n{told['emitted']} pulses, {missing} missing, {lost} edges declared as lost")
    assert missing >= 0
    assert lost > 0 or not missing
