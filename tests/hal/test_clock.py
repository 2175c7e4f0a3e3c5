"""The clocks. What the system's clock says is held against the kernel's own words, asked for in
another way."""

import ctypes
import time
from pathlib import Path

import pytest

from cryptometer.steps import NS_PER_MS, NS_PER_S, ClockSource, ClockState
from hal import clock
from hal.clock import KernelClock, ScaledClock, SimulatedClock, SystemClock, kernel_clock
from hal.ports import Clock

CLOCK_BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


# --- The system's clock. -------------------------------------------------------------------------


def test_now_is_between_the_moments_before_and_after() -> None:
    system = SystemClock()
    before_machine, before_utc = time.monotonic_ns(), time.time_ns()
    before_mono = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    now = system.now()
    after_mono, after_utc = time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns()
    assert before_mono <= now.mono_ns <= after_mono
    assert before_utc <= now.utc_ns <= after_utc
    assert now.source is ClockSource.SYSTEM
    assert before_machine <= system.machine_ns() <= time.monotonic_ns()


def test_a_suspension_is_what_one_kernel_clock_saw_and_the_other_did_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clock, "boottime_ns", lambda: 900 * NS_PER_S)
    monkeypatch.setattr(time, "monotonic_ns", lambda: 300 * NS_PER_S)
    system = SystemClock()
    assert system.slept_ns() == 600 * NS_PER_S
    assert system.machine_ns() == 300 * NS_PER_S
    assert system.now().mono_ns == 900 * NS_PER_S
    assert system.community_ns(299 * NS_PER_S) == 899 * NS_PER_S
    monkeypatch.setattr(time, "monotonic_ns", lambda: 901 * NS_PER_S)  # held up in between
    assert system.slept_ns() == 600 * NS_PER_S


def test_the_kernel_is_asked_and_not_changed() -> None:
    """ntp_adjtime(3), the C library's other door to the same answer."""
    raw = ctypes.create_string_buffer(1024)  # struct timex; modes = 0 only reads
    code = ctypes.CDLL(None).ntp_adjtime(raw)
    longs = ctypes.cast(raw, ctypes.POINTER(ctypes.c_long))
    maxerror_us, status = longs[3], ctypes.cast(raw, ctypes.POINTER(ctypes.c_int))[10]
    kernel = kernel_clock()
    assert kernel.synchronised is (code != 5 and not status & 0x1040)
    # 500 ppm between the two questions, in steps of a second.
    assert abs(kernel.error_ns - maxerror_us * 1000) <= 10 * NS_PER_MS


@pytest.mark.parametrize(
    ("status", "code", "synchronised"),
    [
        (0x0001, 0, True),  # STA_PLL
        (0x0041, 0, False),  # STA_UNSYNC
        (0x1001, 0, False),  # STA_CLOCKERR
        (0x0001, 5, False),  # TIME_ERROR
        (0x0011, 1, True),  # STA_INS: a leap second is announced
        (0x0001, -1, False),  # the call failed
    ],
)
def test_the_kernels_flags_decide_what_is_synchronised(
    monkeypatch: pytest.MonkeyPatch, status: int, code: int, synchronised: bool
) -> None:
    class Kernel:
        def __init__(self, *_given: object, **_named: object) -> None:
            pass

        @staticmethod
        def adjtimex(timex: object) -> int:
            asked = timex._obj  # type: ignore[attr-defined]
            assert asked.modes == 0
            asked.status, asked.maxerror = status, 1234
            return code

    monkeypatch.setattr(clock, "_libc", Kernel)
    assert kernel_clock() == KernelClock(synchronised, 1_234_000)


@pytest.mark.parametrize(
    ("kernel", "state"),
    [
        (KernelClock(True, 900 * NS_PER_MS), ClockState.SYNCHRONISED),
        (KernelClock(True, 1_100 * NS_PER_MS), ClockState.INFORMATIVE),
        (KernelClock(True, 16 * NS_PER_S), ClockState.INFORMATIVE),
        (KernelClock(False, 1_000), ClockState.UNKNOWN),
    ],
)
def test_the_kernels_error_bound_decides_the_state(
    monkeypatch: pytest.MonkeyPatch, kernel: KernelClock, state: ClockState
) -> None:
    monkeypatch.setattr(clock, "kernel_clock", lambda: kernel)
    now = SystemClock().now()
    assert now.state is state
    # The time between the reads is part of the bound.
    assert kernel.error_ns <= now.error_ns <= kernel.error_ns + NS_PER_S


def test_a_program_held_up_between_its_reads_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "kernel_clock", lambda: KernelClock(True, 0))
    reads = iter([1_000, 7_000])
    system = SystemClock()
    monkeypatch.setattr(clock, "boottime_ns", lambda: next(reads))
    now = system.now()
    assert (now.mono_ns, now.error_ns) == (4_000, 6_000)


def test_machine_and_community_time_are_one_on_the_system_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clock, "boottime_ns", lambda: 0)
    system = SystemClock()
    assert system.community_ns(12_345) == 12_345
    assert system.machine_wait_s(1_500_000_000) == 1.5


# --- The scaled clock. ---------------------------------------------------------------------------

ORIGIN_MS, ANCHOR_MS = 1_800_000_000_000, 5_000


def test_a_scaled_clock_stands_at_its_origin_when_the_machine_is_at_the_anchor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scaled = ScaledClock(45, ORIGIN_MS, ANCHOR_MS)
    monkeypatch.setattr(time, "monotonic_ns", lambda: ANCHOR_MS * NS_PER_MS)
    assert scaled.now().utc_ns == ORIGIN_MS * NS_PER_MS
    monkeypatch.setattr(time, "monotonic_ns", lambda: ANCHOR_MS * NS_PER_MS + 20 * NS_PER_S)
    assert scaled.now().utc_ns == ORIGIN_MS * NS_PER_MS + 900 * NS_PER_S
    monkeypatch.setattr(time, "monotonic_ns", lambda: ANCHOR_MS * NS_PER_MS - 7)
    assert scaled.now().utc_ns == ORIGIN_MS * NS_PER_MS - 315


def test_monotonic_and_utc_time_of_a_scaled_clock_run_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scaled = ScaledClock(60, ORIGIN_MS, ANCHOR_MS)
    monkeypatch.setattr(time, "monotonic_ns", lambda: 10**12)
    first = scaled.now()
    monkeypatch.setattr(time, "monotonic_ns", lambda: 10**12 + 123)
    second = scaled.now()
    assert second.mono_ns - first.mono_ns == second.utc_ns - first.utc_ns == 123 * 60
    assert second.mono_ns == scaled.community_ns(10**12 + 123)


def test_a_scaled_clock_waits_as_much_less() -> None:
    scaled = ScaledClock(45, ORIGIN_MS, ANCHOR_MS)
    assert scaled.machine_wait_s(900 * NS_PER_S) == 20
    assert scaled.community_ns(20 * NS_PER_S) == 900 * NS_PER_S


def test_a_scaled_clock_reads_the_machine() -> None:
    scaled = ScaledClock(45, ORIGIN_MS, ANCHOR_MS)
    before = time.monotonic_ns()
    now, machine = scaled.now(), scaled.machine_ns()
    after = time.monotonic_ns()
    assert 45 * before <= now.mono_ns <= 45 * after
    assert before <= machine <= after


@pytest.mark.parametrize(
    ("speed", "state"),
    [(1, ClockState.SYNCHRONISED), (1000, ClockState.SYNCHRONISED), (1001, ClockState.INFORMATIVE)],
)
def test_the_error_of_a_scaled_clock_grows_with_its_speed(speed: int, state: ClockState) -> None:
    now = ScaledClock(speed, ORIGIN_MS, ANCHOR_MS).now()
    assert (now.error_ns, now.state) == (speed * NS_PER_MS, state)
    assert now.source is ClockSource.SCALED


# --- The simulated clock, and what all share. ----------------------------------------------------


def test_a_simulated_clock_stands_until_it_is_moved() -> None:
    simulated = SimulatedClock(1_000)
    assert simulated.now() == simulated.now()
    simulated.advance(250)
    now = simulated.now()
    assert (now.mono_ns, now.utc_ns, simulated.machine_ns()) == (250, 1_250, 250)
    assert (now.state, now.source) == (ClockState.SYNCHRONISED, ClockSource.SIMULATED)
    simulated.utc_ns, simulated.error_ns = 5, 7
    simulated.state = ClockState.UNKNOWN
    now = simulated.now()
    assert (now.mono_ns, now.utc_ns, now.error_ns) == (250, 5, 7)
    assert now.state is ClockState.UNKNOWN


@pytest.mark.parametrize(
    "one",
    [SystemClock(), ScaledClock(45, ORIGIN_MS, ANCHOR_MS), SimulatedClock(0, bytes(15) + b"1")],
)
def test_community_time_never_goes_back_with_the_machine_and_its_waits_end(one: Clock) -> None:
    moments = [one.now().mono_ns for _ in range(100)]
    assert moments == sorted(moments)
    assert one.community_ns(one.machine_ns()) >= moments[-1]
    # Waiting for as long as it says is enough, but for the rounding of a float.
    waited_ns = round(one.machine_wait_s(NS_PER_S) * NS_PER_S)
    assert abs(one.community_ns(waited_ns) - NS_PER_S) <= 100
    assert len(one.boot_id) == 16


def test_the_boot_id_is_the_kernels() -> None:
    for one in (SystemClock(), ScaledClock(1, 0, 0)):
        assert one.boot_id.hex() == CLOCK_BOOT.replace("-", "")
