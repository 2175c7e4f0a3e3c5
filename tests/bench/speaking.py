"""Meters that speak: what a message costs the processor, decoded and judged."""

from collections.abc import Callable, Iterator

from cryptometer.steps import NS_PER_S
from firmware.simulating import Kind
from firmware.speaking import Plan, message_of
from hal.index.d0 import D0Decoder
from hal.index.dlms_meter import Told
from hal.index.dlms_push import Framing, PushDecoder, PushSettings
from hal.index.linky import LinkyDecoder
from hal.index.p1 import P1Decoder
from hal.index.plausible import Limits, Plausible
from hal.index.reading import IndexDecoder, Reading, Register
from hal.index.sml import SmlDecoder
from tests.bench.figures import MS_PER_S, US_PER_S, Figure, bare_verify_s, cpu_s

MESSAGES = 100
WATTS = 3_600
BEGAN_S = 1_767_225_600  # 2026-01-01, UTC
DECODERS: dict[Kind, Callable[[], IndexDecoder]] = {
    Kind.LINKY: LinkyDecoder,
    Kind.LINKY_HISTORIC: LinkyDecoder,
    Kind.P1: P1Decoder,
    Kind.D0: D0Decoder,
    Kind.SML: SmlDecoder,
    Kind.DLMS_PUSH: lambda: PushDecoder(PushSettings(Framing.HDLC, None)),
}


def figures() -> Iterator[Figure]:
    """The area's figures."""
    for kind, make in DECODERS.items():
        plan = Plan(kind, ())
        messages = [
            message_of(plan, Told(10**6 + second, 0, WATTS, BEGAN_S + second), second)
            for second in range(MESSAGES)
        ]
        spent_s = cpu_s(lambda: _read(make(), messages), times=1) / MESSAGES  # noqa: B023
        name = f"{kind}: a message of {len(messages[-1])} bytes, decoded and judged"
        yield Figure(name, spent_s * US_PER_S, "us", most=5 * MS_PER_S)
        yield Figure(f"{name}, in bare verifications", spent_s / bare_verify_s(), "", most=20)


def _read(decoder: IndexDecoder, messages: list[bytes]) -> None:
    gate = Plausible(Limits("", Register.IMPORT, 36_000))
    believed = 0
    for second, message in enumerate(messages):
        # As they come: in two looks, and one that finds nothing.
        half, at_ns = len(message) // 2, second * NS_PER_S
        parts = ((message[:half], 0), (message[half:], NS_PER_S // 3), (b"", NS_PER_S // 2))
        for part, later_ns in parts:
            for one in decoder.receive(part, at_ns + later_ns):
                assert isinstance(one, Reading), one
                believed += sum(isinstance(judged, Reading) for judged in gate.judge(one))
    assert believed >= MESSAGES - 3, believed
