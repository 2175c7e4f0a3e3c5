"""What a bundle brings to reach the broker, and what the configuration overrides."""

import stat
from dataclasses import fields
from pathlib import Path

import pytest

from cryptometer.enrolment import Broker
from hal.broker import BrokerSettings, broker_settings, install_broker

URL = "mqtts://broker.example.org:8883"
PASSWORD = "s3cret ü"  # noqa: S105 - of no broker
WITH_PASSWORD = Broker(URL, b"the CA", username="meter-1", password=PASSWORD)
WITH_CERTIFICATE = Broker(URL, b"the CA", certificate=b"the certificate", key=b"the key")


def settings_of(folder: Path, broker: Broker, **overrides: str) -> BrokerSettings:
    return broker_settings(folder, broker, BrokerSettings(**overrides))


def test_a_bundles_password_is_kept_in_a_file(tmp_path: Path) -> None:
    install_broker(tmp_path / "broker", WITH_PASSWORD)
    folder = tmp_path / "broker"
    assert settings_of(folder, WITH_PASSWORD) == BrokerSettings(
        url=URL,
        ca_file=str(folder / "ca.pem"),
        username="meter-1",
        password_file=str(folder / "password"),
    )
    assert (folder / "ca.pem").read_bytes() == b"the CA"
    assert (folder / "password").read_bytes() == PASSWORD.encode()
    assert sorted(one.name for one in folder.iterdir()) == ["ca.pem", "password"]


def test_a_bundles_certificate_is_kept_in_files(tmp_path: Path) -> None:
    install_broker(tmp_path, WITH_CERTIFICATE)
    assert settings_of(tmp_path, WITH_CERTIFICATE) == BrokerSettings(
        url=URL,
        ca_file=str(tmp_path / "ca.pem"),
        certificate_file=str(tmp_path / "client.pem"),
        key_file=str(tmp_path / "client.key"),
    )
    assert (tmp_path / "client.pem").read_bytes() == b"the certificate"
    assert (tmp_path / "client.key").read_bytes() == b"the key"


def test_what_is_installed_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    for broker in (WITH_PASSWORD, WITH_CERTIFICATE):
        install_broker(tmp_path / "broker", broker)
        for one in (tmp_path / "broker").iterdir():
            assert stat.S_IMODE(one.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "broker").stat().st_mode) == 0o700


def test_a_newer_bundle_leaves_nothing_of_the_older_one(tmp_path: Path) -> None:
    install_broker(tmp_path, WITH_PASSWORD)
    install_broker(tmp_path, WITH_CERTIFICATE)
    assert not (tmp_path / "password").exists()
    install_broker(tmp_path, Broker("mqtt://localhost:1883"))
    assert list(tmp_path.iterdir()) == []
    assert settings_of(tmp_path, Broker("mqtt://localhost:1883")) == BrokerSettings(
        url="mqtt://localhost:1883"
    )


@pytest.mark.parametrize("name", [part.name for part in fields(BrokerSettings)])
def test_the_configuration_overrides_one_field_and_no_other(tmp_path: Path, name: str) -> None:
    install_broker(tmp_path, WITH_PASSWORD)
    bundled = settings_of(tmp_path, WITH_PASSWORD)
    changed = settings_of(tmp_path, WITH_PASSWORD, **{name: "/etc/other"})
    differing = [
        part.name
        for part in fields(BrokerSettings)
        if getattr(changed, part.name) != getattr(bundled, part.name)
    ]
    assert differing == [name]
    assert getattr(changed, name) == "/etc/other"
