"""A real Mosquitto with the configuration that `cryptometer authority` writes: who comes in, and
who says and hears what. Devices and gateway connect as their programs do, from bundle and TOML.
"""

import getpass
import grp
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from cryptometer.commands import authority, certificates
from cryptometer.commands.broker import QUEUE_BYTES
from cryptometer.commands.certificates import LIFETIME
from cryptometer.commands.folder import BrokerFile, CredentialKind
from cryptometer.cose import RECORD_MAX
from cryptometer.keys import Algorithm
from cryptometer.record_fields import Role
from firmware import device_key
from firmware import folder as device_folder
from firmware.config import read_config as read_meter_toml
from gateway import folder as gateway_folder
from hal.broker import BrokerSettings, broker_settings, install_broker
from hal.keyfile import create_key
from tests.brokers import (
    HOST,
    BrokerProcess,
    Party,
    cut,
    find_mosquitto,
    free_ports,
    introduce,
    keep_saying,
    party,
    production_mosquitto,
    running,
    until,
)

NOW_MS = int(datetime.now(UTC).timestamp() * 1000)
DAY_MS = 86_400_000
METERS = ("pv-1", "pv-2")
BY_PASSWORD = "pv-3"  # noqa: S105 - the name of the meter that has one

METER_TOML = """\
[[meter]]
name = "{name}"
request = "{name}/device.request"
serial = "MID-{name}"
use = "generation"
class = "B"
phases = 3
voltage_v = 230
i_min_a = 0.25
i_max_a = 65
index_kwh = 0
constant = 10000
"""


@dataclass(frozen=True)
class Site:
    """A community's folders, and the port its broker is registered with."""

    path: Path
    port: int

    @property
    def authority(self) -> Path:
        return self.path / "authority"

    @property
    def mosquitto(self) -> Path:
        return self.authority / "mosquitto"

    @property
    def top(self) -> str:
        text = (self.authority / "community.pub").read_text()
        return f"cryptometer/1/{text.splitlines()[1]}"

    def topic(self, meter: str, last: str) -> str:
        return f"{self.top}/meter/{meter}/{last}"

    def bundle(self, name: str) -> Path:
        return self.authority / "bundles" / f"{name}.bundle"

    def broker(self) -> BrokerProcess:
        folder = self.path / "broker"
        folder.mkdir(exist_ok=True)
        return production_mosquitto(self.mosquitto / "mosquitto.conf", folder, self.port)

    def register_meter(self, name: str, kind: CredentialKind, now_ms: int = NOW_MS) -> None:
        """Makes a device's key and registers it."""
        device_key.initialise(self.path / name, Algorithm.EDDSA)
        self.register_again(name, kind, now_ms)

    def register_again(self, name: str, kind: CredentialKind, now_ms: int = NOW_MS) -> None:
        listing = self.path / "meters.toml"
        listing.write_text(METER_TOML.format(name=name))
        authority.register_meters(self.authority, listing, kind, now_ms)

    def meter(self, name: str, **table: str) -> BrokerSettings:
        """What a device's link is made from; `table` stands in its `[broker]`."""
        state = self.path / name
        enrolment = device_folder.enrol(state, self.bundle(name))
        config = read_meter_toml({"source": {"driver": "sim"}, "broker": table})
        return broker_settings(state / device_folder.BROKER_FOLDER, enrolment.broker, config.broker)

    def gateway(self, **table: str) -> BrokerSettings:
        """What the gateway's link is made from; `table` stands in its `[broker]`."""
        path = self.path / "gw"
        lines = "".join(f'{key} = "{value}"\n' for key, value in table.items())
        (path / "gateway.toml").write_text(f"[broker]\n{lines}")
        folder = gateway_folder.open_folder(path)
        gateway_folder.import_file(folder, self.bundle("gw"))
        bundled = gateway_folder.read_own_bundle(folder).broker
        return broker_settings(folder.broker, bundled, folder.config.broker)

    def other(self, name: str) -> BrokerSettings:
        """What a party without a program of ours uses."""
        bundle = gateway_folder._bundle(self.bundle(name).read_bytes())
        assert bundle is not None
        install_broker(self.path / f"{name}-broker", bundle.broker)
        return broker_settings(self.path / f"{name}-broker", bundle.broker, BrokerSettings())


def found(path: Path, now_ms: int = NOW_MS, installed: str = "") -> Site:
    """A community of its own with gateway, VPP, and one meter for each way to come in."""
    site = Site(path, free_ports(2))
    authority.init(
        site.authority,
        name="Rue des Tilleuls",
        broker=BrokerFile(f"mqtts://{HOST}:{site.port}", installed or str(site.mosquitto)),
        step_s=900,
        grace_ms=5_000,
        late_ms=35 * DAY_MS,
        token_uwh=10**9,
        first_step=None,
        now_ms=now_ms,
    )
    gateway_folder.initialise(path / "gw")
    for role, name, request in (
        (Role.GATEWAY, "gw", "gateway.request"),
        (Role.VPP, "vpp", "vpp.request"),
    ):
        authority.register_party(site.authority, path / "gw" / request, role, name, None, now_ms)
    for name in METERS:
        site.register_meter(name, CredentialKind.CERTIFICATE, now_ms)
    site.register_meter(BY_PASSWORD, CredentialKind.PASSWORD, now_ms)
    return site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Shared by the tests that change nothing in it."""
    return found(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def broker(site: Site) -> Iterator[BrokerProcess]:
    with running(site.broker()) as one:
        yield one


@contextmanager
def gateway_of(site: Site, *more: str, **options: Any) -> Iterator[Party]:
    """The gateway, subscribed as its program is."""
    topics = [f"{site.top}/meter/+/record", f"{site.top}/checkpoint", *more]
    with party(site.gateway(), "gateway", topics, **options) as one:
        one.until_up()
        yield one


@contextmanager
def meter_of(site: Site, name: str, *more: str, **options: Any) -> Iterator[Party]:
    """A device, subscribed as its program is."""
    own = [site.topic(name, "ack/+"), site.topic(name, "registration"), f"{site.top}/checkpoint"]
    will = site.topic(name, "status")
    with party(site.meter(name), name, [*own, *more], will_topic=will, **options) as one:
        yield one


# --- Who may say and hear what. ------------------------------------------------------------------


@pytest.mark.parametrize("name", [*METERS, BY_PASSWORD])
def test_a_device_says_its_records_and_status_to_the_gateway(
    site: Site, broker: BrokerProcess, name: str
) -> None:
    with gateway_of(site, f"{site.top}/meter/+/status") as gateway, meter_of(site, name) as meter:
        introduce(meter, gateway, site.topic(name, "record"))
        largest = bytes(RECORD_MAX)
        meter.say(site.topic(name, "record"), largest)
        gateway.until_got(site.topic(name, "record"), largest)
        meter.say(site.topic(name, "status"), b"online", retain=True)
        gateway.until_got(site.topic(name, "status"), b"online")


@pytest.mark.parametrize("last", ["record", "status", "ack/gw", "registration"])
@pytest.mark.parametrize("forger", ["pv-1", BY_PASSWORD])
def test_a_device_says_nothing_under_another_meters_topic(
    site: Site, broker: BrokerProcess, forger: str, last: str
) -> None:
    victim, forged = "pv-2", site.topic("pv-2", last)
    with (
        gateway_of(site, f"{site.top}/meter/+/status") as gateway,
        meter_of(site, victim) as meter,
        meter_of(site, forger) as other,
    ):
        # The one who would hear a forgery hears the rightful speaker.
        rightful, hearer = (meter, gateway) if last in ("record", "status") else (gateway, meter)
        introduce(rightful, hearer, forged)
        introduce(other, gateway, site.topic(forger, "record"))
        other.say(forged, b"forged", retain=True)
        keep_saying(other, gateway, site.topic(forger, "record"), b"after it")
        rightful.say(forged, b"rightful")
        hearer.until_got(forged, b"rightful")
        assert b"forged" not in hearer.payloads(forged)
    assert f"Denied PUBLISH from {forger}" in broker.log


@pytest.mark.parametrize("last", ["meter/pv-1/ack/gw", "meter/pv-1/registration", "checkpoint"])
def test_a_device_acknowledges_registers_and_seals_nothing(
    site: Site, broker: BrokerProcess, last: str
) -> None:
    topic = f"{site.top}/{last}"
    with gateway_of(site) as gateway, meter_of(site, "pv-1") as meter:
        introduce(gateway, meter, topic)
        introduce(meter, gateway, site.topic("pv-1", "record"))
        meter.say(topic, b"forged", retain=True)
        keep_saying(meter, gateway, site.topic("pv-1", "record"), b"after it")
        gateway.say(topic, b"rightful")
        keep_saying(gateway, meter, topic, b"rightful")
        assert set(meter.payloads(topic)) == {b"rightful"}
        assert gateway.payloads(f"{site.top}/checkpoint").count(b"forged") == 0


def test_the_gateway_hears_all_meters_and_answers_each_retained(
    site: Site, broker: BrokerProcess
) -> None:
    with (
        gateway_of(site) as gateway,
        meter_of(site, "pv-1") as one,
        meter_of(site, "pv-2") as two,
    ):
        for meter, name in ((one, "pv-1"), (two, "pv-2")):
            introduce(meter, gateway, site.topic(name, "record"))
            for last in ("ack/gw", "registration"):
                introduce(gateway, meter, site.topic(name, last))
                gateway.say(site.topic(name, last), f"for {name}".encode(), retain=True)
                meter.until_got(site.topic(name, last), f"for {name}".encode())
        gateway.say(f"{site.top}/checkpoint", b"sealed", retain=True)
        for hearer in (gateway, one, two):
            hearer.until_got(f"{site.top}/checkpoint", b"sealed")
        topics = {message.topic for message in one.messages}
        assert not [topic for topic in topics if "pv-2" in topic]
    with meter_of(site, "pv-2") as late:
        assert late.until_got(site.topic("pv-2", "ack/gw"), b"for pv-2").retained
        assert late.until_got(f"{site.top}/checkpoint", b"sealed").retained


def test_the_gateway_is_no_meter_and_no_other_node(site: Site, broker: BrokerProcess) -> None:
    with gateway_of(site) as gateway, meter_of(site, "pv-1") as meter:
        introduce(meter, gateway, site.topic("pv-1", "record"))
        introduce(gateway, meter, site.topic("pv-1", "ack/gw"))
        for number, forged in enumerate(("record", "ack/node-7")):
            gateway.say(site.topic("pv-1", forged), b"forged")
            keep_saying(gateway, meter, site.topic("pv-1", "ack/gw"), b"rightful %d" % number)
        keep_saying(meter, gateway, site.topic("pv-1", "record"), b"rightful")
        heard = [message.payload for message in (*gateway.messages, *meter.messages)]
        assert b"forged" not in heard


def test_a_device_hears_no_other_meter(site: Site, broker: BrokerProcess) -> None:
    with (
        gateway_of(site) as gateway,
        meter_of(site, "pv-1") as meter,
        meter_of(site, "pv-2", "#", f"{site.top}/#", "$SYS/#") as curious,
    ):
        introduce(gateway, curious, site.topic("pv-2", "ack/gw"))
        introduce(meter, gateway, site.topic("pv-1", "record"))
        introduce(gateway, meter, site.topic("pv-1", "ack/gw"))
        gateway.say(site.topic("pv-2", "ack/gw"), b"end")
        curious.until_got(site.topic("pv-2", "ack/gw"), b"end")
        allowed = (site.topic("pv-2", "ack/gw"), f"{site.top}/checkpoint")
        own = site.topic("pv-2", "")
        foreign = {one.topic for one in curious.messages if not one.topic.startswith(own)}
        assert foreign <= set(allowed)


def test_the_vpp_hears_the_checkpoint_and_says_nothing(site: Site, broker: BrokerProcess) -> None:
    topic = f"{site.top}/checkpoint"
    with (
        gateway_of(site) as gateway,
        meter_of(site, "pv-1") as meter,
        party(site.other("vpp"), "vpp", [f"{site.top}/#"]) as vpp,
    ):
        introduce(gateway, vpp, topic)
        introduce(meter, gateway, site.topic("pv-1", "record"))
        for times, forged in enumerate((site.topic("pv-1", "record"), topic), 1):
            vpp.say(forged, b"forged")
            keep_saying(gateway, vpp, topic, b"end %d" % times)
            vpp.until_up()
        meter.say(site.topic("pv-1", "record"), b"end")
        gateway.until_got(site.topic("pv-1", "record"), b"end")
        assert {one.topic for one in vpp.messages} == {topic}
        assert not [one for one in gateway.messages if one.payload == b"forged"]


def test_a_last_will_under_another_meters_topic_is_refused(
    site: Site, broker: BrokerProcess
) -> None:
    forged, own = site.topic("pv-2", "status"), site.topic("pv-1", "status")
    with (
        gateway_of(site, f"{site.top}/meter/+/status") as gateway,
        meter_of(site, "pv-2") as victim,
    ):
        introduce(victim, gateway, forged)
        for will in (forged, own):
            with party(site.meter("pv-1"), "pv-1", [], will_topic=will) as one:
                introduce(one, gateway, own)
                cut(one.link)
                one.until_down()
                one.until_up()
        gateway.until_got(own, b"offline")
        keep_saying(victim, gateway, forged, b"online")
        assert set(gateway.payloads(forged)) == {b"online"}


def test_nobody_throws_another_out_by_taking_his_client_id(
    site: Site, broker: BrokerProcess
) -> None:
    with gateway_of(site) as gateway, meter_of(site, "pv-1") as meter:
        introduce(meter, gateway, site.topic("pv-1", "record"))
        for taken in ("pv-1", "gw"):
            with party(site.meter("pv-2"), taken, []) as thief:
                introduce(thief, gateway, site.topic("pv-2", "record"))
        introduce(meter, gateway, site.topic("pv-1", "record"))
        assert (meter.connections, gateway.connections) == (1, 1)


def test_who_sends_more_than_a_packet_may_hold_is_cut_off_alone(
    site: Site, broker: BrokerProcess
) -> None:
    with (
        gateway_of(site) as gateway,
        meter_of(site, "pv-1") as meter,
        meter_of(site, "pv-2") as greedy,
    ):
        introduce(meter, gateway, site.topic("pv-1", "record"))
        introduce(greedy, gateway, site.topic("pv-2", "record"))
        # It may be cut off before it has said all of it.
        greedy.link.publish(site.topic("pv-2", "record"), bytes(3 * 2**16))
        greedy.until_connected(2)
        # By its announced length, before its content was taken into memory.
        assert "Client pv-2 disconnected due to oversize packet" in broker.log
        greedy.say(site.topic("pv-2", "record"), b"end")
        gateway.until_got(site.topic("pv-2", "record"), b"end")
        assert gateway.payloads(site.topic("pv-2", "record")) == [b"end"]
        introduce(meter, gateway, site.topic("pv-1", "record"))
        assert meter.connections == 1


def test_what_waits_for_an_absent_gateway_is_not_bounded_in_messages(
    site: Site, broker: BrokerProcess
) -> None:
    """Mosquitto's default would drop what is beyond a thousand."""
    topic, count = site.topic("pv-1", "record"), 3_000
    with meter_of(site, "pv-1") as meter:
        with gateway_of(site, keep_session=True) as gateway:
            introduce(meter, gateway, topic)
        for number in range(count):
            meter.say(topic, b"%d" % number)
        with gateway_of(site, keep_session=True) as gateway:
            gateway.until_got(topic, b"%d" % (count - 1))
            assert gateway.payloads(topic) == [b"%d" % number for number in range(count)]
    with gateway_of(site):  # without a session to keep: the queue goes
        pass


def test_what_waits_for_an_absent_gateway_is_bounded_in_bytes(
    site: Site, broker: BrokerProcess
) -> None:
    topic, count = site.topic("pv-1", "record"), 1_100
    with meter_of(site, "pv-1") as meter:
        with gateway_of(site, keep_session=True) as gateway:
            introduce(meter, gateway, topic)
        for _ in range(count):
            meter.say(topic, bytes(RECORD_MAX))
        meter.say(f"{site.top}/not-allowed", b"all are said")
        until(lambda: "not-allowed" in broker.log, "the broker to have them")
        with gateway_of(site, keep_session=True) as gateway:
            full = QUEUE_BYTES // RECORD_MAX
            gateway.until(lambda: len(gateway.payloads(topic)) >= full, "the queue")
            # Without a limit in messages Mosquitto 2.0.11 breaks off whoever says what it may not.
            meter.until(lambda: meter.link.publish(topic, b"end"), "the device to come again")
            gateway.until_got(topic, b"end")
            waited = sum(len(payload) for payload in gateway.payloads(topic))
    assert QUEUE_BYTES <= waited <= QUEUE_BYTES + 2 * RECORD_MAX
    with gateway_of(site):
        pass


# --- Who comes in. -------------------------------------------------------------------------------


def test_the_toml_of_both_programs_overrides_the_bundle(
    site: Site, broker: BrokerProcess, tmp_path: Path
) -> None:
    bundled = site.meter(BY_PASSWORD)
    password = tmp_path / "password"
    password.write_text(Path(bundled.password_file).read_text() + "\n")
    given = {
        "url": f"mqtts://localhost:{site.port + 1}",
        "ca_file": str(tmp_path / "ca.pem"),
        "username": BY_PASSWORD,
        "password_file": str(password),
    }
    (tmp_path / "ca.pem").write_bytes((site.mosquitto / "ca.pem").read_bytes())
    settings = site.meter(BY_PASSWORD, **given)
    assert replace(settings, certificate_file="", key_file="") == BrokerSettings(**given)
    with party(settings, "toml") as one:  # the broker's certificate names 127.0.0.1 alone
        assert "does not show the certificate of our broker" in one.until_refused()
    settings = site.meter(BY_PASSWORD, **given | {"url": f"mqtts://{HOST}:{site.port + 1}"})
    with gateway_of(site) as gateway, party(settings, "toml") as one:
        introduce(one, gateway, site.topic(BY_PASSWORD, "record"))

    pair = {"certificate_file": "client.pem", "key_file": "client.key"}
    for key, name in pair.items():
        pair[key] = str(tmp_path / name)
        (tmp_path / name).write_bytes(Path(getattr(site.gateway(), key)).read_bytes())
    settings = site.gateway(**pair)
    assert (settings.certificate_file, settings.key_file) == tuple(pair.values())
    with party(settings, "toml") as one:
        one.until_up()
    with party(site.gateway(url=f"mqtts://{HOST}:{site.port + 1}"), "wrong door") as one:
        assert "the broker refuses us" in one.until_refused()
    with party(site.gateway(), "right door") as one:
        one.until_up()


def test_a_wrong_password_is_refused_and_the_right_one_is_not(
    site: Site, broker: BrokerProcess, tmp_path: Path
) -> None:
    right = site.meter(BY_PASSWORD)
    with party(right, "right") as one:
        one.until_up()
    wrong = tmp_path / "wrong"
    wrong.write_text(Path(right.password_file).read_text()[:-1])
    other = {"username": "pv-1"}  # comes in with a certificate, so has no password
    for settings in (
        replace(right, password_file=str(wrong)),
        replace(right, **other),
        replace(right, username="nobody"),
        replace(right, username="", password_file=""),  # anonymous
        replace(right, password_file=""),
    ):
        with party(settings, "wrong") as one:
            reason = one.until_refused()
        assert reason == (
            "the broker refuses us (Not authorized): check the user name and password, or ask the"
            " authority for a new bundle"
        )


def test_without_any_password_registered_nobody_comes_in_by_password(tmp_path: Path) -> None:
    """An empty password file must not mean that every password will do."""
    site = found(tmp_path)
    password = Path(site.meter(BY_PASSWORD).password_file)
    settings = site.meter(BY_PASSWORD)
    authority.revoke(site.authority, BY_PASSWORD, "sold", None, NOW_MS)
    assert (site.mosquitto / "passwords").read_bytes() == b""
    password.write_text("anything")
    with running(site.broker()):
        for username in (BY_PASSWORD, "pv-1", "gw", "nobody"):
            with party(replace(settings, username=username), "tries") as one:
                assert "the broker refuses us" in one.until_refused()
        with party(site.gateway(), "gateway") as one:
            one.until_up()


def test_a_plain_connection_is_refused(site: Site, broker: BrokerProcess) -> None:
    for port in (site.port, site.port + 1):
        with party(BrokerSettings(url=f"mqtt://{HOST}:{port}"), "plain") as one:
            assert "broke the connection before it answered" in one.until_refused()
        with socket.create_connection((HOST, port), timeout=10) as line:
            line.sendall(bytes.fromhex("10 0d 00044d515454 04 02 003c 0001 78"))
            answer = b"?"
            try:
                answer = line.recv(100)
            except ConnectionResetError:
                answer = b""
            assert answer[:1] != b"\x20", "no CONNACK"


def test_without_a_certificate_nobody_comes_in_by_certificate(
    site: Site, broker: BrokerProcess
) -> None:
    none = replace(site.meter("pv-1"), certificate_file="", key_file="")
    password = replace(site.meter(BY_PASSWORD), url=site.meter("pv-1").url)
    for settings in (none, password):
        with party(settings, "bare") as one:
            reason = one.until_refused()
        assert "certificate required" in reason or "broke the connection" in reason
    with party(site.meter("pv-1"), "with its certificate") as one:
        one.until_up()


def forged_pair(
    site: Site, tmp_path: Path, name: str, now: datetime, own_ca: bool
) -> BrokerSettings:
    """A device's settings with another certificate in its name."""
    key = site.authority / "broker-ca.key"
    pem = site.mosquitto / "ca.pem"
    ca = certificates.Authority(key.read_bytes(), pem.read_bytes())
    if not own_ca:
        other = certificates.make_authority(make_key(tmp_path), f"{name}'s own", now)
        # Of the same name as ours, so that only the signature tells them apart.
        ca = certificates.make_authority(make_key(tmp_path), common_name(pem.read_bytes()), now)
        assert other.pem != ca.pem
    pair = ca.issue_client(name, 7, now)
    for file, content in (("client.pem", pair.certificate), ("client.key", pair.key)):
        (tmp_path / file).write_bytes(content)
    return replace(
        site.meter(name),
        certificate_file=str(tmp_path / "client.pem"),
        key_file=str(tmp_path / "client.key"),
    )


def make_key(tmp_path: Path) -> bytes:
    path = tmp_path / "ca.key"
    path.unlink(missing_ok=True)
    create_key(path, Algorithm.ES256)
    return path.read_bytes()


def common_name(pem: bytes) -> str:
    subject = x509.load_pem_x509_certificate(pem).subject
    return str(subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def test_an_expired_certificate_is_refused(
    site: Site, broker: BrokerProcess, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    with party(forged_pair(site, tmp_path, "pv-1", now, own_ca=True), "valid") as one:
        one.until_up()
    past = now - LIFETIME - timedelta(minutes=1)
    with party(forged_pair(site, tmp_path, "pv-1", past, own_ca=True), "expired") as one:
        reason = one.until_refused()
    assert "certificate expired" in reason
    assert "ask the authority for a new bundle" in reason
    future = now + timedelta(days=2)
    with party(forged_pair(site, tmp_path, "pv-1", future, own_ca=True), "not yet") as one:
        assert "does not accept our certificate" in one.until_refused()


def test_a_certificate_of_another_ca_is_refused(
    site: Site, broker: BrokerProcess, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    with party(forged_pair(site, tmp_path, "pv-1", now, own_ca=False), "forged") as one:
        assert "does not accept our certificate" in one.until_refused()
    with party(forged_pair(site, tmp_path, "pv-1", now, own_ca=True), "genuine") as one:
        one.until_up()


def test_the_brokers_certificate_opens_no_door(site: Site, broker: BrokerProcess) -> None:
    """The broker's own key may come to be known to whoever runs its machine."""
    pair = {
        "certificate_file": str(site.mosquitto / "server.pem"),
        "key_file": str(site.mosquitto / "server.key"),
    }
    with party(replace(site.meter("pv-1"), **pair), "broker") as one:
        assert "does not accept our certificate" in one.until_refused()


def test_a_device_believes_no_other_broker(
    site: Site, broker: BrokerProcess, tmp_path: Path
) -> None:
    other = certificates.make_authority(make_key(tmp_path), "another", datetime.now(UTC))
    (tmp_path / "other.pem").write_bytes(other.pem)
    with party(site.meter("pv-1", ca_file=str(tmp_path / "other.pem")), "wary") as one:
        reason = one.until_refused()
    assert reason.startswith(f"{HOST}:{site.port} does not show the certificate of our broker (")
    assert "check the url and ca_file" in reason


# --- What registration and revocation change. ----------------------------------------------------


def test_revoked_credentials_are_refused_after_a_reload_and_others_stay(tmp_path: Path) -> None:
    site = found(tmp_path)
    revoked = {name: keep(site.meter(name), tmp_path / f"{name}-kept") for name in _LEAVING}
    with running(site.broker()) as broker, gateway_of(site) as gateway:
        for name, settings in revoked.items():
            record = site.topic(name, "record")
            with meter_of(site, "pv-2") as stays:
                introduce(stays, gateway, site.topic("pv-2", "record"))
                with party(settings, name) as leaves:
                    introduce(leaves, gateway, record)
                    authority.revoke(site.authority, name, "stolen", None, NOW_MS)
                    broker.reload()
                    # Connected or not, it says nothing from here on.
                    leaves.link.publish(record, b"from the revoked one")
                    leaves.until_down()
                    introduce(stays, gateway, site.topic("pv-2", "record"))
                    assert gateway.payloads(record) == []
                assert_refused(settings, name)
                assert (stays.connections, gateway.connections) == (1, 1)
        broker.stop()
        broker.start()  # as strict after a start as after a reload
        gateway.until_connected(2)
        for name, settings in revoked.items():
            assert_refused(settings, name)
        with meter_of(site, "pv-2") as stays:
            introduce(stays, gateway, site.topic("pv-2", "record"))


_LEAVING = (BY_PASSWORD, "pv-1")


def assert_refused(settings: BrokerSettings, name: str) -> None:
    with party(settings, name) as one:
        reason = one.until_refused()
    assert ("Not authorized" if settings.password_file else "revoked") in reason


def test_a_new_registration_replaces_the_credential(tmp_path: Path) -> None:
    site = found(tmp_path)
    with running(site.broker()) as broker, gateway_of(site) as gateway:
        old = keep(site.meter("pv-1"), tmp_path / "old")
        site.register_again("pv-1", CredentialKind.CERTIFICATE)
        broker.reload()
        with party(old, "pv-1") as one:
            assert "revoked" in one.until_refused()
        with meter_of(site, "pv-1") as one:
            introduce(one, gateway, site.topic("pv-1", "record"))
        site.register_meter("pv-4", CredentialKind.CERTIFICATE)
        with meter_of(site, "pv-4") as one:
            one.until_up()
            one.say(site.topic("pv-4", "record"), b"too early")
            broker.reload()
            introduce(one, gateway, site.topic("pv-4", "record"))
        authority.revoke(site.authority, "pv-4", "lost", None, NOW_MS)
        broker.reload()
        (site.path / "pv-4").rename(site.path / "pv-4-lost")
        site.register_meter("pv-4", CredentialKind.CERTIFICATE)
        broker.reload()
        with meter_of(site, "pv-4") as one:
            introduce(one, gateway, site.topic("pv-4", "record"))


def keep(settings: BrokerSettings, folder: Path) -> BrokerSettings:
    """The same credential in files that nobody replaces."""
    folder.mkdir()
    kept = {}
    for key in ("ca_file", "certificate_file", "key_file", "password_file"):
        if path := getattr(settings, key):
            kept[key] = str(folder / key)
            (folder / key).write_bytes(Path(path).read_bytes())
    return replace(settings, **kept)


def test_retained_words_and_the_gateways_session_outlive_a_restart_of_the_broker(
    tmp_path: Path,
) -> None:
    site = found(tmp_path)
    topic = f"{site.top}/checkpoint"
    with running(site.broker()) as broker, meter_of(site, "pv-1") as meter:
        with gateway_of(site, keep_session=True) as gateway:
            introduce(meter, gateway, site.topic("pv-1", "record"))
            gateway.say(topic, b"sealed", retain=True)
            meter.until_got(topic, b"sealed")
        meter.say(site.topic("pv-1", "record"), b"while it was away")
        meter.say(f"{site.top}/not-allowed", b"")
        until(lambda: "not-allowed" in broker.log, "the broker to have it")
        assert broker.stop() == 0
        broker.start()
        meter.until_connected(2)
        with gateway_of(site, keep_session=True) as gateway:
            gateway.until_got(site.topic("pv-1", "record"), b"while it was away")
        with meter_of(site, "pv-2") as late:
            assert late.until_got(topic, b"sealed").retained


# --- Installed as the README says. ---------------------------------------------------------------

README = Path(__file__).parent.parent / "deploy" / "mosquitto" / "README.md"


def commands_of(heading: str) -> list[str]:
    """The shell commands under a heading of the README."""
    section = README.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    blocks = section.split("```sh\n")[1:]
    return [line for block in blocks for line in block.split("```")[0].splitlines() if line]


@contextmanager
def machine(user: str, group: str) -> Iterator[Path]:
    """A folder in the place of the broker's machine; unlike pytest's, other users may enter it."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        for folder in ("etc/mosquitto/conf.d", "var/lib/mosquitto"):
            (root / folder).mkdir(parents=True)
        shutil.chown(root / "var/lib/mosquitto", user, group)
        main = root / "etc/mosquitto/mosquitto.conf"
        main.write_text(  # Debian's own
            f"user {user}\npersistence true\npersistence_location {root}/var/lib/mosquitto/\n"
            f"log_dest stderr\nlog_type all\ninclude_dir {root}/etc/mosquitto/conf.d\n"
        )
        yield root


def run_commands(lines: list[str], root: Path, site: Site, user: str, group: str) -> list[str]:
    """Runs the README's commands there; returns those that only a whole machine can run."""
    left = []
    for line in lines:
        command = line.removeprefix("sudo ")
        if command.startswith(("apt", "systemctl")):
            left.append(command)
            continue
        command = command.replace("-o mosquitto -g mosquitto", f"-o {user} -g {group}")
        command = command.replace("/etc/mosquitto", f"{root}/etc/mosquitto")
        done = subprocess.run(
            ["sh", "-ec", command],
            cwd=site.authority,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), command
    return left


def test_the_readmes_commands_install_a_broker_that_runs_under_its_own_user(tmp_path: Path) -> None:
    # Root gives the files to Mosquitto's own user, as in production; others keep them.
    user = group = "mosquitto"
    if os.geteuid() != 0:
        user, group = getpass.getuser(), grp.getgrgid(os.getegid()).gr_name
    with machine(user, group) as root:
        site = found(tmp_path, installed=f"{root}/etc/mosquitto/cryptometer")
        left = run_commands(commands_of("Install"), root, site, user, group)
        assert left == ["apt install mosquitto", "systemctl restart mosquitto"]
        there = root / "etc/mosquitto/cryptometer"
        assert {one.name for one in there.iterdir()} == {
            one.name for one in site.mosquitto.iterdir()
        }
        for file in (there, *there.iterdir()):
            assert (file.owner(), file.stat().st_mode & 0o077) == (user, 0), file
        command = [find_mosquitto(), "-c", f"{root}/etc/mosquitto/mosquitto.conf"]
        broker = BrokerProcess(command, [site.port, site.port + 1], tmp_path / "installed.log")
        revoked = keep(site.meter("pv-1"), tmp_path / "kept")
        with running(broker), gateway_of(site) as gateway, meter_of(site, "pv-2") as meter:
            introduce(meter, gateway, site.topic("pv-2", "record"))
            with party(revoked, "pv-1") as one:
                introduce(one, gateway, site.topic("pv-1", "record"))
            authority.revoke(site.authority, "pv-1", "stolen", None, NOW_MS)
            left = run_commands(commands_of("After a registration"), root, site, user, group)
            assert left == ["systemctl reload mosquitto"]
            broker.reload()
            assert_refused(revoked, "pv-1")
            assert (meter.connections, gateway.connections) == (1, 1)
            for fault in ("Unable to", "Error opening", "Permission denied"):
                assert fault not in broker.log
