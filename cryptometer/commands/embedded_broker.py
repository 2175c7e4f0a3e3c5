"""A plain broker for demonstrations and a first try, where no Mosquitto is installed.

Only this machine reaches it, anyone on it may use it, and it keeps nothing beyond its own life. It
speaks MQTT 3.1.1 and queues nothing for who is away: devices send again what is not acknowledged.
`python -m cryptometer.commands.embedded_broker --port N` runs until SIGTERM.
"""

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Sequence

from amqtt.broker import Broker  # type: ignore[import-untyped]
from amqtt.errors import BrokerError  # type: ignore[import-untyped]

HOST = "127.0.0.1"
EXIT_FAILED = 1
SHUTDOWN_S = 3  # from Python 3.12 on, the library waits for whoever connected and said nothing


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the broker; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m cryptometer.commands.embedded_broker", description="A broker for a demo."
    )
    parser.add_argument("--port", type=int, required=True, help="TCP port on loopback")
    port = parser.parse_args(arguments).port
    # A client that dies is no news here, and each of them would be a traceback.
    logging.disable(logging.CRITICAL)
    try:
        asyncio.run(_serve(port))
    except BrokerError as error:
        print(f"embedded broker: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


async def _serve(port: int) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"{HOST}:{port}"}},
            "plugins": {
                "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}
            },
        }
    )
    await broker.start()
    await stopping.wait()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(broker.shutdown(), SHUTDOWN_S)


if __name__ == "__main__":
    sys.exit(main())
