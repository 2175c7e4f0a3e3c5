"""What a look at a board means: each fault is named, with what to do, and health is not doubted."""

from dataclasses import replace

import pytest

from cryptometer.acknowledgement import Acknowledgement, Stop
from cryptometer.errors import Reason
from cryptometer.steps import NS_PER_MS, ClockSource, ClockState, Instant, step_start_ms
from firmware import checkup
from firmware.checkup import DiskLook, Finding, Heard, LineLook, LogLook, Reached, Verdict
from firmware.end import chain_start
from firmware.enrolment import read_bundle
from firmware.segments import SegmentedLog
from hal.files import SimulatedDirectory
from tests.core.community import DETAILS, FIRST_STEP, STEP_S
from tests.firmware.kit import Office
from tests.keys import signer

QUIET = LineLook(10_000, 0, 0, 0, 0, 0)
NOW_MS = step_start_ms(FIRST_STEP, STEP_S)
KEY = signer(10).public
WORD = Acknowledgement("m0", 1, 5, bytes(32), 0)
END = replace(chain_start(bytes(32)), sequence=7, acknowledged=5)


def said(findings: list[Finding]) -> str:
    """All that was said, once what is wrong says what to do."""
    assert all(one.do for one in findings if one.verdict is Verdict.WRONG)
    return "\n".join(checkup.as_lines(findings))


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        ("", Verdict.OK),
        ("6275 pulses, 16 records, 0 waiting", Verdict.OK),
        ("6275 pulses, 16 records, 3 waiting, stopped: fork", Verdict.WRONG),
        ("down: no space left on device", Verdict.WRONG),
    ],
)
def test_what_the_running_program_says_of_itself_is_told(status: str, verdict: Verdict) -> None:
    found = checkup.judge_program(running=True, status=status)
    assert found.verdict is verdict
    assert status in said([found])
    assert checkup.judge_program(running=False, status="").verdict is Verdict.NOTE


def test_a_line_that_the_running_program_cannot_open_is_wrong_and_not_idle() -> None:
    status = "0 pulses, 0 records, 0 waiting, no line: cannot open /dev/ttyUSB0"
    found = checkup.judge_lost_line(status)
    assert found is not None
    assert found.verdict is Verdict.WRONG
    assert "cannot open /dev/ttyUSB0" in said([found])
    assert checkup.judge_lost_line("12 pulses, 1 records, 0 waiting") is None


def test_an_index_that_the_running_program_does_not_believe_is_wrong() -> None:
    why = "the first index is 0.000 kWh, and 1234.567 kWh were registered"
    found = checkup.judge_unbelieved(f"index 0, 0 records, its index is not believed: {why}")
    assert found is not None
    assert found.verdict is Verdict.WRONG
    assert why in said([found])
    assert checkup.judge_unbelieved("index 12, 1 records, 0 waiting") is None


def test_the_rate_of_pulses_is_told_as_power() -> None:
    found = checkup.judge_line(replace(QUIET, pulses=25), DETAILS)  # 10,000 pulses/kWh
    assert checkup.worst(found) is Verdict.OK
    assert "25 pulses in 10 s, 900 W at 0.1 Wh a pulse" in said(found)
    assert "25 pulses in 10 s;" in said(checkup.judge_line(replace(QUIET, pulses=25), None))


@pytest.mark.parametrize(
    ("look", "verdict", "words"),
    [
        (QUIET, Verdict.NOTE, "no pulse in 10 s"),
        (replace(QUIET, noise=3), Verdict.WRONG, "3 characters or edges that are no pulse"),
        (replace(QUIET, pulses=9, noise=3), Verdict.NOTE, "noise"),
        (replace(QUIET, pulses=9, dropped=2), Verdict.WRONG, "the kernel dropped 2 pulses"),
        (replace(QUIET, pulses=9, burst=4), Verdict.WRONG, "4 pulses came faster"),
        (replace(QUIET, pulses=9, waited=8), Verdict.NOTE, "8 pulses had waited"),
    ],
)
def test_what_is_odd_on_the_line_is_told(look: LineLook, verdict: Verdict, words: str) -> None:
    found = checkup.judge_line(look, DETAILS)
    assert checkup.worst(found) is verdict
    assert words in said(found)


def test_a_burst_is_what_no_meter_gives_at_i_max() -> None:
    assert not checkup.is_burst(1, 0, 1000)  # one alone has no distance
    assert not checkup.is_burst(3, 1000, 1000)
    assert checkup.is_burst(3, 999, 1000)
    assert not checkup.is_burst(1000, 1, 0)  # nobody knows the meter


def test_beside_a_running_program_its_register_tells_the_rate() -> None:
    assert "counts: 25 pulses in 10 s, 900 W" in said(
        [checkup.judge_register(100, 125, 10_000, DETAILS)]
    )
    assert checkup.judge_register(100, 100, 10_000, DETAILS).verdict is Verdict.NOTE


@pytest.mark.parametrize(
    ("state", "error_ms", "source", "verdict"),
    [
        (ClockState.SYNCHRONISED, 20, ClockSource.SYSTEM, Verdict.OK),
        (ClockState.SYNCHRONISED, 20, ClockSource.SCALED, Verdict.NOTE),
        (ClockState.INFORMATIVE, 1_500, ClockSource.SYSTEM, Verdict.NOTE),
        (ClockState.INFORMATIVE, 5_001, ClockSource.SYSTEM, Verdict.WRONG),
        (ClockState.UNKNOWN, 0, ClockSource.SYSTEM, Verdict.WRONG),
    ],
)
def test_a_clock_is_as_good_as_its_bound(
    state: ClockState, error_ms: int, source: ClockSource, verdict: Verdict
) -> None:
    now = Instant(0, NOW_MS * NS_PER_MS, error_ms * NS_PER_MS, state, source)
    found = checkup.judge_clock(now, bytes(16))
    assert found.verdict is verdict
    said([found])


def test_a_registration_says_meter_lot_bound_and_since_when() -> None:
    office = Office()
    enrolment = read_bundle(office.bundle(office.register()), None, KEY)
    found = checkup.judge_enrolment(enrolment, NOW_MS)
    assert checkup.worst(found) is Verdict.OK
    assert "lots of up to 8 pulses: 0.8 Wh, the bound is 0.8625 Wh" in said(found)
    early = checkup.judge_enrolment(enrolment, NOW_MS - 1)
    assert checkup.worst(early) is Verdict.NOTE
    assert "what comes before is nobody's" in said(early)


def test_no_registration_and_one_that_is_revoked_or_cannot_be_counted_are_wrong() -> None:
    assert "enrol BUNDLE" in said(checkup.judge_enrolment(None, NOW_MS))
    office = Office()
    registered = office.register()
    enrolment = read_bundle(office.bundle(registered), None, KEY)
    revoked = checkup.judge_enrolment(replace(enrolment, revoked=True), NOW_MS)
    assert checkup.worst(revoked) is Verdict.WRONG
    assert "has revoked m0" in said(revoked)
    coarse = Office()
    raw = coarse.bundle(coarse.register(details=replace(DETAILS, lot_pulses=9)))
    above = checkup.judge_enrolment(read_bundle(raw, None, KEY), NOW_MS)
    assert checkup.worst(above) is Verdict.WRONG
    assert "a lot holds at most 8" in said(above)


@pytest.mark.parametrize("step", ["name", "connection", "TLS", "login"])
def test_the_step_that_fails_on_the_way_to_the_broker_says_what_to_do(step: str) -> None:
    found = checkup.judge_broker(Reached("mqtts://b:1", ("name",), step, "it does not"))
    assert found.verdict is Verdict.WRONG
    assert "mqtts://b:1: it does not (well so far: name)" in said([found])


def test_the_running_program_s_own_connection_stands_for_the_login() -> None:
    reached = Reached("mqtts://b:1", ("name", "connection", "TLS"))
    verdicts = {
        left: checkup.judge_broker(replace(reached, left_to=left)).verdict
        for left in (True, False, None)
    }
    assert verdicts == {True: Verdict.OK, False: Verdict.NOTE, None: Verdict.OK}


@pytest.mark.parametrize(
    ("heard", "verdict", "words"),
    [
        (Heard(WORD, 100, registration=False), Verdict.OK, "has acknowledged 5 records"),
        (Heard(), Verdict.NOTE, "no acknowledgement"),
        (Heard(WORD, registration=True), Verdict.NOTE, "something new"),
        (Heard(WORD, refused=2), Verdict.NOTE, "2 retained messages"),
        (Heard(replace(WORD, sequence=8)), Verdict.WRONG, "an older copy"),
        (
            Heard(replace(WORD, stop=Stop(5, Reason.FORK))),
            Verdict.WRONG,
            "the chain cannot go on at record 5: fork",
        ),
    ],
)
def test_what_the_broker_keeps_is_held_against_what_was_signed(
    heard: Heard, verdict: Verdict, words: str
) -> None:
    found = checkup.judge_heard(heard, END)
    assert checkup.worst(found) is verdict
    assert words in said(found)


def test_damage_is_counted_and_nothing_is_cut() -> None:
    directory = SimulatedDirectory()
    log = SegmentedLog(directory, "journal")
    log.append([b"one", b"two"])
    assert checkup.damaged_bytes(directory, "journal") == 0
    directory.append("journal-00000000.log", b"torn")
    before = directory.read("journal-00000000.log")
    assert checkup.damaged_bytes(directory, "journal") == 4
    assert directory.read("journal-00000000.log") == before


def test_what_the_files_say() -> None:
    whole = LogLook(0, 0, 130, 4_200_000)
    assert "4.2 MB, last written 2 minutes ago" in said(checkup.judge_log("outbox", whole))
    damaged = checkup.judge_log("outbox", replace(whole, damaged=7, kept=3))
    assert checkup.worst(damaged) is Verdict.WRONG
    assert "7 bytes" in said(damaged)
    assert "3 files" in said(damaged)
    assert checkup.worst(checkup.judge_log("outbox", LogLook(0, 0, None, 0))) is Verdict.NOTE


def test_a_program_that_runs_and_writes_nothing_is_wrong() -> None:
    assert checkup.judge_liveliness(120, 30_000) == []
    assert checkup.judge_liveliness(121, 60_000) == []
    assert checkup.worst(checkup.judge_liveliness(121, 30_000)) is Verdict.WRONG


def test_records_that_wait_are_counted() -> None:
    assert checkup.judge_chain(END, 40).verdict is Verdict.OK
    assert "7 records signed, 2 waiting" in checkup.judge_chain(END, 40).says
    assert checkup.judge_chain(replace(END, sequence=500), 40).verdict is Verdict.NOTE
    assert checkup.judge_chain(None, 0).verdict is Verdict.NOTE


@pytest.mark.parametrize(
    ("look", "verdict", "words"),
    [
        (DiskLook(2 * 10**9, 12), Verdict.OK, "2 GB free, a sync takes 12 ms"),
        (DiskLook(10**6, 12), Verdict.WRONG, "only 1 MB free"),
        (DiskLook(2 * 10**9, 900), Verdict.NOTE, "a sync takes 900 ms"),
        (DiskLook(0, 0, "No space left on device"), Verdict.WRONG, "nothing can be written"),
        (DiskLook(9, 0, "Read-only", read_only=True), Verdict.WRONG, "is read-only"),
    ],
)
def test_what_a_card_may_be(look: DiskLook, verdict: Verdict, words: str) -> None:
    found = checkup.judge_disk(look)
    assert checkup.worst(found) is verdict
    assert words in said(found)


def test_the_report_has_one_line_for_each_finding_and_one_for_what_to_do() -> None:
    found = [checkup.fine("line", "well"), checkup.wrong("disk", "full", "make room")]
    assert checkup.as_lines(found) == [
        "ok     line          well",
        "wrong  disk          full",
        "                     -> make room",
    ]
    assert checkup.worst([]) is Verdict.OK
