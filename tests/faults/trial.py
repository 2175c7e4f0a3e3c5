"""Every system call of a life fails in turn, in every way it can; the next life goes on from what
is left, and then all that was promised is compared with the ledger.

    python -m tests.faults.trial                                    every call, every fault
    python -m tests.faults.trial --scene aged --plan "37 torn"      one of them
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

from cryptometer import audit
from cryptometer.block import Checked
from cryptometer.chain_records import Batch, ChainRecord
from cryptometer.errors import Rejected
from gateway.sqlite_store import SqliteStore
from hal.files import DiskTree
from hal.program import EXIT_FAILED
from tests.faults.life import Life, Town, found, ledger_path, store_path
from tests.faults.nursery import Order

ROOT = Path(__file__).parents[2]
KILLED = -9
# Which faults a kind of call can have: tests/faults/preload.c says what each does.
FAULTS: dict[str, tuple[str, ...]] = {
    "open": ("eio", "enospc", "kill", "power", "full", "dead"),
    "read": ("eio", "short"),
    "write": ("eio", "enospc", "short", "torn", "kill", "cut", "power", "full", "dead"),
    "sync": ("eio", "lost", "kill", "power", "dead"),
    "truncate": ("eio", "kill", "power", "dead"),
    "rename": ("eio", "kill", "power", "dead"),
    "unlink": ("eio", "kill", "power", "dead"),
    "rmdir": ("eio", "kill", "dead"),
    "mkdir": ("eio", "enospc", "kill", "full"),
    "list": ("eio",),
    "chmod": ("eio",),
    "close": ("eio",),
}
ENDS = {"kill": KILLED, "cut": KILLED, "power": KILLED}  # the others: cleanly, or not at all
DROPPING = {"lost", "power"}  # what was given and not synced may be gone
AGED_STEPS = 70  # after them the ledger's first tile is nearly full
LIFE_STEPS = 2


def build(folder: Path) -> Path:
    """Compiles the failing disk."""
    library = folder / "preload.so"
    source = Path(__file__).with_name("preload.c")
    flags = ["-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, "-o", str(library), str(source), "-ldl"], check=True, timeout=60)
    return library


class Nursery:
    """The process that lives lives."""

    def __init__(self, library: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery"],
            cwd=ROOT,
            env={**os.environ, "LD_PRELOAD": str(library), "PYTHONHASHSEED": "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def live(self, order: Order) -> int:
        """Returns the life's exit code."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(order.encode() + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


@dataclass(frozen=True, slots=True)
class Call:
    """A system call of a life.

    Attributes:
        number: from 1 on, of those below the life's folder.
        kind: a key of FAULTS.
        path: of its file, in the folder.
    """

    number: int
    kind: str
    path: str


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at which call."""

    call: Call
    kind: str

    @property
    def plan(self) -> str:
        return f"{self.call.number} {self.kind}"

    def __str__(self) -> str:
        return f"{self.plan} ({self.call.kind} {self.call.path})"


@dataclass
class Trial:
    """One folder and the lives over it.

    Attributes:
        steps: how many the community has lived through.
        boot: of the machine.
        careless: what its lives neglect, "" for nothing.
    """

    nursery: Nursery
    path: Path
    steps: int = 1
    boot: int = 1
    careless: str = ""

    @property
    def folder(self) -> Path:
        return self.path / "folder"

    def copy(self, path: Path, nursery: Nursery | None = None, careless: str = "") -> "Trial":
        """Another trial that begins where this one stands, and may be lived elsewhere."""
        shutil.copytree(self.path, path)
        careless = careless or self.careless
        return Trial(nursery or self.nursery, path, self.steps, self.boot, careless)

    def live(self, fault: Fault | None = None, steps: int = LIFE_STEPS) -> int:
        """One more life; returns its exit code.

        Raises:
            AssertionError: it did not end as it must.
        """
        life = Life(self.steps, steps, self.boot, self.careless)
        plan = fault.plan if fault else ""
        code = self.nursery.live(Order(str(self.folder), str(self.path), life, plan))
        self.steps += steps
        if fault is not None and fault.kind == "power":
            self.boot += 1
        self._check_end(fault, code)
        return code

    def start(self, fault: Fault | None = None) -> int:
        """The programs' start alone; returns its exit code.

        Raises:
            AssertionError: it did not end as it must.
        """
        plan = fault.plan if fault else ""
        life = Life(self.steps, 0)
        code = self.nursery.live(Order(str(self.folder), str(self.path), life, plan, True))
        self._check_end(fault, code)
        return code

    def calls(self) -> list[Call]:
        """Those of the newest life."""
        lines = [line.split(" ", 3) for line in (self.path / "calls").read_text().splitlines()]
        return [Call(int(number), kind, path) for number, kind, _, path in lines]

    def said(self) -> str:
        file = self.path / "said"
        return file.read_text() if file.exists() else ""

    def _check_end(self, fault: Fault | None, code: int) -> None:
        said = self.said()
        assert "Traceback" not in said, said
        assert "rollback" not in said, "what failed was hidden by its consequence"
        if fault is None:
            assert code == 0, f"exit code {code} without any fault: {said}"
            return
        newest = [call for call in self.calls() if call.number == fault.call.number]
        assert newest == [fault.call], f"another life: {newest} where {fault.call} was"
        ends = (ENDS[fault.kind],) if fault.kind in ENDS else (0, EXIT_FAILED)
        if fault.kind == "short":
            ends = (0,)  # it is no failure: whoever asked goes on with the rest
        assert code in ends, f"exit code {code}: {said}"
        if code == EXIT_FAILED:
            assert said.rstrip().rpartition("\n")[2].startswith("life: stopping: "), said


@dataclass
class Told:
    """What the lives of a trial have told.

    Attributes:
        put: pulses at the line.
        given: register up to which pulses were given and cannot be lost any more by a death.
        durable: register up to which not even a power cut loses them.
        records: identity of each published record, by sequence.
        acknowledged: records that the gateway said it has.
        checkpoints: published heads, by size.
    """

    put: int = 0
    given: int = 0
    durable: int = 0
    records: dict[int, str] = field(default_factory=dict)
    acknowledged: int = 0
    checkpoints: dict[int, str] = field(default_factory=dict)

    def read(self, account: str) -> None:
        """Reads what was told.

        Raises:
            AssertionError: two lives contradict each other.
        """
        dropped = False
        for line in account.splitlines():
            match line.split():
                case ["life", *plan]:
                    self.given = self.durable if dropped else self.given
                    dropped = bool(DROPPING & set(plan))
                case ["put", pulses]:
                    self.put += int(pulses)
                case ["kept", register]:
                    assert int(register) >= self.given, f"lost: {self.given - int(register)} given"
                    assert int(register) <= self.put, f"invented: {int(register) - self.put}"
                    self.given = int(register)
                case ["given", register]:
                    self.given = max(self.given, int(register))
                case ["durable", register]:
                    self.durable = max(self.durable, int(register))
                case ["record", sequence, identity]:
                    known = self.records.setdefault(int(sequence), identity)
                    assert known == identity, f"record {sequence} was published in two forms"
                case ["acknowledged", sequence]:
                    self.acknowledged = max(self.acknowledged, int(sequence))
                case ["checkpoint", size, root]:
                    known = self.checkpoints.setdefault(int(size), root)
                    assert known == root, f"two heads of {size} leaves"


def judge(trial: Trial) -> Told:
    """Compares what was told with what is there, after a last life in peace.

    Raises:
        AssertionError: a promise was broken.
        Rejected: the audit found a breach.
    """
    told = Told()
    told.read((trial.path / "account").read_text())
    town = Town()
    leaves: dict[int, str] = {}
    heads: dict[int, str] = {}
    pulses = 0

    def watch(checked: Checked) -> None:
        nonlocal pulses
        head = checked.state.checkpoint
        heads[head.size] = head.root.hex()
        for verdict in checked.verdicts:
            body = verdict.record.body
            if isinstance(body, ChainRecord):
                assert verdict.reason is None, f"quarantined: {verdict.reason}"
                leaves[body.sequence] = verdict.record.identity.hex()
            if isinstance(body, Batch):
                pulses += sum(body.pulses)

    report = audit.audit(DiskTree(ledger_path(trial.folder)).read, town.community, watch=watch)
    assert report.blocks == trial.steps, f"{report.blocks} blocks of {trial.steps} steps"
    assert pulses == told.given, f"{pulses} pulses in blocks, {told.given} given"
    assert list(leaves) == list(range(len(leaves))), "the chain has gaps"
    assert told.records.items() <= leaves.items(), "a published record is not in the ledger"
    assert told.acknowledged <= len(leaves), "an acknowledged record is not in the ledger"
    assert told.checkpoints.items() <= heads.items(), "a published head is not of this ledger"
    with closing(SqliteStore(store_path(trial.folder), read_only=True)) as store:
        assert store.state() == report.state
        assert not list(store.pending())
        assert not store.refusals(), store.refusals()
    return told


@dataclass(frozen=True, slots=True)
class Scene:
    """Where lives begin: a folder as it stands, and the calls of an undisturbed life from there."""

    name: str
    trial: Trial
    calls: tuple[Call, ...]

    def faults(self) -> Iterator[Fault]:
        """Every fault of every call."""
        for call in self.calls:
            for kind in FAULTS[call.kind]:
                yield Fault(call, kind)


def scenes(nursery: Nursery, path: Path) -> list[Scene]:
    """A community that begins, and one with a past: files to recover, a tile to be filled."""
    fresh = Trial(nursery, path / "fresh")
    fresh.folder.mkdir(parents=True)
    found(fresh.folder)
    aged = fresh.copy(path / "aged")
    aged.live(steps=AGED_STEPS)
    return [rehearse("fresh", fresh), rehearse("aged", aged)]


def rehearse(name: str, trial: Trial) -> Scene:
    """Finds the calls of an undisturbed life from where a trial stands."""
    rehearsal = trial.copy(trial.path.with_name(f"{name}-rehearsal"))
    rehearsal.live()
    calls = tuple(rehearsal.calls())
    rehearsal.live(steps=1)
    judge(rehearsal)
    return Scene(name, trial, calls)


def undergo(scene: Scene, path: Path, nursery: Nursery, *faults: Fault) -> None:
    """Lives with these faults, one in each life, then in peace; and judges.

    Raises:
        AssertionError: a promise was broken; the message names it.
    """
    trial = scene.trial.copy(path, nursery)
    for fault in faults:
        trial.live(fault)
    trial.live(steps=1)
    judge(trial)
    shutil.rmtree(path)


def sample(scene: Scene) -> list[Fault]:
    """One of each fault of each kind of call on each kind of file: that in the middle."""
    alike: dict[tuple[str, ...], list[Fault]] = {}
    for fault in scene.faults():
        family = re.sub(r"\d+", "#", fault.call.path)
        alike.setdefault((fault.call.kind, fault.kind, family), []).append(fault)
    return [faults[len(faults) // 2] for faults in alike.values()]


def pairs(scene: Scene, path: Path, nursery: Nursery, count: int) -> list[tuple[Fault, Fault]]:
    """A fault, and another in the life that recovers from it: so many, spread over the first life
    and over all kinds."""
    ending = [fault for fault in scene.faults() if fault.kind not in ("short", "enospc")]
    found = []
    for number in range(count):
        first = ending[(2 * number + 1) * len(ending) // (2 * count)]
        rehearsal = scene.trial.copy(path / f"{scene.name}-pair-{number}", nursery)
        rehearsal.live(first)
        rehearsal.live()
        calls = rehearsal.calls()
        # Recovery is what the first third of a life does; steps of a prime reach all of it.
        call = calls[number * 37 % (len(calls) // 3)]
        kinds = FAULTS[call.kind]
        found.append((first, Fault(call, kinds[number % len(kinds)])))
        shutil.rmtree(rehearsal.path)
    return found


def undergo_all(
    scene: Scene, path: Path, nurseries: Sequence[Nursery], trials: Sequence[tuple[Fault, ...]]
) -> Iterator[str]:
    """Undergoes many, in all nurseries at once; yields what broke."""
    waiting: SimpleQueue[Nursery] = SimpleQueue()
    for nursery in nurseries:
        waiting.put(nursery)

    def one(number: int) -> str | None:
        faults = trials[number]
        nursery = waiting.get()
        try:
            undergo(scene, path / f"{scene.name}-{number}", nursery, *faults)
        except (AssertionError, Rejected) as broken:
            named = "; then ".join(map(str, faults))
            return f"{scene.name}: {named}: {str(broken).strip()}"
        finally:
            waiting.put(nursery)
        return None

    with ThreadPoolExecutor(len(nurseries)) as pool:
        yield from filter(None, pool.map(one, range(len(trials))))


@contextmanager
def workshop(path: Path, nurseries: int) -> Iterator[list[Nursery]]:
    """The failing disk, and so many processes with it."""
    library = build(path)
    made = [Nursery(library) for _ in range(nurseries)]
    try:
        yield made
    finally:
        for nursery in made:
            nursery.close()


def main() -> int:
    """Undergoes every fault of every call, on all cores; names those that broke a promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.trial")
    parser.add_argument("--scene", choices=("fresh", "aged"), help="only this one")
    parser.add_argument("--plan", help="only this fault, as it was printed: '37 torn'")
    parser.add_argument("--every", type=int, default=1, help="only each so many-th fault")
    parser.add_argument("--pairs", type=int, default=0, help="so many pairs of faults in a row")
    arguments = parser.parse_args()
    broken = 0
    cores = len(os.sched_getaffinity(0))
    with TemporaryDirectory() as name, workshop(Path(name), cores) as nurseries:
        for scene in scenes(nurseries[0], Path(name)):
            if arguments.scene not in (None, scene.name):
                continue
            faults = [fault for fault in scene.faults() if arguments.plan in (None, fault.plan)]
            trials: list[tuple[Fault, ...]] = [(fault,) for fault in faults[:: arguments.every]]
            trials += pairs(scene, Path(name), nurseries[0], arguments.pairs)
            said = list(undergo_all(scene, Path(name), nurseries, trials))
            print("\n".join([*said, f"{scene.name}: {len(trials)} trials, {len(said)} broke"]))
            broken += len(said)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
