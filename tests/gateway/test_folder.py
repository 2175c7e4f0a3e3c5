"""A gateway's folder: made once, never overwritten; and what it takes in from the authority."""

from contextlib import closing
from pathlib import Path

import pytest

from cryptometer import cbor, records
from cryptometer.enrolment import EnrolmentRequest
from cryptometer.errors import ConfigurationError, Reason
from cryptometer.record_fields import Role
from gateway.folder import (
    import_file,
    initialise,
    open_folder,
    prepare_successor,
    read_community,
    read_import,
    read_own_bundle,
    settle_successor,
    waiting_imports,
)
from gateway.founding import found_store
from gateway.sqlite_file import STORE_MODE
from hal.broker import BrokerSettings, broker_settings
from tests.core.community import Authority
from tests.core.refusing import refusing
from tests.gateway.kit import Premises
from tests.keys import signer

PRIVATE, PUBLIC = 0o600, 0o644
SESAME = "open sesame"


def files(path: Path) -> dict[str, int]:
    """Every file below, with its access mode; but for what SQLite keeps beside a database."""
    return {
        str(one.relative_to(path)): one.stat().st_mode & 0o777
        for one in path.rglob("*")
        if one.is_file() and not one.name.endswith(("-wal", "-shm"))
    }


@pytest.fixture
def premises(tmp_path: Path) -> Premises:
    return Premises(tmp_path / "gateway")


def test_a_new_folder_holds_keys_requests_store_and_a_configuration(tmp_path: Path) -> None:
    said = initialise(tmp_path / "new" / "gateway")
    assert files(tmp_path / "new" / "gateway") == {
        "gateway.toml": PUBLIC,
        "gateway.key": PRIVATE,
        "vpp.key": PRIVATE,
        "gateway.request": PUBLIC,
        "vpp.request": PUBLIC,
        "store.sqlite": STORE_MODE,
    }
    assert (tmp_path / "new" / "gateway").stat().st_mode & 0o777 == 0o700
    for role, name in ((Role.GATEWAY, "gateway"), (Role.VPP, "vpp")):
        request = records.decode((tmp_path / "new" / "gateway" / f"{name}.request").read_bytes())
        body = request.body
        assert isinstance(body, EnrolmentRequest)
        assert body.role is role
        request.envelope.verify(body.key)
        assert body.key.thumbprint.hex() in said
    assert "cryptometer-gateway import" in said
    assert open_folder(tmp_path / "new" / "gateway").load_key().public is not None


def test_a_successors_key_waits_beside_the_one_in_use_until_its_registration_acts(
    premises: Premises,
) -> None:
    folder = open_folder(premises.path)
    before = folder.load_key().public
    said = prepare_successor(folder)
    successor = folder.load_next_key()
    assert successor is not None
    assert successor.public.thumbprint.hex() in said
    request = records.decode(folder.next_key.with_suffix(".request").read_bytes()).body
    assert isinstance(request, EnrolmentRequest)
    assert (request.role, request.key) == (Role.GATEWAY, successor.public)
    with closing(folder.open_store(read_only=True)) as store:
        assert not settle_successor(folder, store)
    assert folder.load_key().public == before
    with pytest.raises(ConfigurationError, match="never overwritten"):
        prepare_successor(folder)


def test_a_folder_is_not_made_twice_and_stays_as_it_is(premises: Premises) -> None:
    before = {path: path.read_bytes() for path in premises.path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigurationError, match="never overwritten"):
        initialise(premises.path)
    assert {
        path: path.read_bytes() for path in premises.path.rglob("*") if path.is_file()
    } == before


@pytest.mark.parametrize("left", range(6))
def test_a_folder_whose_making_was_cut_off_is_made_whole(tmp_path: Path, left: int) -> None:
    initialise(tmp_path)
    made = ["gateway.toml", "gateway.key", "gateway.request", "vpp.key", "vpp.request"]
    keys = {name: (tmp_path / name).read_bytes() for name in made[:left] if name.endswith(".key")}
    for name in [*made[left:], "store.sqlite"]:
        (tmp_path / name).unlink()
    (tmp_path / "store.sqlite.new").write_bytes(b"begun")
    (tmp_path / "store.sqlite.new-wal").write_bytes(b"begun")
    said = initialise(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in keys} == keys
    assert set(files(tmp_path)) == {*made, "store.sqlite"}
    assert open_folder(tmp_path).load_key().public.thumbprint.hex() in said
    with closing(open_folder(tmp_path).open_store()) as store:
        assert store.state() is None


def test_keys_of_a_gateway_that_has_lost_its_store_are_not_taken_for_new(
    premises: Premises,
) -> None:
    premises.folder.store.unlink()
    premises.folder.ledger.mkdir()
    with pytest.raises(ConfigurationError, match="never overwritten"):
        initialise(premises.path)
    assert not premises.folder.store.exists()


def test_a_configuration_that_stands_there_already_is_kept(tmp_path: Path) -> None:
    toml = 'state = "private"\nledger = "/srv/none/ledger"\naccept_unsynchronised = true\n'
    premises = Premises(tmp_path / "gateway", toml)
    assert (premises.path / "gateway.toml").read_text() == toml
    assert premises.folder.config.accept_unsynchronised
    assert premises.folder.ledger == Path("/srv/none/ledger")
    assert set(files(premises.path / "private")) == {
        "gateway.key",
        "vpp.key",
        "gateway.request",
        "vpp.request",
        "store.sqlite",
    }


def test_a_folder_is_opened_by_its_name_or_by_its_file(premises: Premises) -> None:
    other = premises.path / "other.toml"
    (premises.path / "gateway.toml").rename(other)
    folder = open_folder(other)
    assert (folder.file, folder.path) == (other, premises.path)
    other.rename(premises.path / "gateway.toml")
    assert open_folder(premises.path).file == premises.path / "gateway.toml"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ledgr = 1", r"no setting 'ledgr'; did you mean 'ledger'"),
        ("state = 3", "state is of type str"),
        ("accept_unsynchronised = 1", "accept_unsynchronised is of type bool"),
        ("state = ", "is not TOML"),
        ("[broker]\nhost = 'x'", "no setting 'host'"),
    ],
)
def test_a_wrong_configuration_is_named(premises: Premises, text: str, words: str) -> None:
    (premises.path / "gateway.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=words):
        open_folder(premises.path)


def test_a_folder_that_is_none_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read .*; run cryptometer-gateway init"):
        open_folder(tmp_path / "nowhere")
    (tmp_path / "gateway.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="is not TOML"):
        open_folder(tmp_path)


def test_a_bundle_enrols_the_gateway_and_brings_its_credential(premises: Premises) -> None:
    url = "mqtts://broker.example:8883"
    brought = premises.bundle(url=url, ca=b"CA", username="gw", password=SESAME)
    said = import_file(premises.folder, premises.put("gateway.bundle", brought))
    assert premises.id.hex() in said
    bundle = read_own_bundle(premises.folder)
    assert bundle.name == "gw"
    settings = broker_settings(premises.folder.broker, bundle.broker, BrokerSettings())
    assert settings.url == url
    assert Path(settings.ca_file).read_bytes() == b"CA"
    assert Path(settings.password_file).read_text() == SESAME
    secret = {name: mode for name, mode in files(premises.path).items() if "broker/" in name}
    assert secret == {"broker/ca.pem": PRIVATE, "broker/password": PRIVATE}
    assert premises.folder.bundle.stat().st_mode & 0o777 == PRIVATE
    # Again, with a certificate in place of the password: the old secret is gone.
    again = premises.bundle(url=url, certificate=b"C", key=b"K")
    import_file(premises.folder, premises.put("gateway.bundle", again))
    assert sorted(name for name in files(premises.path) if "broker/" in name) == [
        "broker/client.key",
        "broker/client.pem",
    ]


def test_records_wait_until_the_gateway_takes_them(premises: Premises) -> None:
    said = import_file(premises.folder, premises.put("all.records", premises.records()))
    assert "4 authority records of Rue des Tilleuls" in said
    premises.register("m1", 11)
    import_file(premises.folder, premises.put("all.records", premises.records()))
    import_file(premises.folder, premises.put("all.records", premises.records()))
    first, second = waiting_imports(premises.folder)
    assert len(read_import(first)) == 4
    assert read_import(second) == [record.raw for record in premises.chain]


def test_nothing_of_a_wrong_bundle_is_kept(premises: Premises, tmp_path: Path) -> None:
    before = files(premises.path)
    stranger = Premises(tmp_path / "stranger")
    with refusing(Reason.UNKNOWN_KEY, "does not register this gateway's key"):
        import_file(premises.folder, premises.put("b", stranger.bundle()))
    with refusing(Reason.UNKNOWN_KEY, "does not register this gateway's key"):
        import_file(premises.folder, premises.put("b", premises.bundle(registered=False)))
    with refusing(Reason.UNKNOWN_KEY, "not signed by its authority"):
        import_file(premises.folder, premises.put("b", premises.bundle(signed_by=9)))
    changed = bytearray(premises.bundle())
    changed[-1] ^= 1
    with refusing(Reason.BAD_SIGNATURE):
        import_file(premises.folder, premises.put("b", bytes(changed)))
    assert files(premises.path) == before
    with pytest.raises(ConfigurationError, match="not enrolled: cryptometer-gateway import"):
        read_own_bundle(premises.folder)


def test_nothing_of_wrong_records_is_kept(premises: Premises) -> None:
    before = files(premises.path)
    raws = [record.raw for record in premises.chain]
    other = Authority(signer(5)).register(Role.VPP, "vpp", signer(3).public)
    cases = [
        (b"", Reason.MALFORMED),
        (b"not CBOR", Reason.MALFORMED),
        (cbor.encode([]), Reason.MALFORMED),
        (cbor.encode([1, 2]), Reason.MALFORMED),
        (cbor.encode({1: raws[0]}), Reason.MALFORMED),
        (cbor.encode(raws[1:]), Reason.UNKNOWN_KIND),
        # A part of the chain could not found the store, nor go on from what it holds.
        (cbor.encode([raws[0], raws[2]]), Reason.GAP),
        (cbor.encode([*raws, raws[-1]]), Reason.WRONG_ORDER),
        (cbor.encode([*raws, other.raw]), Reason.WRONG_ORDER),
        (raws[1], Reason.MALFORMED),
    ]
    for data, reason in cases:
        with refusing(reason):
            import_file(premises.folder, premises.put("r", data))
        assert files(premises.path) == before


def test_another_community_is_refused_once_the_store_is_founded(
    premises: Premises, tmp_path: Path
) -> None:
    with closing(premises.folder.open_store()) as store:
        found_store(store, [record.raw for record in premises.chain])
    other = Premises(tmp_path / "other", name="Another")
    before = files(premises.path)
    with refusing(Reason.OTHER_COMMUNITY):
        import_file(premises.folder, premises.put("r", other.records()))
    with refusing(Reason.OTHER_COMMUNITY):
        import_file(premises.folder, premises.put("r", other.bundle()))
    assert files(premises.path) == before


def test_a_file_that_is_not_there_is_named(premises: Premises) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read .*nothing\.bundle: No such file"):
        import_file(premises.folder, premises.path / "nothing.bundle")


def test_the_community_is_read_from_the_store(premises: Premises) -> None:
    with closing(premises.folder.open_store()) as store:
        with pytest.raises(ConfigurationError, match=r"no authority records yet: .*import"):
            read_community(store)
        found_store(store, [record.raw for record in premises.chain])
        assert read_community(store).id == premises.id


def test_a_bundle_that_rotted_is_asked_for_again(premises: Premises) -> None:
    premises.enrol()
    premises.folder.bundle.write_bytes(b"rot")
    with pytest.raises(ConfigurationError, match="no bundle; import it again"):
        read_own_bundle(premises.folder)
