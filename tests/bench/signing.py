"""Records: made, read, and how large they are; and a pulse's way through the device."""

import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from cryptometer import records
from cryptometer.chain import open_record
from cryptometer.keys import Algorithm
from cryptometer.steps import NS_PER_MS
from firmware.end import chain_start
from hal.keyfile import create_key
from hal.ports import StoredKey
from hal.token_key import create_token_key
from hal.tpm_key import TpmCounter, create_tpm_key
from tests.bench.card import pulse_ns
from tests.bench.figures import (
    MESSAGE_BYTES,
    MS_PER_S,
    US_PER_S,
    Figure,
    Stopwatch,
    bare_sign_s,
    bare_verify_s,
    cpu_s,
)
from tests.core.community import LOT_PULSES, Village
from tests.firmware.kit import CHAIN, REGISTRATION, batch, close, run
from tests.simulation.world import World
from tests.tokens import soft_token
from tests.tpms import COUNTER, SoftTpm

SIGNED = 300
COUNTED = 50
LOTS = 20  # of a batch of a minute at 1 kW and 10,000 imp/kWh
PULSES = 20_000


def figures() -> Iterator[Figure]:
    """The area's figures."""
    yield Figure("bare Ed25519 of `cryptography`: signatures", 1 / bare_sign_s(), "/s", least=1_000)
    yield Figure(
        "bare Ed25519 of `cryptography`: verifications", 1 / bare_verify_s(), "/s", least=500
    )
    yield from _stores()
    yield from _tpm()
    yield from _made()
    yield from _read()
    yield from _sizes()
    yield from _pulse()


def _stores() -> Iterator[Figure]:
    """Signatures by the key of each store, on the wall: a token works while this process waits. A
    token in software stands for those of hardware, which are what their makers say: five a second
    and more."""
    message = bytes(MESSAGE_BYTES)
    with (
        tempfile.TemporaryDirectory(prefix="cryptometer-bench-") as path,
        soft_token(Path(path)) as token,
    ):
        for algorithm in Algorithm:
            keys: dict[str, StoredKey] = {
                "a file": create_key(Path(path) / f"{algorithm.name}.key", algorithm),
                "SoftHSM": create_token_key(token.place_of(algorithm.name), algorithm),
            }
            for store, key in keys.items():
                key.sign(message)
                watch = Stopwatch()
                for _ in range(SIGNED):
                    key.sign(message)
                name = f"signatures, {algorithm.name}, key in {store}"
                yield Figure(name, SIGNED / watch.wall_s, "/s", least=50)


def _tpm() -> Iterator[Figure]:
    """The same with a TPM in software, opened for each call; and its counter."""
    with (
        tempfile.TemporaryDirectory(prefix="cryptometer-bench-") as path,
        closing(SoftTpm(Path(path) / "tpm")) as tpm,
    ):
        place = tpm.place_of(counter=COUNTER)
        key, counter = create_tpm_key(place), TpmCounter(place, COUNTER)
        watch = Stopwatch()
        for _ in range(SIGNED):
            key.sign(bytes(MESSAGE_BYTES))
        yield Figure("signatures, ES256, key in swtpm", SIGNED / watch.wall_s, "/s", least=20)
        watch = Stopwatch()
        for _ in range(COUNTED):
            counter.advance()
        yield Figure("counts of a guard in swtpm", COUNTED / watch.wall_s, "/s", least=10)


def _made() -> Iterator[Figure]:
    end = chain_start(REGISTRATION)
    for lots in (1, LOTS):
        draft = [batch(0, *[LOT_PULSES] * lots)]
        made_s = cpu_s(lambda draft=draft: list(CHAIN.sign(draft, end, None)))  # type: ignore[misc]
        assert made_s > bare_sign_s(), "nothing was signed"
        name = f"records signed, {lots} {'lot' if lots == 1 else 'lots'} each"
        yield Figure(name, 1 / made_s, "/s", least=300)
        yield Figure(f"{name}, over the bare signature", bare_sign_s() / made_s, "", least=0.1)
        yield Figure(f"{name}: processor time of a record", made_s * MS_PER_S, "ms", most=5)
        lot_ms = made_s / lots * MS_PER_S
        yield Figure(f"{name}: processor time of a lot", lot_ms, "ms", most=5)


def _read() -> Iterator[Figure]:
    village = Village()
    device = village.device
    device.run_start(village.next_step)
    raw = device.batch(village.next_step, *[LOT_PULSES] * LOTS).raw
    read_s = cpu_s(lambda: open_record(village.state, raw))
    name = f"records read and verified, {LOTS} lots each"
    yield Figure(name, 1 / read_s, "/s", least=300)
    yield Figure(f"{name}, over the bare verification", bare_verify_s() / read_s, "", least=0.3)
    decoded_s = cpu_s(lambda: records.decode(raw))
    yield Figure("records decoded, without the signature", decoded_s * US_PER_S, "us", most=1_000)


def _sizes() -> Iterator[Figure]:
    end = chain_start(REGISTRATION)
    for name, draft, most in (
        ("run start", run(), 400),
        ("batch of 1 lot", batch(0, LOT_PULSES), 350),
        ("batch of 100 lots", batch(0, *[LOT_PULSES] * 100), 900),
        ("step close", close(0, 0), 400),
    ):
        [record] = CHAIN.sign([draft], end, None)
        yield Figure(f"bytes of a record: {name}", len(record.raw), "B", most=most)


def _pulse() -> Iterator[Figure]:
    """Looks of one pulse each, through the real device over files in memory."""
    world = World(1, boards=1)
    board = world.boards[0]
    board.start()
    board.work()
    watch = Stopwatch()
    for _ in range(PULSES):
        board.clock.advance(pulse_ns(3_000) // NS_PER_MS * NS_PER_MS)
        board.give(1)
        board.work()
    each_s = watch.cpu_s / PULSES
    assert board.device_register == PULSES
    world.close()
    yield Figure(
        "device: processor time of a pulse, signing included", each_s * MS_PER_S, "ms", most=1
    )
    yield Figure("device: the same, in bare verifications", each_s / bare_verify_s(), "", most=3)
