"""What a GPIO input is held at while nothing drives it."""

from enum import StrEnum


class Pull(StrEnum):
    """The bias of the input."""

    UP = "up"
    DOWN = "down"
    NONE = "none"
