"""`cryptometer-gateway report`: how well meters were counted, as the page and the table that a grid
operator is shown; and what people read off displays, which is kept for it. It reads the ledger, and
writes what it is told to.
"""

import argparse
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptometer.community import Community, decode_community
from cryptometer.errors import ConfigurationError
from cryptometer.readable import utc
from cryptometer.steps import NS_PER_MS, NS_PER_S
from cryptometer.tiles import CHECKPOINT_PATH, Read
from gateway.exporting import (
    add_common,
    community_of,
    days_of,
    go_through,
    source_of,
    steps_of,
)
from gateway.exports.accuracy_page import Period, accuracy_html
from gateway.exports.accuracy_table import accuracy_csv, accuracy_json
from gateway.exports.accuracy_words import sentences
from gateway.exports.displays import Seen, check_seen, decode_seen, encode_seen
from gateway.exports.measured import Measured, Measuring
from gateway.exports.source import Source
from gateway.folder import Folder, open_folder
from hal.files import DiskTree, put_file, read_file
from hal.handing import STDOUT, hand_out
from hal.zone import zone_named

_PUBLIC = 0o644  # the ledger shows it to everybody, a meter's register and what it should show
_SUFFIXES = (".html", ".csv", ".json")


def add_commands(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]", default: Path
) -> None:
    """Registers `report`; `default` is the folder where none is given."""
    reports = subparsers.add_parser(
        "report", help="how well meters were counted, for the grid operator"
    ).add_subparsers(required=True, metavar="REPORT")

    accuracy = reports.add_parser(
        "accuracy",
        help="energy in the blocks against the meters' own indexes",
        description="Per meter and step: energy, what a second source or the display says, against"
        " the MPE; lateness, silence, clocks, marks, energy set aside and why. A page with plots"
        " in a file named .html; a table in one named .csv or .json. The same ledger gives the"
        " same file, which names the checkpoint it was made from.",
    )
    add_common(accuracy, default)
    accuracy.add_argument(
        "--ledger", type=Path, metavar="DIR", help="a ledger's files, in place of a gateway's own"
    )
    accuracy.add_argument(
        "--community", type=Path, metavar="PUB", help="with --ledger: whose it is, community.pub"
    )
    accuracy.add_argument(
        "--readings",
        type=Path,
        metavar="CSV",
        help="with --ledger: what displays showed, the gateway's readings.csv; default: none",
    )
    accuracy.set_defaults(act=_accuracy)

    reading = reports.add_parser(
        "reading",
        help="keep what a meter's display showed",
        description="Keeps what somebody read off a meter's display, so that reports compare it"
        " with what was counted. It enters no ledger. The same moment again takes the place of"
        " what was kept.",
    )
    reading.add_argument("meter")
    reading.add_argument(
        "--at", required=True, metavar="ISO", help="when, to the minute: 2026-10-25T14:03+01:00"
    )
    reading.add_argument("--wh", type=int, required=True, metavar="N", help="what it showed, Wh")
    reading.add_argument(
        "--digit-wh",
        type=int,
        default=1,
        metavar="N",
        help="what its last digit is worth, Wh: 1000 where it shows whole kWh; default: 1",
    )
    reading.add_argument(
        "--config", type=Path, default=default, help="gateway.toml, or the folder that holds it"
    )
    reading.set_defaults(act=_reading)


@dataclass(frozen=True, slots=True)
class Asked:
    """A period, and what the ledger and the readings of displays say of it."""

    measured: Measured
    source: Source
    period: Period

    def html(self) -> str:
        return accuracy_html(self.measured, self.source, self.period)

    def csv(self) -> str:
        return accuracy_csv(self.measured, self.source)

    def json(self) -> str:
        return accuracy_json(self.measured, self.source)


def measure(folder: Folder, period: str, zone_name: str) -> Asked:
    """Goes through a gateway's ledger for a period: every block of it, from the first on.

    Raises:
        ConfigurationError: there is no such period or zone, or no ledger; or the readings' file is
            damaged.
        Rejected: the ledger does not hold.
    """
    read, seen = DiskTree(folder.ledger).read, read_seen(folder.readings)
    return _measure(read, community_of(folder), seen, period, zone_name)


def _measure(
    read: Read, community: Community, seen: list[Seen], period: str, zone_name: str
) -> Asked:
    days, zone = days_of(period), zone_named(zone_name)
    step_s = community.parameters.step_s
    steps = steps_of(days, step_s, zone)
    found, measuring = go_through(read, community, lambda: Measuring(steps, step_s, seen))
    return Asked(
        measuring.finish(), source_of(community, found), Period(period, zone_name, zone, days)
    )


def _measure_elsewhere(arguments: argparse.Namespace) -> Asked:
    """A ledger that somebody has copied, against keys that he has from the authority."""
    ledger: Path | None = arguments.ledger
    if ledger is None or arguments.community is None:
        raise ConfigurationError("--ledger, --community: one needs the other, --readings both")
    if not (ledger / CHECKPOINT_PATH).is_file():
        raise ConfigurationError(f"{ledger} is no ledger's folder: it has no {CHECKPOINT_PATH}")
    try:
        community = decode_community(read_file(arguments.community).decode())
    except UnicodeDecodeError:
        raise ConfigurationError(f"{arguments.community} is no community.pub") from None
    seen = [] if arguments.readings is None else read_seen(arguments.readings)
    return _measure(DiskTree(ledger).read, community, seen, arguments.period, arguments.zone)


def _accuracy(arguments: argparse.Namespace) -> int:
    out: Path = arguments.out
    if out != STDOUT and out.suffix not in _SUFFIXES:
        raise ConfigurationError(f"{out} ends in none of {', '.join(_SUFFIXES)}")
    if (arguments.ledger, arguments.community, arguments.readings) == (None, None, None):
        asked = measure(open_folder(arguments.config), arguments.period, arguments.zone)
    else:
        asked = _measure_elsewhere(arguments)
    make = {".csv": asked.csv, ".json": asked.json}.get(out.suffix, asked.html)
    text = make()
    before = list(sentences(asked.measured))
    return hand_out(out, text.encode(), f"{len(text)} characters", _PUBLIC, before)


def _reading(arguments: argparse.Namespace) -> int:
    folder = open_folder(arguments.config)
    new = Seen(arguments.meter, _moment_ms(arguments.at), arguments.wh, arguments.digit_wh)
    check_seen(new)
    with closing(folder.open_store(read_only=True)) as store:
        state = store.state()
    meters = {} if state is None else state.meters
    if new.meter not in meters:
        known = ", ".join(sorted(meters)) or "none"
        raise ConfigurationError(
            f"no meter {new.meter!r:.80} is registered; there are: {known:.1000}"
        )
    if meters[new.meter].is_private:
        raise ConfigurationError(
            f"{new.meter} tells what a member consumes: the ledger has nothing to compare it with"
        )
    kept = {(one.meter, one.at_ms): one for one in read_seen(folder.readings)}
    before = kept.get((new.meter, new.at_ms))
    kept[new.meter, new.at_ms] = new
    put_file(folder.readings, encode_seen(kept.values()).encode(), mode=_PUBLIC)
    instead = "" if before is None else f", in place of {before.wh} Wh"
    print(f"{new.meter}: {new.wh} Wh at {utc(new.at_ms)[:16]}Z kept{instead}")
    return 0


def read_seen(path: Path) -> list[Seen]:
    """What people read off displays.

    Raises:
        ConfigurationError: the file they are kept in is damaged.
    """
    if not path.exists():
        return []
    try:
        return decode_seen(read_file(path).decode())
    except (ConfigurationError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: {error}") from None


def _moment_ms(text: str) -> int:
    """A moment with its offset, or UTC without one, ms since the Unix epoch."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"{text!r:.60} is no moment: write 2026-10-25T14:03+01:00, or with Z for UTC"
        ) from None
    if moment.tzinfo is None:
        raise ConfigurationError(
            f"{text} could be any zone's: end it with an offset, as +01:00, or Z for UTC"
        )
    return int(moment.astimezone(UTC).timestamp()) * (NS_PER_S // NS_PER_MS)
