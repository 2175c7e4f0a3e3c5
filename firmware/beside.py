"""Holds the register against another counter of the same pulses. Nothing is read here."""

from cryptometer.chain_records import Mark
from cryptometer.steps import NS_PER_S
from firmware.events import Aligned, Event, Noticed, Pulses
from hal.ports import BESIDE_MODULUS

PULSE_MAX_NS = NS_PER_S  # no meter's pulse lasts longer: a counter has it by then


def missed(beside: int, ahead: int | None, register: int, from_ns: int, to_ns: int) -> list[Event]:
    """What the other counter has counted while nobody watched: at the first look of a run.

    Args:
        beside: where it stands.
        ahead: by how much it was ahead of the register; None: nobody knows.
        register: ours, with what this look has brought.
        from_ns: monotonic community time since which nobody watched, and until when.
    """
    if ahead is None:
        return []
    more = (beside - ahead - register) % BESIDE_MODULUS
    if not 0 < more < BESIDE_MODULUS // 2:  # beyond: it was set back
        return []
    return [Noticed.of(Mark.RECOVERED, more), Pulses(register + more, from_ns, to_ns, 1)]


def aligned(
    beside: int, known: int | None, register: int, pulses: int, *, is_first: bool, has_rested: bool
) -> list[Event]:
    """By how much the other counter is ahead from now on, whatever has made it so.

    A pulse that is under way may be in the register and not there yet: not before the line has
    rested is it believed to have fallen back, or a run that is killed meanwhile would have the
    next one count that pulse again.

    Args:
        beside: where it stands.
        known: by how much it was ahead so far; None: nobody knows.
        register: ours, with all that this look has brought.
        pulses: that the line itself has brought.
        is_first: at the first look of a run.
        has_rested: no pulse can be under way.
    """
    ahead = (beside - register) % BESIDE_MODULUS
    behind = 0 if known is None else (known - ahead) % BESIDE_MODULUS
    is_rise = behind > BESIDE_MODULUS // 2
    was_set_back = is_first and behind > pulses + 1
    if known is None or (behind and (is_rise or has_rested or was_set_back)):
        return [Aligned(ahead)]
    return []
