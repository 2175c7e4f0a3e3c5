"""Everyone may reach the broker, and says what they like: it is refused with a reason, counted,
and changes nothing (promise H). Real processes, real bytes."""

import json
import os
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptometer import cbor, note, records
from cryptometer.acknowledgement import Acknowledgement, Stop
from cryptometer.authority_records import ReAnchor, Revocation
from cryptometer.chain_records import Batch, ChainRecord, RunStart
from cryptometer.commands.demo.broker import HOST
from cryptometer.commands.demo.community import SimulatedMeter
from cryptometer.commands.demo.processes import COMMON, GATEWAY, run
from cryptometer.errors import Reason
from cryptometer.record_fields import Checkpoint, Role
from cryptometer.records import Record
from cryptometer.sharing_records import Distribution, Input, Output, Part
from gateway.folder import open_folder
from gateway.report import make_report
from hal.broker import BrokerSettings
from hal.keyfile import load_key
from hal.mqtt import Link
from hal.ports import Message
from tests.core.community import flip, reseal
from tests.keys import p256_signer, signer
from tests.system.plant import Plant, kill

SPEED = 300  # a step in 3 s
METER = SimulatedMeter("pv-roof", "B", 3, 10_000, 200)  # 167 pulses per second of the machine
OTHER = SimulatedMeter("pv-shed", "A", 1, 5_000, 100)
HUGE_BYTES = 3_000_000
BITS = 100
# What a device's own records may meet on a busy machine, and sends again.
PASSING = {Reason.GAP, Reason.TOO_MANY}
NOBODY = ""


class Attacker:
    """A client of the broker that hears everything and may say anything."""

    def __init__(self, plant: Plant) -> None:
        self._plant = plant
        self.base = plant.community.origin
        settings = BrokerSettings(url=f"mqtt://{HOST}:{plant.port}")
        self._link = Link(settings, "attacker", [f"{self.base}/#"])
        self._heard: list[Message] = []
        self._leaving = threading.Event()
        # Always listening: a broker sends no more than some messages ahead of our confirmation.
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Self:
        self._link.start()
        self._thread.start()
        self._plant.wait(lambda: self._link.publish("hello", b""), "the attacker to connect")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leaving.set()
        self._thread.join()
        self._link.stop()

    def _listen(self) -> None:
        while not self._leaving.wait(0.01):
            for event in self._link.drain(1_000):
                if isinstance(event, Message):
                    self._heard.append(event)
                    self._link.confirm(event.token)

    def heard(self, topic: str) -> list[bytes]:
        """All that came under a topic so far, the oldest first."""
        return [one.payload for one in list(self._heard) if one.topic == f"{self.base}/{topic}"]

    def sent_by(self, meter: SimulatedMeter) -> list[Record]:
        """The records a meter's device has sent so far, each once."""
        raws = dict.fromkeys(self.heard(f"meter/{meter.name}/record"))
        return [records.decode(raw) for raw in raws]

    def newest_word(self, meter: SimulatedMeter) -> Acknowledgement:
        """The gateway's newest acknowledgement."""
        body = records.decode(self.heard(f"meter/{meter.name}/ack/gateway")[-1]).body
        assert isinstance(body, Acknowledgement)
        return body

    def say(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        said = self._link.publish(f"{self.base}/{topic}", payload, retain=retain)
        assert said

    def send(self, meter: str, payloads: Iterable[bytes]) -> Counter[tuple[str, str]]:
        """Sends bytes as a meter's records; returns how many were refused, by meter and reason,
        once all of them are."""
        before, expected = refusals(self._plant), 0
        for payload in payloads:
            self.say(f"meter/{meter}/record", payload)
            expected += 1

        def judged() -> bool:
            return (refusals(self._plant) - before).total() >= expected

        self._plant.wait(judged, f"{expected} verdicts")
        return refusals(self._plant) - before


def refusals(plant: Plant) -> Counter[tuple[str, str]]:
    """What the gateway has refused so far, by meter and reason."""
    with closing(open_folder(plant.layout.gateway).open_store(read_only=True)) as store:
        state = store.state()
        assert state is not None
        report = make_report(store, state)
    counts = Counter({(NOBODY, reason): count for reason, count in report.strangers.items()})
    for meter in report.meters:
        counts.update({(meter.name, reason): count for reason, count in meter.refused.items()})
    return Counter({key: count for key, count in counts.items() if key[1] not in PASSING})


def check_unharmed(plant: Plant) -> None:
    """Every process lives, blocks are made, and every pulse emitted stands in one of them."""
    for child in (plant.gateway, *plant.devices.values(), plant.broker):
        assert child is not None
        child.check()
        assert "Traceback" not in child.log.read_text()
    plant.wait_for_block(plant.step())
    emitted = plant.stop_simulators()
    plant.wait_for_block(plant.step())
    plant.wait(lambda: plant.registers() == emitted, "all pulses to stand in blocks")
    report = plant.audit()
    assert not report.quarantined
    assert not report.findings


def given_away(plant: Plant) -> Distribution:
    """A distribution of a thief: whatever waits is his."""
    first = plant.layout.first_step
    spent, got = Input(bytes(32), 10**6, 0), Output("thief", 10**6, 0)
    place = ("vpp", 0, plant.community.id, first, 0, Part(1, 1), bytes(32))
    return Distribution(*place, (spent,), (got,), 0, 0, 0, 0, (), ())


def logged(plant: Plant, meter: SimulatedMeter) -> Callable[[], str]:
    return plant.devices[meter.name].log.read_text


# --- Bytes to the gateway. -----------------------------------------------------------------------


def test_what_the_gateway_refuses_is_counted_by_reason_and_changes_nothing(
    tmp_path: Path,
) -> None:
    seed = int(os.environ.get("CRYPTOMETER_SEED", time.time_ns() % 10**6))
    print(f"seed {seed}")
    draw = random.Random(seed)
    with Plant(tmp_path, [METER, OTHER], speed=SPEED) as plant, Attacker(plant) as attacker:
        plant.start_all()
        plant.wait_for_block(plant.layout.first_step)
        own, other = METER.name, OTHER.name
        plant.wait(lambda: len(attacker.sent_by(METER)) > 3, "records to work with")
        genuine = attacker.sent_by(METER)
        batch = next(one for one in genuine if isinstance(one.body, Batch))

        def send_one(meter: str, payload: bytes) -> dict[tuple[str, str], int]:
            return dict(attacker.send(meter, [payload]))

        garbage = [b"", b"\0", b"\xff" * 9, draw.randbytes(2_000), b"{}", b"\x84" * 5_000]
        found = attacker.send(own, garbage)
        assert found.total() == len(garbage)
        assert {meter for meter, _ in found} == {own}
        assert send_one(own, bytes(HUGE_BYTES)) == {(own, "too-large"): 1}
        assert send_one("nobody", b"\0") == {(NOBODY, "malformed"): 1}

        # A valid record with one bit changed, anywhere.
        raws = [draw.choice(genuine).raw for _ in range(BITS)]
        found = attacker.send(own, [flip(raw, draw.randrange(8 * len(raw))) for raw in raws])
        assert found.total() == BITS
        assert {meter for meter, _ in found} == {own}
        assert (own, "bad-signature") in found

        # The same words under other keys: of nobody, of the authority, of the other meter.
        assert send_one(own, reseal(batch, signer(99)).raw) == {(own, "unknown-key"): 1}
        assert send_one(own, reseal(batch, p256_signer(5)).raw) == {(own, "unknown-key"): 1}
        assert isinstance(batch.body, Batch)
        stranger = replace(batch.body, meter="stranger")
        sealed = records.seal(stranger, plant.community.id, signer(99))
        assert send_one("stranger", sealed.raw) == {(NOBODY, "unknown-key"): 1}
        assert send_one(own, sealed.raw) == {(own, "unknown-key"): 1}
        assert send_one(other, batch.raw) == {(other, "wrong-role"): 1}
        assert send_one("nobody", batch.raw) == {(NOBODY, "wrong-role"): 1}

        # A record of another community, and records of a kind that no device sends.
        foreign = records.seal(batch.body, bytes(32), signer(99))
        assert send_one(own, foreign.raw) == {(own, "other-community"): 1}
        for leaf in (plant.leaves()[0], plant.leaves()[1]):
            assert attacker.send(own, [leaf.raw]).total() == 1
        word = attacker.heard(f"meter/{own}/ack/gateway")[-1]
        assert attacker.send(own, [word]).total() == 1

        # Energy is given by the plant beside the gateway, never over the broker: by no stranger,
        # and not even with the plant's own key.
        for key in (signer(99), load_key(plant.layout.gateway / "vpp.key")):
            gift = records.seal(given_away(plant), plant.community.id, key)
            for name in (own, "vpp"):
                assert attacker.send(name, [gift.raw]).total() == 1

        # Topics that only look like a meter's.
        before = refusals(plant)
        for topic in ("meter/record", "meter//record", f"meter/{own}/{own}/record", f"meter/{own}"):
            attacker.say(topic, b"\0")
        for topic in (f"meter/{own}/status", f"meter/{own}/record/more", "checkpoint/record"):
            attacker.say(topic, b"\0")

        check_unharmed(plant)
        assert "distribution" not in plant.audit().kinds
        assert (refusals(plant) - before).total() <= 2  # those whose name is no meter's

        # The operator reads the same counts.
        status = json.loads(run(GATEWAY, "status", "--json", "--config", plant.layout.gateway))
        shown = Counter({(NOBODY, why): count for why, count in status["strangers"].items()})
        for meter in status["meters"]:
            shown.update({(meter["name"], why): n for why, n in meter["refused"].items()})
        assert {key: count for key, count in shown.items() if key[1] not in PASSING} == dict(
            refusals(plant)
        )


def test_yesterday_s_records_sent_again_count_once(tmp_path: Path) -> None:
    seed = int(os.environ.get("CRYPTOMETER_SEED", time.time_ns() % 10**6))
    print(f"seed {seed}")
    draw = random.Random(seed)
    with Plant(tmp_path, [METER, OTHER], speed=SPEED) as plant, Attacker(plant) as attacker:
        plant.start_all()
        plant.wait_for_block(plant.layout.first_step + 1)
        before = refusals(plant)
        for meter in plant.meters:
            # A run start, and batches and closes of two steps.
            plant.wait(lambda meter=meter: len(attacker.sent_by(meter)) > 4, "records")  # type: ignore[misc]
            captured = [one.raw for one in attacker.sent_by(meter)]
            shuffled = draw.sample(captured, len(captured))
            for raw in (*captured, *captured, *reversed(captured), *shuffled):
                attacker.say(f"meter/{meter.name}/record", raw)
        # Retained, one of them comes again at every start of the gateway.
        attacker.say(f"meter/{METER.name}/record", captured[0], retain=True)
        assert plant.gateway is not None
        plant.wait_for_block(plant.step())
        assert plant.gateway.end() == 0
        plant.start_gateway()
        check_unharmed(plant)
        # A repeat is no offence: the acknowledgement may have been lost on its way. The retained
        # one is under the wrong meter's topic.
        assert set(refusals(plant) - before) <= {(METER.name, "wrong-role")}
        for meter in plant.meters:
            plant.chain(meter)  # each sequence number once


# --- Bytes to a device. --------------------------------------------------------------------------


def test_a_device_believes_only_the_gateway_and_the_authority(tmp_path: Path) -> None:
    with Plant(tmp_path, [METER, OTHER], speed=SPEED) as plant, Attacker(plant) as attacker:
        plant.start_all()
        plant.wait_for_block(plant.layout.first_step)
        own = f"meter/{METER.name}"
        thief = signer(99)
        word = attacker.newest_word(METER)
        early = attacker.heard(f"{own}/ack/gateway")[0]
        text = logged(plant, METER)

        def refused(topic: str, payload: bytes, why: str) -> None:
            """Says it, retained as the gateway's words are, and waits for the device's no."""
            line = f"refused a message: topic={topic} {why}"
            there = text().count(line)
            attacker.say(topic, payload, retain=True)
            plant.wait(lambda: text().count(line) > there, line)
            # The device says a refusal once while nothing else happens: here is something else.
            between = f"{own}/ack/gateway" if topic == "checkpoint" else "checkpoint"
            end = f"refused a message: topic={between} malformed"
            ends = text().count(end)
            attacker.say(between, b"\0", retain=True)
            plant.wait(lambda: text().count(end) > ends, end)

        # Everything is acknowledged, says the thief: forget it.
        far = replace(word, sequence=10**6, register=10**6)
        stop = replace(word, stop=Stop(0, Reason.FORK))
        for lie in (far, stop):
            sealed = records.seal(lie, plant.community.id, thief)
            refused(f"{own}/ack/gateway", sealed.raw, "unknown-key")
        theirs = attacker.heard(f"meter/{OTHER.name}/ack/gateway")[-1]
        refused(f"{own}/ack/gateway", theirs, "unknown-kind: not an acknowledgement for this meter")
        foreign = records.seal(far, bytes(32), thief)
        refused(f"{own}/ack/gateway", foreign.raw, "other-community")
        refused(f"{own}/ack/gateway", bytes(HUGE_BYTES), "too-large")
        # A true one, from before: the device knows better.
        attacker.say(f"{own}/ack/gateway", early, retain=True)

        # A ledger that is not.
        head = Checkpoint(10**9, bytes(32))
        forged = note.sign_checkpoint(head, plant.community.origin, thief)
        refused("checkpoint", forged.encode(), "unknown-key")
        refused("checkpoint", forged.encode()[:-30], "malformed")

        # What the authority never said.
        authority = [one for one in plant.leaves() if one.key_id == plant.community.genesis.key_id]
        at, previous = len(authority), authority[-1].identity
        revoked = Revocation(at, previous, Role.METER, METER.name, "x", None)
        anchor = ReAnchor(at, previous, METER.name, 0, 10**6, "x")
        for body in (revoked, anchor):
            lie_raw = records.seal(body, plant.community.id, thief).raw
            refused(f"{own}/registration", cbor.encode([lie_raw]), "unknown-key")
        refused(f"{own}/registration", cbor.encode([b"\0"]), "malformed")
        refused(f"{own}/registration", cbor.encode([authority[0].raw]), "")
        # True, and for another meter, or nothing at all: no news.
        attacker.say(f"{own}/registration", cbor.encode([authority[-1].raw]), retain=True)
        attacker.say(f"{own}/registration", cbor.encode([]), retain=True)
        attacker.say(f"{own}/registration", b"", retain=True)

        check_unharmed(plant)
        # Blocks were made of it all the time, and every close names a ledger that is this one.
        assert not plant.audit().findings


def test_retained_lies_do_not_keep_a_gateway_from_starting(tmp_path: Path) -> None:
    with Plant(tmp_path, [METER], speed=SPEED) as plant, Attacker(plant) as attacker:
        plant.start_all()
        plant.wait_for_block(plant.layout.first_step)
        early = attacker.heard("checkpoint")[0]
        forged = note.sign_checkpoint(
            Checkpoint(10**9, bytes(32)), plant.community.origin, signer(99)
        ).encode()
        for lies in ((forged,), (bytes(HUGE_BYTES), b"\0", early)):
            assert plant.gateway is not None
            assert plant.gateway.end() == 0
            for lie in lies:
                attacker.say("checkpoint", lie, retain=True)
            attacker.say(f"meter/{METER.name}/record", b"\0", retain=True)
            plant.start_gateway()
            plant.wait_for_block(plant.step())
        check_unharmed(plant)


# --- The authority's word against a device. ------------------------------------------------------


def import_records(plant: Plant, new: int) -> None:
    """Gives the running gateway what the authority signed, and waits until it acts."""
    assert plant.gateway is not None
    text = plant.gateway.log.read_text
    line = f"{new} new authority records; they act after the next block"
    there = text().count(line)
    chain = plant.layout.authority / "authority.records"
    run(GATEWAY, "import", chain, "--config", plant.layout.gateway)
    plant.wait(lambda: text().count(line) > there, "the import")
    plant.wait_for_block(plant.newest_block() + 2)


def test_a_revoked_device_is_refused_and_what_came_before_stays(tmp_path: Path) -> None:
    with Plant(tmp_path, [METER, OTHER], speed=SPEED) as plant, Attacker(plant) as attacker:
        plant.start_all()
        plant.wait_for_block(plant.layout.first_step)
        run(COMMON, "authority", "revoke", plant.layout.authority, METER.name, "--reason", "stolen")
        import_records(plant, 1)
        stood = plant.registers()[METER.name]
        assert stood > 0
        text = logged(plant, METER)
        plant.wait(lambda: "reason=revoked" in text(), "the device to hear of it")
        plant.wait(lambda: refusals(plant)[METER.name, "revoked"] > 0, "a refusal")
        # Whoever has its key now, too, and whatever was sent before.
        found = attacker.send(METER.name, [attacker.sent_by(METER)[-1].raw])
        assert set(found) == {(METER.name, "revoked")}
        for record in attacker.sent_by(METER):
            attacker.say(f"meter/{METER.name}/record", record.raw)
        plant.wait_for_block(plant.step())
        emitted = plant.stop_simulators()
        plant.wait_for_block(plant.step())
        plant.wait(lambda: plant.registers()[OTHER.name] == emitted[OTHER.name], "the other meter")
        assert plant.registers()[METER.name] == stood < emitted[METER.name]
        status = json.loads(run(GATEWAY, "status", "--json", "--config", plant.layout.gateway))
        assert {one["name"]: one["revoked"] for one in status["meters"]} == {
            METER.name: True,
            OTHER.name: False,
        }
        report = plant.audit()
        assert not report.quarantined
        assert report.kinds["revocation"] == 1
        # It keeps everything, and runs on: its operator decides.
        for child in (*plant.devices.values(), plant.gateway):
            assert child is not None
            child.check()
            assert "Traceback" not in child.log.read_text()


def test_a_device_with_a_lost_card_goes_on_once_it_is_re_anchored(tmp_path: Path) -> None:
    with Plant(tmp_path, [METER, OTHER], speed=SPEED) as plant, Attacker(plant) as attacker:
        plant.start_all()
        plant.wait_for_block(plant.layout.first_step)
        plant.wait(lambda: plant.registers()[METER.name] > 0, "a first lot in a block")
        kill(plant.devices[METER.name])
        lost_ms = plant.now_ms()
        for name in ("journal", "outbox"):
            shutil.rmtree(plant.layout.device(METER) / name)
        plant.start_device(METER)
        text = logged(plant, METER)
        # By the gateway's answer to its records, or by its older word, retained at the broker.
        plant.wait(lambda: "the chain cannot go on: " in text(), "the device to say so")
        back_ms = plant.now_ms()
        place = attacker.newest_word(METER)
        words = ("--at", str(place.sequence), "--register", str(place.register))
        authority = ("authority", "re-anchor", plant.layout.authority, METER.name)
        run(COMMON, *authority, *words, "--reason", "card lost")
        import_records(plant, 1)
        plant.wait(lambda: f"re-anchored: sequence={place.sequence} " in text(), "the device")
        plant.wait(lambda: plant.registers()[METER.name] > place.register, "its first block")
        emitted = plant.stop_simulators()
        emissions = plant.emissions_ms(METER)
        plant.wait_for_block(plant.step())
        plant.wait_for_block(plant.step(), blocks_late=1)
        final = plant.registers()
        assert final[OTHER.name] == emitted[OTHER.name]
        # What the lost card held alone is gone with it; all since then is counted, also what was
        # refused before the re-anchor, and nothing twice.
        # A second of the machine: what waited in the line, unread, when the device was killed.
        slack_ms = 1_000 * SPEED
        least = sum(at > back_ms + slack_ms for at in emissions)
        most = sum(at > lost_ms - slack_ms for at in emissions)
        assert least <= final[METER.name] - place.register <= most
        assert final[METER.name] <= emitted[METER.name]
        assert plant.devices[METER.name].exit_code() is None
        report = plant.audit()
        assert not report.quarantined
        assert report.kinds["re-anchor"] == 1
        chain: list[ChainRecord] = plant.chain(METER)
        runs = [body for body in chain if isinstance(body, RunStart)]
        # The lost run, and the one of the empty card; then one that knows of the re-anchor.
        assert [one.sequence for one in runs[:2]] == [0, place.sequence]
        assert runs[1].register == place.register
