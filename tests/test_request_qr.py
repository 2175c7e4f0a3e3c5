"""From a board's terminal to the authority's roll, as a phone would carry it: the QR code is read
off the terminal's characters by a decoder that is not ours."""

import os
import pty
import re
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from pathlib import Path

import pytest

from cryptometer.commands import authority
from cryptometer.commands.folder import BrokerFile
from cryptometer.errors import ConfigurationError, Rejected
from cryptometer.keys import Algorithm
from cryptometer.record_fields import Role
from cryptometer.request_text import encode_request_text
from firmware import device_key, folder
from tests.commands.test_authority import METER, NOW_MS, found
from tests.test_peers import ask

BOARD = [sys.executable, "-m", "firmware.main"]
PLAIN = BrokerFile("mqtt://127.0.0.1:1883")
MODULES = {" ": (0, 0), "▀": (1, 0), "▄": (0, 1), "█": (1, 1)}


def on_a_terminal(columns: int, *words: str | Path) -> tuple[int, str]:
    """The exit code, and all that the program wrote to a terminal of so many columns."""
    master, slave = pty.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    with subprocess.Popen(
        [*BOARD, *map(str, words)], stdout=slave, stderr=slave, env=environment
    ) as process:
        os.close(slave)
        written = b""
        try:
            while chunk := os.read(master, 65_536):
                written += chunk
        except OSError:  # EIO: the program has closed its end
            pass
        os.close(master)
        return process.wait(30), written.decode()


def modules(written: str) -> list[list[int]]:
    """What a camera sees: the coloured lines, dark where the ink is."""
    rows: list[list[int]] = []
    for line in re.findall(r"\x1b\[30;107m([ ▀▄█]+)\x1b\[0m", written):
        rows += [[MODULES[sign][half] for sign in line] for half in (0, 1)]
    return rows


@pytest.mark.parametrize("algorithm", [(), ("--p256",)], ids=["ed25519", "p256"])
def test_a_phone_reads_the_request_off_the_terminal_and_the_authority_registers_it(
    tmp_path: Path, algorithm: tuple[str, ...]
) -> None:
    state = tmp_path / "board"
    code, written = on_a_terminal(80, "init", "--state", state, "--qr", *algorithm)
    assert code == 0
    [text] = ask("qr_peer.py", modules(written))
    assert text == encode_request_text((state / "device.request").read_bytes())
    assert text in written  # to be copied, where nothing can be photographed

    office = found(tmp_path, PLAIN)
    listing = tmp_path / "meters.toml"
    listing.write_text(METER.format(name="pv-1").replace("pv-1.request", text))
    said = authority.register_meters(office, listing, None, NOW_MS)
    key = device_key.load_device_key(state).public
    assert any(key.thumbprint.hex() in line for line in said)
    assert folder.enrol(state, office / "bundles" / "pv-1.bundle").meter == "pv-1"


def test_the_request_can_be_shown_again(tmp_path: Path) -> None:
    device_key.initialise(tmp_path, Algorithm.EDDSA)
    text = encode_request_text((tmp_path / "device.request").read_bytes())
    command = [*BOARD, "request", "--state", str(tmp_path)]
    assert subprocess.check_output(command, text=True, timeout=30) == f"{text}\n"
    _, written = on_a_terminal(80, "request", "--state", tmp_path, "--qr")
    assert ask("qr_peer.py", modules(written)) == [text]


def test_a_terminal_too_narrow_for_the_picture_is_told_of(tmp_path: Path) -> None:
    device_key.initialise(tmp_path, Algorithm.EDDSA)
    code, written = on_a_terminal(60, "request", "--state", tmp_path, "--qr")
    assert code == 2
    assert "the terminal has 60 columns" in written
    assert not modules(written)


def test_a_folder_without_a_request_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read"):
        device_key.request_text(tmp_path)


def test_the_authority_takes_the_text_in_a_file_or_instead_of_one(tmp_path: Path) -> None:
    device_key.initialise(tmp_path, Algorithm.EDDSA)
    key = device_key.load_device_key(tmp_path).public
    text = device_key.request_text(tmp_path)
    pasted = tmp_path / "pasted.txt"
    for content in (text, f"\ufeff{text[:30]}\r\n{text[30:].lower()}\n"):
        pasted.write_text(content)
        assert authority.read_request(pasted, Role.METER) == key
    assert authority.read_request(Path(text), Role.METER) == key


def test_a_text_that_was_changed_on_its_way_is_refused(tmp_path: Path) -> None:
    device_key.initialise(tmp_path, Algorithm.EDDSA)
    text = device_key.request_text(tmp_path)
    other = "A" if text[300] != "A" else "B"
    for changed in (text[:-8], text[:300] + other + text[301:], text[:300] + text[301:]):
        with pytest.raises(Rejected, match="the request"):
            authority.read_request(Path(changed), Role.METER)
