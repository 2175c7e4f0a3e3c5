"""The house: its four packages, its rules, and what it ships."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cryptometer", "hal", "firmware", "gateway")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_four_names_belong_to_no_other_distribution() -> None:
    ours = {"cryptometer"}
    owners: dict[str, set[str]] = {name: set() for name in PACKAGES}
    for distribution in distributions():
        tops = {Path(str(file)).parts[0].removesuffix(".py") for file in distribution.files or []}
        for name, names in owners.items():
            if name in tops:
                names.add(distribution.metadata["Name"])
    for name, found in owners.items():
        assert found <= ours, f"{name} is also installed by {found - ours}"


def test_every_module_of_the_programs_is_either_pure_or_a_shell() -> None:
    """A new module chooses: pure, in the import rules, or a shell that may touch the machine."""
    shells = set()
    for pattern, rules in PROJECT["tool"]["ruff"]["lint"]["per-file-ignores"].items():
        found = re.fullmatch(r"(firmware|gateway)/\{(.*)\}\.py", pattern)
        if found is not None and "TID251" in rules:
            shells |= {f"{found[1]}.{name}" for name in found[2].split(",")}
    [contract] = [
        one
        for one in PROJECT["tool"]["importlinter"]["contracts"]
        if "gateway.node" in one.get("source_modules", ())
    ]
    pure = set(contract["source_modules"])
    modules = {
        f"{package}.{file.stem}"
        for package in ("firmware", "gateway")
        for file in (ROOT / package).glob("*.py")
        if file.stem != "__init__"
    } | {
        f"{package}.{file.parent.name}"
        for package in ("firmware", "gateway")
        for file in (ROOT / package).glob("*/__init__.py")
    }
    assert not pure & shells
    assert modules == pure | shells
    drawn = (ROOT / "docs" / "architecture.md").read_text()
    [named] = re.findall(r"Shells \((.*?)\) open things", drawn)
    words = {word.rpartition(".")[2] for word in re.findall(r"`([\w.]+)`", named)}
    assert words == {shell.rpartition(".")[2] for shell in shells}


def test_importing_a_package_has_no_effects_and_draws_in_no_driver() -> None:
    program = (
        "import sys\n"
        f"import {', '.join(PACKAGES)}, firmware.device, gateway.node, cryptometer.audit\n"
        "print([name for name in sys.modules if name in"
        " {'paho', 'serial', 'gpiod', 'pkcs11', 'tpm2_pytss', 'rich', 'amqtt', 'sqlite3',"
        " 'asyncio', 'starlette', 'uvicorn', 'prometheus_client'}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_dependencies_are_pinned_without_any_address() -> None:
    pinned = re.compile(r"[A-Za-z0-9_.-]+==[A-Za-z0-9.]+")
    for listing in (ROOT / "constraints.txt", *(ROOT / "tests").glob("*/requirements.txt")):
        for line in listing.read_text().splitlines():
            assert line.startswith("#") or pinned.fullmatch(line), f"{listing.name}: {line}"
    assert not list(ROOT.glob("*.lock"))


def test_each_direct_dependency_is_pinned_within_its_range() -> None:
    from packaging.requirements import Requirement

    pins = dict(
        line.lower().split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    listed = list(PROJECT["project"]["dependencies"])
    for extra in PROJECT["project"]["optional-dependencies"].values():
        listed += extra
    for text in [*listed, *PROJECT["build-system"]["requires"]]:
        requirement = Requirement(text)
        if requirement.name != "cryptometer":
            assert requirement.specifier.contains(pins[requirement.name.lower()]), text


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("wheel")
    build = f"import hatchling.build; print(hatchling.build.build_wheel({str(folder)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", build],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    with zipfile.ZipFile(folder / done.stdout.split()[-1]) as archive:
        return archive.namelist()


def test_the_wheel_ships_all_four_packages_and_the_record_schema(wheel: list[str]) -> None:
    shipped = set(wheel)
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            assert str(file.relative_to(ROOT)) in shipped
        assert f"{package}/py.typed" in shipped
    assert "cryptometer/records.cddl" in shipped
    for file in (ROOT / "hal" / "index" / "maps").iterdir():
        assert str(file.relative_to(ROOT)) in shipped


def test_the_wheel_ships_nothing_else(wheel: list[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_no_test_is_skipped() -> None:
    """A test that needs what is missing fails; `make test` installs what they need."""
    banned = re.compile(r"skip|skipif|xfail|importorskip")
    for file in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute):
                assert not banned.fullmatch(node.attr), f"{file.relative_to(ROOT)}:{node.lineno}"
