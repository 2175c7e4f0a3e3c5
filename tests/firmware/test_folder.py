"""The device's folder: a key that is never overwritten, an enrolment that is never mixed up; and
the real program's answer to a meter it cannot count."""

import os
import stat
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from cryptometer import cbor, records
from cryptometer.authority_records import MeterDetails
from cryptometer.enrolment import Broker, Bundle, EnrolmentRequest
from cryptometer.errors import ConfigurationError, Reason, Rejected
from cryptometer.keys import Algorithm, PublicKey
from cryptometer.record_fields import Role
from cryptometer.records import Record
from firmware import device_key, folder
from firmware.counter import BLANK_SNAPSHOT
from firmware.end import chain_start
from firmware.journal import Journal
from firmware.outbox import Outbox
from hal.files import DiskDirectory
from tests.core.community import DETAILS, FIRST_STEP
from tests.firmware.kit import CHAIN, Office, run, steps, word

PROGRAM = (sys.executable, "-m", "firmware.main")
ROOT = Path(folder.__file__).parents[1]
LIMIT_S = 30  # of a program that only has to start and say why it does not go on


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def request_of(state: Path) -> Record:
    return records.decode((state / "device.request").read_bytes())


def key_of(state: Path) -> PublicKey:
    return device_key.load_device_key(state).public


def bundle_for(
    office: Office,
    state: Path,
    details: MeterDetails = DETAILS,
    name: str = "m0",
    broker: Broker | None = None,
) -> Path:
    """What the authority answers to the request in `state`; beside it."""
    registration = office.authority.register(Role.METER, name, key_of(state), details, FIRST_STEP)
    broker = broker or Broker("mqtt://127.0.0.1:1883")
    raws = (office.gateway_registration.raw, registration.raw)
    body = Bundle(name, office.authority.genesis.raw, raws, broker)
    path = state.parent / f"{name}.bundle"
    path.write_bytes(records.seal(body, office.id, office.authority.signer).raw)
    return path


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A folder with a key."""
    device_key.initialise(tmp_path / "state", Algorithm.EDDSA)
    return tmp_path / "state"


def call(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """Runs the real program."""
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


# --- The key -------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_init_makes_a_key_for_its_owner_alone_and_a_request_signed_with_it(
    tmp_path: Path, algorithm: Algorithm
) -> None:
    umask = os.umask(0)  # a careless shell must not open the key
    try:
        text = device_key.initialise(tmp_path / "state", algorithm)
    finally:
        os.umask(umask)
    state = tmp_path / "state"
    assert mode(state / "device.key") == 0o600
    assert mode(state) == 0o700
    key = key_of(state)
    assert key.algorithm is algorithm
    request = request_of(state)
    body = request.body
    assert isinstance(body, EnrolmentRequest)
    assert (body.role, body.key, body.software) == (Role.METER, key, device_key.SOFTWARE)
    assert request.key_id == key.thumbprint
    request.envelope.verify(key)
    assert key.thumbprint.hex() in text
    assert str(state / "device.request") in text
    assert b"PRIVATE" not in (state / "device.request").read_bytes()


def test_init_never_overwrites_a_key_nor_its_request(state: Path) -> None:
    before = {path.name: path.read_bytes() for path in state.iterdir()}
    with pytest.raises(ConfigurationError, match="a key is never overwritten"):
        device_key.initialise(state, Algorithm.ES256)
    assert {path.name: path.read_bytes() for path in state.iterdir()} == before


def test_an_init_that_was_cut_off_behind_the_key_makes_the_request(state: Path) -> None:
    key = (state / "device.key").read_bytes()
    (state / "device.request").unlink()
    device_key.initialise(state, Algorithm.EDDSA)
    assert (state / "device.key").read_bytes() == key
    assert request_of(state).key_id == key_of(state).thumbprint


def test_a_key_that_others_can_read_is_not_used(state: Path) -> None:
    (state / "device.key").chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        device_key.load_device_key(state)


def test_without_a_key_the_message_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cryptometer-firmware init --state"):
        device_key.load_device_key(tmp_path)
    with pytest.raises(ConfigurationError, match="cryptometer-firmware init --state"):
        folder.enrol(tmp_path, tmp_path / "bundle")


# --- Enrolment -----------------------------------------------------------------------------------


def test_a_device_is_not_enrolled_until_its_bundle_is_installed(state: Path) -> None:
    assert folder.read_enrolment(state, key_of(state)) is None
    office = Office()
    enrolment = folder.enrol(state, bundle_for(office, state))
    assert (enrolment.meter, enrolment.community.id) == ("m0", office.id)
    assert folder.read_enrolment(state, key_of(state)) == enrolment


def test_the_brokers_credential_is_installed_for_its_owner_alone(state: Path) -> None:
    office = Office()
    secret = Broker("mqtts://b:8883", b"CA", "m0", "secret", b"CERTIFICATE", b"KEY")
    folder.enrol(state, bundle_for(office, state, broker=secret))
    files = {path.name: path.read_bytes() for path in (state / "broker").iterdir()}
    assert files == {
        "ca.pem": b"CA",
        "client.pem": b"CERTIFICATE",
        "client.key": b"KEY",
        "password": b"secret",
    }
    assert {mode(path) for path in (state / "broker").iterdir()} == {0o600}
    assert mode(state / "device.bundle") == 0o600
    folder.enrol(state, bundle_for(office, state))
    assert list((state / "broker").iterdir()) == []


def test_a_bundle_for_another_device_is_refused_and_changes_nothing(
    state: Path, tmp_path: Path
) -> None:
    device_key.initialise(tmp_path / "other" / "state", Algorithm.EDDSA)
    bundle = bundle_for(Office(), tmp_path / "other" / "state")
    before = sorted(path.name for path in state.iterdir())
    with pytest.raises(Rejected) as refused:
        folder.enrol(state, bundle)
    assert refused.value.reason is Reason.UNKNOWN_KEY
    assert sorted(path.name for path in state.iterdir()) == before


def test_a_device_does_not_change_its_community(state: Path) -> None:
    folder.enrol(state, bundle_for(Office(), state))
    before = (state / "device.bundle").read_bytes()
    with pytest.raises(ConfigurationError, match="belongs to 'Rue des Tilleuls'"):
        folder.enrol(state, bundle_for(Office(name="elsewhere"), state))
    assert (state / "device.bundle").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"constant": Fraction(1_000), "lot_pulses": 1}, "1160"),
        ({"lot_pulses": 9}, "at most 8"),
    ],
)
def test_a_bundle_that_contradicts_itself_is_not_installed(
    state: Path, changes: dict[str, object], message: str
) -> None:
    details = replace(DETAILS, **changes)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=message):
        folder.enrol(state, bundle_for(Office(), state, details))
    assert not (state / "device.bundle").exists()


def test_a_bundle_that_contradicts_what_was_heard_since_is_not_installed(state: Path) -> None:
    office = Office()
    folder.enrol(state, bundle_for(office, state))
    before = (state / "device.bundle").read_bytes()
    anchor = office.authority.re_anchor("m0", 5, 50)
    assert folder.keep_update(state, key_of(state), cbor.encode([anchor.raw]))
    forgetful = Office()  # the same authority, from a backup without the re-anchor
    bundle_for(forgetful, state)
    with pytest.raises(ConfigurationError, match=r"contradicts.*authority\.update away"):
        folder.enrol(state, bundle_for(forgetful, state))
    assert (state / "device.bundle").read_bytes() == before


def test_a_bundle_that_is_missing_or_no_record_is_refused(state: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read"):
        folder.enrol(state, tmp_path / "nothing")
    (tmp_path / "rubbish").write_bytes(b"rubbish")
    with pytest.raises(Rejected):
        folder.enrol(state, tmp_path / "rubbish")


# --- What comes over the broker ------------------------------------------------------------------


def test_new_words_of_the_authority_are_kept_and_old_ones_are_not_news(state: Path) -> None:
    office = Office()
    folder.enrol(state, bundle_for(office, state))
    key = key_of(state)
    anchor = office.authority.re_anchor("m0", 5, 50)
    update = cbor.encode([anchor.raw])
    assert folder.keep_update(state, key, update)
    assert not folder.keep_update(state, key, update)
    enrolment = folder.read_enrolment(state, key)
    assert enrolment is not None
    assert [one.identity for one in enrolment.anchors] == [anchor.identity]


def test_a_shorter_message_does_not_make_a_device_forget(state: Path) -> None:
    office = Office()
    folder.enrol(state, bundle_for(office, state))
    key = key_of(state)
    first, second = (office.authority.re_anchor("m0", at, 50) for at in (5, 6))
    assert folder.keep_update(state, key, cbor.encode([first.raw]))
    assert not folder.keep_update(state, key, cbor.encode([]))
    assert folder.keep_update(state, key, cbor.encode([second.raw]))
    enrolment = folder.read_enrolment(state, key)
    assert enrolment is not None
    assert [one.identity for one in enrolment.anchors] == [first.identity, second.identity]


def test_a_forged_message_is_refused_and_nothing_is_kept(state: Path) -> None:
    office = Office()
    folder.enrol(state, bundle_for(office, state))
    anchor = office.authority.re_anchor("m0", 5, 50)
    forged = records.seal(anchor.body, office.id, office.gateway)
    with pytest.raises(Rejected):
        folder.keep_update(state, key_of(state), cbor.encode([forged.raw]))
    assert not (state / "authority.update").exists()


def test_without_an_enrolment_no_message_is_kept(state: Path) -> None:
    assert not folder.keep_update(state, key_of(state), cbor.encode([]))


# --- What is said about it -----------------------------------------------------------------------


def test_the_description_follows_the_device(state: Path) -> None:
    assert "not signed" in folder.describe(state)
    office = Office()
    folder.enrol(state, bundle_for(office, state))
    assert "records      none signed yet" in folder.describe(state)
    assert not (state / "journal").exists(), "whoever asks may not be the program's own user"
    journal = DiskDirectory(state / "journal")
    Journal(journal).begin_segment(replace(BLANK_SNAPSHOT, register=77))
    directory = DiskDirectory(state / "outbox")
    outbox = Outbox(directory, limit_bytes=2**20, window=5)
    outbox.recover(0)
    outbox.begin(chain_start(bytes(32)))
    assert outbox.end is not None
    signed = list(CHAIN.sign([run(), *steps(1)], outbox.end, None))
    outbox.append(signed)
    outbox.acknowledge(word(outbox.end, 1, signed[0].identity), 0)
    text = folder.describe(state)
    assert "register     77 pulses" in text
    assert "records      3 signed, 1 acknowledged, 2 waiting" in text
    assert f"last close   step {FIRST_STEP}" in text
    assert "meter        m0, serial MID-0001, 10000 pulses/kWh, 8 per lot" in text
    journal.close()
    directory.close()


def test_a_revoked_meter_is_shown_as_such(state: Path) -> None:
    office = Office()
    folder.enrol(state, bundle_for(office, state))
    revocation = office.authority.revoke(Role.METER, "m0")
    folder.keep_update(state, key_of(state), cbor.encode([revocation.raw]))
    assert "REVOKED" in folder.describe(state)


def test_a_damaged_bundle_is_said_to_be_unusable(state: Path) -> None:
    folder.enrol(state, bundle_for(Office(), state))
    (state / "device.bundle").write_bytes(b"rubbish")
    assert "unusable" in folder.describe(state)


def test_a_configuration_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "meter.toml"
    with pytest.raises(ConfigurationError, match="cannot read"):
        folder.load_config(path)
    path.write_text("[batch")
    with pytest.raises(ConfigurationError, match="is not TOML"):
        folder.load_config(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="is not TOML"):
        folder.load_config(path)


# --- The real program ----------------------------------------------------------------------------


def configured(state: Path) -> Path:
    path = state.parent / "meter.toml"
    path.write_text(f'state = "{state}"\n[source]\ndriver = "sim"\ninterval_machine_ms = 0\n')
    return path


def test_the_program_makes_a_key_once(tmp_path: Path) -> None:
    first = call("init", "--state", tmp_path / "state", "--p256")
    assert (first.returncode, first.stderr) == (0, "")
    assert key_of(tmp_path / "state").algorithm is Algorithm.ES256
    second = call("init", "--state", tmp_path / "state")
    assert second.returncode == 2
    assert "never overwritten" in second.stderr
    assert key_of(tmp_path / "state").algorithm is Algorithm.ES256


def test_the_program_does_not_start_on_a_meter_that_is_too_coarse(state: Path) -> None:
    coarse = replace(DETAILS, constant=Fraction(1_000), lot_pulses=1)
    bundle = bundle_for(Office(), state, coarse)
    refused = call("enrol", bundle, "--state", state)
    assert refused.returncode == 2
    assert "1160 pulses/kWh" in refused.stderr
    # The same at its start, should such a registration come over the broker.
    (state / "device.bundle").write_bytes(bundle.read_bytes())
    stopped = call("run", "--config", configured(state))
    assert stopped.returncode == 2
    assert "1160 pulses/kWh" in stopped.stderr
    assert "0.8625 Wh" in stopped.stderr
    assert "accept_coarse" in stopped.stderr
    assert "Traceback" not in stopped.stderr


def test_the_program_refuses_a_bundle_for_another_device(state: Path, tmp_path: Path) -> None:
    device_key.initialise(tmp_path / "other" / "state", Algorithm.EDDSA)
    bundle = bundle_for(Office(), tmp_path / "other" / "state")
    refused = call("enrol", bundle, "--state", state)
    assert refused.returncode == 2
    assert "does not register this device's key" in refused.stderr


@pytest.mark.parametrize("is_made", [True, False])
def test_the_program_without_a_key_says_how_to_make_one(tmp_path: Path, is_made: bool) -> None:
    state = tmp_path / "state"
    if is_made:
        state.mkdir()
    refused = call("run", "--config", configured(state))
    assert refused.returncode == 2
    assert "cryptometer-firmware init" in refused.stderr


def test_the_program_shows_its_state_and_exits(state: Path) -> None:
    folder.enrol(state, bundle_for(Office(), state))
    shown = call("status", "--config", configured(state))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "meter        m0" in shown.stdout
