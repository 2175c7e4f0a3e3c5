"""HDLC frames: written, and found again whatever is around them."""

import tracemalloc
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptometer.steps import NS_PER_S
from hal.index.hdlc import (
    FRAME_MAX,
    Address,
    Control,
    Frame,
    HdlcReceiver,
    Parameters,
    check_sequence,
    decode_parameters,
    has_header,
)
from hal.index.reading import Refusal, Refused

CLIENT, SERVER = Address(16), Address(1, 17, 2)
AT_NS = 7

addresses = st.one_of(
    st.builds(Address, st.integers(0, 127)),
    st.builds(Address, st.integers(0, 127), st.integers(0, 127), st.just(2)),
    st.builds(Address, st.integers(0, 2**14 - 1), st.integers(0, 2**14 - 1), st.just(4)),
)
frames = st.builds(
    Frame,
    addresses,
    addresses,
    st.integers(0, 255),
    st.one_of(st.binary(max_size=40), st.just(b"\x7e\xa0\x08\x7e" * 9)),
    st.booleans(),
    st.just(AT_NS),
    st.just(AT_NS),
)


def found(data: bytes) -> list[Frame | Refusal]:
    receiver = HdlcReceiver()
    return [*receiver.receive(data, AT_NS), *receiver.receive(b"", AT_NS + NS_PER_S)]


def reasons(outcome: list[Frame | Refusal]) -> list[Refused]:
    return [one.reason for one in outcome if isinstance(one, Refusal)]


def whole(outcome: list[Frame | Refusal]) -> list[Frame]:
    return [one for one in outcome if isinstance(one, Frame)]


def frame(information: bytes = b"\xe6\xe7\x00data") -> Frame:
    return Frame(CLIENT, SERVER, Control.UI, information, began_ns=AT_NS, ended_ns=AT_NS)


def test_the_check_sequence_is_x25() -> None:
    assert check_sequence(b"123456789") == bytes.fromhex("6e90")


def test_an_snrm_is_written_as_the_standard_says() -> None:
    written = Frame(SERVER, CLIENT, Control.SNRM).encode()
    assert written.hex() == "7ea00802232193bd647e"
    assert whole(found(written))[0].destination == SERVER


@given(st.lists(frames, max_size=4))
def test_what_is_written_is_found_again(sent: list[Frame]) -> None:
    assert found(b"".join(one.encode() for one in sent)) == sent


@given(st.lists(frames, min_size=1, max_size=4))
def test_frames_share_a_flag(sent: list[Frame]) -> None:
    shared = b"\x7e" + b"".join(one.encode()[1:] for one in sent)
    assert found(shared) == sent
    assert found(b"\x7e\x7e".join(one.encode() for one in sent) + b"\x7e" * 9) == sent


@given(st.lists(st.one_of(frames.map(Frame.encode), st.binary(max_size=30))), st.data())
def test_any_chunks_give_the_same_frames_and_refusals(
    parts: list[bytes], data: st.DataObject
) -> None:
    line = b"".join(parts)
    receiver, outcome, at = HdlcReceiver(), [], 0
    while at < len(line):
        size = data.draw(st.integers(1, 40))
        outcome += receiver.receive(line[at : at + size], AT_NS)
        at += size
    outcome += receiver.receive(b"", AT_NS + NS_PER_S)
    assert outcome == found(line)


@given(st.binary(max_size=300))
def test_no_bytes_raise_and_a_frame_after_them_is_found(noise: bytes) -> None:
    receiver = HdlcReceiver()
    receiver.receive(noise, AT_NS)
    receiver.receive(b"", AT_NS + NS_PER_S)
    assert whole(receiver.receive(frame().encode(), 0))[0].information == frame().information


@given(st.integers(0, 10**9))
@settings(max_examples=60)
def test_a_frame_after_a_broken_one_is_found_without_a_silence(seed: int) -> None:
    random = Random(seed)
    broken = bytearray(frame(random.randbytes(60)).encode())
    del broken[random.randrange(1, len(broken)) :]
    after = frame(random.randbytes(70))
    outcome = found(bytes(broken) + after.encode() + after.encode())
    assert after in outcome


def test_a_frame_has_the_times_of_the_looks_that_brought_its_ends() -> None:
    receiver, written = HdlcReceiver(), frame().encode()
    assert receiver.receive(b"\x7e", 1) == []
    assert receiver.receive(written[:5], 2) == []
    assert receiver.receive(written[5:9], 3) == []
    [one] = receiver.receive(written[9:], 4)
    assert isinstance(one, Frame)
    assert (one.began_ns, one.ended_ns) == (2, 4)


def test_a_frame_may_come_byte_by_byte_and_has_the_times_of_the_first_and_the_last() -> None:
    receiver, written = HdlcReceiver(), frame().encode()
    outcome = [
        one for at, byte in enumerate(written) for one in receiver.receive(bytes([byte]), at)
    ]
    assert outcome == [replace(frame(), began_ns=0, ended_ns=len(written) - 1)]


@pytest.mark.parametrize(
    ("at", "change", "reason"),
    [
        (1, 0x40, Refused.FORM),  # another type of format
        (3, 0x01, Refused.FORM),  # an address that does not end where it should
        (5, 0x02, Refused.CHECKSUM),  # in the header
        (12, 0x01, Refused.CHECKSUM),  # in what it carries
        (18, 0x01, Refused.FORM),  # the closing flag
    ],
)
def test_each_damage_is_refused_by_its_name(at: int, change: int, reason: Refused) -> None:
    broken = bytearray(frame().encode())
    broken[at] ^= change
    outcome = found(bytes(broken) + frame().encode())
    assert reasons(outcome)[0] is reason
    assert whole(outcome) == [frame()]


def test_a_line_that_is_joined_in_the_middle_gives_one_refusal() -> None:
    written = frame().encode()
    assert reasons(found(written[6:] + written)) == [Refused.INCOMPLETE]
    assert whole(found(written[6:] + written)) == [frame()]


def test_a_frame_that_is_broken_off_is_refused_after_a_silence() -> None:
    receiver = HdlcReceiver()
    assert receiver.receive(frame().encode()[:-4], 0) == []
    assert receiver.receive(b"", NS_PER_S - 1) == []
    assert reasons(receiver.receive(b"", NS_PER_S)) == [Refused.INCOMPLETE]


@pytest.mark.parametrize(
    ("written", "reason", "detail"),
    [
        (b"abc", Refused.INCOMPLETE, "bytes outside of any frame"),
        (b"\x7e\xb0\x00", Refused.FORM, "the frame has format 0xb0, not type 3"),
        (
            b"\x7e\xa0\x08\x03\x05\x10\x00\x00\x00",
            Refused.FORM,
            "a frame of 8 bytes cannot hold its own header",
        ),
        (
            b"\x7e\xa0\x08\x02\x02\x02\x02\x02\x02",
            Refused.FORM,
            "an address of more than four bytes",
        ),
        (b"\x7e\xa0\x08\x02\x02\x02\x02", Refused.FORM, "an address of more than four bytes"),
        (b"\x7e\xa0\x0a\x02\x02\x03\x05\x10\x00", Refused.FORM, "an address of 3 bytes"),
        (b"\x7e\xa0\x0a\x02\x02\x03", Refused.FORM, "an address of 3 bytes"),
        (
            b"\x7e\xa0\x07\x03\x05\x10\x00\x00\x7e",
            Refused.CHECKSUM,
            "the check sequence of a frame's header is wrong",
        ),
        (
            frame().encode()[:-1] + b"\x00",
            Refused.FORM,
            "no flag where a frame's length says it ends",
        ),
        (
            frame().encode()[:-2] + b"\x00\x7e",
            Refused.CHECKSUM,
            "the check sequence of a frame is wrong",
        ),
        (frame().encode()[:-2], Refused.INCOMPLETE, "a frame was broken off"),
    ],
)
def test_a_refusal_tells_what_was_wrong_first_and_when_it_ended(
    written: bytes, reason: Refused, detail: str
) -> None:
    receiver = HdlcReceiver()
    receiver.receive(written, 3)
    receiver.receive(b"", 3 + NS_PER_S - 1)
    told = Refusal(reason, detail, 3)
    assert receiver.receive(b"", 3 + NS_PER_S) == [told]
    assert receiver.receive(b"", 3 + 2 * NS_PER_S) == []


def test_a_good_frame_ends_a_stretch_of_damage() -> None:
    receiver = HdlcReceiver()
    assert receiver.receive(b"ab", 3) == []
    assert receiver.receive(b"c", 4) == []
    one = frame()
    [told, found_frame] = receiver.receive(one.encode(), AT_NS)
    assert told == Refusal(Refused.INCOMPLETE, "bytes outside of any frame", 4)
    assert found_frame == one


def test_a_stretch_of_damage_has_the_time_of_the_look_that_brought_its_last_byte() -> None:
    receiver, broken = HdlcReceiver(), frame().encode()[:-1] + b"\0"
    assert receiver.receive(broken[:-1], 3) == []
    assert receiver.receive(broken[-1:], 4) == []
    [told] = receiver.receive(b"", 4 + NS_PER_S)
    assert told == Refusal(Refused.FORM, "no flag where a frame's length says it ends", 4)


def test_a_stretch_as_long_as_a_frame_is_told_at_its_end() -> None:
    receiver = HdlcReceiver()
    for _ in range(2):
        assert receiver.receive(b"\0" * FRAME_MAX, 3) == []
        assert len(receiver.receive(b"\0", 3)) == 1
    assert receiver.receive(b"\0" * FRAME_MAX, 4) == []
    assert receiver.receive(frame().encode()[:-4], 4) == []
    told = receiver.receive(b"", 4 + NS_PER_S)
    assert reasons(told) == [Refused.INCOMPLETE] * 2


def test_a_whole_frame_behind_the_beginning_of_another_is_found_after_a_silence() -> None:
    receiver = HdlcReceiver()
    begun, after = frame(bytes(200)).encode()[:40], frame()
    assert receiver.receive(begun + after.encode(), AT_NS) == []
    refusal = Refusal(Refused.INCOMPLETE, "a frame was broken off", AT_NS)
    assert receiver.receive(b"", AT_NS + NS_PER_S) == [refusal, after]


def test_a_long_stretch_of_damage_is_told_in_parts() -> None:
    receiver = HdlcReceiver()
    outcome = receiver.receive(b"\0" * (3 * FRAME_MAX + 4), 3)
    assert outcome == [Refusal(Refused.INCOMPLETE, "bytes outside of any frame", 3)] * 3
    assert receiver.receive(b"", 3 + NS_PER_S) == outcome[:1]


def test_hours_of_noise_hold_a_bounded_memory() -> None:
    receiver, random = HdlcReceiver(), Random(3)
    noise = random.randbytes(2**16).replace(b"\x00", b"\x7e\xa7\xff")
    tracemalloc.start()
    try:
        for _ in range(4):
            refusals = receiver.receive(noise, AT_NS)
            assert len(refusals) < 2 + len(noise) // FRAME_MAX * 2
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 400_000


def test_the_longest_frame_is_written_and_found() -> None:
    longest = frame(bytes(FRAME_MAX - 10))
    assert longest.encode()[1:3] == b"\xa7\xff"
    assert found(longest.encode()) == [longest]
    with pytest.raises(ValueError, match="a frame of 2048 bytes"):
        frame(bytes(FRAME_MAX - 9)).encode()


def test_no_frame_is_longer_than_its_length_can_say() -> None:
    with pytest.raises(ValueError, match="2047 are the most"):
        frame(bytes(2_100)).encode()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (Address(128), "does not fit into 1 bytes"),
        (Address(-1), "does not fit into 1 bytes"),
        (Address(1, 200, 2), "does not fit into 2 bytes"),
        (Address(128, 1, 2), "does not fit into 2 bytes"),
        (Address(1, 1 << 14, 4), "does not fit into 4 bytes"),
        (Address(1, None, 2), "no address has this form"),
        (Address(1, 1), "no address has this form"),
        (Address(1, 1, 3), "no address has this form"),
    ],
)
def test_an_address_that_has_no_form_is_not_written(address: Address, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        address.encode()


@pytest.mark.parametrize(
    ("address", "written"),
    [
        (Address(0), "01"),
        (Address(127), "ff"),
        (Address(1, 17, 2), "0223"),
        (Address(127, 127, 2), "feff"),
        (Address(1, 17, 4), "00020023"),
        (Address(0x81, 1 << 13, 4), "02028001"),
    ],
)
def test_an_address_has_seven_bits_a_byte_and_marks_its_last(
    address: Address, written: str
) -> None:
    assert address.encode() == bytes.fromhex(written)


@given(
    st.builds(
        Parameters,
        st.integers(1, FRAME_MAX), st.integers(1, FRAME_MAX), st.integers(1, 7), st.integers(1, 7),
    )
)  # fmt: skip
def test_parameters_of_a_link_are_read_as_they_were_written(parameters: Parameters) -> None:
    assert decode_parameters(parameters.encode()) == parameters


@pytest.mark.parametrize(
    ("parameters", "written"),
    [
        (Parameters(), "818012 050180 060180 070400000001 080400000001"),
        (Parameters(255, 256, 7, 2), "818013 0501ff 06020100 070400000007 080400000002"),
        (Parameters(256, 255, 2, 7), "818013 05020100 0601ff 070400000002 080400000007"),
        (Parameters(FRAME_MAX, 1, 1, 1), "818013 050207ff 060101 070400000001 080400000001"),
    ],
)
def test_parameters_take_as_few_bytes_as_hold_them(parameters: Parameters, written: str) -> None:
    """IEC 62056-46 §6.4.4.4.3.2: a size has one byte or two, a window has four."""
    assert parameters.encode() == bytes.fromhex(written)
    assert decode_parameters(bytes.fromhex(written)) == parameters


@pytest.mark.parametrize(
    ("field", "parameters"),
    [
        ("050140", Parameters(send_max=64)),
        ("06020400", Parameters(receive_max=1_024)),
        ("070107", Parameters(send_window=7)),
        ("080400000003", Parameters(receive_window=3)),
        ("0503000101", Parameters(send_max=257)),
        ("090101", Parameters()),
    ],
)
def test_what_is_not_named_of_a_link_has_its_default(field: str, parameters: Parameters) -> None:
    data = bytes.fromhex(field)
    assert decode_parameters(b"\x81\x80" + bytes([len(data)]) + data) == parameters


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("818112 050180 060180 070400000001 080400000001", "not written as"),
        ("818013 050180 060180 070400000001 080400000001", "not written as"),
        ("8180", "not written as"),
        ("818001 05", "parameter 5 of a link has no value"),
        ("818002 0500", "parameter 5 of a link has no value"),
        ("818003 050200", "parameter 5 of a link has no value"),
        ("818007 05050000000001", "parameter 5 of a link has no value"),
        ("818006 050180 050180", "or two"),
        ("818003 050100", "a link cannot have"),
        ("818004 05020800", "a link cannot have"),
        ("818003 060100", "a link cannot have"),
        ("818003 070100", "a link cannot have"),
        ("818003 070108", "a link cannot have"),
        ("818003 080100", "a link cannot have"),
        ("818003 080108", "a link cannot have"),
    ],
)
def test_parameters_that_no_link_can_have_are_refused(written: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        decode_parameters(bytes.fromhex(written))


def test_a_link_without_parameters_has_the_defaults() -> None:
    assert decode_parameters(b"") == Parameters(128, 128, 1, 1)


@given(st.binary(max_size=40))
def test_odd_parameters_are_refused_or_within_bounds(data: bytes) -> None:
    try:
        parameters = decode_parameters(data)
    except ValueError:
        return
    assert 1 <= parameters.send_max <= FRAME_MAX
    assert 1 <= parameters.send_window <= 7


def test_numbers_of_an_information_frame_are_read_from_its_control_field() -> None:
    one = Frame(CLIENT, SERVER, 0x74)
    assert (one.numbered, one.sent, one.expected) == (True, 2, 3)
    assert not Frame(CLIENT, SERVER, Control.RR).numbered


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_beginning_of_a_frame_is_found_whatever_is_around_it(size: int) -> None:
    address = Address(3, None if size == 1 else 5, size)
    frame = Frame(address, address, Control.UI, b"twenty bytes at least").encode()
    header = frame[: 1 + 2 + 2 * size + 1 + 2]
    for before in (b"", b"\x7e", b"\x7e\x7e", b"no", b"\x7e\xa0"):
        for behind in (b"", b"\x7e", b"damage\x7e\x7e"):
            assert has_header(before + header + behind)
            assert not has_header(before + header[:-1] + bytes([header[-1] ^ 1]) + behind)
        assert not has_header(before + header[:-1])
    assert not has_header(b"")
    assert not has_header(b"none")
