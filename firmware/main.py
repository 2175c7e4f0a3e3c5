"""`cryptometer-firmware`: the command line and the running program's shell."""

import argparse
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cryptometer.errors import ConfigurationError
from cryptometer.keys import Algorithm
from cryptometer.records import Role
from hal import faults, screen
from hal.program import EXIT_FAILED, run

if TYPE_CHECKING:
    from firmware.config import Config

DEFAULT_STATE = Path("/var/lib/cryptometer")
DEFAULT_CONFIG = Path("/etc/cryptometer/meter.toml")


def main() -> int:
    """Entry point of the console script."""
    faults.arm(os.environ.get(faults.CRASH_VARIABLE))
    arguments = _parser().parse_args()
    # A failed write or sync ends the program cleanly; what was given before it is recovered.
    return run(
        "cryptometer-firmware", lambda: int(arguments.act(arguments)), (OSError, EXIT_FAILED)
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cryptometer-firmware",
        description="Reads a meter's pulses, signs lots of energy, and keeps them until the"
        " community's gateway has them.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    init = commands.add_parser("init", help="make the device's key and its enrolment request")
    init.add_argument("--state", type=Path, default=DEFAULT_STATE, help="the device's folder")
    init.add_argument("--p256", action="store_true", help="an ECDSA P-256 key, not Ed25519")
    init.add_argument("--qr", action="store_true", help="show the request as a QR code, too")
    init.set_defaults(act=_init)

    request = commands.add_parser("request", help="show the enrolment request again, as text")
    request.add_argument("--state", type=Path, default=DEFAULT_STATE, help="the device's folder")
    request.add_argument("--qr", action="store_true", help="and as a QR code")
    request.set_defaults(act=_request)

    enrol = commands.add_parser("enrol", help="install the authority's answer")
    enrol.add_argument("bundle", type=Path, help="the bundle `cryptometer authority` wrote")
    enrol.add_argument("--state", type=Path, default=DEFAULT_STATE, help="the device's folder")
    enrol.set_defaults(act=_enrol)

    run = commands.add_parser("run", help="count, sign and publish")
    run.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="meter.toml")
    run.set_defaults(act=_run)

    status = commands.add_parser("status", help="what the device knows and holds")
    status.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="meter.toml")
    screen.add_watch(status)
    status.set_defaults(act=_status)

    doctor = commands.add_parser("doctor", help="look at the whole board, and say what is wrong")
    doctor.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="meter.toml")
    doctor.add_argument(
        "--seconds", type=float, default=10.0, help="how long the line is looked at (10)"
    )
    doctor.add_argument("--json", action="store_true", help="for programs")
    doctor.set_defaults(act=_doctor)

    from firmware import simulate  # noqa: PLC0415 - light, and only a parser here

    simulate.add_command(commands)
    return parser


def _init(arguments: argparse.Namespace) -> int:
    from firmware import folder  # noqa: PLC0415

    algorithm = Algorithm.ES256 if arguments.p256 else Algorithm.EDDSA
    print(folder.initialise(arguments.state, algorithm))
    return _request(arguments) if arguments.qr else 0


def _request(arguments: argparse.Namespace) -> int:
    from firmware import folder  # noqa: PLC0415

    text = folder.request_text(arguments.state)
    if arguments.qr:
        _show_picture(text)
    print(text)
    return 0


def _show_picture(text: str) -> None:
    from firmware.picture import coloured, draw  # noqa: PLC0415

    lines = draw(text)
    if sys.stdout.isatty():
        columns, needed = shutil.get_terminal_size().columns, len(lines[0])
        if columns < needed:
            raise ConfigurationError(
                f"the terminal has {columns} columns, and the picture needs {needed}: make it"
                " wider, or its letters smaller"
            )
        lines = coloured(lines)
    print("\n".join(lines))


def _enrol(arguments: argparse.Namespace) -> int:
    from firmware import folder  # noqa: PLC0415

    enrolment = folder.enrol(arguments.state, arguments.bundle)
    print(
        f"enrolled as {enrolment.meter} in {enrolment.community.parameters.name}"
        f" ({enrolment.community.id.hex()})"
    )
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from firmware import folder  # noqa: PLC0415

    config = folder.load_config(arguments.config)
    state = arguments.config.parent / config.state
    return screen.show(lambda: folder.describe(state), arguments.watch)


def _doctor(arguments: argparse.Namespace) -> int:
    from firmware.checkup import Verdict, as_lines, worst  # noqa: PLC0415
    from firmware.doctor import examine  # noqa: PLC0415

    if not 0.1 <= arguments.seconds <= 3600:
        raise ConfigurationError("--seconds is from 0.1 to 3600")
    findings = examine(arguments.config, arguments.seconds)
    verdict = worst(findings)
    if arguments.json:
        print(json.dumps({"verdict": verdict, "findings": [asdict(one) for one in findings]}))
    else:
        print("\n".join(as_lines(findings)))
    return 1 if verdict is Verdict.WRONG else 0


def _run(arguments: argparse.Namespace) -> int:
    from firmware import folder  # noqa: PLC0415
    from hal.files import hold  # noqa: PLC0415

    config = folder.load_config(arguments.config)
    state = arguments.config.parent / config.state
    folder.load_device_key(state)  # said at once when missing: the lock needs the folder, too
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: stopping.append(received))
    with hold(state / "device.lock"):
        while not stopping:
            _run_once(config, state, stopping)
    return 0


def _run_once(config: "Config", state: Path, stopping: list[int]) -> None:
    """One life of the device: until it is told to stop, or the authority says something new."""
    from firmware import folder  # noqa: PLC0415
    from firmware.device import Device, Parts  # noqa: PLC0415
    from firmware.enrolment import check_meter  # noqa: PLC0415
    from hal.broker import broker_settings  # noqa: PLC0415
    from hal.drivers import open_clock, open_source  # noqa: PLC0415
    from hal.files import DiskDirectory  # noqa: PLC0415
    from hal.mqtt import Link  # noqa: PLC0415
    from hal.notify import Notifier  # noqa: PLC0415

    key = folder.load_device_key(state)
    enrolment = folder.read_enrolment(state, key.public)
    if enrolment is not None:
        check_meter(enrolment)
    notifier = Notifier()
    link: Link | None = None
    if enrolment is None:
        _log(
            "not enrolled: pulses are journalled, and signed later if the registration covers them"
        )
    else:
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
    journal, outbox = DiskDirectory(state / "journal"), DiskDirectory(state / "outbox")
    parts = Parts(
        clock=open_clock(config.clock),
        open_line=lambda: open_source(config.source),
        journal_directory=journal,
        outbox_directory=outbox,
        signer=key,
        enrolment=enrolment,
        connection=link,
        on_registration=lambda update: folder.keep_update(state, key.public, update),
        log=_log,
    )
    device = Device(parts, config, folder.SOFTWARE)
    device.begin()
    if link is not None:
        link.start()
    notifier.ready(device.status)
    alive_at = 0.0
    while not stopping and not device.wants_restart:
        device.turn()
        if notifier.watchdog_s is not None and time.monotonic() >= alive_at:
            alive_at = time.monotonic() + notifier.watchdog_s
            notifier.alive(device.status)
    if stopping:
        notifier.stopping()
    device.end()
    if link is not None:
        link.stop()
    journal.close()
    outbox.close()
    _log(f"ended: {device.status}")


def _log(text: str) -> None:
    # The service manager adds time and name; standard error is unbuffered by line.
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
