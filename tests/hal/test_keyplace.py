"""Where a key is kept, as the configuration says it."""

from pathlib import PurePosixPath

import pytest

from cryptometer.errors import ConfigurationError
from hal.keyplace import FilePlace, TokenPlace, read_place

HEAD = "pkcs11:token=meter;object=device"
MODULE, PIN = "module-path=/usr/lib/m.so", "pin-source=file:/etc/cryptometer/pin"
URI = f"{HEAD}?{MODULE}&{PIN}"


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
