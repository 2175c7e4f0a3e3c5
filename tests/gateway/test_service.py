"""The service's shell, apart from its process: how much it takes upon itself at once."""

from gateway.service import ROUND_BYTES, rounds
from hal.ports import Message


def messages(*sizes: int) -> list[Message]:
    return [Message(f"m{at}", bytes(size), False, (0, at)) for at, size in enumerate(sizes)]


def test_messages_are_judged_in_rounds_of_bounded_bytes_and_none_is_left_out() -> None:
    third = ROUND_BYTES // 3
    sent = messages(third, third, third, 10, 0, third, third, third)
    parts = list(rounds(sent))
    assert [message for part in parts for message in part] == sent
    assert [len(part) for part in parts] == [3, 4, 1]
    assert all(sum(len(one.payload) for one in part) <= ROUND_BYTES for part in parts)


def test_small_messages_share_one_round() -> None:
    sent = messages(*[500] * 1_000)
    assert list(rounds(sent)) == [sent]


def test_a_message_larger_than_a_round_is_judged_alone() -> None:
    sent = messages(1, ROUND_BYTES + 1, 1)
    assert list(rounds(sent)) == [[one] for one in sent]


def test_no_message_makes_no_round() -> None:
    assert list(rounds([])) == []
