"""The file `meter.toml`: every setting, its default, and what is said about a mistake."""

from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from cryptometer.chain_records import LOTS_MAX
from cryptometer.errors import ConfigurationError
from firmware.config import BatchSettings, Config, JournalSettings, OutboxSettings, read_config
from hal.broker import BrokerSettings

SOURCE = {"driver": "sim"}
SETTINGS = [("batch", part.name, part.default) for part in fields(BatchSettings)] + [
    ("journal", part.name, part.default) for part in fields(JournalSettings)
]
SETTINGS += [("outbox", part.name, part.default) for part in fields(OutboxSettings)]


def read(**tables: object) -> Config:
    return read_config({"source": SOURCE, **tables})


def test_a_source_is_all_a_file_must_name() -> None:
    config = read()
    assert config.state == "/var/lib/cryptometer"
    assert (config.source, config.clock) == (SOURCE, {})
    assert config.batch == BatchSettings(delay_community_ms=60_000, lots=1_000)
    assert config.journal == JournalSettings(
        sync_machine_ms=5_000, watch_machine_ms=30_000, limit_mb=256
    )
    assert config.outbox == OutboxSettings(window=64, isolated_machine_ms=900_000)
    assert config.broker == BrokerSettings()


def test_a_file_without_a_source_is_refused_with_what_it_lacks() -> None:
    with pytest.raises(ConfigurationError, match="lacks 'source': the pulse line"):
        read_config({})


@pytest.mark.parametrize(("table", "name", "default"), SETTINGS)
def test_each_setting_is_read_into_its_place(table: str, name: str, default: int) -> None:
    value = default + 1
    config = read(**{table: {name: value}})
    assert getattr(getattr(config, table), name) == value
    others = {key: getattr(config, key) for key in ("batch", "journal", "outbox") if key != table}
    assert others == {key: getattr(read(), key) for key in others}


@pytest.mark.parametrize("name", [part.name for part in fields(BrokerSettings)])
def test_each_broker_setting_is_read_into_its_place(name: str) -> None:
    assert getattr(read(broker={name: "x"}).broker, name) == "x"


def test_the_state_folder_and_the_drivers_tables_are_read() -> None:
    config = read(state="/somewhere", clock={"driver": "scaled", "speed": 45})
    assert config.state == "/somewhere"
    assert config.clock == {"driver": "scaled", "speed": 45}


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"batches": {}}, "meter.toml has no setting 'batches'; did you mean 'batch'?"),
        ({"batch": {"lot": 1}}, "meter.toml batch has no setting 'lot'; did you mean 'lots'?"),
        (
            {"journal": {"sync_ms": 1}},
            "meter.toml journal has no setting 'sync_ms'; did you mean 'sync_machine_ms'?",
        ),
        (
            {"outbox": {"isolated_ms": 1}},
            "meter.toml outbox has no setting 'isolated_ms'; did you mean 'isolated_machine_ms'?",
        ),
        ({"broker": {"uri": "x"}}, "meter.toml broker has no setting 'uri'; did you mean 'url'?"),
        ({"batch": {"qqqq": 1}}, "known are: delay_community_ms, lots"),
    ],
)
def test_an_unknown_setting_is_an_error_that_names_the_nearest(
    tables: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read(**tables)
    assert message in str(refused.value)


@pytest.mark.parametrize(("table", "name", "default"), SETTINGS)
@pytest.mark.parametrize("value", ["5", 5.0, True, None, [5]])
def test_a_value_of_another_type_is_refused_by_name(
    table: str, name: str, default: int, value: object
) -> None:
    with pytest.raises(ConfigurationError, match=f"meter.toml {table} {name} is of type int"):
        read(**{table: {name: value}})


@pytest.mark.parametrize(
    ("table", "name", "value"),
    [
        ("batch", "lots", 0),
        ("batch", "lots", LOTS_MAX + 1),
        ("batch", "delay_community_ms", -1),
        ("journal", "sync_machine_ms", -1),
        ("journal", "watch_machine_ms", 0),
        ("journal", "limit_mb", 0),
        ("outbox", "window", 0),
        ("outbox", "isolated_machine_ms", -1),
        ("outbox", "isolated_machine_ms", 10**12),
    ],
)
def test_a_value_that_cannot_work_is_refused_with_its_range(
    table: str, name: str, value: int
) -> None:
    with pytest.raises(ConfigurationError, match=rf"\[{table}\] {name} is from \d+ to \d+, not"):
        read(**{table: {name: value}})


@pytest.mark.parametrize("lots", [1, LOTS_MAX])
def test_the_ends_of_a_range_are_accepted(lots: int) -> None:
    assert read(batch={"lots": lots}).batch.lots == lots


@pytest.mark.parametrize("table", ["source", "clock", "batch", "journal", "outbox", "broker"])
def test_a_value_where_a_table_belongs_is_refused(table: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{table} is a table"):
        read(**{table: 5})


def test_every_setting_is_documented_and_every_duration_says_whose_time_it_is() -> None:
    def walk(cls: type) -> list[tuple[str, str]]:
        found = []
        for part in fields(cls):
            found.append((part.name, str(part.metadata.get("doc", ""))))
            if isinstance(part.type, type) and is_dataclass(part.type):
                found += walk(part.type)
        return found

    settings = walk(Config)
    assert len(settings) > 15
    for name, doc in settings:
        assert doc, name
        if name.endswith("_ms"):
            assert name.endswith(("_community_ms", "_machine_ms"))
