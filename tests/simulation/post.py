"""What stands for the broker where the broker is not the question: every message arrives."""

import os
from collections import deque
from collections.abc import Callable

from hal.ports import Connected, Disconnected, Message


class Post:
    """What stands for the broker: every message arrives, retained ones again at a connection."""

    def __init__(self) -> None:
        self.boxes: list[Box] = []
        self.up: list[Message] = []
        self._retained: dict[str, bytes] = {}

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """The gateway says something."""
        if retain:
            self._retained[topic] = payload
        for box in self.boxes:
            if box.wants(topic):
                box.inbox.append(Message(topic, payload, False, (0, 0)))

    def connect(self, box: "Box") -> None:
        """A board's connection stands anew."""
        box.inbox += [Disconnected("a new day"), Connected()]
        for topic, payload in self._retained.items():
            if box.wants(topic):
                box.inbox.append(Message(topic, payload, True, (0, 0)))


class Box:
    """One board's connection; a `hal.ports.Connection`.

    Attributes:
        on_record: is told of each record that the board publishes.
    """

    def __init__(self, post: Post, topic: str, meter: str) -> None:
        self.inbox: deque[Message | Connected | Disconnected] = deque()
        self.on_record: Callable[[bytes], None] = lambda _: None
        self._post = post
        self._checkpoint = f"{topic}/checkpoint"
        self._own = f"{topic}/meter/{meter}/"
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        post.boxes.append(self)

    def wants(self, topic: str) -> bool:
        down = topic.startswith(self._own) and not topic.endswith(("/record", "/status"))
        return down or topic == self._checkpoint

    def fileno(self) -> int:
        return self._wake

    def drain(self, most: int) -> list[Message | Connected | Disconnected]:
        return [self.inbox.popleft() for _ in range(min(most, len(self.inbox)))]

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        if topic.endswith("/record"):
            self.on_record(payload)
            self._post.up.append(Message(topic, payload, False, (0, 0)))
        return True

    def confirm(self, token: tuple[int, int]) -> None:
        pass

    def close(self) -> None:
        os.close(self._wake)
