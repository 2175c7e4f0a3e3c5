"""docs/formats.md is enough: tests/peers/stranger.py was written from it and knows no other code.

It runs as a process in the peers' environment, where the project is not installed. The golden
ledger and ledgers of villages get from it what the project's own audit computes; a tampered ledger
is refused by both, and the place is named.
"""

import ast
import json
import subprocess
from collections.abc import Callable
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from cryptometer import merkle, note, records
from cryptometer.accuracy import compare_verdicts
from cryptometer.audit import audit
from cryptometer.authority_records import CountingSource, MeterDetails, Registration, Use
from cryptometer.block_header import Header
from cryptometer.chain_records import Mark
from cryptometer.community import decode_community, encode_community
from cryptometer.errors import Rejected
from cryptometer.keys import Signer
from cryptometer.metrology import Side
from cryptometer.record_fields import Checkpoint, Role
from cryptometer.records import Record
from cryptometer.share_file import verify_share
from cryptometer.sharing_records import Claim, Distribution, Method
from cryptometer.tiles import CHECKPOINT_PATH, encode_bundle
from tests.core.community import Device, Village, flip, lay_out, reseal, sign_head
from tests.core.neighbourhood import Neighbourhood
from tests.core.test_distribution import LIES, agreed, create
from tests.core.test_share_file import Pieces
from tests.keys import p256_signer, signer
from tests.vectors.generate import FOLDER

ROOT = Path(__file__).parent.parent
STRANGER = ROOT / "tests" / "peers" / "stranger.py"
PYTHON = ROOT / ".venv-peers" / "bin" / "python"


def run(community: Path, ledger: Path) -> "subprocess.CompletedProcess[str]":
    assert PYTHON.exists(), "the peers are not installed: run scripts/peers.sh"
    return subprocess.run(
        [PYTHON, "-I", STRANGER, community, ledger],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def lay(village: Village, files: dict[str, bytes], folder: Path) -> tuple[Path, Path]:
    for path, data in files.items():
        place = folder / "ledger" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    (folder / "community.pub").write_text(encode_community(village.community()))
    return folder / "community.pub", folder / "ledger"


def accepted(community: Path, ledger: Path) -> Any:
    done = run(community, ledger)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def verdicts_of(village: Village) -> list[str | None]:
    """The project's verdicts, leaf by leaf; headers have none."""
    found: list[str | None] = []
    for checked in village.checked:
        for verdict in checked.verdicts:
            is_authority = verdict.record.key_id == village.authority.signer.public.thumbprint
            reason = None if verdict.reason is None else verdict.reason.value
            found.append("no effect" if is_authority and reason else reason)
        found.append(None)
    return found


def busy_village() -> Village:
    """Two meters, both algorithms, and whatever the page has a rule for."""
    village = Village(meters=2, late_steps=4)
    village.add_meter("barn", p256_signer(3), lot_pulses=3, use=Use.STORAGE)
    village.block()
    village.run((8, 8, 3), (), (5,))
    first, second, barn = village.devices
    step = village.next_step
    oversize = (int(Mark.OVERSIZE), 9, int(Mark.BURST), 4)
    village.send(first.batch(step, 9), first.batch(step, 12, marks=oversize), first.close(step))
    village.send(second.batch(step, 4, registration=bytes(32)), second.close(step - 1))
    village.send(barn.batch(step, 3, lots=(1, 500, 1, 400)), barn.batch(step - 2, 1))
    village.block()
    step = village.next_step
    village.send(first.batch(step + 9, 2), first.batch(step, 2), first.close(step, register=1))
    village.send(second.batch(step - 1, 2), second.close(step - 1))
    village.send(barn.batch(step - 5, 1), barn.batch(step, 1), barn.batch(step - 1, 1))
    again = village.authority.register(
        Role.METER, "m0", signer(77).public, replace_details(village, "m0", 4), step + 1
    )
    taken = village.authority.register(Role.MEMBER, "thief", first.signer.public)
    village.govern(again, taken, village.authority.revoke(Role.METER, "m1"))
    village.govern(village.authority.revoke(Role.NODE, "nobody"))
    village.block()
    step = village.next_step
    village.send(first.batch(step - 1, 1, registration=again.identity))
    village.send(first.batch(step, 5), first.batch(step, 4, registration=again.identity))
    anchor = village.authority.re_anchor("m1", second.sequence + 3, 5_000)
    village.govern(anchor, village.authority.re_anchor("m0", 0, 1))
    village.block(caught_up=True)
    village.govern(
        village.authority.register(
            Role.METER, "m1", signer(78).public, replace_details(village, "m1", 8), step
        )
    )
    village.block()
    second.signer = signer(78)
    second.go_on_from(anchor)
    second.registration = village.state.meters["m1"].terms[-1].registration
    village.run((1, 2))
    # A pulse is worth half of one before: lots made under the older terms are judged by energy.
    finer = replace(replace_details(village, "m1", 8), constant=Fraction(20_000))
    step = village.next_step + 1
    village.govern(village.authority.register(Role.METER, "m1", signer(78).public, finer, step))
    village.govern(village.authority.re_anchor("barn", 2**61 + 1, 0))
    village.block()
    village.send(second.batch(step, 4), second.batch(step, 5))
    village.block()
    # A chain may begin from a registration that another has followed.
    shed = village.add_meter("shed", signer(79))
    village.block()
    village.govern(
        village.authority.register(
            Role.METER, "shed", signer(79).public, replace_details(village, "m1", 8)
        )
    )
    village.block()
    step = village.next_step
    village.send(shed.run_start(step), *shed.step(step, 2))
    village.block()
    # What the old key has signed still comes in; the new one goes on from there.
    village.govern(
        village.authority.register(
            Role.METER, "shed", signer(80).public, replace_details(village, "m1", 8)
        )
    )
    village.block()
    step = village.next_step
    village.send(shed.batch(step, 1))
    shed.signer = signer(80)
    village.send(shed.batch(step, 2), shed.close(step))
    village.block()
    speak(village)
    return village


def speak(village: Village) -> None:
    """A meter whose index is read, and whatever the page has a rule for of that."""
    spoken: dict[str, Any] = {
        "source": CountingSource.INDEX,
        "constant": Fraction(1_000),
        "lot_pulses": 1,
    }
    meter = village.add_meter("speaks", **spoken, serial="S", index_wh=700)
    pulses = village.add_meter("more", serial="more")
    village.block()
    refused = replace(replace_details(village, "speaks", 2), serial="T")
    village.govern(village.authority.register(Role.METER, "lots", signer(81).public, refused))
    village.block()
    step = village.next_step
    village.send(meter.run_start(step, register=700), meter.close(step, register=700))
    village.send(pulses.run_start(step), pulses.reading(step, 4))
    village.block()
    step = village.next_step
    village.send(meter.reading(step, 820), meter.close(step))
    village.block()
    village.block()
    step = village.next_step
    village.send(meter.reading(step, 900, 17_981), meter.close(step), meter.batch(step, 1))
    village.block()
    step = village.next_step
    village.send(meter.reading(step, 905, -1), meter.reading(step, 3, counting=False))
    village.send(meter.reading(step, 910, 17_980), meter.close(step))
    village.block()
    low = village.add_meter("low", **spoken, serial="L", index_wh=1_700)
    village.block()
    step = village.next_step
    village.send(low.run_start(step, register=0), low.reading(step, 1_699), low.close(step))
    village.send(low.reading(step + 1, 1_701), low.reading(step + 1, 1_703), low.close(step + 1))
    village.block()
    village.block()
    change_source(village, meter)
    change_source(village, pulses)


def change_source(village: Village, meter: Device) -> None:
    """Another unit of the register, or another source, which counts behind a re-anchor; and another
    ratio of an index, which needs none."""
    coarser = replace(replace_details(village, "speaks", 1), serial="S", constant=Fraction(100))
    scaled = replace(coarser, ratio=Fraction(5), constant_side=Side.SECONDARY)
    pulses = replace_details(village, "m1", 8)
    step = village.next_step
    village.send(meter.reading(step, 920) if meter.name == "speaks" else meter.batch(step, 2))
    for details in (coarser, scaled, pulses):
        step, old = village.next_step, meter.registration
        newer = village.authority.register(
            Role.METER, meter.name, meter.signer.public, details, step + 1
        )
        village.govern(newer)
        village.block()
        step = village.next_step

        def count(
            step: int, registration: bytes, *, is_index: bool = details is not pulses
        ) -> records.Record:
            if is_index:
                return meter.reading(step, meter.register + 7, registration=registration)
            return meter.batch(step, 1, registration=registration)

        new = newer.identity
        village.send(count(step, old), count(step, new), meter.close(step))
        anchor = village.authority.re_anchor(meter.name, meter.sequence, meter.register)
        village.govern(anchor)
        village.block()
        meter.go_on_from(anchor)
        step = village.next_step
        village.send(count(step - 2, old), count(step, new), meter.close(step))
        village.block()


def replace_details(village: Village, name: str, lot_pulses: int) -> MeterDetails:
    for raw in village.leaves:
        body = records.decode(raw).body
        if isinstance(body, Registration) and body.name == name:
            assert body.meter is not None
            return replace(body.meter, lot_pulses=lot_pulses)
    raise LookupError(name)


def test_the_stranger_imports_only_general_libraries() -> None:
    tree = ast.parse(STRANGER.read_text())
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
        )
    }
    standard = {"base64", "collections", "dataclasses", "fractions", "hashlib", "json", "pathlib"}
    standard |= {"itertools", "re", "sys", "urllib"}
    assert imported == standard | {"typing", "cbor2", "cryptography"}


def test_the_project_is_not_there_for_the_stranger() -> None:
    done = subprocess.run(
        [PYTHON, "-I", "-c", "import cryptometer"], capture_output=True, timeout=60, check=False
    )
    assert b"ModuleNotFoundError" in done.stderr


def test_the_stranger_computes_what_is_stated_of_the_golden_ledger() -> None:
    report = accepted(FOLDER / "community.pub", FOLDER / "ledger")
    stated = json.loads((FOLDER / "ledger.json").read_bytes())
    newest = stated["blocks"][-1]
    assert (report["size"], report["root"]) == (stated["size"], stated["root"])
    assert report["balance"] == list(newest["balance"].values())
    reasons: list[str | None] = []
    for block in stated["blocks"]:
        reasons += [verdict["reason"] for verdict in block["verdicts"]] + [None]
    assert report["verdicts"] == reasons
    assert report["steps"][str(newest["step"])] == {
        "registered": 9_583_334 + 916_666 + 8_000_000,
        "counted": 9_583_334 + 8_000_000,
        "quarantined": 916_666,
        "transferred": 9_583_334,
        "tokens": 1,
    }


def test_the_stranger_computes_what_is_stated_of_the_example() -> None:
    report = accepted(FOLDER / "example.pub", FOLDER / "example")
    stated = json.loads((FOLDER / "example.json").read_bytes())
    assert (report["size"], report["root"]) == (stated["size"], stated["root"])
    assert report["balance"] == list(stated["blocks"][-1]["balance"].values())
    assert report["members"] == stated["accounts"]
    reasons: list[str | None] = []
    for block in stated["blocks"]:
        reasons += [verdict["reason"] for verdict in block["verdicts"]] + [None]
    assert report["verdicts"] == reasons


def test_the_stranger_agrees_on_every_leaf_of_a_busy_village(tmp_path: Path) -> None:
    village = busy_village()
    report = accepted(*lay(village, village.files(), tmp_path))
    assert report["verdicts"] == verdicts_of(village)
    found = {reason for reason in report["verdicts"] if reason}
    assert found == {
        "lot-above-v", "unknown-registration", "lots-out-of-order", "step-closed", "far-future",
        "register-mismatch", "not-valid-at-step", "too-late", "step-went-back", "no effect",
        "stale-reading", "wrong-source", "wrong-step", "wrong-unit", "not-anchored",
        "below-registered",
    }  # fmt: skip
    for checked in village.checked:
        header = checked.header.body
        assert isinstance(header, Header)
        flow = header.flow
        assert report["steps"][str(header.step)] == {
            name: getattr(flow, name)
            for name in ("registered", "counted", "quarantined", "transferred", "tokens")
        }


@pytest.mark.parametrize("private", [False, True], ids=["public", "hidden"])
@pytest.mark.parametrize("seed", range(4))
def test_the_stranger_gives_members_what_the_project_does(
    seed: int, private: bool, tmp_path: Path
) -> None:
    """Late meters, supplements, corrections, agreements of every method, lies: see there."""
    life = Neighbourhood(seed, private=private)
    for _ in range(12):
        life.live()
    village = life.village
    report = accepted(*lay(village, village.files(), tmp_path))
    assert report["verdicts"] == verdicts_of(village)
    assert report["members"] == dict(village.state.accounts)
    balance = village.blocks[-1][-1].body.balance  # type: ignore[union-attr]  # a header
    assert report["balance"] == list(asdict(balance).values())


def test_the_stranger_sets_aside_each_lie_of_a_plant_and_for_the_same_reason(
    tmp_path: Path,
) -> None:
    village = agreed()
    create(village, 15, 10)
    for lie, _ in reversed(LIES.values()):  # so that no two of them are parts of one
        (whole,) = village.drafts()
        village.distribute(lie(whole))
    first = village.drafts()[0]
    village.distribute(first, first, replace(first, supplement=1))
    village.agree(Claim("none", 1, 0))
    village.govern(village.authority.agree(village.next_step, ["ana"]))
    village.block()
    report = accepted(*lay(village, village.files(), tmp_path))
    assert report["verdicts"] == verdicts_of(village)
    assert report["verdicts"].count("no effect") == 2
    found = {reason for reason in report["verdicts"] if reason}
    assert found >= {reason.value for _, reason in LIES.values()} | {"repeat"}
    assert report["members"] == dict(village.state.accounts)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (signer(3), "where record 0 of a plant is due"),
        (signer(10), "the key is no virtual power plant's"),
        (signer(900), "the key is no virtual power plant's"),
    ],
    ids=["the plant, at another place", "a meter", "nobody"],
)
def test_the_stranger_refuses_a_distribution_that_is_no_leaf(
    key: Signer, said: str, tmp_path: Path
) -> None:
    village = agreed()
    create(village, 15, 10)
    (whole,) = village.drafts()
    village.block()
    *content, header = village.blocks[-1]
    false = records.seal(replace(whole, sequence=1), village.id, key)
    village.blocks[-1] = [*content, false, header]
    at = len(village.leaves) - 2
    done = run(*lay(village, village.files(), tmp_path))
    assert (done.returncode, done.stderr) == (1, f"refused: leaf {at}: {said}\n")


def test_the_stranger_makes_the_same_comparisons_with_a_second_source(tmp_path: Path) -> None:
    village = Village(2)
    village.run((8,), (3,))
    first, second = village.devices

    def told(device: Device, index: int, counted: int, **changes: Any) -> list[Record]:
        step = village.next_step
        said = {"counting": False, "unit_uwh": 10**6, "counted": counted}
        batch = device.batch(step, 8)
        return [batch, device.reading(step, index, **said | changes), device.close(step)]

    for index, counted in ((100, 10), (101, 20), (102, 24), (99, 25), (105, 90), (107, 40)):
        village.send(*told(first, index, counted))
        village.send(*told(second, 10 * index, 3 + counted % 30, unit_uwh=10**5))
        village.block()
    anchor = village.authority.re_anchor("m0", first.sequence, 1_000)
    village.govern(anchor)
    village.block()
    first.go_on_from(anchor)
    newer = village.authority.register(
        Role.METER, "m1", signer(11).public, replace_details(village, "m1", 8), village.next_step
    )
    village.govern(newer)
    village.block()
    for index, step_mark in ((110, 1_000), (112, 1_016)):
        village.send(*told(first, index, step_mark))
        village.send(*told(second, 10 * index, 60, registration=newer.identity))
        village.block()
    village.send(*told(first, 115, 1_020, source="other"))
    village.block()
    report = accepted(*lay(village, village.files(), tmp_path))
    rows = compare_verdicts(one for checked in village.checked for one in checked.verdicts)
    assert report["comparisons"] == [
        [row.meter, row.step, row.counted_uwh, row.index_uwh, row.bound_uwh, row.is_within]
        for row in rows
    ]
    assert {row.meter for row in rows} == {"m0", "m1"}
    assert {row.is_within for row in rows} == {True, False}


def test_the_stranger_reads_a_ledger_of_several_tiles(tmp_path: Path) -> None:
    village = Village()
    while len(village.leaves) <= 2 * 256 + 3:
        village.run((1, 2, 3))
    files = village.files()
    # As a server may: the partial tiles below a full one are gone, the others are there.
    assert {"tile/0/000", "tile/0/001", "tile/1/000.p/2"} <= set(files)
    report = accepted(*lay(village, files, tmp_path))
    blocks = len(village.blocks) - 1
    assert report["balance"][0] == report["balance"][2] == blocks * 6 * 100_000
    broken = files["tile/1/000.p/2"]
    (tmp_path / "ledger" / "tile/1/000.p/2").write_bytes(flip(broken, 300))
    done = run(tmp_path / "community.pub", tmp_path / "ledger")
    assert (done.returncode, done.stderr) == (
        1,
        "refused: tile 1/0 does not follow from those below\n",
    )


# --- Tampered ledgers: refused by the stranger and by the audit. ---------------------------------

Tamper = Callable[[Village], dict[str, bytes]]


def signed_anew(village: Village, leaves: list[bytes]) -> dict[str, bytes]:
    """All files as they should be for these leaves, the checkpoint signed by the gateway."""
    return lay_out(leaves, sign_head(leaves, village.community().origin, village.gateway))


def one_bit(village: Village) -> dict[str, bytes]:
    leaves = village.leaves
    changed = [*leaves[:6], flip(leaves[6], 900), *leaves[7:]]
    return village.files() | {f"tile/entries/000.p/{len(leaves)}": encode_bundle(changed)}


def one_bit_signed_anew(village: Village) -> dict[str, bytes]:
    leaves = village.leaves
    return signed_anew(village, [*leaves[:6], flip(leaves[6], 8 * 200), *leaves[7:]])


def removed(village: Village) -> dict[str, bytes]:
    return signed_anew(village, village.leaves[:6] + village.leaves[7:])


def added(village: Village) -> dict[str, bytes]:
    device, leaves = village.device, village.leaves
    extra = device.batch(village.state.step, 3)
    return signed_anew(village, [*leaves[:-1], extra.raw, leaves[-1]])


def reordered(village: Village) -> dict[str, bytes]:
    leaves = village.leaves
    return signed_anew(village, [*leaves[:6], leaves[7], leaves[6], *leaves[8:]])


def inflated(village: Village) -> dict[str, bytes]:
    header: Record = village.blocks[-1][-1]
    assert isinstance(header.body, Header)
    more = replace(header.body.flow, transferred=header.body.flow.transferred + 1)
    return signed_anew(
        village, [*village.leaves[:-1], reseal(header, village.gateway, flow=more).raw]
    )


def by_a_followed_key(village: Village) -> dict[str, bytes]:
    """The last record of the meter, signed by the key that its own had followed."""
    device, old = village.device, village.device.signer
    village.govern(
        village.authority.register(
            Role.METER, "m0", signer(80).public, replace_details(village, "m0", 8)
        )
    )
    village.block()
    device.signer = signer(80)
    village.run((2, 1))
    *leaves, batch, close, header = village.leaves
    return signed_anew(village, [*leaves, batch, reseal(records.decode(close), old).raw, header])


def other_gateway(village: Village) -> dict[str, bytes]:
    head = sign_head(village.leaves, village.community().origin, signer(66))
    return lay_out(village.leaves, head)


def published_consumption(village: Village) -> dict[str, bytes]:
    house = village.add_meter("house", use=Use.CONSUMPTION)
    village.block()
    village.block()
    leaves = village.leaves
    said = house.run_start(village.state.step)
    return signed_anew(village, [*leaves[:-1], said.raw, leaves[-1]])


def other_head(village: Village) -> dict[str, bytes]:
    wrong = Checkpoint(len(village.leaves), merkle.leaf_hash(b"elsewhere"))
    signed = note.sign_checkpoint(wrong, village.community().origin, village.gateway)
    return village.files() | {CHECKPOINT_PATH: signed.encode()}


@pytest.mark.parametrize(
    ("tamper", "places"),
    [
        (one_bit, ["leaf 6"]),
        (one_bit_signed_anew, ["leaf 6"]),
        (removed, ["leaf 6"]),
        (added, ["header of step 1900002"]),
        (reordered, ["leaf 6"]),
        (inflated, ["header of step 1900002"]),
        (by_a_followed_key, ["leaf 15"]),
        (published_consumption, ["for consumption"]),
        (other_gateway, ["no gateway", "not signed by"]),
        (other_head, ["checkpoint's root"]),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_tampered_ledger_is_refused_by_both_who_name_the_place(
    tamper: Tamper, places: list[str], tmp_path: Path
) -> None:
    village = Village()
    village.run((8, 3), (4,))
    files = tamper(village)
    done = run(*lay(village, files, tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("refused: ")
    with pytest.raises(Rejected) as refused:
        audit(files.get, village.community())
    for verdict in (done.stderr, refused.value.detail):
        assert any(place in verdict for place in places), verdict


def test_the_keys_of_another_community_open_nothing(tmp_path: Path) -> None:
    village = Village()
    _, ledger = lay(village, village.files(), tmp_path)
    done = run(FOLDER / "community.pub", ledger)
    assert (done.returncode, done.stderr) == (1, "refused: a checkpoint of another ledger\n")


# --- A share. ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x", "y"])
def test_the_stranger_reads_the_golden_shares(name: str) -> None:
    place = FOLDER / f"example-{name}.share"
    found = accepted(FOLDER / "example.pub", place)
    share = verify_share(place.read_bytes(), decode_community((FOLDER / "example.pub").read_text()))
    assert found["given"] == [
        [one.energy_uwh, [[source.meter, source.energy_uwh] for source in one.sources]]
        for one in share.given
    ]
    assert (found["member"], found["step"], found["used"]) == (name, share.step, share.used_uwh)


def test_the_stranger_refuses_a_share_of_what_was_set_aside(tmp_path: Path) -> None:
    village = agreed(method=Method.PRO_RATA)
    create(village, 15, 10)
    step = village.next_step
    [whole] = village.drafts({step: {"ana": 500_000, "bob": 9_000_000}})
    richer = replace(whole, outputs=(replace(whole.outputs[0], energy_uwh=2_500_000, tokens=2),))
    village.distribute(whole, richer)
    village.block()
    community, _ = lay(village, {}, tmp_path)
    for number, holds in ((0, True), (1, False)):
        pieces = Pieces(village, step)
        [hidden] = pieces.places(Distribution, sequence=1 - number)
        place = tmp_path / f"{number}.share"
        place.write_bytes(pieces.leave_out(hidden).encode())
        done = run(community, place)
        assert (done.returncode == 0) is holds, done.stderr
        assert holds or "was set aside" in done.stderr


def test_the_stranger_refuses_a_share_with_any_byte_altered(tmp_path: Path) -> None:
    data = (FOLDER / "example-x.share").read_bytes()
    for at in range(0, len(data), len(data) // 12):
        place = tmp_path / f"{at}.share"
        place.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        assert run(FOLDER / "example.pub", place).returncode == 1
