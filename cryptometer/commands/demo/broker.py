"""A plain broker on loopback: Mosquitto where it is installed, the embedded one otherwise."""

import os
import shutil
import socket
import sys
from pathlib import Path

from cryptometer.commands.demo.processes import Child

_ALSO_IN = "/usr/local/sbin:/usr/sbin:/sbin"  # where Debian puts it, and a user's PATH does not
HOST = "127.0.0.1"


def find_mosquitto() -> str | None:
    """The path of Mosquitto, or None."""
    return shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:{_ALSO_IN}")


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody does."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def start_broker(folder: Path, port: int, kind: str = "auto") -> Child:
    """Starts a broker that anyone on this machine may use; for demonstrations and tests only.

    `kind` is "embedded", or anything else for Mosquitto where it is installed.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    mosquitto = None if kind == "embedded" else find_mosquitto()
    if mosquitto is None:
        module = "cryptometer.commands.embedded_broker"
        command = [sys.executable, "-m", module, "--port", str(port)]
        return Child("embedded broker", command, folder / "broker.log")
    conf = folder / "mosquitto.conf"
    # Queues without a bound in messages: a step's records of many meters may wait for a gateway.
    conf.write_text(
        f"listener {port} {HOST}\nallow_anonymous true\npersistence false\n"
        "max_queued_messages 0\nmax_queued_bytes 100000000\n"
    )
    return Child("mosquitto", [mosquitto, "-c", str(conf)], folder / "broker.log")
