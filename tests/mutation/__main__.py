"""Changes one thing at a time in a pure module and runs the tests that reach it.

    .venv-mutation/bin/python -m tests.mutation [MODULE ...]    (`make mutation`)

A change that no test notices is a survivor: it is killed by a test, or explained in
`explained.toml`. Ends with 1 when one is neither. What changes only the wording of a message is
not tried; nor is what mutmut cannot change: decorated functions (properties, class methods, cached
ones), defaults, module constants.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.forked import function_of

ROOT = Path(__file__).parents[2]
WORK = ROOT / ".mutation"
EXPLAINED = Path(__file__).with_name("explained.toml")

# Each module, and the tests that are to notice.
TESTS = {
    "cryptometer.steps": ["tests/core/test_steps.py"],
    "cryptometer.metrology": ["tests/core/test_metrology.py"],
    "cryptometer.chain": ["tests/core/test_chain.py"],
    "cryptometer.wire": ["tests/core/test_wire.py", "tests/core/test_records.py"],
    "cryptometer.merkle": ["tests/core/test_merkle.py"],
    "cryptometer.cbor": ["tests/core/test_cbor.py"],
    "cryptometer.cose": ["tests/core/test_cose.py"],
    "cryptometer.note": ["tests/core/test_note.py"],
    "cryptometer.tiles": ["tests/core/test_tiles.py"],
    "cryptometer.proof": ["tests/core/test_proof.py"],
    "cryptometer.community": ["tests/core/test_community.py"],
    "cryptometer.state": ["tests/core/test_governing.py", "tests/core/test_block.py"],
    "cryptometer.meter": [
        "tests/core/test_governing.py",
        "tests/core/test_energy_verdict.py",
        "tests/core/test_reading.py",
    ],
    "cryptometer.governing": ["tests/core/test_governing.py"],
    "cryptometer.energy_verdict": [
        "tests/core/test_energy_verdict.py",
        "tests/core/test_reading.py",
    ],
    "cryptometer.proposal": ["tests/core/test_block.py", "tests/core/test_energy_verdict.py"],
    "cryptometer.block": ["tests/core/test_block.py"],
    "cryptometer.settlement": [
        "tests/core/test_settlement.py",
        "tests/core/test_drafting.py",
        "tests/core/test_judging.py",
    ],
    "cryptometer.drafting": ["tests/core/test_drafting.py"],
    "cryptometer.parts": ["tests/core/test_parts.py"],
    "cryptometer.judging": ["tests/core/test_judging.py", "tests/core/test_drafting.py"],
    "cryptometer.distribution": [
        "tests/core/test_distributing.py",
        "tests/core/test_distribution.py",
    ],
    "cryptometer.sharing": ["tests/core/test_sharing.py"],
    "cryptometer.share_file": ["tests/core/test_share_file.py"],
    "cryptometer.step_table": ["tests/core/test_step_table.py"],
    "cryptometer.openings": ["tests/core/test_openings.py", "tests/core/test_commitments.py"],
    "cryptometer.equivocation": ["tests/core/test_equivocation.py"],
    "cryptometer.accuracy": ["tests/core/test_accuracy.py"],
    "cryptometer.local_calendar": ["tests/core/test_local_calendar.py"],
    "cryptometer.curve_template": ["tests/core/test_curve_template.py"],
    "cryptometer.curve_rows": ["tests/core/test_load_curve.py", "tests/core/test_curve_layouts.py"],
    "cryptometer.curve_times": [
        "tests/core/test_load_curve.py",
        "tests/core/test_curve_layouts.py",
    ],
    "cryptometer.curve_days": ["tests/core/test_curve_layouts.py"],
    "cryptometer.curve_sheet": [
        "tests/core/test_load_curve.py",
        "tests/core/test_curve_layouts.py",
    ],
    "cryptometer.load_curve": ["tests/core/test_load_curve.py", "tests/core/test_curve_layouts.py"],
    "gateway.vpp": ["tests/gateway/test_vpp.py"],
    "cryptometer.doubt": ["tests/core/test_doubt.py"],
    "firmware.timekeeping": ["tests/firmware/test_timekeeping.py"],
    "firmware.lots": ["tests/firmware/test_lots.py", "tests/firmware/test_counter.py"],
    "firmware.chain": ["tests/firmware/test_chain.py"],
    "firmware.end": ["tests/firmware/test_outbox.py", "tests/firmware/test_chain.py"],
    "firmware.outbox": [
        "tests/firmware/test_outbox.py",
        "tests/firmware/test_chain.py",
        "tests/firmware/test_rollback.py",
    ],
    "firmware.rollback": ["tests/firmware/test_rollback.py"],
    "firmware.latch": ["tests/firmware/test_latch.py"],
    "firmware.listening": ["tests/firmware/test_speaking.py"],
    "gateway.door": ["tests/gateway/test_door.py", "tests/gateway/test_node.py"],
    "gateway.waiting": ["tests/gateway/test_waiting.py", "tests/gateway/test_node.py"],
    "hal.index.plausible": ["tests/hal/index/test_plausible.py"],
    "hal.index.linky": ["tests/hal/index/test_linky.py"],
    "hal.index.p1": ["tests/hal/index/test_p1.py"],
    "hal.index.d0": ["tests/hal/index/test_d0.py"],
    "hal.index.sml": ["tests/hal/index/test_sml.py", "tests/hal/index/test_sml_edges.py"],
    "hal.index.hdlc": ["tests/hal/index/test_hdlc.py"],
    "hal.index.axdr": ["tests/hal/index/test_axdr.py", "tests/hal/index/test_axdr_edges.py"],
    "hal.index.ciphering": ["tests/hal/index/test_ciphering.py"],
    "hal.index.dlms_push": ["tests/hal/index/test_dlms_push.py"],
    "hal.index.modbus_map": [
        "tests/hal/index/test_modbus_map.py",
        "tests/hal/index/test_modbus_map_edges.py",
    ],
    "hal.index.modbus_owed": ["tests/hal/index/test_modbus_owed.py"],
}

_PACKAGES = ("cryptometer", "hal", "firmware", "gateway")
_FUNCTION = re.compile(r"(?:x_|ǁ)([^.ǁ]+)__mutmut_")  # in the name that mutmut gives a change
_RESULT = re.compile(r"^\s+(\S+): (.+)$", re.MULTILINE)
_WAS = re.compile(r"^-(?!--)\s*(.*)$", re.MULTILINE)
_IS = re.compile(r"^\+(?!\+\+)\s*(.*)$", re.MULTILINE)
_TEXT = re.compile(r"""f?("[^"]*"|'[^']*')|\b(None|what)\b""")  # `what`: of what is refused
_ALOUD = re.compile(r', "big"(?=[,)])|, (?=\))')
_CODEC = re.compile(r'code\("[^"]*"')
# What is said of bytes that are refused: beside its code, by which it is counted.
_SAYS = (
    "Rejected(", "Error(", "Refused.", "Malformed(", "NotAuthentic(", "OtherProtection(",
    "_BadForm(", "_Bad(", "_Refuse(", "NotRead(", "_Unreadable(", "_Missing(",
    # They are told what a value is called, to say so if they refuse it.
    "_octets(", "_number(", "_small(", "_list(", "_time(",
)  # fmt: skip
# How a line of a message begins: with its reason, or with text, as the second one does.
_BEGINS = ("Reason.", 'f"', "f'", '" ', "detail = ")
_SENTENCE = re.compile(r'(?:else )?"[^" ]+ [^"]+ [^"]+",?')  # nothing else on the line
_NOTICED = ("killed", "timeout", "segfault")
_UNTRIED, _WORDING = "untried", "wording"
_SURVIVED, _IMPORTED = "survived", "imported"
_NOT_NOTICED = (_SURVIVED, _IMPORTED)
_MODULE_S_MAX, _ALONE_S_MAX = 5_400, 600
# Examples of a property test per change, and frames of a day of damaged lines; what survives is
# tried again with all.
_FEW = {"FEW_EXAMPLES": "5", "CRYPTOMETER_FRAMES": "1000"}


@dataclass(frozen=True, slots=True)
class Change:
    """One change: a line as it was and as it was changed, and the function it stands in."""

    function: str
    was: str
    line: str
    difference: str

    @property
    def is_wording(self) -> bool:
        """Whether only the words of a message changed: the text of a refusal, or a line of one.
        Nothing but people reads those."""
        raises = any(one in self.was for one in _SAYS)
        is_sentence = _SENTENCE.fullmatch(self.was) is not None
        is_message = raises or is_sentence or self.was.startswith(_BEGINS)
        return is_message and _TEXT.sub("", self.was) == _TEXT.sub("", self.line)

    @property
    def says_the_same(self) -> bool:
        """Whether Python takes both lines alike: a default said aloud, a codec in capitals."""
        return _plain(self.was) == _plain(self.line)

    def fits(self, module: str, known: dict[str, str]) -> bool:
        """Whether it is one that `explained.toml` knows: by its line, and by its function where
        the line alone is not enough."""
        is_there = known.get("function", self.function) == self.function
        return is_there and (known["module"], known["line"]) == (module, self.line)


def _plain(line: str) -> str:
    return _CODEC.sub(lambda codec: codec[0].lower(), _ALOUD.sub("", line))


def _mutate(module: str, jobs: int) -> dict[str, Change]:
    """Runs all changes of a module, but for those of wording; all, by their names."""
    folder = WORK / module
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in (*_PACKAGES, "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    package = module.partition(".")[0]
    others = [name for name in _PACKAGES if name != package]
    (folder / "pyproject.toml").write_text(
        "[tool.pytest.ini_options]\n"
        'addopts = "-p no:cacheprovider -p tests.mutation.quick"\n'
        "[tool.mutmut]\n"
        f"source_paths = {[package]}\n"
        f"only_mutate = {[module.replace('.', '/') + '.py']}\n"
        f"also_copy = {others}\n"
        f"pytest_add_cli_args_test_selection = {TESTS[module]}\n"
    )
    # It writes all changes down, and which tests reach them, before it finds none of this name.
    with (folder / "run.log").open("w") as log:
        subprocess.run(
            [*_mutmut(), "run", "--max-children", "1", "none"],
            cwd=folder,
            env={**os.environ, **_FEW},
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=_MODULE_S_MAX,
        )
    changes = _changes(module)
    left = [name for name, change in changes.items() if not change.is_wording]
    _try_in_forks(module, left, jobs, _FEW)
    # Once more with all examples.
    left = [name for name, ending in _endings(module).items() if ending in _NOT_NOTICED]
    _try_in_forks(module, left, jobs, {})
    return changes


def _try_in_forks(module: str, names: list[str], jobs: int, environment: dict[str, str]) -> None:
    folder = WORK / module
    stats = json.loads((folder / "mutants" / "mutmut-stats.json").read_text())
    reached_by = stats["tests_by_mangled_function_name"]
    known = [name for name in names if reached_by.get(function_of(name))]
    running = []
    for job in range(jobs):
        part = folder / f"changes-{job}.json"
        part.write_text(
            json.dumps({name: reached_by[function_of(name)] for name in known[job::jobs]})
        )
        with (folder / "run.log").open("a") as log:
            running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "pytest", "-q", "-p", "tests.mutation.forked"]
                    + TESTS[module],
                    cwd=folder / "mutants",
                    env={
                        **os.environ,
                        **environment,
                        "CHANGES": str(part),
                        "ENDINGS": str(folder / "endings"),
                    },
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    for one in running:
        one.wait(_MODULE_S_MAX)


def _changes(module: str) -> dict[str, Change]:
    """All changes of a module, by the names that mutmut gave them."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant  # type: ignore[import-not-found]

    changes = {}
    names = [name for name, _ in _RESULT.findall(_say(WORK / module, "results", "--all", "true"))]
    with contextlib.chdir(WORK / module):
        for name in names:
            difference = get_diff_for_mutant(name, path=f"{module.replace('.', '/')}.py")
            [function] = _FUNCTION.findall(name)
            was, changed = _WAS.search(difference), _IS.search(difference)
            changes[name] = Change(
                function,
                was[1] if was else "",
                changed[1] if changed else "",
                f"# {name}\n{difference}\n",
            )
    return changes


def _endings(module: str) -> dict[str, str]:
    """How each change ended that was tried; of several tries, the last."""
    endings = WORK / module / "endings"
    if not endings.exists():
        return {}
    return dict(line.split() for line in endings.read_text().splitlines())


def _read(module: str, changes: dict[str, Change]) -> tuple[Counter[str], list[Change]]:
    """What a run of a module came to: how many changes ended how, and the survivors."""
    endings, survivors = _endings(module), []
    if not endings:
        # Else every change would count as noticed.
        log = WORK / module / "run.log"
        sys.exit(f"{module}: nothing was tried, or its tests fail with nothing changed: see {log}")
    for name, change in changes.items():
        ending = endings.get(name, _UNTRIED)
        if change.is_wording:
            endings[name] = _WORDING
        elif ending in (_IMPORTED, _UNTRIED) and not _passes_alone(module, name):
            endings[name] = "killed"
        elif ending not in _NOTICED:
            endings[name] = ending
            survivors.append(change)
    return Counter(endings.values()), survivors


def _passes_alone(module: str, name: str) -> bool:
    """Whether the tests pass under a change in a process of their own: others are forked after the
    import, at which some code runs once and for all."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", *TESTS[module]],
            cwd=WORK / module / "mutants",
            env={**os.environ, **_FEW, "MUTANT_UNDER_TEST": name},
            capture_output=True,
            check=False,
            timeout=_ALONE_S_MAX,
        )
    except subprocess.TimeoutExpired:  # a loop without end, which nobody overlooks
        return False
    return done.returncode == 0


def _mutmut() -> list[str]:
    return [str(Path(sys.executable).with_name("mutmut"))]


def _say(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        [*_mutmut(), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--read", action="store_true", help="read the last run again")
    given = parser.parse_args()
    explained = tomllib.loads(EXPLAINED.read_text())["change"]
    unexplained = 0
    for module in given.modules or TESTS:
        changes = _changes(module) if given.read else _mutate(module, given.jobs)
        endings, survivors = _read(module, changes)
        open_ones = [
            one
            for one in survivors
            if not (one.says_the_same or any(one.fits(module, known) for known in explained))
        ]
        unexplained += len(open_ones)
        print(
            f"{module:24} {sum(endings.values()):>5} changes {endings[_WORDING]:>4} wording"
            f" {sum(endings[name] for name in _NOTICED):>5} noticed"
            f" {len(survivors) - len(open_ones):>4} explained {len(open_ones):>4} open",
            flush=True,
        )
        (WORK / f"{module}.open").write_text("\n".join(one.difference for one in open_ones))
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
