"""What must hold of the pulses that were emitted and the records that were signed. Pure."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from cryptometer.chain_records import Batch, ChainRecord, Mark, RunStart
from cryptometer.steps import NS_PER_MS


@dataclass(frozen=True, slots=True)
class Life:
    """One boot, as told from outside. Times are the guest's monotonic ones, ns.

    Attributes:
        launched_ns: before the program was started; None: the boot did not come so far.
        watching_ns: the program had said by then that it watches; None if it never did.
        pulses_ns: when each pulse began that was told; only the last one may not have come.
        origin_ms, speed: what maps them to community time.
        is_cut: by the power; else the program ended in order.
    """

    launched_ns: int | None
    watching_ns: int | None
    pulses_ns: tuple[int, ...]
    origin_ms: int
    speed: int
    is_cut: bool

    def community_ms(self, at_ns: int) -> int:
        return self.origin_ms + at_ns * self.speed // NS_PER_MS

    def emitted(self, from_ns: int, to_ns: int) -> int:
        """Pulses that began in an interval, its ends included."""
        return bisect_right(self.pulses_ns, to_ns) - bisect_left(self.pulses_ns, from_ns)


@dataclass(frozen=True, slots=True)
class Account:
    """What became of all pulses.

    Attributes:
        emitted: told; one for each cut may not have come.
        counted: in signed lots.
        unwatched: emitted before the program had opened the line, as far as it is known.
        cut_off: emitted while it watched, and lost with the power, at most.
        worst_ms: for how long before a cut pulses were lost, at most.
    """

    emitted: int
    counted: int
    unwatched: int
    cut_off: int
    worst_ms: int


def counted(chain: Sequence[ChainRecord]) -> int:
    """Pulses in signed lots."""
    return sum(sum(body.pulses) for body in chain if isinstance(body, Batch))


def marked(chain: Sequence[ChainRecord], mark: Mark) -> int:
    """What the signed records declare of a kind, all together."""
    return sum(
        amount
        for body in chain
        for number, amount in zip(body.marks[::2], body.marks[1::2], strict=True)
        if number == mark
    )


def settle(chain: Sequence[ChainRecord], lives: Sequence[Life], bound_ns: int) -> Account:
    """Holds what was signed against what was emitted, life by life.

    Args:
        chain: the records, from the first to the last.
        lives: the boots, in order.
        bound_ns: what came within so long before a cut may be lost.

    Raises:
        AssertionError: pulses are missing that must not be, or are counted twice.
    """
    runs = [body for body in chain if isinstance(body, RunStart)]
    registers = [run.register for run in runs] + [counted(chain)]
    grown = {index: registers[index + 1] - run.register for index, run in enumerate(runs)}
    owners = {index: _owner(run, lives) for index, run in enumerate(runs)}
    assert len(set(owners.values())) == len(runs), "two runs in one boot"
    unwatched = cut_off = worst_ns = 0
    for number, life in enumerate(lives):
        index = next((run for run, owner in owners.items() if owner == number), None)
        count = 0 if index is None else grown[index]
        last_ns = life.pulses_ns[-1] if life.pulses_ns else 0
        began_ns = last_ns + 1 if life.launched_ns is None else life.launched_ns
        watching_ns = last_ns + 1 if life.watching_ns is None else life.watching_ns
        sure_ns = last_ns - bound_ns if life.is_cut else last_ns
        least, most = life.emitted(watching_ns, sure_ns), life.emitted(began_ns, last_ns)
        assert count <= most, f"boot {number}: counted {count} of {most} pulses"
        assert count >= least, f"boot {number}: counted {count}, and not {least} pulses"
        unwatched += life.emitted(0, watching_ns - 1)
        watched = life.emitted(watching_ns, last_ns)
        if count < watched:
            cut_off += watched - count
            newest_ns = life.pulses_ns[len(life.pulses_ns) - (watched - count)]
            worst_ns = max(worst_ns, last_ns - newest_ns)
    emitted = sum(len(life.pulses_ns) for life in lives)
    return Account(emitted, counted(chain), unwatched, cut_off, worst_ns // NS_PER_MS)


def _owner(run: RunStart, lives: Sequence[Life]) -> int:
    """The boot in which a run began: the newest one that was launched by then."""
    found = [
        number
        for number, life in enumerate(lives)
        if life.launched_ns is not None and life.community_ms(life.launched_ns) <= run.at_ms
    ]
    assert found, f"a run before all boots: {run}"
    return found[-1]
