"""`cryptometer-gateway export`: files for members and the grid operator, each made anew from the
ledger's blocks. It reads the ledger and writes what it is told to, nothing else."""

import argparse
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date, timedelta, tzinfo
from fractions import Fraction
from pathlib import Path
from typing import Protocol, TypeVar

from cryptometer import __version__, audit
from cryptometer.authority_records import Registration, Use
from cryptometer.block import Checked
from cryptometer.community import Community
from cryptometer.errors import ConfigurationError, Rejected
from cryptometer.keys import Algorithm, PublicKey
from cryptometer.local_calendar import month_days, steps_of_day
from cryptometer.records import Record
from cryptometer.state import State
from cryptometer.tiles import CHECKPOINT_PATH, Read
from gateway.exports.allotments import Allotment, totals_by_step
from gateway.exports.france import Template, coefficients_fr, read_template
from gateway.exports.gathering import Gathered
from gateway.exports.load_curve import load_curve_local, load_curve_utc
from gateway.exports.ocmf import check_key, key_text, ocmf_container, ocmf_record
from gateway.exports.settlement import settlement_csv
from gateway.exports.source import SIDECAR_SUFFIX, Source, sidecar
from gateway.exports.spain import Layout, coefficients_es
from gateway.exports.storage import StorageBook, storage_csv
from gateway.exports.virtual_meter import virtual_meter_csv, virtual_meter_json
from gateway.folder import Folder, open_folder, read_community
from gateway.private import PrivateStore
from hal.files import MISPLACED, DiskTree
from hal.handing import OUT_HELP, STDOUT, hand_out
from hal.keyfile import create_key, load_key
from hal.zone import zone_named

OCMF_KEY = "ocmf.key"
PERIOD = "a local day, month or year: 2026-03-29, 2026-03 or 2026"
_SHOWN = 20  # steps left out of a file
_ATTEMPTS = 3  # to go through a ledger that grows meanwhile, a block every quarter of an hour
_OURS = 0o600  # what says how much a member consumes is for whoever was asked to write it
_PUBLIC = 0o644  # what the ledger shows to everybody


class Taker(Protocol):
    """Is given each block of a ledger, in order."""

    def take(self, checked: Checked) -> None: ...


T = TypeVar("T", bound=Taker)


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

    curve = formats.add_parser("load-curve", help="a meter's or a member's energy, step by step")
    whose = curve.add_mutually_exclusive_group(required=True)
    whose.add_argument("--meter", metavar="NAME", help="what a meter's step closes transferred")
    whose.add_argument("--member", metavar="NAME", help="a member's virtual generation meter")
    curve.add_argument(
        "--form",
        choices=("utc", "local"),
        default="utc",
        help="UTC, or local days of 92, 96 or 100 quarter hours; default: utc",
    )
    add_common(curve, default)
    curve.set_defaults(act=_load_curve)

    virtual = formats.add_parser(
        "virtual-meter",
        help="virtual generation and market-face meters",
        description="A line for each member and step, late corrections apart. A file named .json"
        " is JSON, any other CSV.",
    )
    virtual.add_argument("--member", metavar="NAME", help="one member only; default: all")
    add_common(virtual, default)
    virtual.set_defaults(act=_virtual_meter)

    settlement = formats.add_parser(
        "settlement",
        help="where each step's energy went: members, losses, fee and surplus, and to whom",
        description="A line for each step, and the sum of each account: what the beneficiary of a"
        " fee has, and whoever has the surplus.",
    )
    add_common(settlement, default)
    settlement.set_defaults(act=_settlement)

    spain = formats.add_parser(
        "coefficients-es",
        help="the Spanish file of coefficients for a month",
        description="CUPS;hour;coefficient, by Real Decreto 244/2019 annex I. What it was made"
        f" from stands in a file beside it, FILE{SIDECAR_SUFFIX}.",
    )
    _add_points(spain, "CUPS")
    spain.add_argument(
        "--first-hour",
        type=int,
        choices=(0, 1),
        default=1,
        help="the number of a year's first hour, as the distributor counts; default: 1",
    )
    spain.add_argument(
        "--hour-digits",
        type=int,
        choices=range(1, 5),
        default=1,
        help="digits of an hour at least, with zeros before; default: 1",
    )
    spain.add_argument(
        "--idle",
        type=Path,
        metavar="TOML",
        help="member = WEIGHT, for hours in which nobody was given anything; default: all alike",
    )
    spain.add_argument(
        "--accept-missing",
        action="store_true",
        help="treat hours that are not distributed yet like those",
    )
    add_common(spain, default, "Europe/Madrid")
    spain.set_defaults(act=_spain)

    france = formats.add_parser(
        "coefficients-fr",
        help="coefficients for a French grid operator, by a template",
        description="The grid operator's own layout was not found in public: columns are as a"
        " template says, and not verified.",
    )
    _add_points(france, "PRM")
    france.add_argument("--template", type=Path, metavar="TOML", help="the file's form")
    add_common(france, default, "Europe/Paris")
    france.set_defaults(act=_france)

    storage = formats.add_parser(
        "storage",
        help="whose energy a storage holds",
        description="A line for each movement of the period, reckoned from the first block on: what"
        " the agreement gave the storage belongs to those who could not use it, and what it gives"
        " back is debited to them. By keys, where everyone could use his part.",
    )
    storage.add_argument("--member", required=True, metavar="NAME", help="as which it charges")
    storage.add_argument("--meter", required=True, metavar="NAME", help="by which it discharges")
    storage.add_argument(
        "--efficiency",
        type=_efficiency,
        default=Fraction(1),
        metavar="N/D",
        help="the part of what goes in that comes out, as 9/10 or 0.9; default: 1",
    )
    add_common(storage, default)
    storage.set_defaults(act=_storage)

    ocmf = formats.add_parser(
        "ocmf",
        help="a meter's step closes as signed OCMF records",
        description="A line for each step close that counted; in a file named .xml, the container"
        " that the S.A.F.E. transparency software opens.",
    )
    ocmf.add_argument("--meter", required=True, metavar="NAME", help="whose closes they are")
    ocmf.add_argument("--key", type=Path, help=f"a P-256 key; default: {OCMF_KEY} of this folder")
    add_common(ocmf, default)
    ocmf.set_defaults(act=_ocmf)

    key = formats.add_parser("ocmf-key", help="make the P-256 key that signs OCMF records")
    key.add_argument("--config", type=Path, default=default, help="gateway.toml, or its folder")
    key.set_defaults(act=_ocmf_key)


def _add_points(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--points",
        type=Path,
        required=True,
        metavar="TOML",
        help=f'member = "{what}" of every member; it stays outside the ledger',
    )


def add_common(parser: argparse.ArgumentParser, default: Path, zone: str | None = None) -> None:
    """Gives a command its period, zone, file and folder."""
    parser.add_argument("--period", required=True, metavar="DAY|MONTH|YEAR", help=PERIOD)
    parser.add_argument(
        "--zone",
        required=zone is None,
        default=zone,
        help="time zone of the local days, " + (f"default: {zone}" if zone else "Europe/Brussels"),
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help=f"the file, {OUT_HELP}"
    )
    parser.add_argument(
        "--config", type=Path, default=default, help="gateway.toml, or the folder that holds it"
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """Local days, and what the ledger and the private store say of their steps."""

    days: tuple[date, date]
    zone: tzinfo
    source: Source
    state: State
    gathered: Gathered
    allotments: list[Allotment]


def _load_curve(arguments: argparse.Namespace) -> int:
    asked = _gather(arguments)
    if arguments.meter is not None:
        check_meter(asked.state, arguments.meter)
        what, energy = f"meter {arguments.meter}", asked.gathered.energy_uwh.get(arguments.meter)
        since: Mapping[int, int] | None = asked.gathered.since.get(arguments.meter, {})
        mode = _PUBLIC
    else:
        totals = totals_by_step(_of(asked, arguments.member))
        what = f"what member {arguments.member} was given"
        energy = {step: members[arguments.member] for step, members in totals.items()}
        since, mode = None, _OURS
    make = load_curve_utc if arguments.form == "utc" else load_curve_local
    text = make(what, energy or {}, asked.days, asked.zone, asked.source, since)
    return _write(arguments.out, text, mode)


def _virtual_meter(arguments: argparse.Namespace) -> int:
    asked = _gather(arguments, with_consumption=True)
    rows = asked.allotments if arguments.member is None else _of(asked, arguments.member)
    is_json = arguments.out.suffix == ".json"
    make = virtual_meter_json if is_json else virtual_meter_csv
    return _write(arguments.out, make(rows, asked.source), _OURS)


def _settlement(arguments: argparse.Namespace) -> int:
    asked = _gather(arguments)
    text = settlement_csv(asked.gathered.accounts(asked.state), asked.source)
    return _write(arguments.out, text, _PUBLIC)


def _spain(arguments: argparse.Namespace) -> int:
    days = days_of(arguments.period)
    if days != month_days(days[0].year, days[0].month):
        raise ConfigurationError("the Spanish file is a month's: --period 2026-03")
    points = read_points(arguments.points)
    idle = None if arguments.idle is None else _weights(arguments.idle)
    asked = _gather(arguments)
    made = coefficients_es(
        days[0].year,
        days[0].month,
        totals_by_step(asked.allotments),
        points,
        asked.source.step_s,
        asked.zone,
        idle=idle,
        accept_missing=arguments.accept_missing,
        layout=Layout(first_hour=arguments.first_hour, hour_digits=arguments.hour_digits),
    )
    beside = sidecar(
        asked.source,
        arguments.out.name,
        zone=arguments.zone,
        hours=made.hours,
        first_hour=arguments.first_hour,
        idle=list(made.idle),
        missing=list(made.missing),
    )
    # The file beside comes first: no file stands there that nothing says the source of.
    _write(_beside(arguments.out), beside, _OURS)
    return _write(arguments.out, made.text, _OURS)


def _france(arguments: argparse.Namespace) -> int:
    template = Template()
    if arguments.template is not None:
        template = read_template(read_toml(arguments.template))
    points = read_points(arguments.points)
    asked = _gather(arguments)
    text = coefficients_fr(
        totals_by_step(asked.allotments),
        asked.gathered.produced_uwh,
        points,
        asked.days,
        asked.zone,
        asked.source,
        template,
    )
    if not template.comments:
        beside = sidecar(asked.source, arguments.out.name, zone=arguments.zone)
        _write(_beside(arguments.out), beside, _OURS)
    return _write(arguments.out, text, _OURS)


def efficiency_named(text: str) -> Fraction:
    """The part of what goes into a storage that comes out, as 9/10 or 0.9.

    Raises:
        ConfigurationError: it is none.
    """
    try:
        efficiency = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise ConfigurationError(f"{text!r:.40} is no number, as 9/10 or 0.9") from None
    if not 0 < efficiency <= 1:
        raise ConfigurationError("an efficiency is above 0, and at most 1")
    return efficiency


def _efficiency(text: str) -> Fraction:
    try:
        return efficiency_named(text)
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _storage(arguments: argparse.Namespace) -> int:
    folder = open_folder(arguments.config)
    text = storage_of(
        folder,
        (arguments.period, arguments.zone),
        arguments.member,
        arguments.meter,
        arguments.efficiency,
    )
    return _write(arguments.out, text, _OURS)


def storage_of(
    folder: Folder, when: tuple[str, str], member: str, meter: str, efficiency: Fraction
) -> str:
    """Whose energy a storage holds, reckoned from the first block on.

    Args:
        when: the period that is shown, and the zone of its days.
        member, meter, efficiency: see `StorageBook`.

    Raises:
        ConfigurationError: there is no such period, zone, member or storage.
        Rejected: the ledger does not hold.
    """
    zone, days = zone_named(when[1]), days_of(when[0])
    community = community_of(folder)
    report, book = go_through(
        DiskTree(folder.ledger).read, community, lambda: StorageBook(member, meter, efficiency)
    )
    check_meter(report.state, meter)
    if all(terms.use is not Use.STORAGE for terms in report.state.meters[meter].terms):
        use = report.state.meters[meter].terms[-1].use
        raise ConfigurationError(f'{meter} is for {use}: a storage\'s is registered as "storage"')
    if not any(member in agreed.agreement.members for agreed in report.state.agreements):
        raise ConfigurationError(f"no agreement names {member!r:.80}: nothing charges it")
    steps = steps_of(days, community.parameters.step_s, zone)
    book.movements = [one for one in book.movements if one.step in steps]
    return storage_csv(book, source_of(community, report))


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
    check_meter(asked.state, arguments.meter)
    software = ("cryptometer-gateway", __version__)
    closes = asked.gathered.closes.get(arguments.meter, [])
    if not closes:
        raise ConfigurationError(
            f"{arguments.meter} closed no step of {arguments.period} that counted"
        )
    records: list[str] = []
    left_out: list[str] = []
    for close in closes:
        try:
            records.append(ocmf_record(close, asked.source, key.public, key.sign_again, software))
        except ConfigurationError as error:  # of this step alone: the key was checked above
            left_out.append(f"left out: {error}")
    if not records:
        raise ConfigurationError("; ".join(left_out[:_SHOWN]))
    if len(left_out) > _SHOWN:
        left_out[_SHOWN:] = [f"and {len(left_out) - _SHOWN} steps more"]
    is_container = arguments.out.suffix == ".xml"
    lines = "".join(f"{record}\n" for record in records)
    text = ocmf_container(records, key.public) if is_container else lines
    return _write(arguments.out, text, _PUBLIC, left_out)


def _ocmf_key(arguments: argparse.Namespace) -> int:
    folder = open_folder(arguments.config)
    key = create_key(folder.state / OCMF_KEY, Algorithm.ES256)
    print(f"{folder.state / OCMF_KEY}: give its public half to whoever checks the records:")
    print(key_text(key.public))
    return 0


def _gather(arguments: argparse.Namespace, *, with_consumption: bool = False) -> Asked:
    folder = open_folder(arguments.config)
    return gather(folder, arguments.period, arguments.zone, with_consumption=with_consumption)


def gather(folder: Folder, period: str, zone_name: str, *, with_consumption: bool = False) -> Asked:
    """Goes through the ledger for the steps of a period: every block of it, from the first on.

    Raises:
        ConfigurationError: there is no such period or zone, or no ledger.
        Rejected: the ledger does not hold.
    """
    zone, days = zone_named(zone_name), days_of(period)
    community = community_of(folder)
    steps = steps_of(days, community.parameters.step_s, zone)
    serials = _serials(community)
    report, gathered = go_through(
        DiskTree(folder.ledger).read, community, lambda: Gathered(steps, serials)
    )
    consumption = _consumption(folder, steps) if with_consumption else {}
    allotments = list(gathered.allotments(report.state, consumption))
    return Asked(days, zone, source_of(community, report), report.state, gathered, allotments)


def community_of(folder: Folder) -> Community:
    """The community whose ledger a gateway's folder holds."""
    with closing(folder.open_store(read_only=True)) as store:
        return read_community(store)


def steps_of(days: tuple[date, date], step_s: int, zone: tzinfo) -> range:
    """The steps of local days, from the first to before the last."""
    return range(
        steps_of_day(days[0], step_s, zone).start, steps_of_day(days[1], step_s, zone).start
    )


def source_of(community: Community, report: audit.Report) -> Source:
    """What a file names that was made from a ledger just gone through."""
    parameters = community.parameters
    return Source(
        community.id, parameters.name, report.checkpoint, report.state.step, parameters.step_s
    )


def go_through(read: Read, community: Community, begin: Callable[[], T]) -> tuple[audit.Report, T]:
    """Every block of the ledger, given to what `begin` makes. A gateway that runs may publish one
    meanwhile, and take away a partial tile that was to be read: then once more, from where it
    stands now.

    Raises:
        Rejected: the ledger does not hold.
    """
    for left in reversed(range(_ATTEMPTS)):
        before = read(CHECKPOINT_PATH)
        taker = begin()
        try:
            report = audit.audit(read, community, watch=taker.take, verify=_verified_before)
        except Rejected:
            if not left or read(CHECKPOINT_PATH) == before:
                raise
        else:
            return report, taker
    raise AssertionError  # the last attempt returns or raises


def _verified_before(
    stream: Iterator[tuple[Record, PublicKey | None]],
) -> Iterator[tuple[Record, bool]]:
    """This gateway has verified every signature before it stored a record, and the tree's root,
    which it signed, shows that these are the same. Everything else is reckoned anew."""
    return ((record, True) for record, _ in stream)


def _serials(community: Community) -> dict[bytes, str]:
    """The number on each meter's name plate, by the registration that states it."""
    return {
        record.identity: body.meter.serial
        for record in community.records
        if isinstance(body := record.body, Registration) and body.meter is not None
    }


def _consumption(folder: Folder, steps: range) -> dict[int, Mapping[str, int]]:
    """What members consumed, as this gateway knows it now, by step."""
    if not folder.private.exists():
        return {}
    with closing(PrivateStore(folder.private)) as private:
        return {step: private.of(step) for step in steps}


def check_meter(state: State, name: str) -> None:
    """Raises ConfigurationError where no such meter is registered: its curve would be all gaps."""
    if name not in state.meters:
        known = ", ".join(sorted(state.meters)) or "none"
        raise ConfigurationError(f"no meter {name!r:.80} is registered; there are: {known:.1000}")


def _of(asked: Asked, member: str) -> list[Allotment]:
    """One member's share.

    Raises:
        ConfigurationError: no agreement names the member then.
    """
    found = [one for one in asked.allotments if one.member == member]
    if not found:
        raise ConfigurationError(f"no agreement names {member!r:.80} in a block of that period")
    return found


def days_of(period: str) -> tuple[date, date]:
    """The first day of a period, and the one behind its last.

    Raises:
        ConfigurationError: it is none.
    """
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
    raise ConfigurationError(f"the period is {PERIOD}, not {period!r:.40}")


def read_points(path: Path) -> dict[str, str]:
    """The supply point of each member, out of a file.

    Raises:
        ConfigurationError: it cannot be read, or is none.
    """
    points = {}
    for member, point in read_toml(path).items():
        if not isinstance(point, str):
            raise ConfigurationError(f"{path}: {member} has a text, in quotation marks")
        points[member] = point
    return points


def _weights(path: Path) -> dict[str, int]:
    weights = {}
    for member, weight in read_toml(path).items():
        if not isinstance(weight, int) or isinstance(weight, bool) or weight < 0:
            raise ConfigurationError(f"{path}: {member} has a whole number, 0 or more")
        weights[member] = weight
    return weights


def read_toml(path: Path) -> dict[str, object]:
    """A parsed file.

    Raises:
        ConfigurationError: it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except MISPLACED as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from None


def _beside(out: Path) -> Path:
    if out == STDOUT:
        raise ConfigurationError("two files are made: --out names the first")
    return out.with_name(out.name + SIDECAR_SUFFIX)


def _write(out: Path, text: str, mode: int, before: Sequence[str] = ()) -> int:
    return hand_out(out, text.encode(), f"{len(text.splitlines())} lines", mode, before)
