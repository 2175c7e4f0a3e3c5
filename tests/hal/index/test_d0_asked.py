"""The conversation with a meter of IEC 62056-21 that is asked, over a line that has a speed: what
is sent at one and heard at another is noise.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptometer.steps import NS_PER_MS, NS_PER_S
from hal.index.d0_asked import PATIENCE_NS, QUIET_NS, TRIES, Asking, D0Asked
from hal.index.d0_meter import D0Meter, Mode, Plate, data_message, with_parity
from hal.index.plausible import Limits, Plausible
from hal.index.reading import Index, LineForm, Parity, Reading, Refusal, Refused, Register

PERIOD_NS = 60 * NS_PER_S
ASKING = Asking(PERIOD_NS, is_7e1=True)
PLATE = Plate("TST", "METER 1.0", Mode.C)
CHARACTER_BITS = 10
SEVEN = bytes(value & 0x7F for value in range(256))


def lines_at(at_ns: int) -> list[str]:
    return [
        "F.F(00)",
        "C.1.0(10020030)",
        f"1.8.0({at_ns // NS_PER_S:09}*Wh)",
        "2.8.0(000000.1*kWh)",
    ]


class Line:
    """Both ends of a line, in simulated time."""

    def __init__(
        self,
        conversation: D0Asked,
        meter: D0Meter | None,
        damage: Callable[[bytes], bytes] = bytes,
        *,
        echoes: bool = False,
    ) -> None:
        self.conversation, self.meter, self.damage = conversation, meter, damage
        self.echoes = echoes
        self.now_ns = 0
        self.sent: list[tuple[int, LineForm, bytes]] = []
        self.outcome: list[Reading | Refusal] = []
        self._coming: list[tuple[int, int, bool, bytes]] = []  # when, baud, to the meter, what

    def run(self, until_ns: int) -> list[Reading | Refusal]:
        """What came of it since the last time."""
        begin = len(self.outcome)
        while self.now_ns <= until_ns:
            self._step()
            due = [at_ns for at_ns, *_ in self._coming[:1]]
            due += [
                one.due_ns
                for one in (self.conversation, self.meter)
                if one is not None and one.due_ns is not None
            ]
            # A due time that has passed is asked for again soon, as a shell would.
            self.now_ns = max(self.now_ns + NS_PER_MS, min(due))
        return self.outcome[begin:]

    def _step(self) -> None:
        here, there, now_ns = b"", b"", self.now_ns
        while self._coming and self._coming[0][0] <= now_ns:
            _, baud, is_to_meter, data = self._coming.pop(0)
            if is_to_meter:
                there += data if self.meter and self.meter.form.baud == baud else b""
            else:
                here += data if self.conversation.form.baud == baud else b"\xfe" * len(data)
        if self.meter is not None:
            if there:
                self.meter.receive(there.translate(SEVEN), now_ns)
            self._send(self.meter.speak(now_ns), self.meter.form.baud, is_to_meter=False)
        self.outcome += self.conversation.receive(here, now_ns)
        said = self.conversation.speak(now_ns)
        if said:
            self.sent.append((now_ns, self.conversation.form, said))
        self._send(said, self.conversation.form.baud, is_to_meter=True)
        if self.echoes:
            self._send(said, self.conversation.form.baud, is_to_meter=False)

    def _send(self, data: bytes, baud: int, *, is_to_meter: bool) -> None:
        """Eight bytes at a time: an adapter's reports."""
        lasts_ns = CHARACTER_BITS * NS_PER_S // baud
        hurt = data if is_to_meter else self.damage(data)
        for at in range(0, len(hurt), 8):
            part = hurt[at : at + 8]
            at_ns = self.now_ns + (at + len(part)) * lasts_ns
            self._coming.append((at_ns, baud, is_to_meter, part))
        self._coming.sort(key=lambda one: one[0])


def line_to(plate: Plate, asking: Asking = ASKING, *, echoes: bool = False) -> Line:
    return Line(D0Asked(asking), D0Meter(plate, lines_at), echoes=echoes)


def reasons(outcome: Sequence[Reading | Refusal]) -> list[Refused | str]:
    return [one.reason if isinstance(one, Refusal) else "reading" for one in outcome]


@pytest.mark.parametrize("echoes", [False, True])
@pytest.mark.parametrize(
    ("mode", "baud"),
    [
        (Mode.A, 300),
        (Mode.B, 600),
        (Mode.B, 4800),
        (Mode.B, 19200),
        (Mode.C, 300),
        (Mode.C, 2400),
        (Mode.C, 9600),
        (Mode.C, 19200),
    ],
)
def test_a_meter_of_every_mode_is_read_once_a_period(mode: Mode, baud: int, echoes: bool) -> None:
    line = line_to(replace(PLATE, mode=mode, baud=baud), echoes=echoes)
    outcome = line.run(5 * PERIOD_NS)
    assert reasons(outcome) == ["reading"] * 5
    for number, one in enumerate(outcome):
        assert isinstance(one, Reading)
        assert one.identity == "10020030"
        assert one.exported == Index(1, 2)
        assert one.began_ns == number * PERIOD_NS
        assert one.imported is not None
        assert one.began_ns <= one.imported.value * NS_PER_S + NS_PER_S <= one.ended_ns + NS_PER_S
        assert one.ended_ns < one.began_ns + 12 * NS_PER_S


def test_what_is_said_and_when_the_speed_changes() -> None:
    line = line_to(PLATE)
    line.run(10 * NS_PER_S)
    slow = LineForm(300, 7, Parity.EVEN)
    assert [(form, said) for _, form, said in line.sent] == [
        (slow, b"/?!\r\n"),
        (slow, b"\x06050\r\n"),
    ]
    conversation = D0Asked(ASKING)
    assert conversation.speak(0) == b"/?!\r\n"
    assert conversation.receive(b"/TST5METER\r\n", NS_PER_S) == []
    assert conversation.speak(NS_PER_S) == b""
    chosen_ns = NS_PER_S + 250 * NS_PER_MS
    assert conversation.speak(chosen_ns) == b"\x06050\r\n"
    left_ns = chosen_ns + 200 * NS_PER_MS  # six characters of ten bits at 300 baud
    for at_ns in range(chosen_ns, left_ns + 1, 10 * NS_PER_MS):
        assert conversation.receive(b"", at_ns) == []
        assert conversation.speak(at_ns) == b""
        assert conversation.form == slow
    due_ns = conversation.due_ns
    assert due_ns is not None
    assert left_ns < due_ns < left_ns + 100 * NS_PER_MS  # a meter may answer after 200 ms
    assert conversation.receive(b"", due_ns) == []
    assert conversation.speak(due_ns) == b""
    assert conversation.form == LineForm(9600, 7, Parity.EVEN)


def test_only_the_meter_that_is_called_answers() -> None:
    called = replace(PLATE, address="10020030")
    assert reasons(line_to(called, replace(ASKING, address="10020030")).run(NS_PER_S * 9)) == [
        "reading"
    ]
    outcome = line_to(called, replace(ASKING, address="10020031")).run(NS_PER_S * 30)
    assert reasons(outcome) == [Refused.SILENT] * TRIES
    with pytest.raises(ValueError, match="no device address"):
        D0Asked(Asking(PERIOD_NS, "1!\r\n"))


def test_a_head_that_is_slower_than_the_meter_stays_at_300_baud() -> None:
    line = line_to(PLATE, replace(ASKING, baud_max=4800))
    assert reasons(line.run(20 * NS_PER_S)) == ["reading"]
    assert line.sent[-1][2] == b"\x06000\r\n"


def test_a_meter_that_must_be_woken_hears_zero_bytes_first() -> None:
    line = line_to(PLATE, replace(ASKING, wakes=True))
    assert reasons(line.run(20 * NS_PER_S)) == ["reading"]
    assert [set(said) for _, _, said in line.sent[:1]] == [{0}]
    assert 2.1 < len(line.sent[0][2]) * CHARACTER_BITS / 300 < 2.3
    assert 3.6 * NS_PER_S < line.sent[1][0] < 4 * NS_PER_S


def test_a_line_of_eight_bits_carries_parity_that_is_made_here() -> None:
    line = line_to(PLATE, replace(ASKING, is_7e1=False))
    line.damage = with_parity
    assert reasons(line.run(10 * NS_PER_S)) == ["reading"]
    assert line.sent[0][1:] == (LineForm(300), with_parity(b"/?!\r\n"))


def test_a_parity_is_checked_where_data_come_with_the_identification_at_once() -> None:
    conversation = D0Asked(Asking(PERIOD_NS, is_7e1=False))
    conversation.receive(b"", 0)
    conversation.speak(0)
    answer = bytearray(with_parity(b"/TST-METER 1.0\r\n" + data_message(lines_at(0))))
    assert isinstance(conversation.receive(bytes(answer), 1)[0], Reading)

    conversation = D0Asked(Asking(PERIOD_NS, is_7e1=False))
    conversation.speak(0)
    answer[answer.index(with_parity(b"00.1*")) + 1] ^= 0x80
    assert reasons(conversation.receive(bytes(answer), 1)) == [Refused.CHECKSUM]


def test_a_meter_that_offers_mode_e_gives_its_data_in_mode_c_or_is_unsupported() -> None:
    plate = replace(PLATE, name="\\2METER")
    assert reasons(line_to(plate).run(10 * NS_PER_S)) == ["reading"]
    outcome = line_to(plate, replace(ASKING, reads_mode_e=False)).run(PERIOD_NS + NS_PER_S)
    assert reasons(outcome) == [Refused.UNSUPPORTED] * 2


def test_a_speed_that_is_reserved_is_unsupported() -> None:
    conversation = D0Asked(ASKING)
    conversation.speak(0)
    outcome = conversation.receive(b"/TST9METER\r\n", NS_PER_S)
    assert reasons(outcome) == [Refused.UNSUPPORTED]


def test_an_identification_that_is_none_is_a_bad_form() -> None:
    conversation = D0Asked(ASKING)
    conversation.speak(0)
    assert reasons(conversation.receive(b"/12\r\n", NS_PER_S)) == [Refused.FORM]


def test_a_meter_that_is_silent_is_asked_again_and_then_in_the_next_period() -> None:
    line = Line(D0Asked(ASKING), None)
    outcome = line.run(2 * PERIOD_NS - NS_PER_S)
    assert reasons(outcome) == [Refused.SILENT] * TRIES * 2
    questions = [at_ns for at_ns, *_ in line.sent]
    assert questions[0] == 0
    assert questions[TRIES] == PERIOD_NS
    for before_ns, at_ns in pairwise(questions[:TRIES]):
        assert at_ns - before_ns >= PATIENCE_NS + QUIET_NS


def test_data_that_are_damaged_are_asked_for_again_and_lastly_without_a_change_of_speed() -> None:
    line = line_to(PLATE)
    hurt = b"(000000.1*kWh)"
    line.damage = lambda data: data.replace(hurt, b"(000000.2*kWh)")
    outcome = line.run(PERIOD_NS - NS_PER_S)
    assert reasons(outcome) == [Refused.CHECKSUM] * TRIES
    said = [data for _, _, data in line.sent]
    one_try = [b"/?!\r\n", b"\x06050\r\n", b"\x01B0\x03q"]
    assert said == one_try * 2 + [one_try[0], b"\x06000\r\n", one_try[2]]
    line.damage = bytes
    assert reasons(line.run(2 * PERIOD_NS)) == ["reading"]


def test_a_meter_whose_data_do_not_come_is_told_to_stop_and_asked_again() -> None:
    line = line_to(PLATE)
    line.damage = lambda data: b"" if data.startswith(b"\x02") else data
    assert reasons(line.run(40 * NS_PER_S))[:TRIES] == [Refused.SILENT] * TRIES


def test_data_without_a_block_check_are_read_and_the_reading_is_as_old_as_the_question() -> None:
    conversation = D0Asked(ASKING)
    conversation.speak(7)
    conversation.receive(b"/TST-METER\r\n", NS_PER_S)
    assert conversation.receive(data_message(lines_at(0), is_checked=False), 2 * NS_PER_S) == []
    due_ns = conversation.due_ns
    assert due_ns is not None
    [reading] = conversation.receive(b"", due_ns)
    assert isinstance(reading, Reading)
    assert (reading.began_ns, reading.ended_ns) == (7, 2 * NS_PER_S)


def test_a_line_that_is_never_quiet_does_not_put_off_a_question_for_ever() -> None:
    conversation = D0Asked(ASKING)
    assert conversation.speak(0)
    asked = []
    for at_ns in range(0, 10 * PERIOD_NS, NS_PER_S // 2):
        conversation.receive(b"/x", at_ns)
        if conversation.speak(at_ns):
            asked.append(at_ns)
    assert 5 <= len(asked) <= 30


@settings(deadline=None, max_examples=60)
@given(st.lists(st.one_of(st.binary(max_size=60), st.integers(0, 4_000)), max_size=60))
def test_nothing_that_comes_makes_it_raise_keep_much_or_stop_asking(
    steps: list[bytes | int],
) -> None:
    conversation, now_ns = D0Asked(ASKING), 0
    for step in [*steps, *[3_000] * 200]:
        now_ns += step * NS_PER_MS if isinstance(step, int) else NS_PER_MS
        conversation.receive(b"" if isinstance(step, int) else step, now_ns)
        if len(conversation.speak(now_ns)) and step == 3_000:
            break
        assert len(conversation._heard) < 300
        assert conversation.due_ns is not None
    else:
        pytest.fail("it asks no more")


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_day_of_answers_on_a_bad_line_gives_no_wrong_index(share: float) -> None:
    """1,440 questions; each answer is damaged with this probability, and asked for again."""
    draw = Random(3)

    def damage(data: bytes) -> bytes:
        data = with_parity(data)
        if not data or draw.random() >= share:
            return data
        at = draw.randrange(len(data))
        way = draw.randrange(3)
        hurt = bytes((data[at] ^ 1 << draw.randrange(8),))
        return data[:at] + (b"", data[at : at + 1] * 2, hurt)[way] + data[at + 1 :]

    line = line_to(PLATE)
    line.damage = damage
    gate = Plausible(Limits("10020030", Register.IMPORT, 4_000))
    believed: list[Reading | Refusal] = []
    for one in line.run(86_400 * NS_PER_S):
        believed += gate.judge(one) if isinstance(one, Reading) else ()
    readings = [one for one in believed if isinstance(one, Reading)]
    assert len(readings) >= 0.8 * 1_440
    for one in readings:
        assert one.imported is not None
        assert one.began_ns <= one.imported.value * NS_PER_S + NS_PER_S <= one.ended_ns + NS_PER_S
