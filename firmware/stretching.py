"""How much goes into one record: a batch's lots, and on a full card a lot's pulses."""

from cryptometer.chain_records import LOTS_MAX
from cryptometer.steps import NS_PER_MS
from firmware.config import Config
from firmware.lots import Limits
from firmware.outbox import FREE_BYTES_MIN, Outbox

DELAY_MAX_MS = 2**40  # a batch then waits for its step's end


class Stretching:
    """In isolation batches stretch to a step; so they do while signatures are behind, as with a
    slow token or one that is away: one signature is then for all that has come meanwhile. On a full
    card lots do, and are marked."""

    def __init__(self, config: Config) -> None:
        self._batch = config.batch
        self._isolated_ns = config.outbox.isolated_machine_ms * NS_PER_MS
        self._is_isolated = False
        # The counter keeps to them, as they are at each moment.
        self.limits = Limits(config.batch.lots, config.batch.delay_community_ms)

    def limit(self, *, is_behind: bool) -> None:
        """Before more is counted. `is_behind`: something waits for its signature."""
        is_wide = is_behind or self._is_isolated
        self.limits.lots = LOTS_MAX if is_wide else self._batch.lots
        self.limits.delay_ms = DELAY_MAX_MS if is_wide else self._batch.delay_community_ms

    def look(self, outbox: Outbox, free_bytes: int, now_ns: int, *, is_behind: bool) -> None:
        """At each sync: how long nobody has answered, and what room is left on the card."""
        self._is_isolated = outbox.isolated_ns(now_ns) >= self._isolated_ns
        self.limit(is_behind=is_behind)
        is_filling = self._is_isolated and free_bytes < FREE_BYTES_MIN
        self.limits.oversize = outbox.is_full or is_filling
