"""Several meters that are asked, on one serial line or one TCP connection to it: an RS-485 bus.

Each meter has a line of its own (`hal.index_line`) over a port that is open in its turn only.
Whoever has waited longest comes next, and a turn ends with the reading, good or bad. So a silent
meter costs the others the time for which an answer is awaited, and no more.
"""

import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from cryptometer.errors import ConfigurationError
from hal.index.reading import LineForm, Remembering, TakingTurns
from hal.index_line import IndexLine, Port
from hal.ports import Heard, LineLost


@dataclass(frozen=True, slots=True)
class SharedForm:
    """What the meters of one line state alike.

    Attributes:
        place: the device, or the host and port.
        protocol: that is spoken on it.
        settings: of the line; only compared.
        gap_ns: for so long it rests between two turns.
    """

    place: str
    protocol: str
    settings: object = None
    gap_ns: int = 0


class SharedLines:
    """The shared lines of one program: each is opened with its first meter, and closed with its
    last; from any thread."""

    def __init__(self) -> None:
        self._lines: dict[str, _Shared] = {}
        self._changing = threading.RLock()  # no meter joins a line while its last one leaves it

    def join(
        self,
        form: SharedForm,
        address: object,
        open_port: Callable[[], Port],
        conversation: TakingTurns,
        memory: Remembering | None = None,
        let_go: Callable[[], None] = lambda: None,
    ) -> "SharedMeter":
        """A meter on its line.

        Args:
            form: of the line.
            address: the meter's on it.
            open_port: opens the line if this is its first meter.
            conversation: with the meter.
            memory: the conversation, if it can ask for what the meter kept.
            let_go: called when the source is closed.

        Raises:
            ConfigurationError: it contradicts another meter of the line.
            LineLost: the line cannot be opened now.
        """
        with self._changing:
            line = self._lines.get(form.place)
            if line is None or line.is_over:
                line = self._lines[form.place] = _Shared(form, open_port(), self._changing)
            else:
                line.check(form, address)
            meter = SharedMeter(line, address, conversation, memory, let_go)
            line.add(meter)
            return meter


class SharedMeter:
    """An index source: one meter of a shared line."""

    def __init__(
        self,
        shared: "_Shared",
        address: object,
        conversation: TakingTurns,
        memory: Remembering | None,
        let_go: Callable[[], None],
    ) -> None:
        self.address, self.conversation, self.memory = address, conversation, memory
        self._shared = shared
        self.turn = _Turn(shared.port)
        self._line = IndexLine(self.turn, conversation, memory=memory, let_go=let_go)

    def fileno(self) -> int:
        return self.turn.fileno()

    @property
    def due_ns(self) -> int | None:
        return self._shared.due_ns(self)

    @property
    def due_in_turn_ns(self) -> int | None:
        return self._line.due_ns

    def take(self) -> Heard:
        if not self._shared.has_turn(self):
            return Heard(())
        try:
            heard = self._line.take()
            is_over = self.turn.is_open() and not self.conversation.is_busy
        except LineLost as lost:
            if self.turn.is_gone:  # else it is this meter's own affair
                self._shared.lose(str(lost))
            raise
        if is_over:
            self._shared.pass_on()
        return heard

    def close(self) -> None:
        self._shared.remove(self)
        self._line.close()


class _Turn:
    """The port as one meter has it: open in its turn only; see `hal.index_line.Port`."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._is_mine = False
        self._is_fresh = False  # the turn has just begun
        self._form: LineForm | None = None  # how the meter wants the line
        self.is_gone = False
        # One descriptor for both: that the turn has come, and then what comes in it.
        self._poll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._wake, select.EPOLLIN)

    def fileno(self) -> int:
        return self._poll.fileno()

    def wake(self) -> None:
        os.eventfd_write(self._wake, 1)

    def rest(self) -> None:
        """Takes the word that it has been woken."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def begin(self) -> None:
        self._is_mine = self._is_fresh = True
        self._poll.register(self._port.fileno(), select.EPOLLIN)

    def end(self) -> None:
        self._is_mine = False
        self._poll.unregister(self._port.fileno())

    def is_open(self) -> bool:
        with self._noting():
            if not self._is_mine or not self._port.is_open():
                return False
            if self._is_fresh:
                self._is_fresh = False
                self._port.read()  # what an earlier turn left: nobody waits for it any more
                if self._form is not None:
                    self._port.shape(self._form)
            return True

    def shape(self, form: LineForm) -> None:
        self._form = form
        with self._noting():
            self._port.shape(form)

    def read(self) -> bytes:
        with self._noting():
            return self._port.read()

    def write(self, data: bytes) -> int:
        with self._noting():
            return self._port.write(data)

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except LineLost:
            self.is_gone = True
            raise

    def close(self) -> None:
        self._poll.close()
        os.close(self._wake)


class _Shared:
    """One line, and whose turn it is."""

    def __init__(self, form: SharedForm, port: Port, changing: threading.RLock) -> None:
        self.form, self.port = form, port
        self.is_over = False
        self._lost = ""  # why; it is over then
        self._changing = changing
        self._meters: list[SharedMeter] = []
        self._holder: SharedMeter | None = None
        self._free_ns = 0  # from when on the next turn may begin

    def check(self, form: SharedForm, address: object) -> None:
        """
        Raises:
            ConfigurationError: a meter that says so of the line cannot join it.
        """
        if form != self.form:
            raise ConfigurationError(
                f"the meters of {form.place} state its protocol, speed or wiring differently"
            )
        if any(one.address == address for one in self._meters):
            raise ConfigurationError(
                f"{form.place} has the address {address} twice: each of several meters on a line"
                " names its own"
            )

    def add(self, meter: SharedMeter) -> None:
        self._meters.append(meter)

    def remove(self, meter: SharedMeter) -> None:
        """Lets go of a meter, and with the last one of the line."""
        with self._changing:
            self._meters.remove(meter)
            if self._holder is meter:
                self.pass_on()
            if not self._meters and not self.is_over:
                self.is_over = True
                self.port.close()

    def lose(self, why: str) -> None:
        """The line is gone, for all."""
        with self._changing:
            self._end_turn()
            self._lost, self.is_over = why, True
            self.port.close()  # whoever opens it next may do so
            for one in self._meters:
                one.turn.wake()

    def due_ns(self, meter: SharedMeter) -> int | None:
        """When the meter wants to be looked at though its descriptor says nothing."""
        with self._changing:
            if self._lost:
                return 0
            if self._holder is meter:
                return meter.due_in_turn_ns
            wanted_ns = meter.conversation.due_ns
            if wanted_ns is None or wanted_ns > time.monotonic_ns():
                return wanted_ns
            if self._holder is None and self._first() is meter:
                return max(wanted_ns, self._free_ns)
            return None  # it is woken for its turn

    def has_turn(self, meter: SharedMeter) -> bool:
        """Whether it is this meter's turn, which may begin with that.

        Raises:
            LineLost: the line is gone.
        """
        with self._changing:
            if self._lost:
                raise LineLost(self._lost)
            meter.turn.rest()
            if self._holder is None and self._first() is meter:
                if time.monotonic_ns() < self._free_ns:
                    return False
                self._holder = meter
                meter.turn.begin()
            return self._holder is meter

    def pass_on(self) -> None:
        """Ends the turn; whoever has waited longest is woken for the next."""
        with self._changing:
            self._end_turn()
            self._free_ns = time.monotonic_ns() + self.form.gap_ns
            following = self._first()
            if following is not None:
                following.turn.wake()

    def _end_turn(self) -> None:
        if self._holder is not None:
            self._holder.turn.end()
            self._holder = None

    def _first(self) -> SharedMeter | None:
        """Who has waited longest of those that are due."""
        now_ns = time.monotonic_ns()
        waiting = []
        for place, one in enumerate(self._meters):
            due_ns = one.conversation.due_ns
            if due_ns is not None and due_ns <= now_ns:
                waiting.append((due_ns, place, one))
        return min(waiting)[2] if waiting else None
