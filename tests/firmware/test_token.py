"""A device whose key is in a token: the real device, token module and gateway in one process; and
the program's commands."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cryptometer.errors import ConfigurationError
from cryptometer.keys import Algorithm, KeyLost
from firmware import device_key
from firmware.checkup import Verdict
from hal.token_key import create_token_key, load_token_key
from tests.core.community import STEP_S
from tests.firmware.kit import Office
from tests.firmware.program import call, finding, write_bundle
from tests.firmware.test_device import TICK_S, settle
from tests.keys import signer
from tests.simulation import world as simulation
from tests.simulation.world import Board, World
from tests.tokens import SoftToken

# --- A whole community. --------------------------------------------------------------------------


@pytest.fixture
def make_world(
    token: SoftToken, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Algorithm], World]]:
    made: list[World] = []

    def make(algorithm: Algorithm) -> World:
        key = create_token_key(token.place, algorithm)
        monkeypatch.setattr(simulation, "signer", lambda one: key if one == 10 else signer(one))
        made.append(World(1, boards=1))
        return made[0]

    yield make
    for world in made:
        world.close()


def pull_out_and_start(board: Board, token: SoftToken) -> None:
    """The board starts without its token, of which it knows the public key."""
    board.stop()
    token.pull_out()
    token.restart()
    board.key = load_token_key(token.place, board.key.public)
    board.start()


@pytest.mark.parametrize("algorithm", [Algorithm.EDDSA, Algorithm.ES256])
def test_what_a_token_signs_is_counted_and_nothing_is_lost_while_it_is_away(
    token: SoftToken, make_world: Callable[[Algorithm], World], algorithm: Algorithm
) -> None:
    world = make_world(algorithm)
    [board] = world.boards
    board.start()
    world.run(STEP_S + 60, TICK_S)
    assert world.in_blocks("m0") > 0
    token.pull_out()
    world.run(STEP_S, TICK_S)
    assert board.device is not None
    assert "not signing" in board.device.status
    token.put_back()
    world.run(120, TICK_S)
    assert "not signing" not in board.device.status
    pull_out_and_start(board, token)
    world.run(STEP_S, TICK_S)
    token.put_back()
    ledger = settle(world)
    assert ledger.quarantined == []
    assert ledger.pulses == board.emitted > 0


def test_a_wrong_pin_costs_no_pulse_and_no_second_try(
    token: SoftToken, make_world: Callable[[Algorithm], World]
) -> None:
    world = make_world(Algorithm.EDDSA)
    [board] = world.boards
    pin = token.pin_file.read_text()
    token.write_pin("999999")
    token.restart()
    board.start()
    world.run(STEP_S, TICK_S)
    assert board.device is not None
    assert "refuses the PIN" in board.device.status
    assert len([line for line in board.log if line.startswith("cannot sign")]) == 1
    token.write_pin(pin.strip())
    ledger = settle(world)
    assert ledger.pulses == board.emitted > 0


# --- The program's commands. ---------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path, token: SoftToken) -> Path:
    path = tmp_path / "meter.toml"
    path.write_text(f'state = "state"\n[source]\ndriver = "sim"\n[key]\nstore = "{token.uri}"\n')
    return path


@pytest.mark.parametrize("options", [[], ["--p256"]])
def test_a_device_with_a_token_is_made_enrolled_and_shown(
    token: SoftToken, config: Path, tmp_path: Path, options: list[str]
) -> None:
    made = call("init", "--config", config, *options)
    assert made.returncode == 0, made.stderr
    state = tmp_path / "state"
    assert sorted(one.name for one in state.iterdir()) == ["device.request"]
    again = call("init", "--config", config)
    assert again.returncode == 2
    assert "never overwritten" in again.stderr
    enrolled = call("enrol", write_bundle(Office(), state), "--config", config)
    assert enrolled.returncode == 0, enrolled.stderr
    thumbprint = made.stdout.split()[2]
    shown = call("status", "--config", config)
    assert f"key          {thumbprint}" in shown.stdout
    assert "key store" not in shown.stdout
    token.restart()
    verdict, said = finding(config, "key")
    assert verdict is Verdict.OK
    assert said == f"thumbprint {thumbprint}, in the token 'meter'"
    token.pull_out()
    token.restart()
    verdict, said = finding(config, "key")
    assert verdict is Verdict.WRONG
    assert said.startswith(f"thumbprint {thumbprint}, in the token 'meter': ")
    shown = call("status", "--config", config)
    assert "key store    " in shown.stdout


def test_an_init_that_was_cut_off_behind_the_key_makes_its_request(
    token: SoftToken, tmp_path: Path
) -> None:
    key = create_token_key(token.place, Algorithm.EDDSA)
    said = device_key.initialise(tmp_path / "state", Algorithm.EDDSA, token.settings)
    assert key.public.thumbprint.hex() in said
    with pytest.raises(ConfigurationError, match="never overwritten"):
        device_key.initialise(tmp_path / "state", Algorithm.EDDSA, token.settings)


def test_init_without_its_token_says_so(token: SoftToken, config: Path, tmp_path: Path) -> None:
    token.pull_out()
    made = call("init", "--config", config)
    assert made.returncode == 2
    assert token.module in made.stderr
    assert "Traceback" not in made.stderr
    assert not (tmp_path / "state" / "device.request").exists()


def test_a_start_without_token_and_request_waits_for_the_token(
    token: SoftToken, config: Path
) -> None:
    """Nobody knows the key yet: the service manager starts the program again."""
    token.pull_out()
    ran = call("run", "--config", config)
    assert ran.returncode == 75
    assert token.module in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_request_that_is_none_is_refused(token: SoftToken, tmp_path: Path) -> None:
    settings = token.settings
    (tmp_path / "device.request").write_bytes(b"none")
    with pytest.raises(ConfigurationError, match="is no request"):
        device_key.load_device_key(tmp_path, settings)
    (tmp_path / "device.request").write_bytes(Office().authority.genesis.raw)
    with pytest.raises(ConfigurationError, match="is no request"):
        device_key.load_device_key(tmp_path, settings)
    (tmp_path / "device.request").unlink()
    token.pull_out()
    with pytest.raises(KeyLost):
        device_key.load_device_key(tmp_path, settings)


def test_a_missing_package_is_named(
    token: SoftToken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "hal.token_key")
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'cryptometer\[pkcs11\]'"):
        device_key.load_device_key(tmp_path, token.settings)
    with pytest.raises(ConfigurationError, match=r"pip install 'cryptometer\[pkcs11\]'"):
        device_key.initialise(tmp_path, Algorithm.EDDSA, token.settings)
