"""The file `meter.toml`: read once, at start. What the registration says overrides it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptometer.chain_records import LOTS_MAX
from cryptometer.errors import ConfigurationError
from cryptometer.settings import read_settings, setting
from hal.broker import BrokerSettings
from hal.keyplace import Place, read_place

DURATION_MAX_MS = 7 * 86_400_000  # a week; a longer one is a slip of the unit


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """The table `[batch]`: when lots are signed together."""

    delay_community_ms: int = setting("longest wait of a closed lot for its batch", 60_000)
    lots: int = setting("lots in a batch; 1 gives one record per lot, as in paper A", 1_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalSettings:
    """The table `[journal]`: what a power cut may cost, and what the card must bear."""

    sync_machine_ms: int = setting(
        "pulses become durable at least this often; a power cut loses at most so much", 5_000
    )
    watch_machine_ms: int = setting(
        "how often 'watched until now' is journalled while no pulse comes; bounds the interval"
        " a restart declares as not watched",
        30_000,
    )
    gather_machine_ms: int = setting(
        "after a look that brought pulses the line rests for so long: what comes meanwhile is taken"
        " together. Less by itself at high rates, and before a step ends",
        200,
    )
    limit_mb: int = setting("room for signed records, acknowledged ones included", 256)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxSettings:
    """The table `[outbox]`: how records travel."""

    window: int = setting("records on their way at once", 64)
    isolated_machine_ms: int = setting(
        "without acknowledgement for so long, batches stretch to a whole step", 900_000
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySettings:
    """The table `[key]`: where the device's private key is kept, and where the next one is."""

    store: str = setting("`file:` and a path, a PKCS#11 URI, or `tpm2:`", "file:device.key")
    successor: str = setting(
        "likewise: where `successor` makes the key that takes over", "file:successor.key"
    )

    @property
    def place(self) -> Place:
        """`store` as a value.

        Raises:
            ConfigurationError: it says none.
        """
        return read_place(self.store, "[key] store")

    @property
    def successor_place(self) -> Place:
        """`successor` as a value.

        Raises:
            ConfigurationError: it says none.
        """
        return read_place(self.successor, "[key] successor")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole file. `state` is relative to its folder."""

    state: str = setting("folder for key, enrolment, journal and outbox", "/var/lib/cryptometer")
    source: dict[str, Any] = setting("the pulse line: see the driver's own settings")
    compared: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "doc": "another source of the same meter, that is only compared: a meter that speaks,"
            " as [source] has it, and `ratio`"
        },
    )
    key: KeySettings = setting("where the private key is kept")
    clock: dict[str, Any] = field(default_factory=dict, metadata={"doc": "the clock"})
    batch: BatchSettings = setting("when lots are signed together")
    journal: JournalSettings = setting("durability and wear")
    outbox: OutboxSettings = setting("how records travel")
    broker: BrokerSettings = setting("overrides of the bundle's broker")


def read_config(table: Mapping[str, object]) -> Config:
    """Reads the parsed file.

    Raises:
        ConfigurationError: naming the setting, and what to do.
    """
    config = read_settings(Config, table, "meter.toml")
    read_place(config.key.store, "meter.toml [key] store")
    read_place(config.key.successor, "meter.toml [key] successor")
    if config.key.store == config.key.successor:
        raise ConfigurationError("meter.toml [key] store and successor are two places")
    for name, value, low, high in (
        ("[batch] delay_community_ms", config.batch.delay_community_ms, 0, DURATION_MAX_MS),
        ("[batch] lots", config.batch.lots, 1, LOTS_MAX),
        ("[journal] sync_machine_ms", config.journal.sync_machine_ms, 0, DURATION_MAX_MS),
        ("[journal] watch_machine_ms", config.journal.watch_machine_ms, 1, DURATION_MAX_MS),
        # At 115,200 baud a line's buffer is full after 350 ms.
        ("[journal] gather_machine_ms", config.journal.gather_machine_ms, 0, 250),
        ("[journal] limit_mb", config.journal.limit_mb, 4, 2**20),  # a few of the outbox's files
        ("[outbox] window", config.outbox.window, 1, 10_000),
        ("[outbox] isolated_machine_ms", config.outbox.isolated_machine_ms, 0, DURATION_MAX_MS),
    ):
        if not low <= value <= high:
            raise ConfigurationError(f"meter.toml {name} is from {low} to {high}, not {value}")
    return config
