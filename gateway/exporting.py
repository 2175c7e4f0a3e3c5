"""`cryptometer-gateway export`: files for members and the grid operator, each made anew from the
ledger's blocks. It reads the ledger and writes what it is told to, nothing else."""

import argparse
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cryptometer import __version__, audit
from cryptometer.errors import ConfigurationError
from cryptometer.keys import Algorithm, PublicKey
from cryptometer.local_calendar import month_days, steps_of_day
from cryptometer.records import Record
from gateway.exports.gathering import Gathered
from gateway.exports.load_curve import load_curve_local, load_curve_utc
from gateway.exports.ocmf import check_key, key_text, ocmf_container, ocmf_record
from gateway.exports.source import Source
from gateway.folder import open_folder, read_community
from hal.files import DiskTree, put_file
from hal.keyfile import create_key, load_key

OCMF_KEY = "ocmf.key"
_PERIOD = "a local day, month or year: 2026-03-29, 2026-03 or 2026"


def add_commands(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]", default: Path
) -> None:
    """Registers `export` and its formats; `default` is the folder where none is given."""
    parser = subparsers.add_parser(
        "export",
        help="write files for members and the grid operator",
        description="Makes a file from the ledger. The same ledger gives the same file, which"
        " names the checkpoint it was made from.",
    )
    formats = parser.add_subparsers(required=True, metavar="FORMAT")

    curve = formats.add_parser("load-curve", help="a meter's energy, step by step")
    curve.add_argument("--meter", required=True, metavar="NAME")
    curve.add_argument(
        "--form",
        choices=("utc", "local"),
        default="utc",
        help="UTC, or local days of 92, 96 or 100 quarter hours; default: utc",
    )
    _add_period(curve)
    _add_common(curve, default)
    curve.set_defaults(act=_load_curve)

    ocmf = formats.add_parser(
        "ocmf",
        help="a meter's step closes as signed OCMF records",
        description="A line for each step close that counted; in a file named .xml, the container"
        " that the S.A.F.E. transparency software opens.",
    )
    ocmf.add_argument("--meter", required=True, metavar="NAME")
    ocmf.add_argument("--key", type=Path, help=f"a P-256 key; default: {OCMF_KEY} of this folder")
    _add_period(ocmf)
    _add_common(ocmf, default)
    ocmf.set_defaults(act=_ocmf)

    key = formats.add_parser("ocmf-key", help="make the P-256 key that signs OCMF records")
    key.add_argument("--config", type=Path, default=default, help="gateway.toml, or its folder")
    key.set_defaults(act=_ocmf_key)


def _add_period(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--period", required=True, metavar="DAY|MONTH|YEAR", help=_PERIOD)
    parser.add_argument(
        "--zone", required=True, help="time zone of the local days, as Europe/Brussels"
    )


def _add_common(parser: argparse.ArgumentParser, default: Path) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")
    parser.add_argument(
        "--config", type=Path, default=default, help="gateway.toml, or the folder that holds it"
    )


@dataclass(frozen=True, slots=True)
class _Asked:
    """Local days, and what the ledger says of their steps."""

    days: tuple[date, date]
    zone: ZoneInfo
    source: Source
    gathered: Gathered


def _load_curve(arguments: argparse.Namespace) -> int:
    asked = _gather(arguments)
    energy = asked.gathered.energy_uwh.get(arguments.meter, {})
    make = load_curve_utc if arguments.form == "utc" else load_curve_local
    text = make(f"meter {arguments.meter}", energy, asked.days, asked.zone, asked.source)
    return _write(arguments.out, text)


def _ocmf(arguments: argparse.Namespace) -> int:
    folder = open_folder(arguments.config)
    at = arguments.key or folder.state / OCMF_KEY
    if arguments.key is None and not at.exists():
        raise ConfigurationError(
            "no key signs OCMF records here: make one with cryptometer-gateway export ocmf-key"
        )
    key = load_key(at)
    check_key(key.public)
    asked = _gather(arguments)
    software = ("cryptometer-gateway", __version__)
    closes = asked.gathered.closes.get(arguments.meter, [])
    if not closes:
        raise ConfigurationError(
            f"{arguments.meter} closed no step of {arguments.period}; cryptometer-gateway status"
            " names the meters"
        )
    records = [
        ocmf_record(close, asked.source, key.public, key.sign_again, software) for close in closes
    ]
    is_container = arguments.out.suffix == ".xml"
    lines = "".join(f"{record}\n" for record in records)
    return _write(arguments.out, ocmf_container(records, key.public) if is_container else lines)


def _ocmf_key(arguments: argparse.Namespace) -> int:
    folder = open_folder(arguments.config)
    key = create_key(folder.state / OCMF_KEY, Algorithm.ES256)
    print(f"{folder.state / OCMF_KEY}: give its public half to whoever checks the records:")
    print(key_text(key.public))
    return 0


def _gather(arguments: argparse.Namespace) -> _Asked:
    """Goes through the ledger for the steps of a period."""
    folder = open_folder(arguments.config)
    zone = _zone(arguments.zone)
    days = _days(arguments.period)
    with closing(folder.open_store(read_only=True)) as store:
        community = read_community(store)
    step_s = community.parameters.step_s
    steps = range(
        steps_of_day(days[0], step_s, zone).start, steps_of_day(days[1], step_s, zone).start
    )
    gathered = Gathered(steps)
    report = audit.audit(
        DiskTree(folder.ledger).read, community, watch=gathered.take, verify=_verified_before
    )
    source = Source(
        community.id, community.parameters.name, report.checkpoint, report.state.step, step_s
    )
    return _Asked(days, zone, source, gathered)


def _verified_before(
    stream: Iterator[tuple[Record, PublicKey | None]],
) -> Iterator[tuple[Record, bool]]:
    """This gateway has verified every signature before it stored a record, and the tree's root,
    which it signed, shows that these are the same. Everything else is reckoned anew."""
    return ((record, True) for record, _ in stream)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigurationError(
            f"there is no time zone {name!r}; one is Europe/Brussels"
        ) from None


def _days(period: str) -> tuple[date, date]:
    """The first day of a period, and the one behind its last."""
    try:
        numbers = [int(part) for part in period.split("-")]
        match numbers:
            case [year]:
                return date(year, 1, 1), date(year + 1, 1, 1)
            case [year, month]:
                return month_days(year, month)
            case [year, month, day]:
                first = date(year, month, day)
                return first, first + timedelta(days=1)
    except (ValueError, OverflowError):
        pass
    raise ConfigurationError(f"the period is {_PERIOD}, not {period!r:.40}")


def _write(out: Path, text: str) -> int:
    put_file(out, text.encode(), mode=0o644)
    print(f"{out}: {len(text.splitlines())} lines")
    return 0
