"""System calls fail in turn under the real journal, the real store and the real ledger folder: each
failure ends the program cleanly, and the next start goes on without a pulse lost, or there twice.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cryptometer import records
from cryptometer.enrolment import Broker, Bundle
from cryptometer.keys import Algorithm
from cryptometer.record_fields import Role
from firmware.device_key import initialise, load_device_key
from firmware.folder import enrol
from hal.program import EXIT_FAILED
from tests.core.community import DETAILS
from tests.faults.life import Careless
from tests.faults.trial import (
    FAULTS,
    Fault,
    Nursery,
    Scene,
    Trial,
    judge,
    pairs,
    rehearse,
    sample,
    scenes,
    undergo_all,
    workshop,
)
from tests.gateway.kit import Premises
from tests.keys import signer

SHARE = 3  # one in so many of the sample; `make test-faults` undergoes every fault of every call
PAIRS = 20
each_scene = pytest.mark.parametrize("name", ["fresh", "aged"])


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with workshop(tmp_path_factory.mktemp("disk"), 1) as [made]:
        yield made


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery) -> dict[str, Scene]:
    found = scenes(nursery, tmp_path_factory.mktemp("scenes"))
    return {scene.name: scene for scene in found}


def test_a_life_makes_every_kind_of_call_that_can_fail(stage: dict[str, Scene]) -> None:
    assert {call.kind for scene in stage.values() for call in scene.calls} == set(FAULTS)
    files = {call.path.partition("/")[0] for call in stage["aged"].calls}
    assert files >= {"journal", "outbox", "ledger", "store.sqlite", "store.sqlite-wal"}


@each_scene
def test_whatever_call_fails_is_survived(
    stage: dict[str, Scene], nursery: Nursery, tmp_path: Path, name: str
) -> None:
    trials = [(fault,) for fault in sample(stage[name])[::SHARE]]
    kinds = {fault.kind for (fault,) in trials}
    assert kinds == {kind for some in FAULTS.values() for kind in some}
    assert list(undergo_all(stage[name], tmp_path, [nursery], trials)) == []


def test_a_read_that_fails_while_a_store_is_opened_is_no_damage(
    stage: dict[str, Scene], nursery: Nursery, tmp_path: Path
) -> None:
    """SQLite says of both that the database is malformed; a person must act on one of them."""
    scene = stage["aged"]
    first = next(call.number for call in scene.calls if call.path.startswith("journal"))
    reads = [call for call in scene.calls if call.kind == "read" and call.number < first]
    assert {call.path for call in reads} >= {"store.sqlite"}
    trials = [(Fault(call, "eio"),) for call in reads[:8]]
    assert list(undergo_all(scene, tmp_path, [nursery], trials)) == []


@each_scene
def test_a_failure_in_the_recovery_from_a_failure_is_survived(
    stage: dict[str, Scene], nursery: Nursery, tmp_path: Path, name: str
) -> None:
    trials = pairs(stage[name], tmp_path, nursery, PAIRS)
    assert list(undergo_all(stage[name], tmp_path, [nursery], trials)) == []


def test_a_program_that_cannot_read_its_files_now_is_started_again(
    nursery: Nursery, tmp_path: Path
) -> None:
    """Exit code 2 would wait for a person, and nobody knows of it."""
    trial = Trial(nursery, tmp_path)
    premises = Premises(trial.folder / "gateway")
    premises.enrol()
    board = trial.folder / "board"
    board.mkdir()
    (board / "meter.toml").write_text('source = { driver = "sim" }')
    initialise(board, Algorithm.EDDSA)
    key = load_device_key(board).public
    meter = premises.authority.register(Role.METER, "m0", key, DETAILS)
    registered = (premises.gateway_registration.raw, meter.raw)
    bundle = Bundle("m0", premises.chain[0].raw, registered, Broker("mqtt://127.0.0.1:1883"))
    (tmp_path / "bundle").write_bytes(records.seal(bundle, premises.id, signer(1)).raw)
    enrol(board, tmp_path / "bundle")
    trial.start()
    calls = trial.calls()
    read = {call.path for call in calls if call.kind == "read"}
    assert read >= {"board/meter.toml", "board/device.key", "gateway/gateway.toml"}
    for call in calls:
        if call.kind in ("open", "read"):
            assert trial.start(Fault(call, "eio")) == EXIT_FAILED


def test_a_card_that_stays_full_stops_every_start_until_there_is_room(
    stage: dict[str, Scene], nursery: Nursery, tmp_path: Path
) -> None:
    scene = stage["aged"]
    full = [fault for fault in scene.faults() if fault.kind == "full"]
    trial = scene.trial.copy(tmp_path / "trial", nursery)
    trial.live(full[len(full) // 2])
    for _ in range(3):
        assert trial.live(Fault(scene.calls[0], "full")) == EXIT_FAILED
    # Nobody was there for more than an hour: the gateway believes its clock after another one.
    trial.live(steps=6)
    judge(trial)


# --- Test of the test: what is careless is caught. -----------------------------------------------


NEGLECTED = {
    Careless.JOURNAL: "journal/",
    Careless.OUTBOX: "outbox/",
    Careless.STORE: "store.sqlite-wal",
    Careless.LEDGER: "ledger/",
    Careless.DEAF: "journal/",
}


@pytest.mark.parametrize("careless", Careless)
def test_whoever_is_careless_is_caught(
    stage: dict[str, Scene], nursery: Nursery, tmp_path: Path, careless: Careless
) -> None:
    trial = stage["aged"].trial.copy(tmp_path / "trial", nursery, careless)
    scene = rehearse("careless", trial)
    kind = "eio" if careless is Careless.DEAF else "power"
    faults = [
        fault
        for fault in scene.faults()
        if fault.kind == kind
        and fault.call.kind == "write"
        and fault.call.path.startswith(NEGLECTED[careless])
    ]
    # From the end: there most has been promised.
    broken = (
        said
        for number, fault in enumerate(reversed(faults))
        for said in undergo_all(scene, tmp_path / str(number), [nursery], [(fault,)])
    )
    assert next(broken, None), "nobody noticed"
