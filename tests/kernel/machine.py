"""The machine: QEMU with Debian's kernel, a disk for the device, and a folder to talk over.

Its end by SIGKILL is a power cut. The guest's memory is gone, with all that its kernel had not
written out; what the disk was given stays, since the kernel around it lives on: a disk that keeps
what it has said to have. One that does not is the matter of `tests/faults`.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.kernel.plan import EDGES, NS_BYTES, PLAN, PULSES, PULSES_PORT, STORY, Plan, read_story

ROOT = Path(__file__).parents[2]
MADE = ROOT / ".kernel"  # scripts/kernel.sh
DISK_MB = 64
SEARCHED = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"  # where Debian keeps mke2fs
_PR_SET_PDEATHSIG = 1
_LOOK_EVERY_S = 0.02


class Machine:
    """One board: its disk lasts, its boots come and go. `with` ends the boot that is on."""

    def __init__(self, folder: Path, state: Path) -> None:
        """
        Args:
            folder: where disk and boots are kept.
            state: what the disk holds at first.
        """
        self._folder = folder
        self._disk = folder / "disk"
        self._boots = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._make_disk(state)

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.cut()

    # --- Power. ---

    def boot(self, plan: Plan, *, cores: int = 1) -> "Boot":
        """Switches the machine on."""
        assert self._process is None
        self._boots += 1
        talk = self._folder / f"boot-{self._boots}"
        talk.mkdir()
        (talk / PLAN).write_text(plan.encode())
        # The guest's time is that of its instructions, 2 ns each, and of the world only while it
        # has nothing to do: a busy machine makes it slow, and not late. With it cores take turns;
        # those that race must not.
        clock = ("-icount", "shift=1") if cores == 1 else ()
        words = f"guest.python={sys.executable} guest.tree={ROOT}"
        share = "local,security_model=none,multidevs=remap"
        command = [
            *("qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-cpu", "Nehalem"),
            *("-smp", str(cores), "-m", "512", "-nodefaults", "-no-user-config", "-no-reboot"),
            *clock,
            *("-display", "none", "-serial", f"file:{talk / 'console'}"),
            *("-kernel", str(MADE / "vmlinuz"), "-initrd", str(MADE / "initramfs")),
            *("-append", f"console=ttyS0 quiet panic=-1 no_timer_check mitigations=off {words}"),
            *("-drive", f"file={self._disk},format=raw,if=virtio,cache=writethrough"),
            *("-fsdev", f"{share},id=root,path=/,readonly=on"),
            *("-device", "virtio-9p-pci,fsdev=root,mount_tag=root"),
            *("-chardev", f"file,id=pulses,path={talk / PULSES}"),
            *("-device", f"isa-debugcon,iobase={PULSES_PORT},chardev=pulses"),
            *("-fsdev", f"{share},id=talk,path={talk}"),
            *("-device", "virtio-9p-pci,fsdev=talk,mount_tag=talk"),
        ]
        with (talk / "qemu").open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - no thread runs here
            )
        return Boot(talk, self._process)

    def cut(self) -> None:
        """Cuts the power."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process = None

    def await_end(self, boot: "Boot", longest_s: float) -> None:
        """Waits until the guest has switched itself off, in order."""
        boot.wait(lambda: boot.process.poll() is not None, "the end", longest_s)
        assert boot.story.get("ended") == 1, boot.said
        self._process = None

    # --- The disk. ---

    def read_disk(self) -> Path:
        """What the disk holds, copied out of it. It was left in order."""
        _run("e2fsck", "-fn", self._disk)
        out = self._folder / "read"
        out.mkdir()
        _run("debugfs", "-R", f"rdump / {out}", self._disk)
        return out

    def _make_disk(self, state: Path) -> None:
        with self._disk.open("wb") as disk:
            disk.truncate(DISK_MB * 2**20)
        _run("mke2fs", "-q", "-t", "ext4", "-d", state, self._disk)


class Boot:
    """One boot, and what it tells."""

    def __init__(self, talk: Path, process: "subprocess.Popen[bytes]") -> None:
        self._talk = talk
        self.process = process
        self.began_s = time.monotonic()

    @property
    def story(self) -> dict[str, int]:
        story = self._talk / STORY
        return read_story(story.read_text()) if story.exists() else {}

    @property
    def pulses_ns(self) -> list[int]:
        """When each pulse began that was told, guest's monotonic time."""
        path = self._talk / PULSES
        raw = path.read_bytes() if path.exists() else b""
        whole = len(raw) - len(raw) % NS_BYTES
        return [
            int.from_bytes(raw[at : at + NS_BYTES], "little") for at in range(0, whole, NS_BYTES)
        ]

    @property
    def edges(self) -> list[tuple[int, bool]]:
        """Those of the line beside, whole once the boot has ended: a time and whether it is on."""
        pairs = [line.split() for line in (self._talk / EDGES).read_text().splitlines()]
        return [(int(at_ns), is_on == "1") for at_ns, is_on in pairs]

    @property
    def said(self) -> str:
        """All that anyone there has said, for people."""
        files = [self._talk / name for name in ("qemu", "console", "said", "firmware.log", STORY)]
        return "\n".join(
            f"--- {file.name}\n{file.read_text(errors='replace')[-4_000:]}"
            for file in files
            if file.exists()
        )

    def wait_for(self, word: str, longest_s: float) -> int:
        """Waits until the guest has told this; returns the number told with it."""
        self.wait(lambda: word in self.story, word, longest_s)
        return self.story[word]

    def wait(self, true: Callable[[], bool], what: str, longest_s: float) -> None:
        deadline = time.monotonic() + longest_s
        while not true():
            assert time.monotonic() < deadline, f"waited {longest_s} s for {what}\n{self.said}"
            time.sleep(_LOOK_EVERY_S)
            if self.process.poll() is not None:
                assert true(), f"ended before {what}\n{self.said}"


def _run(program: str, *words: str | Path) -> None:
    subprocess.run(
        [program, *map(str, words)],
        check=True,
        capture_output=True,
        timeout=60,
        env={"PATH": SEARCHED},
    )


def _die_with_parent() -> None:
    """In the child: whoever ends the tests leaves no machine behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
