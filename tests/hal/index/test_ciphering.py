"""Protected messages as bytes: opened, sealed and taken apart, beside an example that others
publish and another interface to the same cipher."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hal.index.axdr import Malformed, Truncated
from hal.index.ciphering import (
    AUTHENTICATED,
    ENCRYPTED,
    GENERAL_GLO,
    TAG_SIZE,
    Keys,
    NotAuthentic,
    OtherProtection,
    Protected,
    decode_protected,
    encode_protected,
    open_protected,
    seal_protected,
)

# The example of the DLMS UA (Green Book, GLO-ciphering): a request for a clock.
KEYS = Keys(bytes(range(16)), bytes(range(0xD0, 0xE0)))
TITLE = bytes.fromhex("4d4d4d0000bc614e")
COUNTER = 0x01234567
CLEAR = bytes.fromhex("c0010000080000010000ff0200")
BOTH = AUTHENTICATED | ENCRYPTED
SEALED = {
    AUTHENTICATED: CLEAR + bytes.fromhex("06725d910f9221d263877516"),
    ENCRYPTED: bytes.fromhex("411312ff935a47566827c467bc"),
    BOTH: bytes.fromhex("411312ff935a47566827c467bc7d825c3be4a77c3fcc056b6b"),
}
by_control = pytest.mark.parametrize("control", SEALED, ids=hex)


def sealed(control: int) -> Protected:
    return Protected(TITLE, control, COUNTER, SEALED[control])


@by_control
def test_the_published_example_is_sealed_and_opened_as_it_is_printed(control: int) -> None:
    assert seal_protected(CLEAR, control, COUNTER, TITLE, KEYS) == sealed(control)
    assert (
        open_protected(
            sealed(control), TITLE, KEYS if control != ENCRYPTED else Keys(KEYS.encryption)
        )
        == CLEAR
    )
    assert sealed(control).authenticated is bool(control & AUTHENTICATED)


@by_control
def test_without_the_authentication_key_a_message_is_read_and_not_checked(control: int) -> None:
    alone = Keys(KEYS.encryption)
    protected = sealed(control)
    assert open_protected(protected, TITLE, alone) == CLEAR
    if control & AUTHENTICATED:
        tag = replace(protected, content=protected.content[:-1] + b"\0")
        assert open_protected(tag, TITLE, alone) == CLEAR


def test_the_cipher_is_that_of_another_interface_to_it() -> None:
    assert KEYS.authentication is not None
    message, nonce = bytes(range(100)), TITLE + COUNTER.to_bytes(4, "big")
    whole = AESGCM(KEYS.encryption).encrypt(nonce, message, bytes([BOTH]) + KEYS.authentication)
    made = seal_protected(message, BOTH, COUNTER, TITLE, KEYS)
    assert made.content == whole[: len(message) + TAG_SIZE]


@pytest.mark.parametrize("control", [AUTHENTICATED, BOTH])
def test_what_is_changed_in_any_part_is_not_authentic(control: int) -> None:
    good = sealed(control)
    for at in range(len(good.content)):
        hurt = bytearray(good.content)
        hurt[at] ^= 1
        with pytest.raises(NotAuthentic, match="the tag is wrong"):
            open_protected(replace(good, content=bytes(hurt)), TITLE, KEYS)
    others = (
        (replace(good, counter=COUNTER + 1), TITLE, KEYS),
        (good, bytes(8), KEYS),
        (good, TITLE, replace(KEYS, encryption=bytes(16))),
        (good, TITLE, replace(KEYS, authentication=bytes(16))),
        (replace(good, control=control | 0x40), TITLE, KEYS),
    )
    for protected, title, keys in others:
        with pytest.raises(NotAuthentic, match="the tag is wrong"):
            open_protected(protected, title, keys)


def test_a_message_without_a_tag_is_not_believed_where_its_key_is_known() -> None:
    with pytest.raises(NotAuthentic, match="carries no tag"):
        open_protected(sealed(ENCRYPTED), TITLE, KEYS)


@pytest.mark.parametrize("title", [b"", TITLE[:-1], TITLE + b"\0"])
def test_a_message_of_no_system_title_is_nobody_s(title: bytes) -> None:
    with pytest.raises(NotAuthentic, match="no system title"):
        open_protected(sealed(BOTH), title, KEYS)


def test_a_tag_needs_its_key_and_keys_have_sixteen_bytes() -> None:
    with pytest.raises(ValueError, match="needs the authentication key"):
        seal_protected(CLEAR, BOTH, COUNTER, TITLE, Keys(KEYS.encryption))
    for encryption, authentication in ((b"short", None), (bytes(16), b"short")):
        with pytest.raises(ValueError, match="16 bytes, not 5"):
            Keys(encryption, authentication)
    assert KEYS.encryption.hex() not in repr(KEYS)


# --- As bytes. -----------------------------------------------------------------------------------


def test_a_message_is_written_with_its_title_where_its_tag_is_general() -> None:
    general = encode_protected(sealed(BOTH), GENERAL_GLO)
    body = bytes([BOTH]) + COUNTER.to_bytes(4, "big") + SEALED[BOTH]
    assert general == b"\xdb\x08" + TITLE + bytes([len(body)]) + body
    assert decode_protected(general + b"more", 1, general=True) == (sealed(BOTH), len(general))
    specific = encode_protected(sealed(BOTH), 0xC8)
    assert specific == b"\xc8" + bytes([len(body)]) + body
    untitled = replace(sealed(BOTH), title=b"")
    assert decode_protected(specific, 1, general=False) == (untitled, len(specific))
    without = encode_protected(untitled, GENERAL_GLO)
    assert decode_protected(without, 1, general=True) == (untitled, len(without))


def test_a_message_that_ends_anywhere_is_told_to_go_on() -> None:
    whole = encode_protected(sealed(BOTH), GENERAL_GLO)
    for size in range(1, len(whole)):
        with pytest.raises(Truncated):
            decode_protected(whole[:size], 1, general=True)


def written(control: int, size: int) -> bytes:
    return bytes([0xC8, size, control]) + bytes(size - 1)


@pytest.mark.parametrize(
    ("control", "size"),
    [(ENCRYPTED, 6), (BOTH, 18), (AUTHENTICATED, 18), (ENCRYPTED | 1, 6), (BOTH | 0x40, 18)],
)
def test_a_message_may_be_as_short_as_one_byte(control: int, size: int) -> None:
    protected, end = decode_protected(written(control, size), 1, general=False)
    assert (protected, end) == (
        Protected(b"", control, 0, bytes(size - 5)), 2 + size,
    )  # fmt: skip
    with pytest.raises(Malformed, match=f"of {size - 1} bytes"):
        decode_protected(written(control, size - 1), 1, general=False)


@pytest.mark.parametrize("control", [0x00, 0x01, 0x40])
def test_a_message_that_nothing_protects_is_malformed(control: int) -> None:
    with pytest.raises(Malformed, match="a protected message of 30 bytes"):
        decode_protected(written(control, 30), 1, general=False)


@pytest.mark.parametrize("control", [BOTH | 2, BOTH | 0x0F, BOTH | 0x80])
def test_another_suite_and_compression_are_told_apart_from_what_is_wrong(control: int) -> None:
    for data in (written(control, 30), written(control, 30)[:3]):
        with pytest.raises(OtherProtection, match=f"0x{control:02x}"):
            decode_protected(data, 1, general=False)


@pytest.mark.parametrize("size", [1, 7, 9])
def test_a_system_title_has_eight_bytes_or_none(size: int) -> None:
    with pytest.raises(Malformed, match=f"a system title of {size} bytes"):
        decode_protected(bytes([GENERAL_GLO, size]) + bytes(60), 1, general=True)
