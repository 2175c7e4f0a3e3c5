"""Records of others in the Open Charge Metering Format: the verifier that judges the project's own
judges these as their publisher states."""

import json
from pathlib import Path

import pytest

from tests.captures.place import CAPTURES
from tests.test_peers import ask

NAMES = (
    "ocmf_test_ocmf_keba_kcp30.xml",
    "ocmf_test_ocmf_keba_kcp30_fail.xml",
    "ocmf_nistP384_0Wh.xml",
)


@pytest.fixture(scope="module")
def signed() -> Path:
    """The folder of signed records."""
    folder = CAPTURES / "signed"
    if not folder.is_dir():
        pytest.fail(f"no signed records in {folder}: set CRYPTOMETER_CAPTURES to their folder")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_the_verifier_judges_published_records_rightly(signed: Path, name: str) -> None:
    expected = json.loads((signed / f"{name}.expect.json").read_bytes())
    [verdicts] = ask("ocmf_peer.py", ["xml", str(signed / name)])
    assert verdicts == expected["verdicts"]
    assert len(verdicts) == expected["records"]
