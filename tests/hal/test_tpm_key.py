"""Private keys in a TPM: swtpm, killed where a TPM is taken away or loses its power."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from tpm2_pytss import (
    ESAPI,
    ESYS_TR,
    TPM2_ALG,
    TPM2B_DATA,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMA_OBJECT,
    TPMS_SENSITIVE_CREATE,
    TPMT_SYM_DEF_OBJECT,
    TSS2_Exception,
)

from cryptometer.errors import ConfigurationError, Rejected
from cryptometer.keys import Algorithm, KeyLost
from hal import tpm_key
from hal.drivers import has_key, make_guard, make_key, open_guard, open_key
from hal.keyplace import TpmPlace, read_place
from hal.tpm_key import TpmCounter, TpmKey, create_tpm_key, load_tpm_key
from tests.tpms import AUTH, COUNTER, HANDLE, SoftTpm

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # FIPS 186-4
NOWHERE = Path("/nowhere")
WRONG = "0123456789abcdef"


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[SoftTpm]:
    tpm = SoftTpm(tmp_path / "tpm")
    yield tpm
    tpm.close()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[SoftTpm]:
    tpm = SoftTpm(tmp_path / "tpm", is_watched=True)
    yield tpm
    tpm.close()


def lost(key: TpmKey) -> str:
    """Why a key does not sign."""
    with pytest.raises(KeyLost) as away:
        key.sign(b"data")
    return str(away.value)


def make_other(tpm: SoftTpm, form: str, attributes: TPMA_OBJECT, auth: str = AUTH) -> None:
    """Puts a key that is not as ours at the handle."""
    with ESAPI(tpm.tcti) as session:
        parent = session.create_primary(
            None, TPM2B_PUBLIC.parse(tpm_key._PARENT_FORM, tpm_key._PARENT)
        )[0]
        secret = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(userAuth=auth.encode()))
        made = session.create(parent, secret, TPM2B_PUBLIC.parse(form, attributes))
        key = session.load(parent, made[0], made[1])
        session.evict_control(ESYS_TR.OWNER, key, HANDLE)
        session.flush_context(key)
        session.flush_context(parent)


# --- Made, read, used. ---------------------------------------------------------------------------


def test_a_key_made_in_a_tpm_signs_and_is_found_again(tpm: SoftTpm) -> None:
    assert not has_key(tpm.place, NOWHERE)
    made = make_key(tpm.place, NOWHERE, Algorithm.EDDSA)
    assert has_key(tpm.place, NOWHERE)
    tpm.take_away()
    tpm.bring_back()
    tpm.restart_program()
    found = open_key(tpm.place, NOWHERE, None)
    assert found.public == made.public
    assert found.public.algorithm is Algorithm.ES256
    for key in (made, found):
        assert (key.where, key.trouble()) == ("TPM at 0x81200001", "")
        for number in range(20):
            made.public.verify(key.sign(bytes([number])), bytes([number]))
        with pytest.raises(Rejected):
            made.public.verify(key.sign(b"data"), b"other data")


def test_a_signature_of_a_tpm_is_low_s_and_verifies_elsewhere(tpm: SoftTpm) -> None:
    key = create_tpm_key(tpm.place)
    point = b"\x04" + key.public.coordinates
    public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    for number in range(30):
        data = bytes([number]) * 2_000  # a TPM hashes no more than 1,024 bytes at once
        signature = key.sign(data)
        r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
        assert len(signature) == 64
        assert s <= P256_ORDER // 2
        public.verify(encode_dss_signature(r, s), data, ec.ECDSA(SHA256()))


def test_a_private_key_cannot_be_brought_out_of_its_tpm(tpm: SoftTpm) -> None:
    create_tpm_key(tpm.place)
    with ESAPI(tpm.tcti) as session:
        key = session.tr_from_tpmpublic(HANDLE)
        attributes = session.read_public(key)[0].publicArea.objectAttributes
        for needed in ("FIXEDTPM", "FIXEDPARENT", "SENSITIVEDATAORIGIN", "SIGN_ENCRYPT"):
            assert attributes & getattr(TPMA_OBJECT, needed)
        assert not attributes & (TPMA_OBJECT.DECRYPT | TPMA_OBJECT.ENCRYPTEDDUPLICATION)
        session.tr_set_auth(key, AUTH)
        with pytest.raises(TSS2_Exception):
            session.duplicate(
                key, ESYS_TR.NONE, TPM2B_DATA(), TPMT_SYM_DEF_OBJECT(algorithm=TPM2_ALG.NULL)
            )


def test_a_key_in_a_tpm_is_never_overwritten(tpm: SoftTpm) -> None:
    made = create_tpm_key(tpm.place)
    with pytest.raises(ConfigurationError, match="never overwritten"):
        create_tpm_key(tpm.place)
    assert load_tpm_key(tpm.place, None).public == made.public
    other = create_tpm_key(tpm.place_of(HANDLE + 1))
    assert other.public != made.public
    for key in (made, other):
        key.public.verify(key.sign(b"data"), b"data")


def test_a_key_is_not_made_anew_by_whoever_owns_the_tpm(tpm: SoftTpm) -> None:
    """A primary key could be, with any authorisation value: the same form gives the same key."""
    made = create_tpm_key(tpm.place)
    tpm.write_auth(WRONG)
    assert create_tpm_key(tpm.place_of(HANDLE + 1)).public != made.public


@pytest.mark.parametrize(
    ("form", "attributes"),
    [
        (
            "ecc256:ecdsa-sha256:null",
            tpm_key._OURS & ~TPMA_OBJECT.FIXEDTPM & ~TPMA_OBJECT.FIXEDPARENT,
        ),
        ("ecc256:ecdsa-sha256:null", tpm_key._OURS & ~TPMA_OBJECT.NODA),
        ("ecc256:ecdsa-sha256:null", tpm_key._OURS | TPMA_OBJECT.RESTRICTED),
        ("ecc384:ecdsa-sha256:null", tpm_key._OURS),
        ("rsa2048:rsassa-sha256:null", tpm_key._OURS),
    ],
)
def test_a_key_of_another_kind_is_refused(tpm: SoftTpm, form: str, attributes: TPMA_OBJECT) -> None:
    make_other(tpm, form, attributes)
    with pytest.raises(KeyLost, match="not as init makes it"):
        load_tpm_key(tpm.place, None)


# --- Away. ---------------------------------------------------------------------------------------


def test_a_tpm_that_was_away_signs_again_once_it_is_back(tpm: SoftTpm) -> None:
    key = create_tpm_key(tpm.place)
    for _ in range(3):
        tpm.take_away()
        for _ in range(2):
            assert f"the TPM at {tpm.tcti} does not answer" in lost(key)
        assert key.trouble()
        tpm.bring_back()
        assert not key.trouble()
        key.public.verify(key.sign(b"data"), b"data")


def test_a_program_that_starts_without_its_tpm_knows_its_key_from_before(tpm: SoftTpm) -> None:
    public = create_tpm_key(tpm.place).public
    tpm.take_away()
    with pytest.raises(KeyLost):
        load_tpm_key(tpm.place, None)
    key = load_tpm_key(tpm.place, public)
    lost(key)
    tpm.bring_back()
    public.verify(key.sign(b"data"), b"data")


def test_another_tpm_does_not_sign(tpm: SoftTpm) -> None:
    key = create_tpm_key(tpm.place)
    tpm.exchange()
    assert "there is no key at 0x81200001" in lost(key)
    other = create_tpm_key(tpm.place)
    assert other.public != key.public
    assert "holds another key" in lost(key)
    assert "holds another key" in key.trouble()
    with pytest.raises(ConfigurationError, match="belongs to another board"):
        load_tpm_key(tpm.place, key.public)


def test_what_says_nothing_of_a_tpm_is_named(tmp_path: Path) -> None:
    missing = read_place(f"tpm2:handle=0x81200001?tcti=device:{tmp_path}/tpmrm0", "")
    assert isinstance(missing, TpmPlace)
    with pytest.raises(KeyLost, match=r"there is no TPM at .*/tpmrm0: does the kernel know it"):
        load_tpm_key(missing, None)
    with pytest.raises(ConfigurationError, match="there is no TPM at"):
        make_key(missing, NOWHERE, Algorithm.ES256)
    (tmp_path / "tpmrm0").write_bytes(b"no TPM")
    with pytest.raises(KeyLost, match="does not answer"):
        load_tpm_key(missing, None)


# --- The authorisation value. --------------------------------------------------------------------


def test_a_wrong_value_is_given_once_and_never_again(watched: SoftTpm) -> None:
    tpm = watched
    public = create_tpm_key(tpm.place).public
    before = tpm.signatures_asked()
    tpm.write_auth(WRONG)
    keys = [load_tpm_key(tpm.place, None) for _ in range(2)]  # two lives, or two meters
    for _ in range(3):
        for key in keys:
            said = lost(key)
            assert "refuses the authorisation value" in said
            assert str(tpm.auth_file) in said
            assert WRONG not in said
            assert key.trouble() == said
    assert tpm.signatures_asked() == before + 1
    # A person has corrected it: the program need not be started anew.
    tpm.write_auth(AUTH)
    for key in keys:
        public.verify(key.sign(b"data"), b"data")


def test_neither_wrong_values_nor_power_cuts_lock_a_tpm(tpm: SoftTpm) -> None:
    """A TPM counts a power cut as a wrong guess, once a key that it protects so has been used."""
    key = create_tpm_key(tpm.place)
    for number in range(5):
        tpm.restart_program()
        tpm.write_auth(f"{number:016}")
        lost(key)
        tpm.write_auth(AUTH)
        key.sign(b"data")
        tpm.take_away()
        tpm.bring_back()
    assert tpm.failed_tries() == 0


def test_a_key_with_the_protection_would_lock_by_power_cuts_alone(tpm: SoftTpm) -> None:
    """Why ours has none: nobody has given a wrong value here."""
    make_other(tpm, tpm_key._KEY_FORM, tpm_key._OURS & ~TPMA_OBJECT.NODA)
    for number in range(3):
        assert tpm.failed_tries() == number
        with ESAPI(tpm.tcti) as session:
            key = session.tr_from_tpmpublic(HANDLE)
            session.tr_set_auth(key, AUTH)
            session.sign(key, bytes(32), tpm_key._SCHEME, tpm_key._NOT_HASHED_THERE)
        tpm.take_away()
        tpm.bring_back()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o666])
def test_a_value_that_others_could_read_is_not_used(tpm: SoftTpm, mode: int) -> None:
    key = create_tpm_key(tpm.place)
    tpm.auth_file.chmod(mode)
    assert f"run chmod 600 {tpm.auth_file}" in lost(key)
    assert f"run chmod 600 {tpm.auth_file}" in key.trouble()


@pytest.mark.parametrize("length", [1, 15, 33])
def test_a_value_that_can_be_guessed_or_does_not_fit_makes_no_key(
    tpm: SoftTpm, length: int
) -> None:
    tpm.write_auth("x" * length)
    with pytest.raises(ConfigurationError, match=f"has {length} bytes, and must have 16 to 32"):
        make_key(tpm.place, NOWHERE, Algorithm.ES256)
    assert not has_key(tpm.place, NOWHERE)


def test_a_key_may_have_no_value(tpm: SoftTpm) -> None:
    bare = read_place(f"tpm2:handle={HANDLE:#010x}?tcti={tpm.tcti}", "")
    assert isinstance(bare, TpmPlace)
    key = create_tpm_key(bare)
    key.public.verify(key.sign(b"data"), b"data")
    create_tpm_key(tpm.place_of(HANDLE + 1))
    named = read_place(f"tpm2:handle={HANDLE + 1:#010x}?tcti={tpm.tcti}", "")
    assert isinstance(named, TpmPlace)
    assert "name its auth-source" in lost(load_tpm_key(named, None))


def test_a_value_comes_from_the_service_managers_credentials(
    tpm: SoftTpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"tpm2:handle={HANDLE:#010x}?tcti={tpm.tcti}&auth-source=credential:tpm-auth"
    place = read_place(uri, "")
    assert isinstance(place, TpmPlace)
    with pytest.raises(KeyLost, match="the credential tpm-auth: No such file"):
        create_tpm_key(place)
    (tmp_path / "tpm-auth").write_text(AUTH)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    key = create_tpm_key(place)
    key.public.verify(key.sign(b"data"), b"data")


def test_an_owner_with_a_value_of_its_own_is_named(tpm: SoftTpm) -> None:
    with ESAPI(tpm.tcti) as session:
        session.hierarchy_change_auth(ESYS_TR.OWNER, "owner")
    with pytest.raises(ConfigurationError, match="tpm2_changeauth -c owner"):
        make_key(tpm.place, NOWHERE, Algorithm.ES256)


# --- The counter. --------------------------------------------------------------------------------


def test_a_counter_is_made_with_its_key_and_only_grows(tpm: SoftTpm) -> None:
    place = tpm.place_of(counter=COUNTER)
    make_key(place, NOWHERE, Algorithm.ES256)
    guard = open_guard(place)
    assert guard is not None
    assert guard.read() is None
    guard.advance()
    first = guard.read()
    assert first is not None
    for number in range(1, 4):
        guard.advance()
        tpm.take_away()
        tpm.bring_back()
        assert guard.read() == first + number


def test_a_counter_that_was_made_anew_does_not_begin_anew(tpm: SoftTpm) -> None:
    place = tpm.place_of(counter=COUNTER)
    make_key(place, NOWHERE, Algorithm.ES256)
    guard = TpmCounter(place, COUNTER)
    for _ in range(5):
        guard.advance()
    before = guard.read()
    with ESAPI(tpm.tcti) as session:
        session.nv_undefine_space(session.tr_from_tpmpublic(COUNTER))
    with pytest.raises(KeyLost, match="no counter at 0x01800001"):
        guard.read()
    assert make_guard(place)
    assert not make_guard(place)
    guard.advance()
    after = guard.read()
    assert before is not None
    assert after is not None
    assert after > before


def test_a_place_without_a_counter_has_no_guard(tpm: SoftTpm) -> None:
    assert open_guard(tpm.place) is None
    assert not make_guard(tpm.place)
    assert open_guard(read_place("file:device.key", "")) is None


def test_an_init_that_was_cut_off_behind_the_counter_goes_on(tpm: SoftTpm) -> None:
    place = tpm.place_of(counter=COUNTER)
    assert make_guard(place)
    make_key(place, NOWHERE, Algorithm.ES256)
    assert TpmCounter(place, COUNTER).read() is None


def test_a_counter_of_another_key_is_not_taken(tpm: SoftTpm) -> None:
    make_key(tpm.place_of(counter=COUNTER), NOWHERE, Algorithm.ES256)
    TpmCounter(tpm.place, COUNTER).advance()
    with pytest.raises(ConfigurationError, match="has counted for another key"):
        make_key(tpm.place_of(HANDLE + 1, COUNTER), NOWHERE, Algorithm.ES256)


def test_a_counter_that_is_away_or_refuses_says_so(tpm: SoftTpm) -> None:
    place = tpm.place_of(counter=COUNTER)
    make_key(place, NOWHERE, Algorithm.ES256)
    guard = TpmCounter(place, COUNTER)
    tpm.write_auth(WRONG)
    for _ in range(2):
        with pytest.raises(KeyLost, match="refuses the authorisation value"):
            guard.advance()
    tpm.write_auth(AUTH)
    guard.advance()
    assert guard.read() is not None
    tpm.take_away()
    with pytest.raises(KeyLost, match="does not answer"):
        guard.read()
