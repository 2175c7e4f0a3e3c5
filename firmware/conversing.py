"""What a device and its gateway tell each other, over a broker that is trusted with nothing."""

from collections.abc import Callable

from cryptometer.acknowledgement import Stop
from cryptometer.errors import Rejected
from firmware.anchoring import Anchoring
from firmware.enrolment import Enrolment, open_acknowledgement
from firmware.logs import Logs
from firmware.saying import Log, Saying
from firmware.signing import Signing
from hal.faults import Point, passing
from hal.ports import Connected, Connection, Disconnected, Message

MESSAGES_MAX = 100  # taken from the broker in one turn, so that the line is never kept waiting


class Conversing:
    """The conversation of one enrolled device.

    Attributes:
        refused: messages from outside that said nothing we may believe.
        has_news: the authority has said something new; the program should begin anew with it.
    """

    def __init__(
        self,
        connection: Connection,
        enrolment: Enrolment,
        on_registration: Callable[[bytes], bool],
        logs: Logs,
        signing: Signing,
        anchoring: Anchoring,
        say: Saying,
        log: Log,
    ) -> None:
        """
        Args:
            on_registration: keeps authority records; returns whether they say anything new.
            say: takes what happens to the connection.
        """
        self._connection = connection
        self._enrolment = enrolment
        self._on_registration = on_registration
        self._logs = logs
        self._signing = signing
        self._anchoring = anchoring
        self._say = say
        self._log = log
        self._topic = f"cryptometer/1/{enrolment.community.id.hex()}"
        self._own_topic = f"{self._topic}/meter/{enrolment.meter}"
        self._stopped: Stop | None = None  # as of the beginning of the turn
        self.refused = 0
        self.has_news = False

    def hear(self, now_ns: int) -> None:
        """Takes what came.

        Args:
            now_ns: machine time.

        Raises:
            OSError: stop, and recover.
        """
        outbox = self._logs.outbox
        self._stopped = outbox.stop
        for event in self._connection.drain(MESSAGES_MAX):
            match event:
                case Connected():
                    self._say("connected")
                    outbox.connected(now_ns)
                    self._connection.publish(f"{self._own_topic}/status", b"online", retain=True)
                case Disconnected(reason=reason):
                    self._say(reason)
                    outbox.disconnected()
                case Message():
                    self._hear(event, now_ns)
                    self._connection.confirm(event.token)

    def publish(self, now_ns: int) -> None:
        """Sends what is due.

        Args:
            now_ns: machine time.
        """
        for raw in self._logs.outbox.take_due(now_ns, self._logs.leaving_below):
            passing(Point.DEVICE_PUBLISH)
            if not self._connection.publish(f"{self._own_topic}/record", raw):
                break  # it is sent again: the outbox goes back on every connection

    def report_stop(self) -> None:
        """Tells people of a chain that cannot go on since this turn."""
        stop = self._logs.outbox.stop
        if stop is not None and stop != self._stopped:
            self._log(
                f"the chain cannot go on: sequence={stop.sequence} reason={stop.reason};"
                " everything is kept. The authority can re-anchor it: cryptometer authority"
                " re-anchor"
            )

    def _hear(self, message: Message, now_ns: int) -> None:
        kind = message.topic.removeprefix(f"{self._topic}/")
        own = f"meter/{self._enrolment.meter}"
        try:
            if kind == "checkpoint":
                self._note_checkpoint(message.payload)
            elif kind == f"{own}/registration":
                self.has_news |= self._on_registration(message.payload)
            elif kind.startswith(f"{own}/ack/"):
                word = open_acknowledgement(message.payload, self._enrolment)
                self._signing.note_word(word)
                if not self._anchoring.takes(word):
                    self._logs.outbox.acknowledge(word, now_ns)
        except Rejected as refused:
            self.refused += 1
            self._say(f"refused a message: topic={kind} {refused}")

    def _note_checkpoint(self, payload: bytes) -> None:
        checkpoint = self._enrolment.community.open_checkpoint(payload)
        newest = self._signing.checkpoint
        if newest is None or checkpoint.size > newest.size:
            self._signing.checkpoint = checkpoint
