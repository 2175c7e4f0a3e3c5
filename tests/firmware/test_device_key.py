"""A key that follows another: made beside it, taken over once it is registered, at any point of a
crash; and the chain that goes on."""

import shutil
from pathlib import Path

import pytest

from cryptometer import cbor, records
from cryptometer.enrolment import Broker, Bundle, EnrolmentRequest
from cryptometer.errors import ConfigurationError, Rejected
from cryptometer.keys import Algorithm, PublicKey
from cryptometer.record_fields import Role
from cryptometer.request_text import decode_request_text
from firmware import device_key, folder
from firmware.config import KeySettings
from firmware.enrolment import read_bundle
from hal.faults import Point
from tests.core.community import DETAILS, FIRST_STEP
from tests.firmware.kit import Office
from tests.tokens import SoftToken

SETTINGS = KeySettings()


class Desk:
    """An authority, and a board that is enrolled with it."""

    def __init__(self, state: Path, settings: KeySettings = SETTINGS) -> None:
        self.office, self.state, self.settings = Office(), state, settings
        device_key.initialise(state, Algorithm.EDDSA, settings)
        self.registered = [self.office.gateway_registration]
        self.first = self.key
        folder.enrol(state, self.bundle(self.first), settings)

    @property
    def key(self) -> PublicKey:
        return device_key.load_device_key(self.state, self.settings).public

    @property
    def asked(self) -> PublicKey:
        """The key of the successor's request."""
        text = device_key.request_text(self.state, is_successor=True)
        body = records.decode(decode_request_text(text)).body
        assert isinstance(body, EnrolmentRequest)
        return body.key

    def bundle(self, key: PublicKey) -> Path:
        """What the authority answers when it registers a key for the meter."""
        step = FIRST_STEP + len(self.registered)
        registration = self.office.authority.register(Role.METER, "m0", key, DETAILS, step)
        self.registered.append(registration)
        raws = tuple(record.raw for record in self.registered)
        body = Bundle(
            "m0", self.office.authority.genesis.raw, raws, Broker("mqtt://127.0.0.1:1883")
        )
        path = self.state.parent / "m0.bundle"
        path.write_bytes(records.seal(body, self.office.id, self.office.authority.signer).raw)
        return path

    def settle(self) -> bool:
        return folder.settle_successor(self.state, self.settings)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "state")


def test_a_successor_takes_over_once_it_is_registered_and_not_before(desk: Desk) -> None:
    assert not desk.settle()
    said = device_key.prepare_successor(desk.state, Algorithm.EDDSA)
    asked = desk.asked
    assert asked.thumbprint.hex() in said
    assert not desk.settle()
    assert desk.key == desk.first
    assert f"successor    {asked.thumbprint.hex()}" in folder.describe(desk.state)
    folder.enrol(desk.state, desk.bundle(asked))
    assert desk.settle()
    assert desk.key == asked
    assert not desk.settle()
    assert "successor" not in folder.describe(desk.state)


def test_a_registration_over_the_broker_lets_it_take_over_too(desk: Desk) -> None:
    device_key.prepare_successor(desk.state, Algorithm.EDDSA)
    asked = desk.asked
    desk.bundle(asked)
    update = cbor.encode([record.raw for record in desk.registered])
    assert folder.keep_update(desk.state, desk.key, update)
    assert desk.settle()
    assert desk.key == asked
    assert folder.read_enrolment(desk.state, desk.key) is not None


def test_what_was_counted_before_stays_covered_by_the_earlier_registration(desk: Desk) -> None:
    device_key.prepare_successor(desk.state, Algorithm.ES256)
    folder.enrol(desk.state, desk.bundle(desk.asked))
    desk.settle()
    enrolment = folder.read_enrolment(desk.state, desk.key)
    assert enrolment is not None
    assert enrolment.former == (desk.first,)
    assert [identity for _, identity in enrolment.registered] == [
        record.identity for record in desk.registered[1:]
    ]
    assert enrolment.beginning == desk.registered[-1]
    stranger = read_bundle((desk.state / "device.bundle").read_bytes(), None, desk.key)
    assert len(stranger.registrations) == 1  # another board's pulses of then are nobody's


def test_one_key_after_another_is_followed(desk: Desk) -> None:
    keys = [desk.first]
    for _ in range(3):
        device_key.prepare_successor(desk.state, Algorithm.EDDSA)
        keys.append(desk.asked)
        folder.enrol(desk.state, desk.bundle(desk.asked))
        assert desk.settle()
    enrolment = folder.read_enrolment(desk.state, desk.key)
    assert enrolment is not None
    assert (*enrolment.former, desk.key) == tuple(keys)


def test_a_key_that_is_registered_again_is_not_followed(desk: Desk) -> None:
    device_key.prepare_successor(desk.state, Algorithm.EDDSA)
    desk.bundle(desk.asked)
    folder.enrol(desk.state, desk.bundle(desk.first))
    assert not desk.settle()
    assert desk.key == desk.first


def test_there_is_one_successor_and_none_without_a_key(desk: Desk, tmp_path: Path) -> None:
    device_key.prepare_successor(desk.state, Algorithm.EDDSA)
    asked = desk.asked
    with pytest.raises(ConfigurationError, match="never overwritten"):
        device_key.prepare_successor(desk.state, Algorithm.EDDSA)
    assert desk.asked == asked
    with pytest.raises(ConfigurationError, match="there is no key"):
        device_key.prepare_successor(tmp_path / "nobody", Algorithm.EDDSA)


def test_a_successor_that_was_cut_off_behind_its_key_makes_its_request(desk: Desk) -> None:
    device_key.prepare_successor(desk.state, Algorithm.EDDSA)
    asked = desk.asked
    (desk.state / "successor.request").unlink()
    device_key.prepare_successor(desk.state, Algorithm.EDDSA)
    assert desk.asked == asked


@pytest.mark.parametrize("passage", range(1, 3))
@pytest.mark.parametrize("point", [Point.FILE_PUT_WRITTEN, Point.FILE_PUT_RENAMED, Point.KEY_MOVED])
def test_a_crash_while_it_takes_over_is_completed_by_the_next_start(
    desk: Desk, point: Point, passage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    device_key.prepare_successor(desk.state, Algorithm.EDDSA)
    asked = desk.asked
    folder.enrol(desk.state, desk.bundle(asked))

    class Crash(Exception):  # noqa: N818
        pass

    passed = 0

    def crash(at: Point) -> None:
        nonlocal passed
        passed += at is point
        if at is point and passed == passage:
            raise Crash

    monkeypatch.setattr("hal.files.passing", crash)
    is_cut = False
    try:
        desk.settle()
    except Crash:
        is_cut = True
    monkeypatch.undo()
    if is_cut:
        # Whoever looks meanwhile finds a key, and an enrolment that fits it.
        assert folder.describe(desk.state)
        assert desk.settle() or desk.key == asked
    assert desk.key == asked
    enrolment = folder.read_enrolment(desk.state, desk.key)
    assert enrolment is not None
    assert enrolment.former == (desk.first,)
    assert not (desk.state / "successor.key").exists()


def test_a_file_that_holds_no_requests_is_refused(desk: Desk) -> None:
    for content in (b"none", cbor.encode(7), cbor.encode([1]), cbor.encode([b"none"])):
        (desk.state / "former.requests").write_bytes(content)
        with pytest.raises(ConfigurationError, match="request"):
            folder.read_enrolment(desk.state, desk.first)


def test_a_damaged_bundle_is_said_and_changes_nothing(desk: Desk) -> None:
    device_key.prepare_successor(desk.state, Algorithm.EDDSA)
    (desk.state / "device.bundle").write_bytes(b"none")
    with pytest.raises(Rejected):
        desk.settle()
    assert desk.key == desk.first


# --- In a token. ---------------------------------------------------------------------------------


def test_a_key_in_a_token_follows_one_in_a_file(token: SoftToken, tmp_path: Path) -> None:
    settings = KeySettings(successor=token.uri)
    desk = Desk(tmp_path / "state", settings)
    device_key.prepare_successor(desk.state, Algorithm.EDDSA, settings)
    asked = desk.asked
    folder.enrol(desk.state, desk.bundle(asked), settings)
    assert desk.settle()
    token.restart()
    key = device_key.load_device_key(desk.state, settings)
    key.public.verify(key.sign(b"a record"), b"a record")
    assert (key.public, key.where) == (asked, "token 'meter'")
    moved = KeySettings(store=token.uri)
    assert device_key.load_device_key(desk.state, moved).public == asked
    with pytest.raises(ConfigurationError, match="make that the \\[key\\] store"):
        device_key.load_device_key(desk.state, KeySettings())


def test_a_key_in_a_file_follows_one_whose_token_is_lost(token: SoftToken, tmp_path: Path) -> None:
    settings = KeySettings(store=token.uri)
    desk = Desk(tmp_path / "state", settings)
    token.pull_out()
    token.restart()
    device_key.prepare_successor(desk.state, Algorithm.EDDSA, settings)
    asked = desk.asked
    folder.enrol(desk.state, desk.bundle(asked), settings)
    assert desk.settle()
    assert desk.key == asked


def test_a_copy_of_the_folder_before_the_change_knows_only_the_old_key(
    desk: Desk, tmp_path: Path
) -> None:
    shutil.copytree(desk.state, tmp_path / "old")
    device_key.prepare_successor(desk.state, Algorithm.EDDSA)
    folder.enrol(desk.state, desk.bundle(desk.asked))
    desk.settle()
    assert device_key.load_device_key(tmp_path / "old").public == desk.first
