"""What people are told of line and broker."""

from firmware.saying import Saying


def test_a_change_is_told_once_and_not_each_of_its_repetitions() -> None:
    told: list[str] = []
    say = Saying(told.append)
    for what in ("watching", "watching", "connected", "watching", "watching"):
        say(what)
    assert told == ["watching", "connected", "watching"]
