"""All targets under the coverage-guided fuzzer, one after another; and what follows from it.

    python -m tests.fuzz run --seconds 3600   the guided run (`make fuzz`), in .venv-fuzz
    python -m tests.fuzz replay FILE ...      reads inputs again, in any environment
    python -m tests.fuzz keep                 takes what the run found into the committed corpus

A run ends with 1 when an input crashed a decoder or was let through wrongly.
"""

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

KEPT = Path(__file__).with_name("corpus")
FOUND = Path(".fuzz")  # corpus at work and crashes; git does not see it
KEPT_BYTES_MAX = 7_000  # of one target; all together stay below 300 kB
_INPUT_BYTES_MAX = 16_384
_INPUT_S_MAX = 30
_RSS_MB_MAX = 1_500
_SLACK_S = 300  # to start, and to end a last input, on a machine that does much else

_UNITS = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_RAISED = re.compile(r"^[\w.]*(?:Error|Acceptance|Dear|Exception)\b.*$", re.MULTILINE)
_COVER = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a target's share of the time brought.

    Attributes:
        coverage: edges of the project's code that its inputs reach.
        fault: the last line of what was raised, empty if nothing was.
    """

    target: Target
    executions: int
    coverage: int
    inputs: int
    crashes: tuple[Path, ...]
    fault: str


def _run(seconds: int, names: list[str]) -> int:
    chosen = [target for target in TARGETS if not names or target.name in names]
    print(f"{len(chosen)} targets, {seconds} s of one process together", flush=True)
    outcomes: list[Outcome] = []
    end = time.monotonic() + seconds
    for place, target in enumerate(chosen):
        share_s = max(1, int((end - time.monotonic()) / (len(chosen) - place)))
        outcome = _fuzz(target, share_s)
        outcomes.append(outcome)
        print(
            f"{target.name:16} {outcome.executions:>9} executions {outcome.coverage:>6} edges"
            f" {outcome.inputs:>5} inputs {len(outcome.crashes):>3} crashes  {outcome.fault}",
            flush=True,
        )
    wrong = sum("FalseAcceptance" in one.fault for one in outcomes)
    crashes = sum(len(one.crashes) for one in outcomes)
    print(
        f"{sum(one.executions for one in outcomes)} executions, {crashes - wrong} crashes,"
        f" {wrong} false acceptances"
    )
    for outcome in outcomes:
        for file in outcome.crashes:
            print(f"replay with: .venv/bin/python -m tests.fuzz replay {file}")
    return 1 if any(one.fault for one in outcomes) else 0


def _fuzz(target: Target, seconds: int) -> Outcome:
    corpus = _seeded(target)
    crashes = FOUND / "crashes" / target.name
    crashes.mkdir(parents=True, exist_ok=True)
    before = set(crashes.iterdir())
    log = FOUND / f"{target.name}.log"
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={_INPUT_BYTES_MAX}",
        f"-timeout={_INPUT_S_MAX}",
        f"-rss_limit_mb={_RSS_MB_MAX}",
        f"-artifact_prefix={crashes}/",
        "-print_final_stats=1",
    ]
    ending = _guide([target.name, str(corpus), *options], log, seconds + _SLACK_S)
    said = log.read_text(errors="replace")
    units, covers = _UNITS.findall(said), _COVER.findall(said)
    new = tuple(sorted(set(crashes.iterdir()) - before))
    fault = ""
    if ending:
        raised = _RAISED.search(said)
        fault = raised[0][:200] if raised else f"{ending}: see {log}"
    reached = covers[-1] if covers else ("0", "0", "0")
    return Outcome(
        target, int(units[-1]) if units else 0, int(reached[0]), int(reached[2]), new, fault
    )


def _guide(arguments: list[str], log: Path, seconds: int) -> str:
    """Runs the fuzzer; how it ended, if not well. What it says is in `log`, also if it is ended
    because the machine gave it no time to start or to end by itself."""
    command = [sys.executable, "-m", "tests.fuzz.guided", *arguments]
    with log.open("w") as file:
        try:
            done = subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, check=False, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            return "ended from outside"
    return f"ended with {done.returncode}" if done.returncode else ""


def _seeded(target: Target) -> Path:
    """The folder of the corpus at work, with what is committed and what is valid in it."""
    corpus = FOUND / "corpus" / target.name
    corpus.mkdir(parents=True, exist_ok=True)
    kept = [file.read_bytes() for file in sorted((KEPT / target.name).glob("*"))]
    for data in [*kept, *target.seeds()]:
        (corpus / _name(data)).write_bytes(data)
    return corpus


def _name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _keep(names: list[str]) -> int:
    """The smallest inputs that reach what the corpus at work reaches, within the limit."""
    chosen = 0
    for target in TARGETS:
        if names and target.name not in names:
            continue
        merged = FOUND / "merged" / target.name
        shutil.rmtree(merged, ignore_errors=True)
        merged.mkdir(parents=True)
        subprocess.run(
            [
                sys.executable, "-m", "tests.fuzz.guided", target.name, "-set_cover_merge=1",
                str(merged), str(_seeded(target)),
            ],
            capture_output=True, check=True, timeout=600,
        )  # fmt: skip
        if not any(merged.iterdir()):
            print(f"{target.name:16} no input reaches more than none does: its corpus stays")
            continue
        kept = KEPT / target.name
        kept.mkdir(parents=True, exist_ok=True)
        # What mended faults have left stays; the rest is chosen anew.
        for file in kept.iterdir():
            if not file.name.startswith("mended-"):
                file.unlink()
        room = KEPT_BYTES_MAX - sum(file.stat().st_size for file in kept.iterdir())
        for data in sorted((file.read_bytes() for file in merged.iterdir()), key=len):
            room -= len(data)
            if room < 0:
                break
            (kept / _name(data)).write_bytes(data)
        print(f"{target.name:16} {len(list(kept.iterdir())):>4} inputs", flush=True)
        chosen += 1
    return 0 if chosen else 1


def _replay(files: list[Path]) -> int:
    for file in files:
        [target] = [one for one in TARGETS if one.name == file.parent.name]
        accepted = target.accepts(file.read_bytes())
        print(f"{file}: {'let through' if accepted else 'refused'}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command")
    run = commands.add_parser("run")
    run.add_argument("--seconds", type=int, default=3_600)
    run.add_argument("targets", nargs="*")
    keep = commands.add_parser("keep")
    keep.add_argument("targets", nargs="*")
    replay = commands.add_parser("replay")
    replay.add_argument("files", nargs="+", type=Path)
    given = parser.parse_args()
    if given.command == "run":
        return _run(given.seconds, given.targets)
    if given.command == "keep":
        return _keep(given.targets)
    return _replay(given.files)


if __name__ == "__main__":
    sys.exit(main())
