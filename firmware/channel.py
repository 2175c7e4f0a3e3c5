"""One meter of a running program: its configuration and folder, and the lives of its device."""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from cryptometer.errors import ConfigurationError
from cryptometer.record_fields import Role
from firmware import device_key, folder
from firmware.comparing import ComparedLine, Second, second_of, without_ratio
from firmware.config import Config
from firmware.device import Device, Parts
from firmware.enrolment import Enrolment, check_meter, check_source
from firmware.listening import Spoken, SpokenLine, spoken_of
from hal.broker import broker_settings
from hal.drivers import Buses, open_clock, open_compared, open_guard, open_index, open_source
from hal.files import DiskDirectory, hold
from hal.index.choice import is_index_source
from hal.mqtt import Link
from hal.ports import Clock, PulseSource

if TYPE_CHECKING:
    from firmware.capture import Recorder

Log = Callable[[str], None]


class Channel:
    """A meter with its own folder, key, chain and connection. Its device lives until it is told to
    end, fails, or the authority says something new; then another life may begin."""

    def __init__(
        self,
        path: Path,
        log: Log,
        buses: Buses,
        *,
        is_named: bool,
        recorder: "Recorder | None" = None,
    ) -> None:
        """
        Args:
            path: the configuration.
            log: takes what people should read, with the meter's name before it if `is_named`.
            buses: of this program, which several meters may share.
            recorder: takes down what the device is told.
        """
        self._recorder = recorder
        self._path = path
        self._buses = buses
        self._write = log
        self._is_named = is_named
        self._folder = ExitStack()  # the lock, from the first life to the last
        self._life = ExitStack()  # files and the connection
        self._changing = threading.Lock()  # a life ends before the next begins
        self._state: Path | None = None
        self.name = path.stem  # until the meter's own is known
        self.device: Device | None = None

    def live(self) -> Device:
        """Begins a life: recovers, and watches the line. It may take minutes.

        Raises:
            ConfigurationError, Rejected: a person must act.
            OSError: a file cannot be read or written.
        """
        with self._changing:
            self._life.close()
            config = folder.load_config(self._path)
            state = self._path.parent / config.state
            # Said when missing: the lock needs the folder, too.
            key = device_key.load_device_key(state, config.key)
            self._hold(state)
            if folder.settle_successor(state, config.key):
                key = device_key.load_device_key(state, config.key)
                self.say(f"the successor's key has taken over: {key.public.thumbprint.hex()}")
            enrolment = folder.read_enrolment(state, key.public)
            if enrolment is not None:
                check_source(enrolment, is_index=is_index_source(config.source))
                check_meter(enrolment)
                self.name = enrolment.meter
            spoken = self._spoken(config, enrolment)
            second = self._second(config, enrolment)
            clock = open_clock(config.clock)
            link = self._make_link(config, state, enrolment)
            parts = Parts(
                clock=clock,
                open_line=lambda: self._open_line(config, spoken, second, clock),
                journal_directory=self._directory(state / "journal"),
                outbox_directory=self._directory(state / "outbox"),
                signer=key,
                enrolment=enrolment,
                connection=link,
                on_registration=lambda update: folder.keep_update(state, key.public, update),
                log=self.say,
                guard=open_guard(device_key.key_place(state, config.key)),
                spoken=spoken,
                second=second,
            )
            device = self._make_device(parts, config)
            self._life.callback(device.abandon)
            device.begin()
            if link is not None:
                link.start()
            self.device = device
            return device

    def end(self) -> None:
        """Ends the life in order.

        Raises:
            OSError: what was given last may not be durable.
        """
        if self.device is not None:
            self.device.end()
            self.say(f"ended: {self.device.status}")
            self.device = None

    def fail(self) -> None:
        """Ends the life where it stands: after a failed write nothing more may be written."""
        if self.device is not None:
            self.device.abandon()
            self.device = None

    def leave(self) -> None:
        """Leaves the broker, which may take some seconds, and closes the files. Does nothing when
        the next life has begun before: it has closed those of the one that ended."""
        with self._changing:
            if self.device is None:
                self._life.close()

    def release(self) -> None:
        """Leaves, and lets another program have the folder."""
        with self._changing:
            self._life.close()
        self._folder.close()
        if self._recorder is not None:
            self._recorder.close()

    def say(self, text: str) -> None:
        self._write(f"{self.name}: {text}" if self._is_named else text)

    def _make_device(self, parts: Parts, config: Config) -> Device:
        if self._recorder is None:
            return Device(parts, config, device_key.SOFTWARE)
        return self._recorder.make_device(parts, config)

    @staticmethod
    def _spoken(config: Config, enrolment: Enrolment | None) -> Spoken | None:
        if not is_index_source(config.source):
            return None
        if enrolment is None:
            raise ConfigurationError(
                "not enrolled, and the registration says what the meter's index is worth; it loses"
                " nothing meanwhile. Enrol, then start again"
            )
        return spoken_of(config.source, enrolment)

    @staticmethod
    def _second(config: Config, enrolment: Enrolment | None) -> Second | None:
        """None, too, before the registration says what the meter can give."""
        if not config.compared or enrolment is None:
            return None
        return second_of(config.compared, enrolment)

    def _open_line(
        self, config: Config, spoken: Spoken | None, second: Second | None, clock: Clock
    ) -> PulseSource:
        line = self._open_counting(config, spoken)
        if second is None:
            return line
        _, table = without_ratio(config.compared)
        return ComparedLine(
            line, lambda: open_compared(table, self._buses), clock.machine_ns, self.say
        )

    def _open_counting(self, config: Config, spoken: Spoken | None) -> PulseSource:
        if spoken is None:
            return open_source(config.source)
        return SpokenLine(open_index(config.source, self._buses), spoken)

    def _hold(self, state: Path) -> None:
        if self._state is None:
            self._folder.enter_context(hold(state / "device.lock"))
            self._state = state
        elif state != self._state:
            raise ConfigurationError(f"{self._path} names another state folder: start anew")

    def _directory(self, path: Path) -> DiskDirectory:
        directory = DiskDirectory(path)
        self._life.callback(directory.close)
        return directory

    def _make_link(self, config: Config, state: Path, enrolment: Enrolment | None) -> Link | None:
        if enrolment is None:
            self.say(
                "not enrolled: pulses are journalled, and signed later if the registration covers"
                " them"
            )
            return None
        base = f"cryptometer/1/{enrolment.community.id.hex()}"
        own = f"{base}/meter/{enrolment.meter}"
        if not enrolment.community.keys_of(Role.GATEWAY):
            raise ConfigurationError("the bundle names no gateway; ask the authority for a new one")
        link = Link(
            broker_settings(state / folder.BROKER_FOLDER, enrolment.broker, config.broker),
            f"cryptometer-{enrolment.meter}-{enrolment.community.id.hex()[:8]}",
            [f"{own}/ack/+", f"{own}/registration", f"{base}/checkpoint"],
            will_topic=f"{own}/status",
            outgoing_max=4 * config.outbox.window,  # what was repeated may wait beside the first
        )
        self._life.callback(link.stop)
        return link
