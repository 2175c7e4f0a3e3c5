"""A token in software (SoftHSM2), in a folder of its own, that can be pulled out and put back."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pkcs11
import pytest

from firmware.config import KeySettings
from hal import token_key
from hal.keyplace import TokenPlace, read_place

_MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so")
PIN, SO_PIN = "246813", "87654321"
_LIMIT_S = 30


def find_module() -> str:
    found = [one for one in _MODULES if Path(one).exists()]
    assert found, "SoftHSM is not installed: apt install softhsm2"
    return found[0]


@contextmanager
def soft_token(folder: Path) -> Iterator["SoftToken"]:
    """A token for a program that is no test."""
    with pytest.MonkeyPatch.context() as patch:
        yield SoftToken(folder, patch)


class SoftToken:
    """One token, the only one its module knows; its environment is that of this process."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._tokens, self._away = folder / "tokens", folder / "pulled-out"
        self._tokens.mkdir(parents=True)
        self.module = find_module()
        self.pin_file = folder / "pin"
        self.write_pin(PIN)
        self.label = "meter"
        settings = folder / "softhsm2.conf"
        settings.write_text(f"directories.tokendir = {self._tokens}\nlog.level = ERROR\n")
        monkeypatch.setenv("SOFTHSM2_CONF", str(settings))
        self.restart()
        self._initialise()

    @property
    def uri(self) -> str:
        return self.uri_of("device")

    def uri_of(self, key: str, pin_source: str = "") -> str:
        source = pin_source or f"file:{self.pin_file}"
        return (
            f"pkcs11:token={self.label};object={key}?module-path={self.module}&pin-source={source}"
        )

    @property
    def settings(self) -> KeySettings:
        """The table `[key]` of a board whose key is in it."""
        return KeySettings(store=self.uri)

    @property
    def place(self) -> TokenPlace:
        return self.place_of("device")

    def place_of(self, key: str, pin_source: str = "") -> TokenPlace:
        place = read_place(self.uri_of(key, pin_source), "[key] store")
        assert isinstance(place, TokenPlace)
        return place

    def write_pin(self, pin: str) -> None:
        self.pin_file.touch(0o600)
        self.pin_file.write_text(pin + "\n")

    def pull_out(self) -> None:
        self._tokens.rename(self._away)

    def put_back(self) -> None:
        self._away.rename(self._tokens)

    def exchange(self) -> None:
        """Another token with the same label and PIN is put in place of this one."""
        self.pull_out()
        self._tokens.mkdir()
        self._initialise()

    def restart(self) -> None:
        """What a start of the program does: module and program know nothing of before."""
        token_key._module.cache_clear()
        pkcs11.lib(self.module).finalize()

    def look(self) -> pkcs11.Token:
        """The token, as the module sees it now."""
        return next(iter(pkcs11.lib(self.module).get_tokens(token_label=self.label)))

    def log_in_by_hand(self) -> None:
        self.look().open(user_pin=PIN).close()

    def close(self) -> None:
        if not self._tokens.exists():
            self.put_back()
        pkcs11.lib(self.module).finalize()

    def _initialise(self) -> None:
        subprocess.run(
            [
                *("softhsm2-util", "--init-token", "--free", "--label", self.label),
                *("--pin", PIN, "--so-pin", SO_PIN),
            ],
            check=True,
            capture_output=True,
            timeout=_LIMIT_S,
        )
