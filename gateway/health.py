"""Is the gateway doing its work? Facts in, reasons in plain words out; no reason: it is."""

from collections.abc import Mapping
from dataclasses import dataclass

from cryptometer.doubt import AHEAD_STEPS, WITH_A_SOURCE
from cryptometer.steps import MS_PER_S, NS_PER_MS, ClockState, Instant, step_start_ms

# A block that is due comes within seconds, unless the machine is too slow or the gateway is down.
OVERDUE_PART = 10  # of a step: at quarter hours a block may be 90 s late
PUBLISH_MAX_MS = 10_000  # of community time, from a block's sealing to its files
# What everyone may read of it: which page, and of whom, stands in the gateway's log.
PRIVATE_DAMAGED = (
    "blocks go on; meters for consumption are not heard, and what asks for consumption waits: stop"
    " cryptometer-gateway and restore, from a backup"
)
ROOM_MIN_BYTES = 2**28  # a year of ten meters takes less; a full disk stops everything


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a gateway at one moment.

    Attributes:
        now: the clocks of this machine.
        step: of the newest block, None before the first.
        step_s: length of a step.
        grace_ms: how long a block waits for closes.
        sealed_ms: when the newest block was sealed.
        size: leaves of the tree in the store.
        published: leaves of the tree in the ledger's files.
        sealed_clock: the state of the gateway's clock in the newest published header.
        accept_unsynchronised: the gateway is configured to seal without a synchronised clock.
        free_bytes: room on the disk of each folder.
        is_private_damaged: the gateway works without its private store.
    """

    now: Instant
    step: int | None
    step_s: int
    grace_ms: int
    sealed_ms: int
    size: int
    published: int
    sealed_clock: ClockState | None
    accept_unsynchronised: bool
    free_bytes: Mapping[str, int]
    is_private_damaged: bool = False

    @property
    def now_ms(self) -> int:
        return self.now.utc_ns // NS_PER_MS

    @property
    def overdue_ms(self) -> int:
        """How long the next block has been due, in ms; negative while it is not."""
        if self.step is None:
            return 0
        return self.now_ms - step_start_ms(self.step + 2, self.step_s) - self.grace_ms

    @property
    def is_far_ahead(self) -> bool:
        """Whether the gateway may not believe the clock: so long after the newest block."""
        ahead_ms = self.now_ms - self.sealed_ms
        return self.now.state in WITH_A_SOURCE and ahead_ms > AHEAD_STEPS * self.step_s * MS_PER_S


def reasons(facts: Facts) -> list[str]:
    """What is wrong, most pressing first."""
    found: list[str] = []
    if facts.step is None:
        return ["there is no block yet: has the gateway run, with a synchronised clock?"]
    if facts.overdue_ms > facts.step_s * 1000 // OVERDUE_PART:
        found.append(
            f"the block of step {facts.step + 1} is overdue by {facts.overdue_ms // 1000} s:"
            " see the log of cryptometer-gateway"
        )
    if facts.is_far_ahead:
        found.append(
            f"this machine's clock is {(facts.now_ms - facts.sealed_ms) // 1000} s ahead of the"
            " newest block: if it is wrong, mend its time source; otherwise it is believed as soon"
            " as half of the meters, their boards not off themselves meanwhile, date their records"
            " so, or after an hour"
        )
    if not facts.accept_unsynchronised:
        if facts.now.state is not ClockState.SYNCHRONISED:
            found.append(
                f"this machine's clock is not synchronised (state {facts.now.state}): no block is"
                " sealed until it is"
            )
        if facts.sealed_clock not in (None, ClockState.SYNCHRONISED):
            found.append(f"the newest block was sealed by a clock in state {facts.sealed_clock}")
    behind = facts.size - facts.published
    if behind > 0 and facts.now_ms - facts.sealed_ms > PUBLISH_MAX_MS:
        found.append(
            f"the ledger's files are {behind} leaves behind the store: restart"
            " cryptometer-gateway, which writes them again"
        )
    if facts.is_private_damaged:
        found.append(f"the private store is damaged: {PRIVATE_DAMAGED}")
    found += [
        f"only {free // 2**20} MiB are free for {name}: make room"
        for name, free in facts.free_bytes.items()
        if free < ROOM_MIN_BYTES
    ]
    return found
