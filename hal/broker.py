"""How to reach the broker: what the bundle brought, and what the configuration overrides."""

from dataclasses import dataclass, fields, replace
from pathlib import Path

from cryptometer.enrolment import Broker
from cryptometer.settings import setting
from hal.files import put_file

_FILES = ("ca.pem", "client.pem", "client.key", "password")


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """The table `[broker]`: overrides what the bundle brought, field by field."""

    url: str = setting("mqtt://host:port, or mqtts://host:port for TLS", "")
    ca_file: str = setting("PEM file of the CA that signed the broker's certificate", "")
    certificate_file: str = setting("PEM file of the client certificate", "")
    key_file: str = setting("PEM file of the client certificate's key", "")
    username: str = setting("user name at the broker", "")
    password_file: str = setting("file that holds the password", "")


def install_broker(folder: Path, broker: Broker) -> None:
    """Keeps a bundle's broker files, readable by their owner only; removes older ones."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    password = None if broker.password is None else broker.password.encode()
    contents = (broker.ca, broker.certificate, broker.key, password)
    for name, content in zip(_FILES, contents, strict=True):
        if content is None:
            (folder / name).unlink(missing_ok=True)
        else:
            put_file(folder / name, content)


def broker_settings(folder: Path, broker: Broker, overrides: BrokerSettings) -> BrokerSettings:
    """The bundle's broker as installed in `folder`, with what the configuration overrides."""
    ca, certificate, key, password = (
        str(folder / name) if (folder / name).exists() else "" for name in _FILES
    )
    bundled = BrokerSettings(broker.url, ca, certificate, key, broker.username or "", password)
    given = {
        part.name: value for part in fields(overrides) if (value := getattr(overrides, part.name))
    }
    return replace(bundled, **given)
