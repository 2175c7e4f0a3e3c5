"""Looks at a whole board for some seconds: measures, and leaves the verdicts to `firmware.checkup`.

Changes nothing. Beside a running program it leaves line and login alone: pulses it took would be
missing, and a broker that ties a credential to one connection would throw the program out.
"""

import os
import select
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptometer.errors import ConfigurationError, Rejected
from cryptometer.keys import KeyLost
from cryptometer.steps import NS_PER_MS, NS_PER_S
from firmware import device_key, folder
from firmware.checkup import (
    DiskLook,
    Finding,
    Heard,
    LineLook,
    LogLook,
    Reached,
    damaged_bytes,
    fine,
    is_burst,
    judge_broker,
    judge_chain,
    judge_clock,
    judge_disk,
    judge_enrolment,
    judge_guard,
    judge_heard,
    judge_line,
    judge_liveliness,
    judge_log,
    judge_lost_line,
    judge_program,
    judge_register,
    judge_unbelieved,
    note,
    wrong,
)
from firmware.comparing import without_ratio
from firmware.config import Config
from firmware.end import End
from firmware.enrolment import Enrolment, open_acknowledgement
from firmware.hearing import RAW_BYTES_MAX, Look, as_compared, judge_look, judge_read
from firmware.journal import Journal
from firmware.listening import Spoken, spoken_of
from firmware.outbox import Outbox
from firmware.rollback import newest_note
from hal.broker import BrokerSettings, broker_settings
from hal.drivers import (
    Buses,
    index_settings,
    open_clock,
    open_compared,
    open_guard,
    open_index,
    open_source,
)
from hal.files import DiskDirectory, is_held
from hal.index.choice import is_index_source
from hal.index.reading import Reading, Refusal
from hal.mqtt import Link, broker_address
from hal.ports import Connected, Disconnected, IndexSource, LineLost, Message, StoredKey
from hal.probe import is_connected, lock_holder, service_status, way_to, write_and_sync
from hal.terminal import READ_BY_ANOTHER

ANSWER_S = 10.0  # of a broker, to a login
RETAINED_S = 1.0  # after the login, until what the broker keeps has come
GATHER_S = 0.05  # between two looks at the line: one that never rests must not take a core
_TORN_S = 0.5  # a running program's write is seen whole after it
_MESSAGES_MAX = 1_000
_LOCK = "device.lock"
_UNIT = "cryptometer-firmware.service"
_SETTINGS = "see docs/operations.md, section 7"
_AS_SERVICE = "run it as the service's user: sudo -u cryptometer"
_KEY_STORE = "see docs/operations.md, section 7, a key in a token"
_LINE = "see docs/operations.md, sections 1 and 13"
_BUSY = (
    "if that is this service with other meters of the line, restart it: it reads them all in turn,"
    " and this one, too, once its configuration is among its own; else end the other (fuser -v on"
    " the port names it)"
)


def examine(path: Path, seconds: float) -> list[Finding]:
    """Looks at the board that a configuration file describes.

    Args:
        path: of `meter.toml`.
        seconds: how long the line is looked at.
    """
    try:
        config = folder.load_config(path)
    except ConfigurationError as error:
        return [wrong("configuration", str(error), _SETTINGS)]
    state = path.parent / config.state
    try:
        running = is_held(state / _LOCK)
    except OSError as error:
        return [wrong("folder", f"cannot look into {state}: {error.strerror}", _AS_SERVICE)]
    found = [fine("configuration", f"{path}, state in {state}")]
    return found + _Look(config, state, running, seconds).take()


@dataclass(slots=True)
class _Look:
    """One look at a board, and what its later parts need of the earlier ones."""

    config: Config
    state: Path
    running: bool
    seconds: float
    status: str = ""  # what the running program says of this meter
    key: StoredKey | None = None
    enrolment: Enrolment | None = None
    end: End | None = None
    link: Link | None = None
    reached: Reached = field(default_factory=lambda: Reached("", ()))

    def take(self) -> list[Finding]:
        found = _guarded("key", self._key)
        found += _guarded("registration", self._registration)
        found += _guarded("program", self._program)
        cards = _guarded("journal", lambda: self._log("journal"))
        cards += _guarded("outbox", lambda: self._log("outbox"))
        cards += _guarded("chain", self._chain)
        cards += _guarded("counter", self._counter)
        cards += _guarded("disk", self._disk)
        broker = _guarded("broker", self._way)
        try:
            # The broker answers while the line is looked at.
            found += _guarded("line", self._line)
            found += _guarded("compared", self._compared)
            found += _guarded("clock", self._clock)
            found += broker + _guarded("broker", self._login)
        finally:
            if self.link is not None:
                self.link.stop()
        return found + cards

    def _key(self) -> list[Finding]:
        self.key = device_key.load_device_key(self.state, self.config.key)
        said = f"thumbprint {self.key.public.thumbprint.hex()}, in the {self.key.where}"
        trouble = self.key.trouble()
        found = [wrong("key", f"{said}: {trouble}", _KEY_STORE) if trouble else fine("key", said)]
        successor = device_key.successor_key(self.state)
        if successor is not None:
            waits = f"{successor.thumbprint.hex()} follows it once the authority has registered it"
            found.append(note("key", waits))
        return found

    def _registration(self) -> list[Finding]:
        if self.key is None:
            return []  # nobody knows whom a bundle would be for
        self.enrolment = folder.read_enrolment(self.state, self.key.public)
        now = open_clock(self.config.clock).now()
        return judge_enrolment(self.enrolment, now.utc_ns // NS_PER_MS)

    def _clock(self) -> list[Finding]:
        clock = open_clock(self.config.clock)
        return [judge_clock(clock.now(), clock.boot_id)]

    def _program(self) -> list[Finding]:
        holder = lock_holder(self.state / _LOCK) if self.running else None
        status = "" if holder is None else service_status(_UNIT, holder)
        name = "" if self.enrolment is None else f"{self.enrolment.meter}: "
        # Of several meters each has its part, behind its name.
        mine = [part for part in status.split("; ") if name and part.startswith(name)]
        self.status = mine[0].removeprefix(name) if mine else status
        return [judge_program(running=self.running, status=self.status)]

    # --- The line. ---

    def _line(self) -> list[Finding]:
        details = None if self.enrolment is None else self.enrolment.details
        speaks = is_index_source(self.config.source)
        if not self.running:
            return self._listen() if speaks else judge_line(self._watch(), details)
        away = judge_lost_line(self.status)
        if away is not None:
            return [away]
        refused = judge_unbelieved(self.status)
        if refused is not None:
            return [refused]
        clock = open_clock(self.config.clock)
        began_ns, before = clock.machine_ns(), self._register()
        time.sleep(self.seconds)
        after, elapsed_ns = self._register(), clock.machine_ns() - began_ns
        elapsed_ms = elapsed_ns // NS_PER_MS
        if speaks:
            return [judge_read(before, after, elapsed_ms, self._spoken())]
        return [judge_register(before, after, elapsed_ms, details)]

    def _spoken(self) -> Spoken | None:
        enrolment = self.enrolment
        return None if enrolment is None else spoken_of(self.config.source, enrolment)

    def _listen(self) -> list[Finding]:
        """Listens to a meter that speaks, or asks it; nobody else does now."""
        settings = index_settings(self.config.source)
        look = self._hear_line(open_index(self.config.source, Buses()), self.config.source)
        return judge_look(look, settings.register, settings.identity, self.enrolment)

    def _compared(self) -> list[Finding]:
        """Listens to the source that is only compared; what is wrong with it stops nothing."""
        if not self.config.compared:
            return []
        _, table = without_ratio(self.config.compared)
        if self.running:
            says = "the running program has this line"
            return [note("compared", says, "what came of it tells cryptometer-gateway status")]
        settings = index_settings(table)
        look = self._hear_line(open_compared(table, Buses()), table)
        return as_compared(judge_look(look, settings.register, settings.identity, None))

    def _hear_line(self, opened: IndexSource, table: Mapping[str, object]) -> Look:
        readings: list[Reading] = []
        refusals: list[Refusal] = []
        raw = bytearray()
        began_ns = time.monotonic_ns()
        until_ns = began_ns + int(self.seconds * NS_PER_S)
        with closing(opened) as source:
            poll = select.poll()
            poll.register(source.fileno(), select.POLLIN)
            while (left_ns := until_ns - time.monotonic_ns()) > 0:
                due_ns = source.due_ns
                if due_ns is not None:
                    left_ns = min(left_ns, max(0, due_ns - time.monotonic_ns()))
                poll.poll(left_ns // NS_PER_MS + 1)
                heard = source.take()
                raw += heard.raw[: RAW_BYTES_MAX - len(raw)]
                readings += [one for one in heard.said if isinstance(one, Reading)]
                refusals += [one for one in heard.said if isinstance(one, Refusal)]
                del readings[:-_MESSAGES_MAX], refusals[:-_MESSAGES_MAX]
                time.sleep(GATHER_S)
        now_ns = time.monotonic_ns()
        return Look(
            str(table["driver"]),
            (now_ns - began_ns) // NS_PER_MS,
            readings,
            refusals,
            bytes(raw),
            now_ns,
            int(time.time()),
        )

    def _watch(self) -> LineLook:
        """Takes what comes over the line; nobody else reads it now."""
        pulse_ns = 0 if self.enrolment is None else self.enrolment.terms.pulse_ns
        look = LineLook(0, 0, 0, 0, 0, 0)
        with closing(open_source(self.config.source)) as line:
            look = replace(look, waited=line.take().pulses)
            poll = select.poll()
            poll.register(line.fileno(), select.POLLIN)
            began_ns = before_ns = time.monotonic_ns()
            until_ns = began_ns + int(self.seconds * NS_PER_S)
            while (left_ns := until_ns - before_ns) > 0:
                poll.poll(left_ns // NS_PER_MS + 1)
                time.sleep(GATHER_S)
                taken, now_ns = line.take(), time.monotonic_ns()
                burst = is_burst(taken.pulses, now_ns - before_ns, pulse_ns)
                look = LineLook(
                    (now_ns - began_ns) // NS_PER_MS,
                    look.pulses + taken.pulses,
                    look.waited,
                    look.noise + taken.noise,
                    look.dropped + taken.lost,
                    look.burst + (taken.pulses if burst else 0),
                )
                before_ns = now_ns
        return look

    def _register(self) -> int:
        journal = self.state / "journal"
        return Journal(DiskDirectory(journal)).peek() if journal.exists() else 0

    # --- Broker and gateway. ---

    def _way(self) -> list[Finding]:
        """Goes to the broker's door, and begins a login where that harms nobody."""
        if self.enrolment is None:
            return []
        place = self.state / folder.BROKER_FOLDER
        settings = broker_settings(place, self.enrolment.broker, self.config.broker)
        steps = way_to(settings)
        worked = tuple(step.name for step in steps if not step.failure)
        self.reached = Reached(settings.url, worked)
        for step in steps:
            if step.failure:
                return [judge_broker(replace(self.reached, failed=step.name, why=step.failure))]
        if self.running and (settings.username or settings.certificate_file):
            # The broker may tie a credential to one connection (`use_username_as_clientid`).
            return [
                judge_broker(replace(self.reached, left_to=self._is_program_connected(settings)))
            ]
        base = f"cryptometer/1/{self.enrolment.community.id.hex()}"
        own = f"{base}/meter/{self.enrolment.meter}"
        self.link = Link(
            settings,
            f"cryptometer-doctor-{os.getpid()}-{self.enrolment.community.id.hex()[:8]}",
            [f"{own}/ack/+", f"{own}/registration", f"{base}/checkpoint"],
        )
        self.link.start()
        return []

    def _is_program_connected(self, settings: BrokerSettings) -> bool | None:
        holder = lock_holder(self.state / _LOCK)
        return None if holder is None else is_connected(holder, broker_address(settings)[1])

    def _login(self) -> list[Finding]:
        """The broker's answer to the login that was begun, and what it keeps for this board."""
        if self.link is None or self.enrolment is None:
            return []
        heard = Heard()
        accepted, why = False, "no answer to the login"
        poll = select.poll()
        poll.register(self.link.fileno(), select.POLLIN)
        until_s = time.monotonic() + ANSWER_S
        while (left_s := until_s - time.monotonic()) > 0:
            poll.poll(1000 * left_s)
            for event in self.link.drain(_MESSAGES_MAX):
                match event:
                    case Connected():
                        accepted, until_s = True, time.monotonic() + RETAINED_S
                    case Disconnected(reason=reason) if not accepted:
                        why, until_s = reason, 0.0
                    case Message():
                        heard = self._hear(heard, event, self.enrolment)
        if not accepted:
            return [judge_broker(replace(self.reached, failed="login", why=why))]
        reached = replace(self.reached, steps=(*self.reached.steps, "login"))
        return [judge_broker(reached), *judge_heard(heard, self.end)]

    def _hear(self, heard: Heard, message: Message, enrolment: Enrolment) -> Heard:
        assert self.key is not None  # noqa: S101 - without a key there is no enrolment
        try:
            if message.topic.endswith("/checkpoint"):
                size = enrolment.community.open_checkpoint(message.payload).size
                return replace(heard, checkpoint_size=max(size, heard.checkpoint_size or 0))
            if message.topic.endswith("/registration"):
                new = folder.says_something_new(self.state, self.key.public, message.payload)
                return replace(heard, registration=new)
            word, before = open_acknowledgement(message.payload, enrolment), heard.acknowledgement
            if before is None or (word.epoch, word.sequence) >= (before.epoch, before.sequence):
                return replace(heard, acknowledgement=word)
        except Rejected:
            return replace(heard, refused=heard.refused + 1)
        return heard

    # --- What the card holds. ---

    def _log(self, name: str) -> list[Finding]:
        place = self.state / name
        if not place.exists():
            return judge_log(name, LogLook(0, 0, None, 0))
        files = {entry.name: entry.stat() for entry in place.iterdir()}
        logs = [stat for file, stat in files.items() if file.endswith(".log")]
        damaged = damaged_bytes(DiskDirectory(place), name)
        if damaged and self.running:
            time.sleep(_TORN_S)
            damaged = damaged_bytes(DiskDirectory(place), name)
        newest_s = max((stat.st_mtime for stat in logs), default=None)
        age_s = None if newest_s is None else max(0, int(time.time() - newest_s))
        kept = sum(file.endswith(".damaged") for file in files)
        size = sum(stat.st_size for stat in logs)
        found = judge_log(name, LogLook(damaged, kept, age_s, size))
        if name == "journal" and self.running and age_s is not None:
            found += judge_liveliness(age_s, self.config.journal.watch_machine_ms)
        return found

    def _chain(self) -> list[Finding]:
        outbox = self.state / "outbox"
        if outbox.exists():
            self.end = Outbox(DiskDirectory(outbox), limit_bytes=0, window=1).peek()
        return [judge_chain(self.end, self._register())]

    def _counter(self) -> list[Finding]:
        guard = open_guard(device_key.key_place(self.state, self.config.key))
        if guard is None or self.enrolment is None:
            return []
        # The count first: what a running program notes meanwhile is one more.
        count = guard.read()
        journal = self.state / "journal"
        known = Journal(DiskDirectory(journal)).peek_end() if journal.exists() else None
        ends = (self.end, known)
        has_signed = any(end is not None and end.run_ms > 0 for end in ends)
        return [judge_guard(newest_note(*ends), count, has_signed=has_signed)]

    def _disk(self) -> list[Finding]:
        room = os.statvfs(self.state)
        written = write_and_sync(self.state)
        error = "" if written.error is None else str(written.error.strerror)
        free_bytes = room.f_bavail * room.f_frsize
        look = DiskLook(free_bytes, written.sync_ns // NS_PER_MS, error, written.read_only)
        return judge_disk(look)


def _guarded(about: str, act: Callable[[], list[Finding]]) -> list[Finding]:
    """The findings of a part; that it cannot be looked at is one, too."""
    try:
        return act()
    except PermissionError as error:
        return [wrong(about, f"{error.filename}: permission denied", _AS_SERVICE)]
    except KeyLost as error:
        return [wrong(about, str(error), _KEY_STORE)]
    except LineLost as error:
        hints = {"permission denied": _AS_SERVICE, READ_BY_ANOTHER: _BUSY}
        do = next((hint for part, hint in hints.items() if part in str(error)), _LINE)
        return [wrong(about, str(error), do)]
    except Rejected as error:
        do = "another version wrote it, or the card is dying: docs/operations.md, section 13"
        return [wrong(about, f"cannot be read: {error}", do)]
    except ConfigurationError as error:
        return [wrong(about, str(error), "see docs/operations.md, sections 3, 6 and 7")]
    except OSError as error:
        do = "dmesg says whether the card fails; see docs/operations.md, section 13"
        return [wrong(about, f"{error.filename or about}: {error.strerror}", do)]
