"""Looks at the machine without changing anything: the way to a broker step by step, who holds a
lock, which connections a process has, how quickly a folder's card syncs."""

import errno
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hal.broker import BrokerSettings
from hal.mqtt import broker_address, why_unreachable

PATIENCE_S = 5.0  # a host that says nothing for so long is as good as not there
_ESTABLISHED = "01"  # state in /proc/net/tcp (linux/tcp_states.h)
_SYNCS = 5
_SYNC_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the way to a broker, and why it failed; empty when it worked."""

    name: str
    failure: str = ""


def way_to(settings: BrokerSettings) -> list[Step]:
    """Goes as far as it can without a login: name, connection, TLS. The last step may have failed.

    Raises:
        ConfigurationError: the URL or a file is wrong.
    """
    host, port, tls = broker_address(settings)
    where = f"{host}:{port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return [Step("name", f"cannot find {host}: {getattr(error, 'strerror', error)}")]
    steps = [Step("name")]
    try:
        line = socket.create_connection((host, port), PATIENCE_S)
    except OSError as error:
        addresses = ", ".join(sorted({str(one[4][0]) for one in found}))
        return [*steps, Step("connection", f"{why_unreachable(where, error)} ({addresses})")]
    steps.append(Step("connection"))
    with line:
        if tls is None:
            return steps
        try:
            with tls.wrap_socket(line, server_hostname=host):
                return [*steps, Step("TLS")]
        except OSError as error:  # ssl.SSLError is one
            return [*steps, Step("TLS", why_unreachable(where, error))]


def lock_holder(path: Path) -> int | None:
    """The process that holds a lock (flock(2)) on a file; None where that cannot be seen."""
    inode = path.stat().st_ino
    for words in map(str.split, Path("/proc/locks").read_text().splitlines()):
        # 1: FLOCK  ADVISORY  WRITE 1234 08:01:131 0 EOF
        if words[1:2] == ["FLOCK"] and words[3] == "WRITE":
            holder, place = int(words[4]), words[5]
            if place.rpartition(":")[2] == str(inode) and holder > 0:
                return holder
    return None


def service_status(unit: str, process: int) -> str:
    """What a service says of itself (sd_notify(3), STATUS), if `process` is its main one; empty
    without systemd."""
    command = ["systemctl", "show", "--property=MainPID,StatusText", unit]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    values = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    return values.get("StatusText", "") if values.get("MainPID") == str(process) else ""


def is_connected(process: int, port: int) -> bool | None:
    """Whether a process has a TCP connection to a port of some host; None where its files cannot
    be seen."""
    ends: set[str] = set()
    try:
        for entry in Path(f"/proc/{process}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                ends.add(str(entry.readlink()))
    except OSError:  # it is another user's, or has just ended
        return None
    return any(f"socket:[{inode}]" in ends for remote, inode in _connections() if remote == port)


def _connections() -> Iterator[tuple[int, str]]:
    """Remote port and inode of each TCP connection of this machine."""
    for name in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/net/{name}").read_text().splitlines()[1:]
        except OSError:  # a kernel without IPv6
            continue
        for words in map(str.split, lines):
            if words[3] == _ESTABLISHED:
                yield int(words[2].rpartition(":")[2], 16), words[9]


@dataclass(frozen=True, slots=True)
class Written:
    """How a small file could be written and synced: the slowest of a few times, or the error."""

    sync_ns: int
    error: OSError | None = None

    @property
    def read_only(self) -> bool:
        return self.error is not None and self.error.errno == errno.EROFS


def write_and_sync(folder: Path) -> Written:
    """Writes a small file in a folder, syncs it a few times, and removes it."""
    path = folder / f".probe-{os.getpid()}"
    slowest = 0
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            for _ in range(_SYNCS):
                began = time.monotonic_ns()
                if os.write(descriptor, bytes(_SYNC_BYTES)) < _SYNC_BYTES:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fdatasync(descriptor)
                slowest = max(slowest, time.monotonic_ns() - began)
        finally:
            os.close(descriptor)
            path.unlink()
    except OSError as error:
        return Written(slowest, error)
    return Written(slowest)
