"""Signed notes and checkpoints: the published forms, and every way in which they can be bent."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer import note
from cryptometer.errors import Reason
from cryptometer.merkle import EMPTY_ROOT, leaf_hash
from cryptometer.note import NOTE_MAX, Verifier, open_checkpoint, open_note, parse_vkey
from cryptometer.record_fields import Checkpoint
from tests.core.refusing import refusing
from tests.core.strategies import examples, refusal_of
from tests.keys import p256_signer, signer

NAME = "example.org/log"
KEY = signer(1)
KNOWN = Verifier(NAME, KEY.public)
OTHER_ALGORITHM = base64.b64encode(bytes([2]) + KEY.public.coordinates).decode()
TEXT = "first line\n\nthird line\n"
HEAD = Checkpoint(7, leaf_hash(b"root"))

# The example of C2SP signed-note, also in the documentation of Go's sumdb/note.
PETER_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpR"
    "Zb6KE6RyyBwJnAM=\n"
)
PETER_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"


def signed(text: str = TEXT) -> str:
    return note.sign_note(text, NAME, KEY)


def checkpoint(head: Checkpoint = HEAD) -> str:
    return note.sign_checkpoint(head, NAME, KEY)


def signature_line(name: str, text: str, number: int = 1) -> str:
    """A true signature line of another name or key, made by hand."""
    data = Verifier(name, signer(number).public).key_id + signer(number).sign(text.encode())
    return f"— {name} {base64.b64encode(data).decode()}\n"


def test_the_published_note_opens_with_its_published_key() -> None:
    verifier = parse_vkey(PETER_KEY)
    assert verifier.vkey == PETER_KEY
    text = open_note(PETER_NOTE.encode(), verifier)
    assert text == PETER_NOTE.partition("\n\n")[0] + "\n"


def test_a_key_whose_base64_holds_a_plus_sign_is_read_whole() -> None:
    """The sign that also separates the parts of the line."""
    verifier = Verifier(NAME, signer(2).public)
    assert verifier.vkey.count("+") > 2
    assert parse_vkey(verifier.vkey) == verifier


def test_a_note_that_was_signed_opens() -> None:
    assert open_note(signed().encode(), KNOWN) == TEXT
    assert signed() == TEXT + "\n" + signature_line(NAME, TEXT)


def test_a_checkpoint_has_its_golden_form() -> None:
    lines = checkpoint(Checkpoint(0, EMPTY_ROOT)).split("\n")
    assert lines[:4] == [NAME, "0", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", ""]
    assert lines[4].startswith(f"— {NAME} ")
    assert open_checkpoint(checkpoint().encode(), KNOWN) == HEAD


@pytest.mark.parametrize("size", [0, 1, 10, 2**63 - 1])
def test_a_checkpoint_survives_signing(size: int) -> None:
    head = Checkpoint(size, HEAD.root)
    assert open_checkpoint(checkpoint(head).encode(), KNOWN) == head


def test_other_signatures_are_passed_over() -> None:
    """A witness' cosignature, of another name; one of this name with another key; and one of an
    algorithm that nobody here knows, whose signatures are of one byte."""
    text, _, own = signed().rpartition("\n\n")
    text += "\n"
    others = signature_line("witness.example", text, 5) + signature_line(NAME, text, 6)
    short_one = "— elsewhere AAAAAAA=\n"
    for lines in (others + own, own + others, short_one + own):
        assert open_note(f"{text}\n{lines}".encode(), KNOWN) == TEXT
    with refusing(Reason.UNKNOWN_KEY, NAME):
        open_note(f"{text}\n{others}".encode(), KNOWN)


def test_a_false_signature_of_the_known_key_is_refused_beside_a_true_one() -> None:
    text = TEXT + "\n"
    false_line = signature_line(NAME, "another text\n")
    for lines in (false_line + signature_line(NAME, TEXT), signature_line(NAME, TEXT) + false_line):
        with refusing(Reason.BAD_SIGNATURE):
            open_note((text + lines).encode(), KNOWN)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\n",
        b"\n\n",
        TEXT.encode(),
        signed().encode()[:-1],
        signed().encode() + b"\n",
        signed().encode() + b"\n\n",
        signed().replace("— ", "- ").encode(),
        signed().replace("— ", "—").encode(),
        signed().replace("— ", " — ").encode(),
        signed().replace(NAME, "two words").encode(),
        signed().replace(NAME, "a+b").encode(),
        signed().replace(" " + NAME, " ").encode(),
        signed().replace("\n", "\r\n").encode(),
        ("\x00" + signed()).encode(),
        ("\t" + signed()).encode(),
        b"\xff" + signed().encode(),
        (TEXT + "\n— " + NAME + " AAAA\n").encode(),
        (TEXT + "\n— elsewhere AAAAAA==\n" + signature_line(NAME, TEXT)).encode(),
        (TEXT + "\n— " + NAME + " ????\n").encode(),
        (TEXT + "\n— " + NAME + "\n").encode(),
        signed().replace("=\n", "\n").encode(),
    ],
)
def test_what_is_no_signed_note_is_malformed(raw: bytes) -> None:
    with refusing(Reason.MALFORMED):
        open_note(raw, KNOWN)


def test_base64_with_stray_bits_is_refused() -> None:
    """The last letter of 68 bytes carries two bits that no decoder keeps."""
    head, letter = signed()[:-3], signed()[-3]
    assert signed()[-2:] == "=\n"
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    stray = alphabet[alphabet.index(letter) ^ 1]
    assert base64.b64decode(f"{head.rpartition(' ')[2]}{stray}=") == base64.b64decode(
        f"{head.rpartition(' ')[2]}{letter}="
    )
    with refusing(Reason.MALFORMED, "canonical"):
        open_note(f"{head}{stray}=\n".encode(), KNOWN)


def test_a_note_has_a_limit() -> None:
    room = NOTE_MAX - len(signed("\n").encode()) + 1
    assert open_note(signed("x" * (room - 1) + "\n").encode(), KNOWN)
    with refusing(Reason.TOO_LARGE):
        open_note(signed("x" * room + "\n").encode(), KNOWN)


def test_every_changed_bit_of_a_checkpoint_is_refused() -> None:
    raw = checkpoint().encode()
    for bit in range(8 * len(raw)):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        assert refusal_of(open_checkpoint, bytes(changed), KNOWN) is not None, bit


@pytest.mark.parametrize(
    "text",
    [
        f"{NAME}\n7\n",
        "example.org/other\n7\n{root}\n",
        f"{NAME}\n07\n{{root}}\n",
        f"{NAME}\n+7\n{{root}}\n",
        f"{NAME}\n-7\n{{root}}\n",
        f"{NAME}\n 7\n{{root}}\n",
        f"{NAME}\n7 \n{{root}}\n",
        f"{NAME}\n7_0\n{{root}}\n",
        f"{NAME}\n٧\n{{root}}\n",
        f"{NAME}\n²\n{{root}}\n",
        f"{NAME}\n\n{{root}}\n",
        f"{NAME}\n9223372036854775808\n{{root}}\n",
        f"{NAME}\n{'9' * 5000}\n{{root}}\n",
        f"{NAME}\n7\nAAAA\n",
        f"{NAME}\n7\n\n",
    ],
)
def test_a_signed_text_that_is_no_checkpoint_is_refused(text: str) -> None:
    root = base64.b64encode(HEAD.root).decode()
    with refusing(Reason.BAD_CHECKPOINT):
        open_checkpoint(signed(text.format(root=root)).encode(), KNOWN)


def test_a_root_that_is_no_base64_is_refused() -> None:
    with refusing(Reason.MALFORMED):
        open_checkpoint(signed(f"{NAME}\n7\n???\n").encode(), KNOWN)


def test_further_lines_of_a_checkpoint_are_passed_over() -> None:
    """C2SP tlog-checkpoint allows extension lines behind the root."""
    root = base64.b64encode(HEAD.root).decode()
    text = f"{NAME}\n7\n{root}\nfrom a later version\n"
    assert open_checkpoint(signed(text).encode(), KNOWN) == HEAD


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("no newline", NAME),
        ("a\x00b\n", NAME),
        ("a\rb\n", NAME),
        (TEXT, ""),
        (TEXT, "two words"),
        (TEXT, "a+b"),
        (TEXT, "a\u00a0b"),
    ],
)
def test_what_would_not_open_is_not_signed(text: str, name: str) -> None:
    with pytest.raises(ValueError, match="not a note text or key name"):
        note.sign_note(text, name, KEY)


def test_notes_are_signed_with_ed25519_only() -> None:
    with pytest.raises(ValueError, match="Ed25519"):
        note.sign_note(TEXT, NAME, p256_signer(1))


@pytest.mark.parametrize(
    "text",
    [
        "",
        NAME,
        f"{NAME}+00000000",
        f"{NAME}+00000000+{KNOWN.vkey.rpartition('+')[2]}",
        KNOWN.vkey.replace(NAME, "example.org/other"),
        KNOWN.vkey.upper(),
        KNOWN.vkey + "=",
        KNOWN.vkey[:-4],
        f"{NAME}+{KNOWN.key_id.hex()}+{base64.b64encode(bytes([2]) + bytes(32)).decode()}",
        f"{NAME}+{KNOWN.key_id.hex()}+{OTHER_ALGORITHM}",
        f"a b+{Verifier('a b', KEY.public).key_id.hex()}+{KNOWN.vkey.rpartition('+')[2]}",
    ],
)
def test_another_verifier_key_is_refused(text: str) -> None:
    with refusing(Reason.MALFORMED):
        parse_vkey(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("7", 7), ("9223372036854775807", 2**63 - 1)],
)
def test_a_decimal_has_one_form(text: str, number: int) -> None:
    assert note.decimal(text) == number
    for other in (f"0{text}", f"+{text}", f"{text}.", f" {text}", f"{text}\n", f"-{text}"):
        assert note.decimal(other) is None


@examples(200)
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    assert refusal_of(open_checkpoint, data, KNOWN) is not None


@examples(200)
@given(st.text(max_size=100))
def test_random_text_is_no_verifier_key(text: str) -> None:
    assert refusal_of(parse_vkey, text) is Reason.MALFORMED


@examples(300)
@given(st.data())
def test_a_mutated_checkpoint_is_refused_or_says_the_same(data: st.DataObject) -> None:
    raw = checkpoint().encode()
    at = data.draw(st.integers(0, len(raw)))
    gone = data.draw(st.integers(0, 10))
    changed = raw[:at] + data.draw(st.binary(max_size=10)) + raw[at + gone :]
    if refusal_of(open_checkpoint, changed, KNOWN) is None:
        assert open_checkpoint(changed, KNOWN) == HEAD
