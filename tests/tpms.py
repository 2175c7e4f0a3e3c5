"""A TPM in software (swtpm), in a folder of its own, that can be taken away and brought back."""

import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from tpm2_pytss import ESAPI, TPM2_CAP, TPM2_PT

from firmware.config import KeySettings
from hal import tpm_key
from hal.keyplace import TpmPlace, read_place

AUTH = "f3b6e29d51c84a07"
HANDLE, COUNTER = 0x81200001, 0x01800001
_LIMIT_S = 20.0
# Of a command, as the log shows it: tag with sessions, length, TPM_CC_Sign.
_SIGN = "00 00 01 5D"


class SoftTpm:
    """One TPM. It knows one client at a time, and keeps its state in files."""

    def __init__(self, folder: Path, *, is_watched: bool = False) -> None:
        """
        Args:
            folder: for its files.
            is_watched: whether it logs what it is told, which takes its time.
        """
        self._is_watched = is_watched
        self._state = folder / "state"
        self._state.mkdir(parents=True)
        self._log = folder / "log"
        # The path of a Unix socket is short.
        self._sockets = Path(tempfile.mkdtemp(prefix="tpm-"))
        self.auth_file = folder / "auth"
        self.write_auth(AUTH)
        self._process: subprocess.Popen[bytes] | None = None
        self.bring_back()

    @property
    def tcti(self) -> str:
        return f"swtpm:path={self._sockets / 'tpm'}"

    def uri_of(self, handle: int = HANDLE, counter: int | None = None) -> str:
        guard = "" if counter is None else f";counter={counter:#010x}"
        return (
            f"tpm2:handle={handle:#010x}{guard}?tcti={self.tcti}&auth-source=file:{self.auth_file}"
        )

    def place_of(self, handle: int = HANDLE, counter: int | None = None) -> TpmPlace:
        place = read_place(self.uri_of(handle, counter), "[key] store")
        assert isinstance(place, TpmPlace)
        return place

    @property
    def settings(self) -> KeySettings:
        """The table `[key]` of a board whose key is in it."""
        return KeySettings(store=self.uri_of())

    @property
    def place(self) -> TpmPlace:
        return self.place_of()

    def write_auth(self, auth: str) -> None:
        self.auth_file.touch(0o600)
        self.auth_file.write_text(auth + "\n")

    def take_away(self) -> None:
        """As a power cut does: the TPM is told nothing."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(_LIMIT_S)
        self._process = None
        for path in self._sockets.iterdir():
            path.unlink()

    def bring_back(self) -> None:
        """Starts it on the state it had."""
        path = self._sockets / "tpm"
        self._process = subprocess.Popen(
            [
                *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self._state}"),
                *("--server", f"type=unixio,path={path}"),
                *("--ctrl", f"type=unixio,path={path}.ctrl"),
                *("--flags", "not-need-init,startup-clear"),
                *(("--log", f"file={self._log},level=20") if self._is_watched else ()),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until_s = time.monotonic() + _LIMIT_S
        while not _answers(path):
            assert time.monotonic() < until_s, "swtpm does not start"
            time.sleep(0.02)

    def exchange(self) -> None:
        """Another TPM is put in place of this one."""
        self.take_away()
        shutil.rmtree(self._state)
        self._state.mkdir()
        self.bring_back()

    def restart_program(self) -> None:
        """What a start of the program does: it knows nothing of before."""
        tpm_key._refused.clear()

    def signatures_asked(self) -> int:
        """How often the TPM has been told to sign."""
        return self._log.read_text(errors="replace").count(_SIGN)

    def failed_tries(self) -> int:
        """What the TPM counts against its lock."""
        with ESAPI(self.tcti) as tpm:
            found = tpm.get_capability(TPM2_CAP.TPM_PROPERTIES, TPM2_PT.LOCKOUT_COUNTER, 1)[1]
            return int(found.data.tpmProperties[0].value)

    def close(self) -> None:
        if self._process is not None:
            self.take_away()
        shutil.rmtree(self._sockets)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True
