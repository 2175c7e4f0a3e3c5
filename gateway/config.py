"""The file `gateway.toml`: read once, at start."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptometer.settings import read_settings, setting
from hal.broker import BrokerSettings


@dataclass(frozen=True, slots=True)
class WebSettings:
    """The table `[web]`: where `cryptometer-gateway serve` listens."""

    host: str = setting("address of this machine; others reach it through a proxy", "127.0.0.1")
    port: int = setting("TCP port; 0 takes a free one and says which", 8088)


@dataclass(frozen=True, slots=True)
class MembersSettings:
    """The table `[members]`: where `cryptometer-gateway serve --members` listens, and what it needs
    for files."""

    host: str = setting("address of this machine; others reach it through a proxy", "127.0.0.1")
    port: int = setting("TCP port; 0 takes a free one and says which", 8089)
    zone: str = setting("time zone of the pages' local days, as Europe/Brussels", "UTC")
    points: str = setting("TOML file of the members' supply points, for coefficient files", "")
    template: str = setting("TOML template of the French coefficient file", "")
    files: str = setting("folder of files that operator and DSO may have, as they are", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole file. Paths are relative to its folder."""

    state: str = setting("folder for keys, store and imports", ".")
    ledger: str = setting("folder for the public ledger; may be served as it is", "ledger")
    accept_unsynchronised: bool = setting(
        "seal blocks without a synchronised clock; every header then shows it", default=False
    )
    clock: dict[str, Any] = field(default_factory=dict, metadata={"doc": "the clock"})
    broker: BrokerSettings = setting("overrides of the bundle's broker")
    web: WebSettings = setting("read access by HTTP")
    members: MembersSettings = setting("read access by HTTP to what is a member's")


def read_config(table: Mapping[str, object]) -> Config:
    """Reads the parsed file.

    Raises:
        ConfigurationError: naming the setting, and what to do.
    """
    return read_settings(Config, table, "gateway.toml")
