"""An enrolment request as text: it comes back whole, or is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.errors import Rejected
from cryptometer.request_text import decode_request_text, encode_request_text, is_request_text


@given(st.binary(max_size=600))
def test_what_was_written_as_text_is_read_as_it_was(raw: bytes) -> None:
    text = encode_request_text(raw)
    assert is_request_text(text)
    assert decode_request_text(text) == raw
    assert decode_request_text(f"\n{text.lower()[:20]} \r\n\t{text[20:]}\n") == raw


def test_its_form_is_fixed() -> None:
    assert encode_request_text(b"foob") == "CRYPTOMETER:MZXW6YQ"  # RFC 4648 §10


@given(st.text())
def test_a_text_is_refused_or_is_that_of_its_bytes(text: str) -> None:
    for attempt in (text, f"CRYPTOMETER:{text}"):
        try:
            raw = decode_request_text(attempt)
        except Rejected:
            continue
        assert encode_request_text(raw) == "".join(attempt.split()).upper()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "MZXW6YQ",
        "CRYPTOMETER",
        "CRYPTOMETER:MZXW6Y1",  # 1 is no sign of base32
        "CRYPTOMETER:MZXW6YR",  # bits beyond the last byte
        "CRYPTOMETER:MZXW6Y",  # no number of bytes has six signs
        "CRYPTOMETER:MZXW6YQ=",
        "CRYPTOMETER:MZXW6YQ!",
        "CRYPTOMETER:" + "A" * 200_000,
        "ĊRYPTOMETER:MZXW6YQ",
    ],
)
def test_what_is_no_such_text_is_refused(text: str) -> None:
    with pytest.raises(Rejected):
        decode_request_text(text)
