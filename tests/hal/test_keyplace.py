"""Where a key is kept, as the configuration says it."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.errors import ConfigurationError
from hal.keyplace import FilePlace, TokenPlace, TpmPlace, read_place

HEAD = "pkcs11:token=meter;object=device"
MODULE, PIN = "module-path=/usr/lib/m.so", "pin-source=file:/etc/cryptometer/pin"
URI = f"{HEAD}?{MODULE}&{PIN}"
TPM = "tpm2:handle=0x81200001"
AUTH = "auth-source=file:/etc/cryptometer/auth"


def refusal(store: str) -> str:
    with pytest.raises(ConfigurationError, match=r"^\[key\] store ") as refused:
        read_place(store, "[key] store")
    return str(refused.value)


def test_a_file_is_named_by_its_path() -> None:
    assert read_place("file:device.key", "") == FilePlace(PurePosixPath("device.key"))
    assert read_place("file:/keys/a", "") == FilePlace(PurePosixPath("/keys/a"))


def test_a_token_is_named_by_a_uri() -> None:
    pin = PurePosixPath("/etc/cryptometer/pin")
    module = PurePosixPath("/usr/lib/m.so")
    expected = TokenPlace(module, "meter", "device", pin, is_credential=False)
    assert read_place(URI, "") == expected
    assert read_place(URI.replace("file:", "file://"), "") == expected
    assert read_place(f"pkcs11:object=device;token=meter?{PIN}&{MODULE}", "") == expected


def test_labels_may_hold_any_character_percent_encoded() -> None:
    place = read_place(URI.replace("=meter", "=Z%C3%A4hler%20%3B1"), "")
    assert isinstance(place, TokenPlace)
    assert (place.token, place.label) == ("Zähler ;1", "device")


def test_the_pin_may_be_a_credential_of_the_service_manager() -> None:
    place = read_place(f"{HEAD}?{MODULE}&pin-source=credential:token-pin", "")
    assert isinstance(place, TokenPlace)
    assert (place.pin, place.is_credential) == (PurePosixPath("token-pin"), True)


@pytest.mark.parametrize("store", [f"{URI}&pin-value=1234", f"{HEAD};pin-value=1234?{MODULE}"])
def test_a_pin_in_the_configuration_is_refused_and_not_repeated(store: str) -> None:
    said = refusal(store)
    assert "a file of mode 0600" in said
    assert "1234" not in said


def test_a_tpm_is_named_by_a_uri_of_the_same_form() -> None:
    auth, manager = PurePosixPath("/etc/cryptometer/auth"), "device:/dev/tpmrm0"
    expected = TpmPlace(0x81200001, None, manager, None, is_credential=False)
    assert read_place(TPM, "") == expected
    assert read_place(f"{TPM}?tcti=device%3A/dev/tpmrm0", "") == expected
    expected = TpmPlace(0x81200001, 0x01800001, "device:/dev/tpm0", auth, is_credential=False)
    assert read_place(f"{TPM};counter=0x01800001?tcti=device:/dev/tpm0&{AUTH}", "") == expected
    assert (
        read_place(f"tpm2:counter=0x01800001;{TPM[5:]}?{AUTH}&tcti=device:/dev/tpm0", "")
        == expected
    )
    place = read_place(f"{TPM}?auth-source=credential:tpm-auth&tcti=swtpm:host=h,port=1", "")
    assert place == TpmPlace(
        0x81200001, None, "swtpm:host=h,port=1", PurePosixPath("tpm-auth"), is_credential=True
    )


@given(
    st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.sampled_from(["#010x", "x", "d", "#x"])
)
def test_only_handles_that_an_owner_may_have_are_let_through(
    handle: int, counter: int, form: str
) -> None:
    uri = f"tpm2:handle={handle:{form}};counter={counter:{form}}"
    is_owners = 0x81000000 <= handle < 0x81800000 and 0x01800000 <= counter < 0x01C00000
    try:
        place = read_place(uri, "")
    except ConfigurationError:
        assert not (is_owners and form == "#010x")
    else:
        assert is_owners
        assert place == TpmPlace(handle, counter, "device:/dev/tpmrm0", None, is_credential=False)


@given(st.integers(0x81000000, 0x817FFFFF), st.integers(0x01800000, 0x01BFFFFF))
def test_every_handle_of_an_owner_is_let_through(handle: int, counter: int) -> None:
    place = read_place(f"tpm2:handle={handle:#010x};counter={counter:#010x}", "")
    assert isinstance(place, TpmPlace)
    assert (place.handle, place.counter) == (handle, counter)


def test_an_authorisation_value_in_the_configuration_is_refused_and_not_repeated() -> None:
    said = refusal(f"{TPM}?auth-value=1234567890123456")
    assert "auth-source=file:" in said
    assert "1234567890123456" not in said


@pytest.mark.parametrize("left_out", ["token=meter", "object=device", MODULE, PIN])
def test_what_is_missing_is_named(left_out: str) -> None:
    name = left_out.partition("=")[0]
    assert f"lacks {name!r}" in refusal(URI.replace(left_out, ""))
    assert f"lacks {name!r}" in refusal(URI.replace(left_out, f"{name}="))


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ("", "not ''"),
        ("device.key", "not 'device.key'"),
        ("file:", "not 'file:'"),
        ("file:a\0b", "a character that no name can have"),
        (URI.replace("=device", "=device%00"), "a character that no name can have"),
        ("tpm:0x81000001", "not 'tpm:0x81000001'"),
        ("tpm2:", "lacks 'handle'"),
        ("tpm2:handle=", "lacks 'handle'"),
        (f"{TPM}?tcti=", "lacks 'tcti'"),
        (f"{TPM};counter=", "lacks 'counter'"),
        (f"{TPM}?auth-source=", "lacks 'auth-source'"),
        ("tpm2:handle=0x80000001", "handle is from 0x81000000 to 0x817fffff, not '0x80000001'"),
        ("tpm2:handle=0x81800000", "handle is from"),
        ("tpm2:handle=2166358017", "handle is from"),
        ("tpm2:handle=0x8120001", "handle is from"),
        (f"{TPM};counter=0x01c00002", "counter is from 0x01800000 to 0x01bfffff, not '0x01c00002'"),
        (f"{TPM};count=0x01800001", "did you mean 'counter'?"),
        (f"{TPM}?counter=0x01800001", "no attribute 'counter' there; here go: tcti, auth-source"),
        (f"{TPM}?tcti=/dev/tpm0", "tcti is device:/dev/tpmrm0 or the like, not '/dev/tpm0'"),
        (f"{TPM}?tcti=../evil:x", "tcti is"),
        (f"{TPM}?auth-source=auth", "auth-source is file:/PATH/TO/IT"),
        (f"{TPM};handle=0x81200002", "says 'handle' twice"),
        (URI.replace("object", "objekt"), "did you mean 'object'?"),
        (f"{URI}&slot-id=1", "no attribute 'slot-id' there; here go: module-path, pin-source"),
        (f"pkcs11:token=a;token=b;object=c?{MODULE}&{PIN}", "says 'token' twice"),
        (URI.replace("=meter", "=%ff"), "lacks 'token'"),
        (URI.replace("/usr/lib/m.so", "m.so"), "module-path is absolute, not 'm.so'"),
        (URI.replace("file:/etc/cryptometer/pin", "file:pin"), "not 'file:pin'"),
        (URI.replace("file:/etc/cryptometer/pin", "|/bin/ask"), "not '|/bin/ask'"),
        (URI.replace("file:/etc/cryptometer/pin", "credential:../pin"), "not 'credential:../pin'"),
        (URI.replace("file:/etc/cryptometer/pin", "credential:.."), "not 'credential:..'"),
    ],
)
def test_what_is_no_place_is_refused_with_what_would_be_one(store: str, said: str) -> None:
    assert said in refusal(store)
