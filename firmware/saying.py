"""What a device tells people of its line and its broker: each change once."""

from collections.abc import Callable

Log = Callable[[str], None]


class Saying:
    """Logs a change, and not each of its repetitions."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._said = ""

    def __call__(self, what: str) -> None:
        if what != self._said:
            self._said = what
            self._log(what)
