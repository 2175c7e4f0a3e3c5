"""The board's program on a real kernel: every edge of a line is counted once, or declared."""

import compileall
import json
import os
import random
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cryptometer import records
from cryptometer.authority_records import Registration
from cryptometer.chain_records import Batch, ChainRecord, Ending, Mark, RunStart
from cryptometer.enrolment import Broker, Bundle
from cryptometer.steps import NS_PER_MS, NS_PER_S, ClockSource, step_start_ms
from firmware import folder
from firmware.outbox import Outbox
from hal.files import DiskDirectory
from hal.keyfile import create_key
from hal.pulse_shape import PRESETS, Found, Preset, Recogniser
from tests.core.community import FIRST_STEP, STEP_S, Village
from tests.kernel.account import Life, counted, marked, settle
from tests.kernel.machine import ROOT, Boot, Machine
from tests.kernel.plan import COUNTER, EVENTS_MAX, LINE, WITNESS, Plan, Play
from tests.keys import signer

KEPT = os.environ.get("CRYPTOMETER_KEEP_EDGES")  # set: a vector is written anew
KEPT_MAX = 800
CUTS = int(os.environ.get("CRYPTOMETER_CUTS", "20"))
BOOT_MAX_S = 600.0  # of a core that others use as well; 20 to 30 of one that is free
SPEED = 30  # a step in 30 s, and a boot in far less than the four steps ahead that are believed
ORIGIN_MS = step_start_ms(FIRST_STEP + 2, STEP_S)
SYNC_MS = 1_000
SETTLED_NS = 5 * NS_PER_MS  # a contact of S0 is, by then (IEC 62053-31)
OFF_NS = 5 * NS_PER_S
EARLY = 0.25  # of the cuts come before the work is steady
# A pulse is taken 200 ms after it came at the latest (`gather_machine_ms`) and is made durable
# `sync_ms` after that; the rest is what an emulated core that others use takes for it.
BOUND_NS = (SYNC_MS + 200 + 1_000) * NS_PER_MS
LINES = f'driver = "gpio"\nchip = "/dev/gpiochip0"\noffset = {LINE}\n'
ANY = f'{LINES}pulse = "any"\ndebounce_us = 0\n'
OWN = f"""\
{LINES}pulse = "own"

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
        self._origin_ms = ORIGIN_MS
        self.steady_s = 20.0  # from power-on to steady work, as the newest boot took
        self.lasts_s = (0.0, 4.0)  # from there to a cut, of the guest's time

    def plan(self, play: Play, source: str, edges: int, **changes: Any) -> Plan:
        fields: dict[str, Any] = {"speed": SPEED, "sync_ms": SYNC_MS, **changes}
        return Plan(play, source, edges, origin_ms=self._origin_ms, **fields)

    def pass_by(self, life: Life) -> None:
        """Time goes on from where a boot was, and `OFF_NS`, in which nobody was there."""
        last_ns = max((life.launched_ns or 0, *life.pulses_ns[-1:]))
        self._origin_ms = life.community_ms(last_ns + OFF_NS)

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


def live(board: Board, source: str, edges: int, draw: random.Random, **changes: Any) -> Life:
    """One boot, and its end by a power cut: one in four anywhere between power-on and steady work,
    by the time that the machine around it has, the others at some time of the guest's later."""
    plan = board.plan(Play.CUT, source, edges, **changes)
    boot = board.machine.boot(plan)
    if draw.random() < EARLY:
        time.sleep(draw.uniform(0, board.steady_s))
    else:
        watching_ns = boot.wait_for("watching_ns", BOOT_MAX_S)
        board.steady_s = time.monotonic() - boot.began_s
        cut_ns = watching_ns + draw.uniform(*board.lasts_s) * NS_PER_S
        boot.wait(lambda: boot.pulses_ns[-1] > cut_ns, "its last pulse", BOOT_MAX_S)
    board.machine.cut()
    life = life_of(boot, plan, is_cut=True)
    board.pass_by(life)
    return life


def life_of(boot: Boot, plan: Plan, *, is_cut: bool) -> Life:
    told = boot.story
    return Life(
        told.get("launched_ns"),
        told.get("watching_ns"),
        tuple(boot.pulses_ns),
        plan.origin_ms,
        plan.speed,
        is_cut,
    )


def finish(board: Board, source: str, edges: int) -> Life:
    """The last boot: no pulses, and an end in order."""
    plan = board.plan(Play.REST, source, edges)
    boot = board.machine.boot(plan)
    ends(board, boot)
    return life_of(boot, plan, is_cut=False)


@pytest.mark.parametrize(("source", "edges"), [(ANY, 1), (OWN, 2)], ids=["any", "own"])
def test_a_power_cut_costs_what_was_not_synced_yet_and_nothing_counts_twice(
    board: Board, source: str, edges: int
) -> None:
    seed = int(os.environ.get("CRYPTOMETER_SEED", time.time_ns() % 10**6))
    draw = random.Random(seed)
    lives = [live(board, source, edges, draw) for _ in range(CUTS // 2)]
    lives.append(finish(board, source, edges))
    chain = board.chain()
    account = settle(chain, lives, BOUND_NS)
    print(
        f"\nseed {seed}: {len(lives) - 1} cuts, steady after {board.steady_s:.1f} s,"
        f" {sum(isinstance(body, RunStart) for body in chain)} runs, {account}"
    )
    assert account.counted > 0
    assert account.cut_off > 0  # else nothing was cut
    assert not marked(chain, Mark.LOST)


@pytest.mark.parametrize(("source", "edges"), [(ANY, 1), (OWN, 2)], ids=["any", "own"])
def test_every_edge_is_counted_up_to_what_the_kernel_keeps_and_beyond_it_declared(
    board: Board, source: str, edges: int
) -> None:
    boot = board.machine.boot(board.plan(Play.LIMITS, source, edges, speed=90))
    told = ends(board, boot)
    chain = board.chain()
    emitted, dropped = told["emitted"], told["overflowed"] * edges - EVENTS_MAX
    paced = told["paced"] * edges * NS_PER_S // told["paced_ns"]
    burst = told["overflowed"] * edges * NS_PER_S // told["burst_ns"]
    print(
        f"\nbooted in {told['booted_ns'] // NS_PER_MS} ms of the guest, {emitted} pulses:"
        f" {paced} edges/s taken as they came, {burst} emitted at once,"
        f" {dropped} dropped by the kernel"
    )
    assert told["paced"] >= 4_000
    assert dropped > 0
    assert marked(chain, Mark.LOST) == dropped
    assert counted(chain) * edges == emitted * edges - dropped
    assert not marked(chain, Mark.NOISE)


def test_a_program_that_does_not_sync_is_seen(board: Board) -> None:
    board.lasts_s = (2 * BOUND_NS / NS_PER_S,) * 2
    late = random.Random(2)
    lives = [live(board, ANY, 1, late, is_synced=False), finish(board, ANY, 1)]
    with pytest.raises(AssertionError, match="and not"):
        settle(board.chain(), lives, BOUND_NS)


def test_edges_that_the_kernel_merges_on_several_cores_are_declared_with_a_witness(
    board: Board,
) -> None:
    plan = board.plan(Play.RACE, f"witness = {WITNESS}\n{OWN}", 2, speed=90, pulses=2_000)
    told = ends(board, board.machine.boot(plan, cores=2))
    chain = board.chain()
    missing = told["emitted"] - counted(chain)
    lost = marked(chain, Mark.LOST)
    print(f"\n{told['emitted']} pulses, {missing} missing, {lost} edges declared as lost")
    assert missing >= 0
    assert lost > 0 or not missing
    assert lost <= 2 * told["emitted"]


def test_what_came_while_the_program_was_away_is_recovered_from_a_counter_beside_the_line_once(
    board: Board,
) -> None:
    """The kernel's own `interrupt-cnt`: the end of each pulse, where the line counts its beginning.
    What was dropped while the program stood still is lost, as without it."""
    source = f'{ANY}counter = "{COUNTER}"\n'
    told = ends(board, board.machine.boot(board.plan(Play.BESIDE, source, 1, speed=90, pulses=500)))
    chain = board.chain()
    runs = [body.ending for body in chain if isinstance(body, RunStart)]
    print(f"\n{told}\n{runs}, {marked(chain, Mark.BURST)} pulses of a burst")
    assert runs == [Ending.FIRST, Ending.STOPPED, Ending.UNKNOWN, Ending.STOPPED]
    assert told["counted_beside"] - told["counted_before"] == told["emitted"]
    assert counted(chain) == told["emitted"] - told["dropped"]
    # A killed program had read some without journalling them; and what a run has declared the next
    # one may declare again.
    assert marked(chain, Mark.RECOVERED) >= told["missed"] > 0
    assert marked(chain, Mark.LOST) >= told["dropped"] > 0
    assert not marked(chain, Mark.NOISE)


def keep(edges: Sequence[tuple[int, bool]]) -> None:
    """The first of them as a vector: ns from one to the next, the first one on, by turns."""
    assert [is_on for _, is_on in edges] == [number % 2 == 0 for number in range(len(edges))]
    times = [at_ns for at_ns, _ in edges[:KEPT_MAX]]
    gaps = [after - before for before, after in pairwise(times)]
    (ROOT / "tests/vectors/kernel-edges.json").write_text(json.dumps(gaps) + "\n")


def test_bouncing_pulses_of_s0_are_counted_as_they_are_with_what_is_by_default(
    board: Board,
) -> None:
    """The kernel's debounce of 10 ms, the system's clock, durable after 5 s."""
    plan = board.plan(Play.S0, LINES, 1, speed=1, pulses=300, stalled=100, is_tuned=False)
    boot = board.machine.boot(plan)
    told = ends(board, boot)
    chain = board.chain()
    print(f"\n{told}, {marked(chain, Mark.BURST)} pulses of a burst")
    assert told["slowest_ns"] < SETTLED_NS
    assert counted(chain) == plan.pulses + plan.stalled
    assert not any(marked(chain, mark) for mark in (Mark.LOST, Mark.NOISE, Mark.RECOVERED))
    sources = {body.clock.source for body in chain if isinstance(body, Batch)}
    assert sources == {ClockSource.SYSTEM}
    # The same edges by their shape.
    recogniser, found = Recogniser(PRESETS[Preset.S0_CLASS_B], is_on=False, now_ns=0), Found()
    for at_ns, is_on in boot.edges:
        recogniser.add(at_ns, is_on=is_on, found=found)
    assert len(boot.edges) > 2 * plan.pulses
    assert (len(found.times_ns), found.noise, found.lost) == (plan.pulses, 0, 0)
    if KEPT:
        keep(boot.edges)


def test_bouncing_pulses_of_s0_are_counted_through_the_interface_of_rpi_gpio(board: Board) -> None:
    """In which step a pulse came that came about its end it does not know: there may be none."""
    source = f'driver = "rpi"\noffset = {LINE}\n'
    plan = board.plan(Play.S0, source, 2, speed=90, pulses=300)
    told = ends(board, board.machine.boot(plan))
    chain = board.chain()
    straddling = marked(chain, Mark.STRADDLE)
    print(f"\n{told}, {straddling} pulses of which the step is not sure")
    assert told["slowest_ns"] < SETTLED_NS
    assert counted(chain) == plan.pulses
    assert straddling < plan.pulses // 10
    assert not any(marked(chain, mark) for mark in (Mark.LOST, Mark.NOISE, Mark.RECOVERED))
