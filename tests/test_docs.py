"""The documents fit the programs: settings, commands, options, reasons, marks, links, examples."""

import argparse
import importlib
import pkgutil
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from pathlib import Path

import pytest

import cryptometer.commands
import firmware
import firmware.main
import gateway
import gateway.main
import hal
from cryptometer.chain_records import Mark
from cryptometer.commands import main as common
from cryptometer.commands.agreements import read_agreement
from cryptometer.commands.meters import read_meters
from cryptometer.curve_template import read_template
from cryptometer.errors import Reason
from firmware.config import read_config as read_meter_toml
from hal.drivers import CLOCKS, SOURCES, open_clock
from hal.index.choice import INDEX_SOURCES

ROOT = Path(__file__).parents[1]
OPERATIONS = ROOT / "docs" / "operations.md"
DOCUMENTS = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "deploy").rglob("*.md"),
    ]
)
PROGRAMS = ("cryptometer", "cryptometer-firmware", "cryptometer-gateway")
_PROGRAM = r"cryptometer(?:-firmware|-gateway)?"
# Tables.
_NAMES_ONLY = {"state", "source", "key", "clock", "batch", "journal", "outbox", "broker", "web"}
_NAMES_ONLY |= {"compared"}
_NAMES_ONLY |= {"members", "only", "must"}  # of a load curve's template
_NAMES_ONLY |= {"columns"}  # of a French coefficient file's template


_FENCED = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=_name)


# --- Settings. -----------------------------------------------------------------------------------


def _setting_classes() -> list[type]:
    """Every class of documented settings, wherever it is defined."""
    found: dict[str, type] = {}
    for package in (cryptometer.commands, firmware, gateway, hal):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for value in vars(importlib.import_module(module.name)).values():
                if (
                    isinstance(value, type)
                    and is_dataclass(value)
                    and any("doc" in part.metadata for part in fields(value))
                ):
                    found[f"{value.__module__}.{value.__name__}"] = value
    return [found[name] for name in sorted(found)]


def _shown(default: object) -> str:
    """A default as the tables show it."""
    match default:
        case bool():
            return f"`{str(default).lower()}`"
        case "" | None:
            return "none"
        case str():
            return f'`"{default}"`'
        case _:
            return "required" if default is MISSING else f"`{default}`"


@pytest.mark.parametrize("kind", _setting_classes(), ids=lambda kind: f"{kind.__module__}")
def test_every_setting_is_listed_with_its_default(kind: type) -> None:
    rows = OPERATIONS.read_text().splitlines()
    for part in fields(kind):
        name = part.name.rstrip("_")  # `class` and `from` are words of Python
        # A table's default is that of its own settings.
        is_table = name in _NAMES_ONLY and part.default is MISSING
        begins = f"| `{name}` | " + ("" if is_table else f"{_shown(part.default)} |")
        assert any(row.startswith(begins) for row in rows), f"{kind.__name__}: {begins}"


def test_the_settings_of_every_part_were_found() -> None:
    names = {kind.__module__ for kind in _setting_classes()}
    parts = {"commands.folder", "commands.meters"}
    assert names >= {f"cryptometer.{part}" for part in parts}
    assert names >= {f"hal.{part}" for part in ("broker", "drivers", "gpio_line", "serial_line")}
    assert names >= {"firmware.config", "gateway.config", "hal.sim_line", "hal.sim_index"}
    assert names >= {"hal.index.choice", "hal.index_drivers", "hal.modbus_bus"}


def test_every_driver_is_named() -> None:
    text = OPERATIONS.read_text()
    for driver in (*SOURCES, *INDEX_SOURCES, *CLOCKS):
        assert f'`driver = "{driver}"`' in text


def test_every_setting_in_a_table_of_the_two_files_exists() -> None:
    """No invented setting: section 7 lists keys that some class of settings has."""
    section = OPERATIONS.read_text().partition("\n## 7. ")[2].partition("\n## 8. ")[0]
    listed = set(re.findall(r"^\| `([a-z_]+)` \|", section, re.MULTILINE))
    known = {part.name for kind in _setting_classes() for part in fields(kind)}
    assert listed
    assert listed <= known


# --- Reasons, marks, exit codes. -----------------------------------------------------------------


@pytest.mark.parametrize("reason", Reason, ids=str)
def test_every_reason_says_what_to_do(reason: Reason) -> None:
    section = OPERATIONS.read_text().partition("\n### Reasons")[2].partition("\n## ")[0]
    rows = [row for row in section.splitlines() if f"`{reason}`" in row.partition(" | ")[0]]
    assert len(rows) == 1


@pytest.mark.parametrize("mark", Mark, ids=lambda mark: mark.name)
def test_every_mark_says_what_to_do(mark: Enum) -> None:
    section = OPERATIONS.read_text().partition("\n### Marks")[2].partition("\n### ")[0]
    name = mark.name.lower().replace("_", "-")
    assert re.search(rf"^\| {name} \| ", section, re.MULTILINE)


# --- Commands. -----------------------------------------------------------------------------------


def _parser(program: str, words: list[str]) -> argparse.ArgumentParser:
    match program:
        case "cryptometer":
            return common._parser(words)
        case "cryptometer-firmware":
            return firmware.main._parser()
        case _:
            return gateway.main._parser()


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)


def _typed(document: Path) -> Iterator[list[str]]:
    """The commands of ours in a document's shell blocks, each as program and words."""
    for block in _blocks(document.read_text(), "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words:
                end = next((at for at, word in enumerate(words) if word in ("&&", "|")), len(words))
                command, words = words[:end], words[end + 1 :]
                if command[:1] == ["sudo"]:
                    command = command[1:]
                    while command[0] in ("-u", "-g"):
                        command = command[2:]
                # What the shell does with its input and output is not the program's.
                ends = [at for at, word in enumerate(command) if word in ("<", ">")]
                command = command[: min(ends, default=len(command))]
                program = Path(command[0]).name
                if re.fullmatch(_PROGRAM, program):
                    yield [program, *command[1:]]


COMMANDS = [
    pytest.param(words, id=f"{_name(document)}: {' '.join(words)}")
    for document in DOCUMENTS
    for words in _typed(document)
]


@pytest.mark.parametrize("words", COMMANDS)
def test_every_typed_command_is_one_the_program_takes(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    program, *rest = words
    try:
        _parser(program, rest).parse_args(rest)
    except SystemExit:
        pytest.fail(capsys.readouterr().err)


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


@each_document
def test_every_command_named_in_a_sentence_exists_with_its_options(document: Path) -> None:
    for quoted in re.findall(rf"`({_PROGRAM} [^`]+)`", document.read_text()):
        program, *rest = quoted.split()
        parser = _parser(program, rest)
        at = 0
        while (choices := _subparsers(parser)) and at < len(rest):
            assert rest[at] in choices, quoted
            parser = choices[rest[at]]
            at += 1
        options = {option for action in parser._actions for option in action.option_strings}
        for word in rest[at:]:
            assert not word.startswith("--") or word in options, quoted


def _all_options() -> set[str]:
    found: set[str] = set()
    waiting = [_parser(program, []) for program in PROGRAMS]
    while waiting:
        parser = waiting.pop()
        found |= {option for action in parser._actions for option in action.option_strings}
        waiting += _subparsers(parser).values()
    return found


def test_every_option_says_what_it_is_for() -> None:
    waiting = [(program, _parser(program, [])) for program in PROGRAMS]
    while waiting:
        words, parser = waiting.pop()
        for action in parser._actions:
            assert action.help or not action.option_strings, (words, action.option_strings)
        waiting += [(f"{words} {name}", inner) for name, inner in _subparsers(parser).items()]


def test_every_option_the_operator_is_told_of_exists() -> None:
    told = set(re.findall(r"`(--[a-z0-9-]+)", OPERATIONS.read_text()))
    assert told
    assert told <= _all_options()


def test_every_command_of_the_programs_is_told_to_the_operator() -> None:
    text = OPERATIONS.read_text()
    named: list[tuple[tuple[str, ...], argparse.ArgumentParser]]
    named = [((program,), _parser(program, [])) for program in PROGRAMS]
    leaves = 0
    while named:
        words, parser = named.pop()
        for name, inner in _subparsers(parser).items():
            if _subparsers(inner):
                named.append(((*words, name), inner))
                continue
            leaves += 1
            assert re.search(rf"\b{' '.join((*words, name))}\b", text), (*words, name)
    assert leaves > 15


def _tests() -> set[str]:
    """The names of all tests there are."""
    return {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^ *(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }


def test_the_pure_package_is_drawn_module_by_module() -> None:
    drawn = (ROOT / "docs" / "architecture.md").read_text()
    table = drawn.split("### The pure package")[1].split("###")[0]
    modules = {path.stem for path in (ROOT / "cryptometer").glob("*.py")} - {"__init__"}
    assert set(re.findall(r"`(\w+)`", table)) == modules


@each_document
def test_every_test_and_file_of_tests_that_is_named_exists(document: Path) -> None:
    text = document.read_text()
    files = {path.name.removesuffix(".py") for path in (ROOT / "tests").rglob("test_*.py")}
    named = set(re.findall(r"`(test_[a-z0-9_]+)`", text))
    assert named <= _tests() | files
    for path in re.findall(r"`((?:tests|scripts|deploy|docs)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("heading", ["What is promised", "Attacks"])
def test_each_promise_and_each_attack_names_a_test(heading: str) -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [row for row in section.splitlines() if row.startswith("| ")][1:]
    assert len(rows) >= 8
    assert all("`test_" in row for row in rows)


# --- Links and examples. -------------------------------------------------------------------------


def _anchors(text: str) -> set[str]:
    """The anchors that a page's headings have, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", _FENCED.sub("", text), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@each_document
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    # What is quoted may look like a link, as a regular expression does.
    text = re.sub(r"`[^`\n]*`(?!\])", "", _FENCED.sub("", document.read_text()))
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = document.parent / path if path else document
        if not there.exists() or (anchor and anchor not in _anchors(there.read_text())):
            broken.append(target)
    assert not broken


@each_document
def test_every_make_target_and_script_named_exists(document: Path) -> None:
    text = document.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE):
        assert target in targets
    for script in re.findall(r"\bsh ((?:deploy|scripts)/\S+\.sh)", text):
        assert (ROOT / script).exists()


@each_document
def test_every_toml_example_is_read_as_it_stands(document: Path) -> None:
    for block in _blocks(document.read_text(), "toml"):
        if block.startswith("# meters.toml"):
            assert read_meters(block, "meters.toml", step_s=900, now_ms=0)
        elif block.startswith("# agreement.toml"):
            assert read_agreement(block, "agreement.toml", now_ms=0).claims
        elif block.startswith("# curve.toml"):
            assert read_template(tomllib.loads(block), "curve.toml")
        else:
            config = read_meter_toml(tomllib.loads(block))
            open_clock(config.clock)


def test_there_is_an_example_of_a_meters_file_for_whoever_begins() -> None:
    for document in (ROOT / "README.md", OPERATIONS):
        assert any("[[meter]]" in block for block in _blocks(document.read_text(), "toml"))
