"""A board's program as a user calls it, and what the authority gives it."""

import subprocess
import sys
from pathlib import Path

from cryptometer import records
from cryptometer.enrolment import Broker, Bundle, EnrolmentRequest
from cryptometer.record_fields import Role
from firmware import folder
from firmware.checkup import Verdict
from firmware.doctor import examine
from tests.core.community import DETAILS, FIRST_STEP
from tests.firmware.kit import Office

ROOT = Path(folder.__file__).parents[1]
LIMIT_S = 30


def call(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """One of its commands, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "firmware.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=LIMIT_S,
        check=False,
    )


def requested(state: Path) -> EnrolmentRequest:
    """What a board's folder asks for."""
    request = records.decode((state / "device.request").read_bytes())
    assert isinstance(request.body, EnrolmentRequest)
    return request.body


def write_bundle(office: Office, state: Path) -> Path:
    """Registers the board's key as that of m0; gives its bundle, beside its folder."""
    details = (Role.METER, "m0", requested(state).key, DETAILS, FIRST_STEP)
    raws = (office.gateway_registration.raw, office.authority.register(*details).raw)
    body = Bundle("m0", office.authority.genesis.raw, raws, Broker("mqtt://127.0.0.1:1"))
    path = state.parent / "m0.bundle"
    path.write_bytes(records.seal(body, office.id, office.authority.signer).raw)
    return path


def finding(config: Path, about: str) -> tuple[Verdict, str]:
    """What the doctor says of one thing."""
    [found] = [one for one in examine(config, 0.1) if one.about == about]
    return found.verdict, found.says
