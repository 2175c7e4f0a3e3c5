"""`cryptometer authority`: the main path as real processes, every crash point of every command, and
what is refused with what to do next.
"""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from cryptometer import cbor, records
from cryptometer.authority_records import ChainPlace
from cryptometer.commands import authority
from cryptometer.commands.broker import Address, check_folder, mosquitto_conf, parse_address
from cryptometer.commands.certificates import LIFETIME, serial_of
from cryptometer.commands.folder import BrokerFile, CredentialKind
from cryptometer.commands.main import main
from cryptometer.commands.request import make_request
from cryptometer.community import decode_community
from cryptometer.enrolment import AUTHORITY_RECORDS_MAX, Bundle, EnrolmentRequest
from cryptometer.errors import ConfigurationError, Rejected
from cryptometer.record_fields import Role
from cryptometer.sharing_records import Agreement
from firmware import folder as device_folder
from gateway import folder as gateway_folder
from hal import faults
from hal.broker import install_broker
from hal.files import put_file
from hal.keyfile import FileKey
from tests.commands.forker import Forker, forker
from tests.core.community import Device
from tests.keys import p256_signer, signer

NOW_MS = int(datetime.now(UTC).timestamp()) * 1000
STEP_MS = 900_000
TLS = BrokerFile("mqtts://127.0.0.1:8883")
PLAIN = BrokerFile("mqtt://127.0.0.1:1883")

METER = """\
[[meter]]
name = "{name}"
request = "{name}.request"
serial = "MID-{name}"
use = "generation"
class = "B"
phases = 3
voltage_v = 230
i_min_a = 0.25
i_max_a = 65
index_kwh = 1234.567
constant = 10000
"""


def run(*words: str | Path, crash: str = "") -> "subprocess.CompletedProcess[str]":
    environment = os.environ | ({faults.CRASH_VARIABLE: crash} if crash else {})
    command = [sys.executable, "-m", "cryptometer.commands.main", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=environment
    )


def program(name: str, *words: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).parent / f"cryptometer-{name}"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def found(path: Path, broker: BrokerFile = TLS) -> Path:
    folder = path / "authority"
    authority.init(
        folder,
        name="Rue des Tilleuls",
        broker=broker,
        step_s=900,
        grace_ms=5_000,
        late_ms=35 * 86_400_000,
        token_uwh=10**9,
        first_step=None,
        now_ms=NOW_MS,
    )
    return folder


def request(path: Path, role: Role, key: int) -> Path:
    """An enrolment request signed by key `key`."""
    return write_request(path, role, signer(key))


def write_request(path: Path, role: Role, key: object) -> Path:
    body = EnrolmentRequest(role, key.public, "host", "test 1.0", NOW_MS)  # type: ignore[attr-defined]
    path.write_bytes(records.seal(body, None, key).raw)  # type: ignore[arg-type]
    return path


def party(
    folder: Path, role: Role, name: str, key: int, kind: CredentialKind | None = None
) -> list[str]:
    asked = request(folder.parent / f"{name}.request", role, key)
    return authority.register_party(folder, asked, role, name, kind, NOW_MS)


def meter(folder: Path, name: str, key: int, kind: CredentialKind | None = None) -> list[str]:
    request(folder.parent / f"{name}.request", Role.METER, key)
    listing = folder.parent / "meters.toml"
    listing.write_text(METER.format(name=name))
    return authority.register_meters(folder, listing, kind, NOW_MS)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def bundle(folder: Path, name: str) -> Bundle:
    body = records.decode((folder / "bundles" / f"{name}.bundle").read_bytes()).body
    assert isinstance(body, Bundle)
    return body


# --- The main path, as an operator goes it. ------------------------------------------------------


def test_a_community_is_founded_filled_and_believed_by_both_programs(tmp_path: Path) -> None:
    folder, gateway, device = tmp_path / "auth", tmp_path / "gw", tmp_path / "pv-1"
    done = run("authority", "init", folder, "--name", "Rue", "--broker", "mqtts://127.0.0.1:8883")
    assert (done.returncode, done.stderr) == (0, "")
    identity = done.stdout.split()[2]
    gateway_folder.initialise(gateway)
    done = program("firmware", "init", "--state", device)
    assert (done.returncode, done.stderr) == (0, "")
    for role, name in (("gateway", "gw"), ("vpp", "vpp")):
        asked = gateway / f"{role}.request"
        done = run("authority", "register", folder, asked, "--role", role, "--name", name)
        assert (done.returncode, done.stderr) == (0, "")
        thumbprint = records.decode(asked.read_bytes()).key_id.hex()
        assert f"{name} is registered, key {thumbprint}" in done.stdout
        assert f"next: give the gateway {folder}/authority.records" in done.stdout
        assert f"next: install {folder}/mosquitto at the broker and reload it" in done.stdout
    listing = tmp_path / "meters.toml"
    listing.write_text(METER.format(name="pv-1").replace("pv-1.request", "pv-1/device.request"))
    done = run("authority", "register", folder, "--meters", listing)
    assert (done.returncode, done.stderr) == (0, "")
    assert "pv-1: lots of up to 8 pulses" in done.stdout

    pv, gw = folder / "bundles/pv-1.bundle", folder / "bundles/gw.bundle"
    done = program("firmware", "enrol", pv, "--state", device)
    assert (done.returncode, done.stdout) == (0, f"enrolled as pv-1 in Rue ({identity})\n")
    done = program("gateway", "import", gw, folder / "authority.records", "--config", gateway)
    assert (done.returncode, done.stdout) == (
        0,
        f"enrolled as gateway of Rue ({identity})\n4 authority records of Rue for the gateway\n",
    )
    community = decode_community((folder / "community.pub").read_text())
    assert community.id.hex() == identity
    assert [len(community.keys_of(role)) for role in (Role.GATEWAY, Role.VPP, Role.METER)] == [
        1,
        1,
        0,
    ]

    done = run(
        "authority",
        "re-anchor",
        folder,
        "pv-1",
        "--at",
        "7",
        "--register",
        "900",
        "--reason",
        "lost",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("pv-1 goes on with record 7 from register 900\n")
    done = program("firmware", "enrol", pv, "--state", device)
    assert (done.returncode, done.stderr) == (0, "")
    done = run(
        "authority", "revoke", folder, "pv-1", "--reason", "sold", "--last", f"6:{'ab' * 32}"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("pv-1 is revoked\n")
    assert not (folder / "bundles/pv-1.bundle").exists()
    done = run("authority", "export", folder)
    assert (done.returncode, done.stdout) == (
        0,
        "6 records; all that follows from them is written\n",
    )


def test_secrets_are_the_owners_alone_and_what_is_public_is_readable(tmp_path: Path) -> None:
    folder = found(tmp_path)
    party(folder, Role.GATEWAY, "gw", 2)
    public = {"community.pub", "authority.records", "mosquitto/mosquitto.conf"}
    public |= {f"mosquitto/{name}.pem" for name in ("ca", "server", "crl")}
    for name in files(folder):
        mode = (folder / name).stat().st_mode & 0o777
        assert mode == (0o644 if name in public else 0o600), name
    for one in (folder, *(path for path in folder.iterdir() if path.is_dir())):
        assert one.stat().st_mode & 0o777 == 0o700


# --- How energy is shared. -----------------------------------------------------------------------

AGREEMENT = """\
method = "keys"
surplus_to = "supplier"
[[member]]
name = "ada"
key = 8
[[member]]
name = "bo"
key = 17
"""


def test_a_member_asks_and_an_agreement_is_signed_as_an_operator_does_it(tmp_path: Path) -> None:
    folder = found(tmp_path, PLAIN)
    party(folder, Role.GATEWAY, "gw", 2)
    party(folder, Role.VPP, "vpp", 3)
    for name in ("ada", "bo"):
        done = run("request", tmp_path / name)
        assert (done.returncode, done.stderr) == (0, "")
        asked = tmp_path / name / "member.request"
        assert f"member {records.decode(asked.read_bytes()).key_id.hex()}" in done.stdout
        assert (tmp_path / name / "member.key").stat().st_mode & 0o777 == 0o600
        done = run("authority", "register", folder, asked, "--role", "member", "--name", name)
        assert (done.returncode, done.stderr) == (0, "")
    file = tmp_path / "agreement.toml"
    file.write_text(AGREEMENT)
    done = run("authority", "agree", folder, file)
    assert (done.returncode, done.stderr) == (0, "")
    for said in (
        "The rule: by the keys of the agreement.",
        "Of all energy: ada 8 of 25, bo 17 of 25.",
        "For example, of 10.000 kWh: ada gets 3.200 kWh, bo gets 6.800 kWh.",
        "in a later block it has no effect, and must be signed again",
    ):
        assert said in done.stdout
    record = records.decode(cbor_list(folder)[-1])
    assert isinstance(record.body, Agreement)
    assert f"agreement {record.identity.hex()}" in done.stdout
    # The gateway takes it, and audits rely on nothing but the ledger for it.
    assert main(["inspect", str(folder / "authority.records"), "--brief"]) == 0


def test_a_request_is_written_again_for_the_key_that_is_there(tmp_path: Path) -> None:
    first = make_request(tmp_path, Role.NODE, NOW_MS)
    key = (tmp_path / "node.key").read_bytes()
    assert make_request(tmp_path, Role.NODE, NOW_MS) == first
    assert (tmp_path / "node.key").read_bytes() == key


def test_an_agreement_that_cannot_be_leaves_the_folder_as_it_is(tmp_path: Path) -> None:
    folder = found(tmp_path, PLAIN)
    party(folder, Role.GATEWAY, "gw", 2)
    party(folder, Role.VPP, "vpp", 3)
    party(folder, Role.MEMBER, "ada", 4)
    file = tmp_path / "agreement.toml"
    before = files(folder)
    for text, why in (
        (AGREEMENT, "no member is registered as bo; registered are ada"),
        (f'from = "now"\n{AGREEMENT.replace("bo", "ada")}', "stands there twice"),
        (
            'from = "now"\nmethod = "equal"\nsurplus_to = "s"\n[[member]]\nname = "ada"\n',
            "nothing is retroactive",
        ),
    ):
        file.write_text(text)
        with pytest.raises(ConfigurationError, match=why):
            authority.agree(folder, file, NOW_MS)
    with pytest.raises(ConfigurationError, match="cannot read"):
        authority.agree(folder, tmp_path / "none.toml", NOW_MS)
    assert files(folder) == before


def test_a_later_agreement_says_what_it_takes_the_place_of(tmp_path: Path) -> None:
    folder = found(tmp_path, PLAIN)
    for role, name, key in (
        (Role.GATEWAY, "gw", 2),
        (Role.VPP, "vpp", 3),
        (Role.MEMBER, "ada", 4),
    ):
        party(folder, role, name, key)
    file = tmp_path / "agreement.toml"
    step = NOW_MS // STEP_MS

    def agree(later: int) -> str:
        text = f'from_step = {step + later}\nmethod = "equal"\nsurplus_to = "s"\n'
        file.write_text(f'{text}[[member]]\nname = "ada"\n')
        return "\n".join(authority.agree(folder, file, NOW_MS))

    assert "takes the place of" not in agree(10)
    assert f"until then the agreement from step {step + 10} on holds" in agree(20)
    said = agree(15)
    assert f"it also takes the place of the agreement from step {step + 20} on" in said
    assert f"until then the agreement from step {step + 10} on holds" in said


def test_who_revokes_a_member_or_the_plant_is_told_which_agreements_go_on(tmp_path: Path) -> None:
    folder, file = found(tmp_path), tmp_path / "agreement.toml"
    for number, name in enumerate(("ada", "bo", "cy"), 5):
        party(folder, Role.MEMBER, name, number)
    party(folder, Role.VPP, "vpp", 4)
    party(folder, Role.GATEWAY, "gw", 3)
    step = NOW_MS // 900_000

    def agree(later: int, *names: str) -> None:
        members = "".join(f'[[member]]\nname = "{name}"\n' for name in names)
        head = f'from_step = {step + later}\nmethod = "equal"\nsurplus_to = "s"\n'
        file.write_text(head + members)
        authority.agree(folder, file, NOW_MS)

    def revoke(name: str, later: int = 0) -> str:
        said = authority.revoke(folder, name, "left", None, NOW_MS + later * 900_000)
        return "\n".join(said)

    agree(2, "ada", "bo")
    agree(8, "ada")
    assert "agreement" not in revoke("cy")
    said = revoke("bo")
    assert f"the agreement from step {step + 2} on still gives bo a share" in said
    assert f"step {step + 8}" not in said
    said = revoke("ada", 10)
    assert f"step {step + 2}" not in said
    assert f"the agreement from step {step + 8} on still gives ada a share" in said
    assert f"step {step + 8} on nobody but vpp distributes" in revoke("vpp", 10)


# --- Nothing is overwritten, nothing forks. ------------------------------------------------------


def test_an_authority_is_never_overwritten(tmp_path: Path) -> None:
    folder = found(tmp_path)
    before = files(folder)
    done = run("authority", "init", folder, "--name", "Another")
    assert done.returncode == 2
    assert "nothing is overwritten" in done.stderr
    assert f"cryptometer authority export {folder}" in done.stderr
    assert files(folder) == before


def test_a_second_command_at_once_is_refused(tmp_path: Path) -> None:
    folder = found(tmp_path)
    before = files(folder)
    asked = request(tmp_path / "gw.request", Role.GATEWAY, 2)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # as a command holds it while it works
        for words in (
            ("export", folder),
            ("register", folder, asked, "--role", "gateway", "--name", "gw"),
            ("revoke", folder, "gw", "--reason", "x"),
            ("init", folder, "--name", "x"),
        ):
            done = run("authority", *words)
            assert done.returncode == 2
            assert f"another command works in {folder}; try again" in done.stderr
    finally:
        os.close(descriptor)
    assert files(folder) == before
    assert run("authority", "export", folder).returncode == 0


def test_an_export_of_what_is_there_changes_nothing(tmp_path: Path) -> None:
    folder = found(tmp_path)
    party(folder, Role.GATEWAY, "gw", 2)
    meter(folder, "pv", 3, CredentialKind.PASSWORD)
    authority.revoke(folder, "gw", "stolen", None, NOW_MS)
    before = files(folder)
    assert authority.export(folder, NOW_MS) == [
        "4 records; all that follows from them is written",
    ]
    # Ed25519 signatures are the same every time: bundles too are equal to the byte.
    assert files(folder) == before


# --- Cut off at any point. -----------------------------------------------------------------------

PASSAGES_MAX = 60


@pytest.fixture(scope="module")
def commands() -> Iterator[Forker]:
    with forker() as made:
        yield made


@pytest.mark.parametrize("point", [faults.Point.FILE_PUT_WRITTEN, faults.Point.FILE_PUT_RENAMED])
@pytest.mark.parametrize("command", ["init", "register", "revoke"])
def test_a_command_cut_off_anywhere_is_finished_by_the_next_one(
    commands: Forker, tmp_path: Path, command: str, point: faults.Point
) -> None:
    passages = 0
    for passage in range(1, PASSAGES_MAX):
        place = tmp_path / str(passage)
        place.mkdir()
        folder = place / "authority"
        if command != "init":
            found(place)
            party(folder, Role.GATEWAY, "gw", 2)
            meter(folder, "old", 3, CredentialKind.PASSWORD)
        before = files(folder)
        asked = request(place / "new.request", Role.VPP, 4)
        words: dict[str, tuple[str | Path, ...]] = {
            "init": ("init", folder, "--name", "Rue", "--broker", TLS.url),
            "register": ("register", folder, asked, "--role", "vpp", "--name", "new"),
            "revoke": ("revoke", folder, "old", "--reason", "sold"),
        }
        if not _dies(commands, words[command], f"{point}:{passage}"):
            break
        passages += 1
        _finish(folder, words[command], before)
        _check_whole(folder)
    else:
        pytest.fail("the command never comes to its end")
    assert passages >= 4


def _dies(commands: Forker, words: tuple[str | Path, ...], crash: str) -> bool:
    code = commands.run(("authority", *words), crash)
    assert code in (0, -signal.SIGKILL)
    return code != 0


def _finish(folder: Path, words: tuple[str | Path, ...], before: Mapping[str, bytes]) -> None:
    """What an operator does: `export`, and the command again when it had decided nothing."""
    records_there = folder / "authority.records"
    if not records_there.exists():
        with pytest.raises(ConfigurationError, match="cryptometer authority init"):
            authority.export(folder, NOW_MS)
        assert main(["authority", *map(str, words)]) == 0
        return
    decided = records_there.read_bytes() != before.get("authority.records")
    authority.export(folder, NOW_MS)
    if not decided:
        assert files(folder) == before
        assert main(["authority", *map(str, words)]) == 0


def _check_whole(folder: Path) -> None:
    """All that should stand there does, and nothing else."""
    there = set(files(folder))
    count = len(cbor_list(folder))
    assert authority.export(folder, NOW_MS) == [
        f"{count} records; all that follows from them is written"
    ]
    assert set(files(folder)) == there
    plain = {"authority.key", "authority.records", "broker-ca.key", "broker.toml", "community.pub"}
    plain |= {f"mosquitto/{name}" for name in ("acl", "passwords", "mosquitto.conf", "server.key")}
    plain |= {f"mosquitto/{name}.pem" for name in ("ca", "server", "crl")}
    rest = there - plain
    names = {one.split("/")[1].split(".")[0] for one in rest}
    assert plain <= there
    assert {one for one in rest if one.startswith("bundles/")} == {
        f"bundles/{n}.bundle" for n in names
    }
    assert len([one for one in rest if one.startswith("credentials/")]) == len(names)
    assert len(rest) == 2 * len(names)


def cbor_list(folder: Path) -> list[bytes]:
    value = cbor.decode((folder / "authority.records").read_bytes())
    assert isinstance(value, list)
    return [one for one in value if isinstance(one, bytes)]


# --- What follows from the records. --------------------------------------------------------------


def test_a_bundle_holds_what_its_party_needs_and_no_more(tmp_path: Path) -> None:
    folder = found(tmp_path)
    party(folder, Role.GATEWAY, "gw", 2)
    party(folder, Role.VPP, "vpp", 4)
    meter(folder, "pv-1", 3)
    meter(folder, "pv-2", 5, CredentialKind.PASSWORD)
    authority.re_anchor(folder, "pv-1", 7, 70, "lost", NOW_MS)
    names = [
        getattr(records.decode(raw).body, "name", "anchor")
        for raw in bundle(folder, "pv-1").records
    ]
    assert names == ["gw", "vpp", "pv-1", "anchor"]
    by_certificate, by_password = bundle(folder, "pv-1").broker, bundle(folder, "pv-2").broker
    assert by_certificate.url == "mqtts://127.0.0.1:8883"
    assert by_certificate.password is None
    assert by_certificate.certificate is not None
    assert by_password.url == "mqtts://127.0.0.1:8884"
    assert (by_password.username, by_password.certificate, by_password.key) == ("pv-2", None, None)
    assert by_password.password is not None
    assert len(by_password.password) >= 43  # 256 bits in base64
    assert by_certificate.ca == by_password.ca == (folder / "mosquitto/ca.pem").read_bytes()
    secret = by_password.password.encode()
    assert [name for name, data in files(folder).items() if secret in data] == [
        "bundles/pv-2.bundle",
        next(name for name in files(folder) if name.startswith("credentials/pv-2.")),
    ]


def test_a_meter_with_many_records_still_fits_into_its_bundle(tmp_path: Path) -> None:
    folder = found(tmp_path, PLAIN)
    party(folder, Role.GATEWAY, "gw", 2)
    meter(folder, "pv-1", 3)
    for at in range(AUTHORITY_RECORDS_MAX + 3):
        authority.re_anchor(folder, "pv-1", at, 10 * at, "again", NOW_MS)
    held = [records.decode(raw).body for raw in bundle(folder, "pv-1").records]
    assert len(held) <= AUTHORITY_RECORDS_MAX
    state = tmp_path / "device"
    put_file(_made(state) / "device.key", (_key_file(tmp_path, 3)).read_bytes())
    enrolment = device_folder.enrol(state, folder / "bundles/pv-1.bundle")
    assert enrolment.anchors[-1].body.at == AUTHORITY_RECORDS_MAX + 2  # type: ignore[union-attr]


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _key_file(folder: Path, number: int) -> Path:
    """The PKCS#8 file of a test key."""
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    key = signer(number)
    assert isinstance(key, FileKey)
    path = folder / f"{number}.pem"
    path.write_bytes(key._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


def test_community_pub_keeps_replaced_keys_and_drops_revoked_ones(tmp_path: Path) -> None:
    folder = found(tmp_path)

    def keys() -> list[bytes]:
        community = decode_community((folder / "community.pub").read_text())
        return [key.thumbprint for key in community.keys_of(Role.GATEWAY)]

    party(folder, Role.GATEWAY, "gw", 2)
    party(folder, Role.GATEWAY, "gw", 3)
    assert keys() == [signer(3).public.thumbprint, signer(2).public.thumbprint]
    authority.revoke(folder, "gw", "stolen", None, NOW_MS)
    assert keys() == []
    party(folder, Role.GATEWAY, "gw", 4)
    assert keys() == [signer(4).public.thumbprint]


def test_the_revocation_list_follows_the_chain(tmp_path: Path) -> None:
    folder = found(tmp_path)

    def listed() -> set[int]:
        crl = x509.load_pem_x509_crl((folder / "mosquitto/crl.pem").read_bytes())
        return {one.serial_number for one in crl}

    def serial() -> int:
        certificate = bundle(folder, "pv-1").broker.certificate
        assert certificate is not None
        return x509.load_pem_x509_certificate(certificate).serial_number

    meter(folder, "pv-1", 3)
    first = serial()
    assert first == serial_of(records.decode(cbor_list(folder)[-1]).identity)
    assert listed() == set()
    meter(folder, "pv-1", 3)  # the same key, described anew: the credential is a new one
    second = serial()
    assert second != first
    assert listed() == {first}
    authority.re_anchor(folder, "pv-1", 1, 1, "lost", NOW_MS)
    assert (serial(), listed()) == (second, {first})
    authority.revoke(folder, "pv-1", "stolen", ChainPlace(0, bytes(32)), NOW_MS)
    assert listed() == {first, second}
    (folder / "mosquitto/crl.pem").unlink()
    authority.export(folder, NOW_MS)
    assert listed() == {first, second}


def test_credentials_near_their_end_are_renewed_and_said(tmp_path: Path) -> None:
    folder = found(tmp_path)
    meter(folder, "pv-1", 3)
    meter(folder, "pv-2", 4, CredentialKind.PASSWORD)
    server, old = (folder / "mosquitto/server.pem").read_bytes(), bundle(folder, "pv-1").broker
    nine_years = NOW_MS + round(LIFETIME.total_seconds() * 900)
    said = authority.export(folder, nine_years + 86_400_000)
    assert said[1:] == ["pv-1 has a new credential: hand out its bundle again"]
    assert bundle(folder, "pv-1").broker.certificate != old.certificate
    assert (folder / "mosquitto/server.pem").read_bytes() != server
    assert authority.export(folder, nine_years + 86_400_000)[1:] == []


def test_a_credential_that_is_gone_is_replaced_and_said(tmp_path: Path) -> None:
    folder = found(tmp_path)
    meter(folder, "pv-1", 3)
    [credential] = (folder / "credentials").iterdir()
    credential.unlink()
    said = authority.export(folder, NOW_MS)
    assert said[1:] == ["pv-1 has a new credential: hand out its bundle again"]
    (folder / "broker-ca.key").unlink()
    said = authority.export(folder, NOW_MS)
    assert said[1:] == ["pv-1 has a new credential: hand out its bundle again"]
    assert bundle(folder, "pv-1").broker.ca == (folder / "mosquitto/ca.pem").read_bytes()


def test_a_plain_broker_knows_no_credentials_until_it_gets_tls(tmp_path: Path) -> None:
    folder = found(tmp_path, PLAIN)
    with pytest.raises(
        ConfigurationError, match=r"plain and knows no credentials; see broker\.toml"
    ):
        party(folder, Role.GATEWAY, "gw", 2, CredentialKind.PASSWORD)
    said = party(folder, Role.GATEWAY, "gw", 2)
    assert not any("mosquitto" in line for line in said)
    assert not (folder / "mosquitto").exists()
    given = bundle(folder, "gw").broker
    assert (given.url, given.ca, given.key) == ("mqtt://127.0.0.1:1883", None, None)
    (folder / "broker.toml").write_text('url = "mqtts://broker.example"\n')
    assert authority.export(folder, NOW_MS)[1:] == [
        "gw has a new credential: hand out its bundle again"
    ]
    given = bundle(folder, "gw").broker
    assert given.url == "mqtts://broker.example:8883"
    install_broker(tmp_path / "installed", given)
    assert {one.name for one in (tmp_path / "installed").iterdir()} == {
        *("ca.pem", "client.pem", "client.key")
    }


def test_all_meters_of_a_file_are_registered_or_none(tmp_path: Path) -> None:
    folder = found(tmp_path)
    request(tmp_path / "a.request", Role.METER, 3)
    request(tmp_path / "b.request", Role.METER, 4)
    listing = tmp_path / "meters.toml"
    same = METER.format(name="b").replace("MID-b", "MID-a")
    listing.write_text(METER.format(name="a") + same)
    before = files(folder)
    with pytest.raises(ConfigurationError, match="serial MID-a counts already, as a"):
        authority.register_meters(folder, listing, None, NOW_MS)
    assert files(folder) == before
    listing.write_text(METER.format(name="a") + METER.format(name="b"))
    said = authority.register_meters(folder, listing, None, NOW_MS)
    assert [line for line in said if "is registered" in line][1].startswith("b is registered")
    assert any("no gateway is registered yet" in line for line in said)


@pytest.mark.parametrize("is_revoked", [False, True])
def test_of_a_new_key_for_a_known_meter_it_is_said_when_it_needs_a_re_anchor(
    tmp_path: Path, is_revoked: bool
) -> None:
    folder = found(tmp_path)
    listing = tmp_path / "meters.toml"
    listing.write_text(METER.format(name="pv-1"))

    def register(key: int) -> list[str]:
        request(tmp_path / "pv-1.request", Role.METER, key)
        said = authority.register_meters(folder, listing, None, NOW_MS)
        return [line for line in said if "re-anchor" in line]

    assert register(3) == []
    assert register(3) == []  # new details
    if is_revoked:
        authority.revoke(folder, "pv-1", "stolen", None, NOW_MS)
    [line] = register(4)
    assert line.startswith("pv-1 has a new key")
    assert ("cryptometer-firmware successor" in line) is not is_revoked
    assert ("its old one is revoked" in line) is is_revoked
    assert f"cryptometer authority re-anchor {folder} pv-1" in line


def test_another_register_of_a_known_meter_is_said_to_need_a_re_anchor(tmp_path: Path) -> None:
    folder = found(tmp_path)
    listing = tmp_path / "meters.toml"
    request(tmp_path / "pv-1.request", Role.METER, 3)
    pulses = METER.format(name="pv-1")
    [constant] = [line for line in pulses.splitlines() if line.startswith("constant")]
    index = pulses.replace(constant, "source = 'index'\nresolution_wh = {}")

    def register(text: str) -> list[str]:
        listing.write_text(text)
        said = authority.register_meters(folder, listing, None, NOW_MS)
        return [line for line in said if "re-anchor" in line]

    assert register(pulses) == []
    assert register(pulses.replace(constant, "constant = 20_000")) == []
    for text in (index.format(1), index.format("0.1"), pulses):
        [line] = register(text)
        assert line.startswith("pv-1 has another register than before: ")
    assert register(pulses) == []


def test_a_registration_counts_from_the_step_it_was_made_in(tmp_path: Path) -> None:
    folder = found(tmp_path)
    meter(folder, "pv-1", 3)
    body = records.decode(cbor_list(folder)[-1]).body
    assert body.from_step == NOW_MS // STEP_MS  # type: ignore[union-attr]
    genesis = records.decode(cbor_list(folder)[0]).body
    assert genesis.first_step == NOW_MS // STEP_MS - 1  # type: ignore[union-attr]


# --- Refusals. -----------------------------------------------------------------------------------


def _bad_requests(path: Path) -> Mapping[str, Callable[[], object]]:
    good = request(path / "good", Role.GATEWAY, 2).read_bytes()
    body = EnrolmentRequest(Role.GATEWAY, signer(2).public, "host", "test", NOW_MS)
    return {
        "cannot read": lambda: (path / "bad").unlink(missing_ok=True),
        "not": lambda: (path / "bad").write_bytes(good[:-1]),
        "malformed": lambda: (path / "bad").write_bytes(b""),
        "verify": lambda: (path / "bad").write_bytes(good[:-1] + bytes([good[-1] ^ 1])),
        "another key than the one it names": lambda: (path / "bad").write_bytes(
            records.seal(body, None, signer(3)).raw
        ),
        "asks for the role vpp, not gateway": lambda: request(path / "bad", Role.VPP, 2),
        "is no enrolment request": lambda: (path / "bad").write_bytes(
            Device(bytes(32), "m", signer(4), records.decode(good)).run_start(0).raw
        ),
    }


@pytest.mark.parametrize(
    "words",
    ["cannot read", "not", "verify", "another key than", "asks for the role", "is no enrol"],
)
def test_a_request_that_does_not_hold_changes_nothing(tmp_path: Path, words: str) -> None:
    folder = found(tmp_path)
    before = files(folder)
    made = _bad_requests(tmp_path)
    next(make for key, make in made.items() if key.startswith(words))()
    with pytest.raises((ConfigurationError, Rejected), match=words):
        authority.register_party(folder, tmp_path / "bad", Role.GATEWAY, "gw", None, NOW_MS)
    assert files(folder) == before


def test_a_request_of_p256_registers_a_meter_and_no_gateway(tmp_path: Path) -> None:
    folder = found(tmp_path)
    write_request(tmp_path / "pv.request", Role.METER, p256_signer(7))
    (tmp_path / "meters.toml").write_text(METER.format(name="pv"))
    authority.register_meters(folder, tmp_path / "meters.toml", None, NOW_MS)
    asked = write_request(tmp_path / "gw.request", Role.GATEWAY, p256_signer(8))
    with pytest.raises(ConfigurationError, match="Ed25519"):
        authority.register_party(folder, asked, Role.GATEWAY, "gw", None, NOW_MS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("export", "nowhere"), "found one with: cryptometer authority init nowhere"),
        (("register", "auth"), "register DIR REQUEST --role ROLE --name NAME, or"),
        (("register", "auth", "x", "--role", "vpp"), "register DIR REQUEST --role ROLE --name"),
        (("register", "auth", "x", "--meters", "y"), "register DIR REQUEST --role ROLE --name"),
        (("register", "auth", "--meters", "none.toml"), "cannot read none.toml"),
        (("revoke", "auth", "gw", "--reason", "x"), "nobody is registered yet"),
        (("revoke", "auth", "gw", "--reason", "x", "--last", "7"), "SEQUENCE:IDENTITY"),
        (("init", "new", "--name", "x", "--broker", "tcp://h"), "mqtts://host:port"),
        (("init", "new", "--name", "x", "--broker-folder", "a b"), "plain absolute path"),
        (("init", "new", "--name", "x", "--late", "1000s"), "whole number of steps of 900 s"),
        (("init", "new", "--name", "x", "--first-step", "soon"), "a time with its offset"),
        (("init", "new", "--name", "x" * 121), "the community's parameters: name: "),
        (("init", "new", "--name", "x", "--token", "0kWh"), "parameters: token_uwh: 0 is not"),
    ],
)
def test_what_cannot_be_says_what_to_do(
    tmp_path: Path,
    words: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    found(tmp_path, PLAIN).rename("auth")
    before = files(tmp_path)
    assert main(["authority", *words]) == 2
    assert said in capsys.readouterr().err
    left = {name: data for name, data in files(tmp_path).items() if name not in before}
    assert set(left) <= {"new/authority.key"}, "a key may wait there for the next attempt"
    assert {name: files(tmp_path)[name] for name in before} == before


def test_a_folder_whose_files_do_not_fit_together_is_not_used(tmp_path: Path) -> None:
    folder = found(tmp_path)
    party(folder, Role.VPP, "vpp", 4)
    other = found(_made(tmp_path / "other"))
    whole = files(folder)

    def attempt(change: Callable[[], object], words: str) -> None:
        change()
        with pytest.raises((ConfigurationError, Rejected), match=words):
            authority.export(folder, NOW_MS)
        for name, data in whole.items():
            (folder / name).write_bytes(data)
            (folder / name).chmod(0o600)

    key, chain, toml = (
        folder / f"{name}" for name in ("authority.key", "authority.records", "broker.toml")
    )
    attempt(lambda: key.write_bytes((other / "authority.key").read_bytes()), "not the key of this")
    attempt(lambda: key.chmod(0o640), "run chmod 600")
    attempt(lambda: chain.write_bytes(whole["authority.records"][:-1]), "authority.records: ")
    attempt(lambda: chain.write_bytes(b"\x80"), "authority.records: not an array of records")
    flipped = bytearray(whole["authority.records"])
    flipped[-1] ^= 1
    attempt(lambda: chain.write_bytes(bytes(flipped)), "authority.records: the signature")
    attempt(lambda: toml.write_text("url = 1"), "url is of type str")
    attempt(lambda: toml.write_text("uri = 'x'"), "did you mean 'url'")
    attempt(lambda: toml.write_text("["), "is not TOML")
    attempt(toml.unlink, "cannot read .*broker.toml")
    attempt(lambda: (folder / "broker-ca.key").write_bytes(b""), "no unencrypted PEM key")
    authority.export(folder, NOW_MS)


def test_a_place_in_a_chain_is_read_exactly() -> None:
    assert authority.parse_place("7:" + "ab" * 32) == ChainPlace(7, b"\xab" * 32)
    for text in ("", "7", "7:", ":" + "ab" * 32, "7:" + "ab" * 31, "7:xx", "-1:" + "ab" * 32):
        with pytest.raises(ConfigurationError, match="SEQUENCE:IDENTITY"):
            authority.parse_place(text)


# --- The broker's address and configuration. -----------------------------------------------------


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtts://broker.example", Address(True, "broker.example", 8883)),
        ("mqtt://127.0.0.1", Address(False, "127.0.0.1", 1883)),
        ("mqtts://[::1]:9000", Address(True, "::1", 9000)),
        ("mqtts://Broker.Example:1", Address(True, "broker.example", 1)),
    ],
)
def test_addresses(url: str, address: Address) -> None:
    assert parse_address(url) == address
    assert parse_address(address.url) == address
    assert parse_address(address.password_url).port == address.port + 1


@pytest.mark.parametrize(
    "url",
    [
        "",
        "broker",
        "http://h",
        "mqtt://",
        "mqtt://h:0",
        "mqtt://h:65535",
        "mqtt://h:x",
        "mqtt://u:p@h",
        "mqtt://h/x",
        "mqtt://h?x",
        "mqtt://a b",
        "mqtt://h\nlistener 1",
        "mqtt://[",
        "mqtt://[::1",
        "mqtt://[h]",
        "mqtt://[::9999999]",
    ],
)
def test_what_is_no_address_of_a_broker_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"mqtts://host:port|from 1 to 65534"):
        parse_address(url)


@pytest.mark.parametrize("folder", ["", "relative", "/with space", "/line\nbreak", '/quote"'])
def test_what_does_not_stand_safely_in_a_configuration_is_refused(folder: str) -> None:
    with pytest.raises(ConfigurationError, match="plain absolute path"):
        check_folder(folder)


@pytest.mark.parametrize(("host", "here"), [("127.0.0.1", True), ("localhost", True), ("h", False)])
def test_a_broker_named_by_loopback_listens_there_alone(host: str, here: bool) -> None:
    conf = mosquitto_conf(Address(True, host, 8883), "/etc/x", "Rue")
    listeners = [line for line in conf.splitlines() if line.startswith("listener")]
    where = f" {host}" if here else ""
    assert listeners == [f"listener 8883{where}", f"listener 8884{where}"]


def test_a_name_for_people_cannot_add_a_line_to_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="name"):
        authority.init(
            tmp_path / "x",
            name="Rue\nallow_anonymous true",
            broker=TLS,
            step_s=900,
            grace_ms=0,
            late_ms=0,
            token_uwh=1,
            first_step=None,
            now_ms=NOW_MS,
        )
