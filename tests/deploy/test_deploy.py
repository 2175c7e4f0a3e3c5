"""What is installed on boards and servers fits the programs."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest

from cryptometer.curve_template import GENERIC, read_template
from cryptometer.errors import ConfigurationError
from cryptometer.settings import read_settings
from firmware.comparing import without_ratio
from firmware.config import read_config
from gateway.config import read_config as read_gateway_config
from gateway.exporting import read_points
from gateway.exports.spain import check_cups
from gateway.folder import initialise, open_folder
from hal.drivers import Buses, index_settings, open_compared, open_index
from hal.gpio_line import GpioSettings
from hal.index.choice import split_settings
from hal.index.modbus_map import Status
from hal.index.reading import Register
from hal.index_drivers import (
    D0Settings,
    DlmsPushSettings,
    DlmsSettings,
    LineSettings,
    LinkySettings,
    P1Settings,
    SmlSettings,
)
from hal.keyplace import TokenPlace, TpmPlace, read_place
from hal.modbus_bus import ModbusSettings, check_settings
from hal.modem_line import Edge, ModemSettings, ModemSignal
from hal.ports import LineLost
from hal.pulse_shape import Preset
from hal.serial_line import SerialSettings
from hal.zone import zone_named

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
EXPOSURE_MAX = 2.5  # of 10: systemd's own judgement of what a broken-into service could reach


def test_there_is_a_unit_for_each_program() -> None:
    assert sorted(unit.stem for unit in UNITS) == [
        "cryptometer-firmware",
        "cryptometer-gateway",
        "cryptometer-gateway-members",
        "cryptometer-gateway-web",
    ]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_accepts_the_unit(unit: Path, tmp_path: Path) -> None:
    # The programs of this environment stand for those below /opt.
    installed = tmp_path / unit.name
    here = str(Path(sys.executable).parent)
    installed.write_text(unit.read_text().replace("/opt/cryptometer/bin", here))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", installed],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_service_can_reach_little_beyond_its_own_folder(unit: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", unit],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= EXPOSURE_MAX


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_restarts_always_but_not_on_a_wrong_configuration(unit: Path) -> None:
    text = unit.read_text()
    assert "Restart=always" in text
    assert re.search(r"^RestartPreventExitStatus=2\b", text, re.MULTILINE)
    assert re.search(r"^WatchdogSec=\d+$", text, re.MULTILINE)


@pytest.mark.parametrize("side", ["web", "members"])
def test_a_web_side_runs_as_another_user_and_writes_nothing(side: str) -> None:
    text = (DEPLOY / "systemd" / f"cryptometer-gateway-{side}.service").read_text()
    gateway = (DEPLOY / "systemd" / "cryptometer-gateway.service").read_text()
    user = re.findall(r"^User=(.+)$", text, re.MULTILINE)
    assert user == [f"cryptometer-{side}"] != re.findall(r"^User=(.+)$", gateway, re.MULTILINE)
    assert (
        f"useradd --system --user-group --home-dir / --shell /usr/sbin/nologin {user[0]}"
        in (DEPLOY / "install.sh").read_text()
    )
    for word in ("StateDirectory", "ReadWritePaths", "RuntimeDirectory"):
        assert not re.search(rf"^{word}=", text, re.MULTILINE)
    assert "ProtectSystem=strict" in text


def test_only_the_members_side_is_given_what_is_a_members() -> None:
    """`private.db` is readable by the group of that one's user, which no other unit has."""
    install = (DEPLOY / "install.sh").read_text()
    assert 'chgrp cryptometer-members "$state/private.db"' in install
    for unit in UNITS:
        text = unit.read_text()
        is_members = unit.stem == "cryptometer-gateway-members"
        assert ("cryptometer-members" in text) is is_members
        assert ("serve --members" in text) is is_members


def test_the_examples_for_serving_members_are_valid() -> None:
    text = (DEPLOY / "examples" / "gateway.toml").read_text()
    config = read_gateway_config(tomllib.loads(text))
    defaults = read_gateway_config({})
    assert (config.web, config.members.port) == (defaults.web, defaults.members.port)
    points = read_points(DEPLOY / "examples" / config.members.points)
    for cups in points.values():
        check_cups(cups)


def _examples(text: str) -> list[dict[str, object]]:
    """The file as it is, and with each commented-out alternative in place of the first table."""
    plain = tomllib.loads(text)
    blocks = re.split(r"\n\s*\n", text)
    uncommented = [
        "\n".join(line.removeprefix("# ") for line in block.splitlines() if "=" in line)
        for block in blocks
        if block.lstrip().startswith("# driver") or block.lstrip().startswith("# A ")
    ]
    return [plain, *(tomllib.loads(one) for one in uncommented)]


def test_every_line_of_the_example_configuration_is_valid() -> None:
    text = (DEPLOY / "examples" / "meter.toml").read_text()
    config = read_config(tomllib.loads(text))
    settings = dict(config.source)
    assert settings.pop("driver") == "serial"
    read_settings(SerialSettings, settings, "[source]")
    alternatives = [one for one in _examples(text)[1:] if "driver" in one]
    assert [one.pop("driver") for one in alternatives] == ["serial", "gpio"]
    read_settings(SerialSettings, alternatives[0], "[source]")
    read_settings(GpioSettings, alternatives[1], "[source]")
    # The optional tables, with all their settings in.
    tables = text[text.index("# [batch]") :]
    given = tomllib.loads(re.sub(r"^# ", "", tables, flags=re.MULTILINE))
    full = read_config({"source": {"driver": "sim"}, **given})
    # They show the defaults.
    assert full == read_config({"source": {"driver": "sim"}})


def test_the_examples_of_key_stores_are_valid() -> None:
    text = (DEPLOY / "examples" / "meter.toml").read_text()
    stores = re.findall(r'^# store = "(.*)"$', text, re.MULTILINE)
    places = [read_place(store, "[key] store") for store in stores]
    assert [type(place) for place in places] == [TokenPlace, TpmPlace]
    operations = (DEPLOY.parent / "docs" / "operations.md").read_text()
    for store in stores:
        assert f'store = "{store}"' in operations


def test_a_second_meter_has_a_folder_of_its_own_within_the_services() -> None:
    text = (DEPLOY / "examples" / "second-meter.toml").read_text()
    config = read_config(tomllib.loads(text))
    own = Path(read_config({"source": {"driver": "sim"}}).state)
    assert Path(config.state).parent == own
    settings = dict(config.source)
    assert settings.pop("driver") == "gpio"
    read_settings(GpioSettings, settings, "[source]")
    unit = (DEPLOY / "systemd" / "cryptometer-firmware.service").read_text()
    assert f"StateDirectory={own.name}\n" in unit
    assert "run --config /etc/cryptometer\n" in unit  # the folder: all meters in it


def test_the_example_of_a_modem_line_is_valid_and_drawn_as_it_is_configured() -> None:
    text = (DEPLOY / "examples" / "modem-meter.toml").read_text()
    settings = dict(read_config(tomllib.loads(text)).source)
    assert settings.pop("driver") == "modem"
    given = read_settings(ModemSettings, settings, "[source]")
    assert (given.line, given.edge) == (ModemSignal.CTS, Edge.OFF)
    [drawing] = re.findall(r"[\w-]+\.svg", text)
    words = _words(drawing)
    assert {"S0+", "S0−", "CTS", "GND", "3.3 V", "1 kΩ"} <= words
    # The circuit and its levels are those of section 1.
    wiring = (DEPLOY.parent / "docs" / "operations.md").read_text().partition("\n## 2. ")[0]
    assert "3.3 V ──[ 1 kΩ ]──┬──────── RX" in wiring
    assert "closed below 0.8 V, open above 2.5 V" in wiring
    assert "closed: 2.5 to 3 mA, below 0.8 V; open: above 2.5 V" in words


def test_the_example_of_a_modbus_meter_is_valid() -> None:
    text = (DEPLOY / "examples" / "modbus-meter.toml").read_text()
    settings = dict(read_config(tomllib.loads(text)).source)
    assert settings.pop("driver") == "modbus"
    _, settings = split_settings(settings, "[source]")
    meter_map, _ = check_settings(read_settings(ModbusSettings, settings, "[source]"))
    assert meter_map.status is Status.VERIFIED


@pytest.mark.parametrize(
    ("driver", "kind"),
    [
        ("linky", LinkySettings),
        ("p1", P1Settings),
        ("d0", D0Settings),
        ("sml", SmlSettings),
        ("dlms", DlmsSettings),
        ("dlms-push", DlmsPushSettings),
    ],
)
def test_the_example_of_each_meter_that_speaks_is_valid(
    driver: str, kind: type[LineSettings]
) -> None:
    text = (DEPLOY / "examples" / f"{driver}-meter.toml").read_text()
    settings = dict(read_config(tomllib.loads(text)).source)
    assert settings.pop("driver") == driver
    common, rest = split_settings(settings, "[source]")
    assert common.register is Register.IMPORT
    assert read_settings(kind, rest, "[source]").device
    # As it is opened, up to its line or its keys, which are not here.
    with pytest.raises((LineLost, ConfigurationError), match=r"no such device|cannot read the key"):
        open_index({"driver": driver, **settings, "device": "/dev/no-such"}, Buses())


@pytest.mark.parametrize(
    ("name", "preset", "parts"),
    [
        ("gpio-meter", Preset.S0_CLASS_B, {"S0+", "S0−", "1 kΩ"}),
        ("led-meter", Preset.LED, {"phototransistor", "10 kΩ"}),
    ],
)
def test_the_examples_of_a_gpio_line_are_valid_and_drawn_as_they_are_configured(
    name: str, preset: Preset, parts: set[str]
) -> None:
    text = (DEPLOY / "examples" / f"{name}.toml").read_text()
    settings = dict(read_config(tomllib.loads(text)).source)
    assert settings.pop("driver") == "gpio"
    given = read_settings(GpioSettings, settings, "[source]")
    assert (given.pulse, given.offset) == (preset, 17)
    [drawing] = re.findall(r"[\w-]+\.svg", text)
    assert {"GPIO 17 (pin 11)", "GND (pin 6)", "3.3 V (pin 1)", *parts} <= _words(drawing)


@pytest.mark.parametrize(
    ("names", "drawing", "parts"),
    [
        (("linky",), "linky-on-rx.svg", {"I1", "I2", "1.2 kΩ", "3.3 kΩ", "RX (pin 10)"}),
        (
            ("p1",),
            "p1-on-rx.svg",
            {"1: +5 V", "2: data request", "3: data ground", "5: data", "RX (pin 10)"},
        ),
        (("modbus", "dlms"), "rs485-bus.svg", {"A", "B", "GND", "120 Ω", "address 3"}),
        (
            ("sml", "d0"),
            "optical-head-on-rx.svg",
            {"phototransistor", "RX (pin 10)", "TX (pin 8)", "LED, 800 to 1000 nm:"},
        ),
    ],
)
def test_the_data_ports_are_drawn_and_their_examples_name_drawing_and_document(
    names: tuple[str, ...], drawing: str, parts: set[str]
) -> None:
    assert parts <= _words(drawing)
    for name in names:
        text = (DEPLOY / "examples" / f"{name}-meter.toml").read_text()
        assert drawing in text
        words = text.replace("\n# ", " ")
        named = re.search(r"CPT_54E|P1 Companion Standard|IEC 62056-21|Serial Line V1\.02", words)
        assert named or name == "dlms"
        # A comment that is read on a screen of a hundred characters.
        assert all(len(line) <= 100 for line in text.splitlines()), name


def _words(drawing: str) -> set[str]:
    tree = ElementTree.parse(DEPLOY / "examples" / drawing)  # noqa: S314 - a file of our own
    return {one.text for one in tree.iter() if one.text}


def test_every_drawing_is_led_to() -> None:
    wiring = (DEPLOY.parent / "docs" / "operations.md").read_text()
    drawings = {one.name for one in (DEPLOY / "examples").glob("*.svg")}
    assert len(drawings) >= 5
    for drawing in drawings:
        assert f"(../deploy/examples/{drawing})" in wiring
        assert _words(drawing)


def test_the_configuration_a_new_gateway_gets_is_valid(tmp_path: Path) -> None:
    initialise(tmp_path / "gateway")
    text = (tmp_path / "gateway" / "gateway.toml").read_text()
    given = re.sub(r"^# (?=\[|\w+ = )", "", text, flags=re.MULTILINE)
    assert given != text
    (tmp_path / "gateway" / "gateway.toml").write_text(given)
    assert open_folder(tmp_path / "gateway").config.ledger == "ledger"


def test_the_installer_says_how_it_is_used() -> None:
    done = subprocess.run(
        ["sh", DEPLOY / "install.sh"], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 2
    assert "meter|gateway" in done.stderr


@pytest.mark.parametrize(
    "name", sorted(path.name for path in (DEPLOY / "examples").glob("curve*.toml"))
)
def test_the_examples_of_load_curves_are_valid_with_all_that_is_commented_out(name: str) -> None:
    text = (DEPLOY / "examples" / name).read_text()
    template = read_template(tomllib.loads(text), name)
    assert zone_named(template.zone)
    settings = re.compile(r"""^# (?=\[|\w+ = |"[^"]+" = )""", re.MULTILINE)
    full = read_template(tomllib.loads(settings.sub("", text)), name)
    assert len(full.members) == (2 if full.names_members else 0)
    if name == "curve.toml":  # what it takes without a template
        assert template == GENERIC


def test_the_example_of_a_compared_source_is_valid() -> None:
    text = (DEPLOY / "examples" / "compared-meter.toml").read_text()
    for shown, expected in ((text, 1), (re.sub("(?m)^# (ratio|identity) =", r"\1 =", text), 50)):
        ratio, table = without_ratio(read_config(tomllib.loads(shown)).compared)
        assert ratio == expected
        assert index_settings(table).register is Register.IMPORT
        with pytest.raises(LineLost, match="no such device"):
            open_compared({**table, "device": "/dev/no-such"}, Buses())
