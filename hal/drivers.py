"""The one place where drivers are chosen: by name, from configuration, imported only then."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cryptometer.errors import ConfigurationError
from cryptometer.keys import Algorithm, KeyLost, PublicKey
from cryptometer.settings import read_settings, setting
from hal.clock import ScaledClock, SystemClock
from hal.counter_device import Accompanied, CompanionSettings
from hal.index.choice import INDEX_SOURCES, IndexSettings, is_index_source, split_settings
from hal.keyfile import create_key, load_key
from hal.keyplace import FilePlace, Place, TpmPlace
from hal.patience import PatientGuard, PatientKey
from hal.ports import Clock, Guard, IndexSource, PulseSource, StoredKey

if TYPE_CHECKING:
    from hal.modbus_bus import Buses as ModbusBuses
    from hal.shared_line import SharedLines

SOURCES = ("serial", "gpio", "rpi", "modem", "sim")
CLOCKS = ("system", "scaled")
# The extra and Debian's package that bring a module; some Debian has not, or too old.
_PACKAGES = {
    "gpiod": ("gpio", "libgpiod"),
    "RPi": ("rpi", "rpi-lgpio"),
    "pymodbus": ("modbus", ""),
    "dlms_cosem": ("dlms", ""),
}


@dataclass(frozen=True, slots=True)
class ScaledSettings:
    """The table `[clock]` with `driver = "scaled"`."""

    speed: int = setting("how many community seconds pass in a machine second")
    origin_ms: int = setting("community time at the anchor, ms since the Unix epoch")
    anchor_ms: int = setting("the machine's CLOCK_MONOTONIC at that moment, ms")


@dataclass(frozen=True, slots=True)
class SystemSettings:
    """The table `[clock]` with `driver = "system"`, the default: it has no settings."""


def open_source(table: Mapping[str, object]) -> PulseSource:
    """Opens the line that a table `[source]` describes.

    Raises:
        ConfigurationError: no such driver, a package is missing, or a setting is wrong.
        LineLost: the line cannot be opened now.
    """
    driver, rest = _driver(table, "[source]", SOURCES + INDEX_SOURCES)
    if is_index_source(table):
        raise ConfigurationError(f"a meter of the driver {driver!r} has no pulses, but an index")
    beside = {name: rest.pop(name) for name in ("counter",) if name in rest}
    companion = read_settings(CompanionSettings, beside, "[source]")
    line = _open_line(driver, rest)
    return Accompanied(line, Path(companion.counter)) if companion.counter else line


def _open_line(driver: str, rest: Mapping[str, object]) -> PulseSource:
    with _driver_package(driver):
        match driver:
            case "serial":
                from hal.serial_line import SerialLine, SerialSettings  # noqa: PLC0415

                return SerialLine(read_settings(SerialSettings, rest, "[source]"))
            case "gpio":
                from hal.gpio_line import GpioLine, GpioSettings  # noqa: PLC0415

                return GpioLine(read_settings(GpioSettings, rest, "[source]"))
            case "rpi":
                from hal.rpi_line import RpiLine, RpiSettings  # noqa: PLC0415

                return RpiLine(read_settings(RpiSettings, rest, "[source]"))
            case "modem":
                from hal.modem_line import ModemLine, ModemSettings  # noqa: PLC0415

                return ModemLine(read_settings(ModemSettings, rest, "[source]"))
            case _:
                from hal.sim_line import SimSettings, SimulatedLine  # noqa: PLC0415

                return SimulatedLine(read_settings(SimSettings, rest, "[source]"))


def index_settings(table: Mapping[str, object]) -> IndexSettings:
    """What a table `[source]` of a meter that speaks says beside its driver's settings. Nothing is
    opened.

    Raises:
        ConfigurationError: no such driver, or a setting is wrong.
    """
    _, rest = _driver(table, "[source]", INDEX_SOURCES)
    return split_settings(rest, "[source]")[0]


class Buses:
    """The buses of one program, that several of its meters share. Their package is imported when
    the first of them is opened."""

    def __init__(self) -> None:
        self._modbus: ModbusBuses | None = None
        self._lines: SharedLines | None = None

    @property
    def lines(self) -> "SharedLines":
        """The lines that meters share which are asked one after another."""
        from hal.shared_line import SharedLines  # noqa: PLC0415

        if self._lines is None:
            self._lines = SharedLines()
        return self._lines

    def open_modbus(self, rest: Mapping[str, object]) -> IndexSource:
        """
        Args:
            rest: the driver's own settings.

        Raises:
            ConfigurationError: one is wrong, or contradicts another meter's.
            ImportError: pymodbus is not installed.
        """
        from hal.modbus_bus import Buses as ModbusBuses  # noqa: PLC0415
        from hal.modbus_bus import ModbusSettings  # noqa: PLC0415

        if self._modbus is None:
            self._modbus = ModbusBuses()
        return self._modbus.open(read_settings(ModbusSettings, rest, "[source]"))


def open_index(table: Mapping[str, object], buses: Buses) -> IndexSource:
    """Opens the meter that a table `[source]` describes.

    Args:
        table: with the keys that `index_settings` reads.
        buses: of this program, for meters that share one.

    Raises:
        ConfigurationError: no such driver, a package is missing, or a setting is wrong.
        LineLost: the line cannot be opened now.
    """
    driver, own = _driver(table, "[source]", INDEX_SOURCES)
    _, rest = split_settings(own, "[source]")
    with _driver_package(driver):
        match driver:
            case "modbus":
                return buses.open_modbus(rest)
            case "sim-index":
                from hal.sim_index import SimIndexSettings, SimulatedIndex  # noqa: PLC0415

                return SimulatedIndex(read_settings(SimIndexSettings, rest, "[source]"))
            case _:
                return _open_line_of(driver, rest, buses.lines)


def open_compared(table: Mapping[str, object], buses: Buses) -> IndexSource:
    """Opens the meter that a table `[compared]` describes.

    Args:
        table: without the keys that are of the comparison alone.
        buses: as in `open_index`.

    Raises:
        ConfigurationError, LineLost: as `open_index`.
    """
    try:
        return open_index(table, buses)
    except ConfigurationError as error:
        raise ConfigurationError(str(error).replace("[source]", "[compared]")) from None


def _open_line_of(driver: str, rest: Mapping[str, object], lines: "SharedLines") -> IndexSource:
    from hal import index_drivers as of  # noqa: PLC0415

    match driver:
        case "linky":
            return of.linky_line(read_settings(of.LinkySettings, rest, "[source]"))
        case "p1":
            return of.p1_line(read_settings(of.P1Settings, rest, "[source]"))
        case "d0":
            return of.d0_line(read_settings(of.D0Settings, rest, "[source]"), lines)
        case "sml":
            return of.sml_line(read_settings(of.SmlSettings, rest, "[source]"))
        case "dlms":
            return of.dlms_line(read_settings(of.DlmsSettings, rest, "[source]"), lines)
        case _:
            return of.dlms_push_line(read_settings(of.DlmsPushSettings, rest, "[source]"))


@contextmanager
def _driver_package(driver: str) -> Iterator[None]:
    """Around what imports a driver's package."""
    try:
        yield
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        extra, package = _PACKAGES.get(missing, ("firmware", "serial"))
        debian = f", or Debian's python3-{package}" if package else ""
        raise ConfigurationError(
            f"the driver {driver!r} needs a package that is missing ({missing}):"
            f" pip install 'cryptometer[{extra}]'{debian}"
        ) from None


def open_clock(table: Mapping[str, object]) -> Clock:
    """Opens the clock that a table `[clock]` describes; the system's when it is empty.

    Raises:
        ConfigurationError: no such driver, or a setting is wrong.
    """
    driver, rest = _driver({"driver": "system", **table}, "[clock]", CLOCKS)
    if driver == "system":
        read_settings(SystemSettings, rest, "[clock]")
        return SystemClock()
    scaled = read_settings(ScaledSettings, rest, "[clock]")
    if scaled.speed < 1:
        raise ConfigurationError("[clock] speed is at least 1")
    return ScaledClock(scaled.speed, scaled.origin_ms, scaled.anchor_ms)


def open_key(place: Place, folder: Path, known: PublicKey | None) -> StoredKey:
    """The key that is kept in a place.

    Args:
        place: as read from the configuration.
        folder: of whoever has the key; a file's path is relative to it.
        known: its public half, where it is known: a token may be away then, for now.

    Raises:
        ConfigurationError: it is missing, of another kind, or a package is missing.
        KeyLost: its token is away, and nothing is known of it.
    """
    if isinstance(place, FilePlace):
        return load_key(folder / place.path)
    if isinstance(place, TpmPlace):
        with _tpm_package():
            from hal.tpm_key import load_tpm_key  # noqa: PLC0415
        return PatientKey(load_tpm_key(place, known))
    with _token_package():
        from hal.token_key import load_token_key  # noqa: PLC0415
    return PatientKey(load_token_key(place, known))


def has_key(place: Place, folder: Path) -> bool:
    """Whether there is a key in a place, usable or not.

    Raises:
        ConfigurationError: its token is away, or a package is missing.
    """
    if isinstance(place, FilePlace):
        return (folder / place.path).exists()
    try:
        if isinstance(place, TpmPlace):
            with _tpm_package():
                from hal.tpm_key import has_tpm_key  # noqa: PLC0415
            return has_tpm_key(place)
        with _token_package():
            from hal.token_key import has_token_key  # noqa: PLC0415
        return has_token_key(place)
    except KeyLost as lost:
        raise ConfigurationError(str(lost)) from None


def make_key(place: Place, folder: Path, algorithm: Algorithm) -> StoredKey:
    """Makes a key in a place, for good; a TPM makes P-256, whatever is asked for.

    Raises:
        ConfigurationError: there is one already, which is left as it is; or it cannot be made.
    """
    if isinstance(place, FilePlace):
        return create_key(folder / place.path, algorithm)
    try:
        if isinstance(place, TpmPlace):
            with _tpm_package():
                from hal.tpm_key import create_tpm_key  # noqa: PLC0415
            return create_tpm_key(place)
        with _token_package():
            from hal.token_key import create_token_key  # noqa: PLC0415
        return create_token_key(place, algorithm)
    except KeyLost as lost:
        raise ConfigurationError(str(lost)) from None


def open_guard(place: Place) -> Guard | None:
    """What guards the chain of the key in a place; None where nothing does.

    Raises:
        ConfigurationError: a package is missing.
    """
    if not isinstance(place, TpmPlace) or place.counter is None:
        return None
    with _tpm_package():
        from hal.tpm_key import TpmCounter  # noqa: PLC0415
    return PatientGuard(TpmCounter(place, place.counter), f"TPM's counter at {place.counter:#010x}")


def make_guard(place: Place) -> bool:
    """Makes what guards the chain of a key that is there already; False if the place names none, or
    there is one.

    Raises:
        ConfigurationError: it cannot be made.
    """
    if not isinstance(place, TpmPlace):
        return False
    with _tpm_package():
        from hal.tpm_key import create_tpm_counter  # noqa: PLC0415
    try:
        return create_tpm_counter(place)
    except KeyLost as lost:
        raise ConfigurationError(str(lost)) from None


@contextmanager
def _package(what: str, how: str) -> Iterator[None]:
    """Around the import of what speaks to a key store: neither its package nor the libraries under
    that are installed everywhere."""
    try:
        yield
    except ImportError as error:
        raise ConfigurationError(
            f"a key in a {what} needs a package that is missing ({error.name or error}): {how}"
        ) from None


_token_package = partial(_package, "token", "pip install 'cryptometer[pkcs11]'")
_tpm_package = partial(
    _package, "TPM", "apt install libtss2-dev, then pip install 'cryptometer[tpm2]'"
)


def _driver(
    table: Mapping[str, object], where: str, known: tuple[str, ...]
) -> tuple[str, dict[str, object]]:
    rest = dict(table)
    driver = rest.pop("driver", None)
    if not isinstance(driver, str) or driver not in known:
        raise ConfigurationError(f"{where} driver is one of {', '.join(known)}, not {driver!r}")
    return driver, rest
