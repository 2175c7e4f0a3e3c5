"""`cryptometer-firmware`: the command line and the running program's shell."""

import argparse
import json
import os
import shutil
import signal
import sys
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from cryptometer.errors import ConfigurationError
from cryptometer.keys import Algorithm, KeyLost
from firmware import simulating
from hal import faults, screen
from hal.ports import LineLost
from hal.program import EXIT_FAILED, add_version, run

if TYPE_CHECKING:
    from firmware.config import KeySettings
    from hal.index.ciphering import Keys

DEFAULT_STATE = Path("/var/lib/cryptometer")
DEFAULT_CONFIG = Path("/etc/cryptometer/meter.toml")


def main() -> int:
    """Entry point of the console script."""
    faults.arm(os.environ.get(faults.CRASH_VARIABLE))
    arguments = _parser().parse_args()
    # A failed write or sync ends the program cleanly; what was given before it is recovered.
    return run(
        "cryptometer-firmware",
        lambda: int(arguments.act(arguments)),
        (OSError, EXIT_FAILED),
        (KeyLost, EXIT_FAILED),
        (LineLost, EXIT_FAILED),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cryptometer-firmware",
        description="Reads a meter's pulses, signs lots of energy, and keeps them until the"
        " community's gateway has them.",
    )
    add_version(parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    init = commands.add_parser("init", help="make the device's key and its enrolment request")
    _add_place(init)
    init.add_argument("--p256", action="store_true", help="an ECDSA P-256 key, not Ed25519")
    init.add_argument("--qr", action="store_true", help="show the request as a QR code, too")
    init.set_defaults(act=_init)

    request = commands.add_parser("request", help="show the enrolment request again, as text")
    request.add_argument("--state", type=Path, default=DEFAULT_STATE, help="the device's folder")
    request.add_argument("--successor", action="store_true", help="that of the key that follows")
    request.add_argument("--qr", action="store_true", help="and as a QR code")
    request.set_defaults(act=_request)

    successor = commands.add_parser(
        "successor", help="make the key that takes over once the authority has registered it"
    )
    _add_place(successor)
    successor.add_argument("--p256", action="store_true", help="an ECDSA P-256 key, not Ed25519")
    successor.add_argument("--qr", action="store_true", help="show the request as a QR code, too")
    successor.set_defaults(act=_successor)

    enrol = commands.add_parser("enrol", help="install the authority's answer")
    enrol.add_argument("bundle", type=Path, help="what `cryptometer authority` wrote, or -")
    _add_place(enrol)
    enrol.set_defaults(act=_enrol)

    run = commands.add_parser("run", help="count, sign and publish")
    _add_config(run)
    run.add_argument(
        "--capture",
        type=Path,
        metavar="FILE",
        help="record what the device is told, too; with several meters a folder",
    )
    run.set_defaults(act=_run)

    status = commands.add_parser("status", help="what the device knows and holds")
    _add_config(status)
    screen.add_watch(status)
    status.set_defaults(act=_status)

    doctor = commands.add_parser("doctor", help="look at the whole board, and say what is wrong")
    doctor.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="meter.toml")
    doctor.add_argument(
        "--seconds", type=float, default=10.0, help="how long the line is looked at (10)"
    )
    doctor.add_argument("--json", action="store_true", help="for programs")
    doctor.set_defaults(act=_doctor)

    scan = commands.add_parser(
        "scan",
        help="find the meters on a Modbus bus",
        description="Asks every address of a Modbus bus, says which meters answer, and prints the"
        " table [source] for each. Changes nothing on any meter.",
    )
    bus = scan.add_mutually_exclusive_group(required=True)
    bus.add_argument("--device", metavar="PORT", help="RTU: the serial port")
    bus.add_argument("--host", help="TCP: the meter or its gateway")
    scan.add_argument("--port", type=int, default=502, help="TCP: its port (502)")
    scan.add_argument(
        "--rtu", action="store_true", help="TCP: frames as on a serial line, behind a converter"
    )
    scan.add_argument("--baud", type=int, metavar="N", help="RTU: this speed only (the usual ones)")
    scan.add_argument(
        "--parity", choices=("none", "even", "odd"), help="RTU: this parity only (the usual ones)"
    )
    scan.add_argument(
        "--addresses", default="1-32", metavar="LIST", help="as 1-32 or 1,5,17-20 (1-32)"
    )
    scan.add_argument(
        "--answer-ms", type=int, default=200, metavar="N", help="how long an answer may take (200)"
    )
    scan.add_argument("--map", nargs="+", default=[], metavar="FILE", help="maps of your own, too")
    scan.set_defaults(act=_scan)

    capture = commands.add_parser("capture", help="record what a line brings, without counting")
    capture.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="meter.toml")
    capture.add_argument("--out", type=Path, required=True, metavar="FILE", help="the recording")
    capture.add_argument("--seconds", type=float, help="how long (until Ctrl-C)")
    capture.set_defaults(act=_capture)

    replay = commands.add_parser("replay", help="let the device do again what was recorded")
    replay.add_argument("recording", type=Path, metavar="FILE", help="what `capture` wrote")
    replay.add_argument("--key", type=Path, help="the device's private key; else nothing is signed")
    replay.add_argument("--out", type=Path, metavar="FOLDER", help="keep journal and outbox here")
    replay.set_defaults(act=_replay)

    analyze = commands.add_parser(
        "analyze",
        help="say what a recorded line says: which protocol, which meter, what is wrong",
        description="Reads FILE, the bytes of a meter's line as any logger wrote them or a"
        " recording of `capture` or `run --capture`, and says which protocol it is, what the meter"
        " says, what of it was refused and why, and what to do. It reads 4 MiB of a line at most.",
    )
    analyze.add_argument(
        "recording", type=Path, metavar="FILE", help="a capture, or the bytes of any logger"
    )
    analyze.add_argument(
        "--key",
        type=Path,
        metavar="KEYFILE",
        help="of a meter whose messages are ciphered (DLMS push): a file with the 32 hexadecimal"
        " digits of its encryption key, readable by its owner alone",
    )
    analyze.add_argument(
        "--auth-key", type=Path, metavar="KEYFILE", help="likewise, of its authentication key"
    )
    analyze.add_argument("--json", action="store_true", help="for programs")
    analyze.set_defaults(act=_analyze)

    simulating.add_command(commands)
    return parser


def _add_place(parser: argparse.ArgumentParser) -> None:
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--state", type=Path, default=DEFAULT_STATE, help="the device's folder")
    place.add_argument(
        "--config", type=Path, help="meter.toml, for the folder and the key store that it names"
    )


def _key_settings(arguments: argparse.Namespace) -> "tuple[Path, KeySettings]":
    """The device's folder, and where its keys are kept."""
    from firmware import device_key, folder  # noqa: PLC0415

    if arguments.config is None:
        return arguments.state, device_key.IN_FILES
    config = folder.load_config(arguments.config)
    return arguments.config.parent / config.state, config.key


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        nargs="+",
        default=[DEFAULT_CONFIG],
        help="meter.toml; several, or a folder of *.toml, for as many meters",
    )


def _init(arguments: argparse.Namespace) -> int:
    from firmware import device_key  # noqa: PLC0415

    state, settings = _key_settings(arguments)
    print(device_key.initialise(state, _algorithm(arguments), settings))
    return _show_request(device_key.request_text(state), is_picture=True) if arguments.qr else 0


def _successor(arguments: argparse.Namespace) -> int:
    from firmware import device_key  # noqa: PLC0415

    state, settings = _key_settings(arguments)
    print(device_key.prepare_successor(state, _algorithm(arguments), settings))
    text = device_key.request_text(state, is_successor=True)
    return _show_request(text, is_picture=True) if arguments.qr else 0


def _algorithm(arguments: argparse.Namespace) -> Algorithm:
    return Algorithm.ES256 if arguments.p256 else Algorithm.EDDSA


def _request(arguments: argparse.Namespace) -> int:
    from firmware import device_key  # noqa: PLC0415

    text = device_key.request_text(arguments.state, is_successor=arguments.successor)
    return _show_request(text, is_picture=arguments.qr)


def _show_request(text: str, *, is_picture: bool) -> int:
    if is_picture:
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
    from hal.files import check_owner  # noqa: PLC0415

    state, settings = _key_settings(arguments)
    check_owner(state)
    enrolment = folder.enrol(state, arguments.bundle, settings)
    print(
        f"enrolled as {enrolment.meter} in {enrolment.community.parameters.name}"
        f" ({enrolment.community.id.hex()})"
    )
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from firmware import folder  # noqa: PLC0415

    found = folder.find_configurations(arguments.config)
    return screen.show(lambda: folder.describe_all(found), arguments.watch)


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


def _scan(arguments: argparse.Namespace) -> int:
    try:
        from hal.modbus_scan import addresses_in, as_lines, bus_lines, scan  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            f"scan needs a package that is missing ({error.name}):"
            " pip install 'cryptometer[modbus]'"
        ) from None
    from hal.modbus_maps import load_map, shipped_maps  # noqa: PLC0415

    lines = bus_lines(
        arguments.device or "",
        arguments.host or "",
        arguments.port,
        baud=arguments.baud,
        parity=arguments.parity,
        is_rtu=arguments.rtu,
    )
    addresses = addresses_in(arguments.addresses, is_serial=bool(arguments.device))
    if not 5 <= arguments.answer_ms <= 10_000:
        raise ConfigurationError("--answer-ms is from 5 to 10000")
    maps = [load_map(name) for name in (*arguments.map, *shipped_maps())]
    found = scan(lines, addresses, maps, arguments.answer_ms / 1000, _log)
    if not found:
        print("nobody answers")
        return 1
    print("\n".join(as_lines(found)))
    return 0 if any(one.map is not None for one in found) else 1


def _capture(arguments: argparse.Namespace) -> int:
    from firmware.capture import capture  # noqa: PLC0415

    print(capture(arguments.config, arguments.out, arguments.seconds))
    return 0


def _analyze(arguments: argparse.Namespace) -> int:
    from firmware.analysis import analyse  # noqa: PLC0415
    from firmware.capture import load_recording  # noqa: PLC0415
    from firmware.checkup import Verdict, as_lines, worst  # noqa: PLC0415

    keys = _meter_keys(arguments.key, arguments.auth_key)
    analysis = analyse(load_recording(arguments.recording), keys)
    verdict = worst(analysis.findings)
    if arguments.json:
        findings = [asdict(one) for one in analysis.findings]
        print(json.dumps({"verdict": verdict, **analysis.as_json(), "findings": findings}))
    else:
        print("\n".join(as_lines(analysis.findings)))
    return 1 if verdict is Verdict.WRONG else 0


def _meter_keys(encryption: Path | None, authentication: Path | None) -> "Keys | None":
    """
    Raises:
        ConfigurationError: a file holds no key, or the first one is not given.
    """
    from hal.index.ciphering import KEY_SIZE, Keys  # noqa: PLC0415
    from hal.secret import read_hex_secret  # noqa: PLC0415

    def read(path: Path) -> bytes:
        place = PurePosixPath(path.absolute())
        return read_hex_secret(place, "key", KEY_SIZE, is_credential=False)

    if encryption is None:
        if authentication is not None:
            raise ConfigurationError("--auth-key checks what --key opens: give that, too")
        return None
    try:
        return Keys(read(encryption), None if authentication is None else read(authentication))
    except KeyLost as lost:
        raise ConfigurationError(str(lost)) from None


def _replay(arguments: argparse.Namespace) -> int:
    from firmware.capture import replay_file, summary  # noqa: PLC0415

    outcome = replay_file(arguments.recording, arguments.key, arguments.out, print)
    print("\n".join(summary(outcome)))
    return 1 if outcome.differing else 0


def _run(arguments: argparse.Namespace) -> int:
    from firmware import folder  # noqa: PLC0415
    from firmware.board import Board  # noqa: PLC0415

    board = Board(folder.find_configurations(arguments.config), _log, arguments.capture)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: board.stop())
    return board.run()


def _log(text: str) -> None:
    # The service manager adds time and name; standard error is unbuffered by line.
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
