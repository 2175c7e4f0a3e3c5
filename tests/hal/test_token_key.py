"""Private keys in a token: SoftHSM2, with its files moved away where a token is pulled out."""

from pathlib import Path

import pkcs11
import pytest
from pkcs11 import Attribute, KeyType, ObjectClass, TokenFlag

from cryptometer.errors import ConfigurationError, Rejected
from cryptometer.keys import Algorithm, KeyLost
from hal.drivers import has_key, make_key, open_key
from hal.token_key import TokenKey, create_token_key, load_token_key
from tests.tokens import PIN, SoftToken

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # FIPS 186-4
ALGORITHMS = [Algorithm.EDDSA, Algorithm.ES256]
NOWHERE = Path("/nowhere")


def lost(key: TokenKey) -> str:
    """Why a key does not sign, which `trouble` and a second try say, too."""
    with pytest.raises(KeyLost) as away:
        key.sign(b"data")
    return str(away.value)


# --- Made, read, used. ---------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_made_in_a_token_signs_and_is_found_again(
    token: SoftToken, algorithm: Algorithm
) -> None:
    assert not has_key(token.place, NOWHERE)
    made = make_key(token.place, NOWHERE, algorithm)
    assert has_key(token.place, NOWHERE)
    found = open_key(token.place, NOWHERE, None)
    assert found.public == made.public
    assert found.public.algorithm is algorithm
    for key in (made, found):
        assert (key.where, key.trouble()) == ("token 'meter'", "")
        for number in range(20):
            made.public.verify(key.sign(bytes([number])), bytes([number]))
        with pytest.raises(Rejected):
            made.public.verify(key.sign(b"data"), b"other data")


def test_an_ecdsa_signature_of_a_token_is_low_s(token: SoftToken) -> None:
    key = create_token_key(token.place, Algorithm.ES256)
    for number in range(30):
        signature = key.sign(bytes([number]))
        assert len(signature) == 64
        assert int.from_bytes(signature[32:], "big") <= P256_ORDER // 2


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_private_key_cannot_be_read_from_its_token(
    token: SoftToken, algorithm: Algorithm
) -> None:
    create_token_key(token.place, algorithm)
    session = token.look().open()  # the program has logged in
    [private] = session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY})
    assert private[Attribute.TOKEN]
    assert private[Attribute.PRIVATE]
    assert private[Attribute.SENSITIVE]
    assert private[Attribute.ALWAYS_SENSITIVE]
    assert not private[Attribute.EXTRACTABLE]
    assert private[Attribute.NEVER_EXTRACTABLE]
    with pytest.raises(pkcs11.AttributeSensitive):
        _ = private[Attribute.VALUE]
    with pytest.raises(pkcs11.PKCS11Error):
        private[Attribute.EXTRACTABLE] = True


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_in_a_token_is_never_overwritten(token: SoftToken, algorithm: Algorithm) -> None:
    made = create_token_key(token.place, Algorithm.EDDSA)
    with pytest.raises(ConfigurationError, match="never overwritten"):
        create_token_key(token.place, algorithm)
    assert load_token_key(token.place, None).public == made.public
    other = create_token_key(token.place_of("second"), algorithm)
    assert other.public != made.public
    made.public.verify(made.sign(b"data"), b"data")
    other.public.verify(other.sign(b"data"), b"data")


def test_keys_of_other_kinds_are_refused(token: SoftToken) -> None:
    session = token.look().open(rw=True, user_pin=PIN)
    session.generate_keypair(KeyType.RSA, 2048, store=True, label="device")
    session.close()
    with pytest.raises(KeyLost, match="neither Ed25519 nor ECDSA P-256"):
        load_token_key(token.place, None)


# --- Away. ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_that_was_pulled_out_signs_again_once_it_is_back(
    token: SoftToken, algorithm: Algorithm
) -> None:
    key = create_token_key(token.place, algorithm)
    for _ in range(3):
        token.pull_out()
        for _ in range(2):
            assert token.module in lost(key)
        assert key.trouble()
        token.put_back()
        assert not key.trouble()
        key.public.verify(key.sign(b"data"), b"data")


def test_two_keys_of_one_token_come_back_each_as_itself(token: SoftToken) -> None:
    """A module that begins anew gives its handles out again, to other sessions and keys."""
    keys = [create_token_key(token.place_of(name), Algorithm.EDDSA) for name in ("a", "b", "c")]
    for _ in range(3):
        token.pull_out()
        for key in keys:
            lost(key)
        token.put_back()
        for key in reversed(keys):
            key.public.verify(key.sign(b"data"), b"data")
        keys = keys[1:] + keys[:1]


def test_a_program_that_starts_without_its_token_knows_its_key_from_before(
    token: SoftToken,
) -> None:
    public = create_token_key(token.place, Algorithm.EDDSA).public
    token.pull_out()
    with pytest.raises(KeyLost):
        load_token_key(token.place, None)
    key = load_token_key(token.place, public)
    lost(key)
    token.put_back()
    public.verify(key.sign(b"data"), b"data")


def test_another_token_with_the_same_label_does_not_sign(token: SoftToken) -> None:
    key = create_token_key(token.place, Algorithm.EDDSA)
    token.exchange()
    assert "there is no public key 'device'" in lost(key)
    other = create_token_key(token.place, Algorithm.EDDSA)
    assert other.public != key.public
    assert "holds another key" in lost(key)
    with pytest.raises(ConfigurationError, match="insert the right token"):
        load_token_key(token.place, key.public)


def test_what_is_missing_is_named(token: SoftToken) -> None:
    with pytest.raises(KeyLost, match="no public key 'device' in the token 'meter'"):
        load_token_key(token.place, None)
    token.label = "elsewhere"
    with pytest.raises(KeyLost, match="there is no token 'elsewhere'"):
        load_token_key(token.place, None)
    module, token.module = token.module, "/usr/lib/no-such-module.so"
    with pytest.raises(KeyLost, match="there is no PKCS#11 module /usr/lib/no-such-module"):
        load_token_key(token.place, None)
    token.module = module


def test_what_is_no_module_is_named(token: SoftToken, tmp_path: Path) -> None:
    module, token.module = token.module, str(tmp_path / "module.so")
    Path(token.module).write_bytes(b"no library")
    with pytest.raises(KeyLost, match=r"the module .*module\.so cannot begin"):
        load_token_key(token.place, None)
    token.module = module


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_private_key_that_is_not_that_of_the_public_one_does_not_sign(
    token: SoftToken, algorithm: Algorithm
) -> None:
    create_token_key(token.place, algorithm)
    create_token_key(token.place_of("other"), algorithm)
    session = token.look().open(rw=True)  # the program has logged in
    own, other = (
        session.get_key(ObjectClass.PRIVATE_KEY, label=label) for label in ("device", "other")
    )
    own.destroy()
    other[Attribute.LABEL] = "device"
    token.restart()
    assert "another private key than public key" in lost(load_token_key(token.place, None))


def test_two_keys_with_one_label_are_not_chosen_from(token: SoftToken) -> None:
    key = create_token_key(token.place, Algorithm.EDDSA)
    create_token_key(token.place_of("other"), Algorithm.EDDSA)
    session = token.look().open(rw=True)
    session.get_key(ObjectClass.PRIVATE_KEY, label="other")[Attribute.LABEL] = "device"
    token.restart()
    assert "has 2 private keys 'device'" in lost(key)
    session = token.look().open(rw=True)
    session.get_key(ObjectClass.PUBLIC_KEY, label="other")[Attribute.LABEL] = "device"
    with pytest.raises(KeyLost, match="there are 2 keys 'device'"):
        load_token_key(token.place, None)


# --- The PIN. ------------------------------------------------------------------------------------


def logins(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The PINs that are given to a token from now on."""
    from hal import token_key

    given: list[str] = []
    really = token_key._open

    def watch(token: pkcs11.Token, pin: str, *, is_writing: bool = False) -> pkcs11.Session:
        given.append(pin)
        return really(token, pin, is_writing=is_writing)

    monkeypatch.setattr(token_key, "_open", watch)
    return given


def test_a_wrong_pin_is_given_once_and_never_again(
    token: SoftToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = create_token_key(token.place, Algorithm.EDDSA).public
    token.restart()
    token.write_pin("999999")
    given = logins(monkeypatch)
    keys = [load_token_key(token.place, None) for _ in range(2)]  # two lives, or two meters
    for _ in range(3):
        for key in keys:
            said = lost(key)
            assert "refuses the PIN" in said
            assert str(token.pin_file) in said
            assert "999999" not in said
    assert given == ["999999"]
    assert token.look().flags & TokenFlag.USER_PIN_COUNT_LOW
    # A person has corrected it: the program need not be started anew.
    token.write_pin(PIN)
    for key in keys:
        public.verify(key.sign(b"data"), b"data")
    assert given[:2] == ["999999", PIN]
    assert not token.look().flags & TokenFlag.USER_PIN_COUNT_LOW


def test_a_start_gives_no_pin_to_a_token_that_was_given_a_wrong_one(
    token: SoftToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever starts the program again and again must not lock the token."""
    key = create_token_key(token.place, Algorithm.EDDSA)
    token.write_pin("999999")
    token.restart()
    lost(key)
    given = logins(monkeypatch)
    for _ in range(4):
        token.restart()
        key = load_token_key(token.place, None)
        assert "log in once by hand" in lost(key)
        assert "log in once by hand" in key.trouble()
    assert given == []
    token.log_in_by_hand()
    assert "refuses the PIN" in lost(key)
    assert given == ["999999"]
    token.write_pin(PIN)
    key.public.verify(key.sign(b"data"), b"data")


def test_a_wrong_pin_makes_no_key(token: SoftToken) -> None:
    token.write_pin("999999")
    with pytest.raises(ConfigurationError, match="refuses the PIN"):
        make_key(token.place, NOWHERE, Algorithm.EDDSA)
    token.write_pin(PIN)
    make_key(token.place, NOWHERE, Algorithm.EDDSA)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o666])
def test_a_pin_that_others_could_read_is_not_used(token: SoftToken, mode: int) -> None:
    key = create_token_key(token.place, Algorithm.EDDSA)
    token.restart()
    token.pin_file.chmod(mode)
    assert f"run chmod 600 {token.pin_file}" in lost(key)
    assert f"run chmod 600 {token.pin_file}" in key.trouble()


def test_a_pin_that_is_not_there_is_named(token: SoftToken) -> None:
    key = create_token_key(token.place, Algorithm.EDDSA)
    token.restart()
    token.write_pin("")
    assert "it is empty" in lost(key)
    token.pin_file.write_bytes(b"\xff\xff")
    assert "no text" in lost(key)
    token.pin_file.unlink()
    assert f"cannot read the PIN in {token.pin_file}: No such file" in lost(key)


def test_a_pin_comes_from_the_service_managers_credentials(
    token: SoftToken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = token.place_of("device", "credential:token-pin")
    with pytest.raises(KeyLost, match="the credential token-pin: No such file"):
        create_token_key(place, Algorithm.EDDSA)
    (tmp_path / "token-pin").write_text(PIN)
    (tmp_path / "token-pin").chmod(0o440)  # as systemd makes them, with an access list
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    key = create_token_key(place, Algorithm.EDDSA)
    key.public.verify(key.sign(b"data"), b"data")
