"""Talks to systemd (sd_notify(3)): ready, alive, stopping. Without systemd it does nothing."""

import os
import socket
from contextlib import suppress

PATIENCE_S = 0.2  # a manager that does not read its socket must not stop the count


class Notifier:
    """One program's line to its service manager."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        # The watchdog may be meant for the program that started us (sd_watchdog_enabled(3), which
        # also advises half the time-out).
        is_ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(microseconds) / 2e6 if is_ours and microseconds.isdigit() else None

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={status}")

    def alive(self, status: str) -> None:
        self._send(f"WATCHDOG=1\nSTATUS={status}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
            line.settimeout(PATIENCE_S)
            with suppress(OSError):  # nobody listens
                line.sendto(message.encode(), self._address)
