"""Changes one thing at a time in a pure module and runs the tests that reach it.

    .venv-mutation/bin/python -m tests.mutation [MODULE ...]    (`make mutation`)

A change that no test notices is a survivor: it is killed by a test, or explained in
`explained.toml`, unless only the wording of a message changed. Ends with 1 when one is neither.
What mutmut cannot change is not tried: decorated functions (properties, class methods, cached
ones), defaults, module constants.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

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
    "cryptometer.state": ["tests/core/test_state.py", "tests/core/test_block.py"],
    "cryptometer.block": ["tests/core/test_block.py", "tests/core/test_state.py"],
    "cryptometer.doubt": ["tests/core/test_doubt.py"],
    "firmware.timekeeping": ["tests/firmware/test_timekeeping.py"],
    "firmware.lots": ["tests/firmware/test_lots.py", "tests/firmware/test_counter.py"],
    "firmware.chain": ["tests/firmware/test_chain.py"],
    "firmware.outbox": ["tests/firmware/test_outbox.py"],
    "gateway.door": ["tests/gateway/test_node.py"],
    "gateway.waiting": ["tests/gateway/test_node.py"],
}

_PACKAGES = ("cryptometer", "hal", "firmware", "gateway")
_RESULT = re.compile(r"^\s+(\S+): (.+)$", re.MULTILINE)
_WAS = re.compile(r"^-(?!--)\s*(.*)$", re.MULTILINE)
_IS = re.compile(r"^\+(?!\+\+)\s*(.*)$", re.MULTILINE)
_TEXT = re.compile(r"""f?("[^"]*"|'[^']*')|\bNone\b""")
_BEGINS = ('f"', "f'", '" ')  # a line that is text only, as the second one of a message
_NOTICED = ("killed", "timeout", "segfault", "suspicious", "caught by type check")
_MODULE_S_MAX, _ALONE_S_MAX = 5_400, 600
_EXAMPLES_MAX = 20  # of a property test, per change; what survives is tried again with all


@dataclass(frozen=True, slots=True)
class Survivor:
    """A change that no test noticed: a line as it was and as it was changed."""

    was: str
    line: str
    difference: str

    @property
    def is_wording(self) -> bool:
        """Whether only the words of a message changed: the text of a refusal, or a line of one.
        Nothing but people reads those."""
        is_message = "Rejected(" in self.was or "Error(" in self.was or self.was[:2] in _BEGINS
        return is_message and _TEXT.sub("", self.was) == _TEXT.sub("", self.line)


def _mutate(module: str, jobs: int) -> tuple[Counter[str], list[Survivor]]:
    """Runs all changes of a module; how many ended how, and the survivors."""
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
    with (folder / "run.log").open("w") as log:
        subprocess.run(
            [*_mutmut(), "run", "--max-children", str(jobs)],
            cwd=folder,
            env={**os.environ, "FEW_EXAMPLES": str(_EXAMPLES_MAX)},
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=_MODULE_S_MAX,
        )
    return _read(module)


def _read(module: str) -> tuple[Counter[str], list[Survivor]]:
    """What a run of a module came to."""
    folder = WORK / module
    endings = dict(_RESULT.findall(_say(folder, "results", "--all", "true")))
    survivors: list[Survivor] = []
    for name, ending in endings.items():
        if ending not in _NOTICED:
            survivor = _survivor(_say(folder, "show", name))
            if survivor.is_wording or _passes_alone(module, name):
                survivors.append(survivor)
            else:
                endings[name] = "killed"
    return Counter(endings.values()), survivors


def _passes_alone(module: str, name: str) -> bool:
    """Whether the tests pass under a change in a process of their own: mutmut's are forked after
    the import, at which some code runs once and for all."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", *TESTS[module]],
        cwd=WORK / module / "mutants",
        env={**os.environ, "MUTANT_UNDER_TEST": name},
        capture_output=True,
        check=False,
        timeout=_ALONE_S_MAX,
    )
    return done.returncode == 0


def _survivor(difference: str) -> Survivor:
    was, changed = _WAS.search(difference), _IS.search(difference)
    return Survivor(was[1] if was else "", changed[1] if changed else "", difference)


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
    explained = {
        (change["module"], change["line"])
        for change in tomllib.loads(EXPLAINED.read_text())["change"]
    }
    unexplained = 0
    for module in given.modules or TESTS:
        endings, survivors = _read(module) if given.read else _mutate(module, given.jobs)
        wording = [one for one in survivors if one.is_wording]
        others = [one for one in survivors if not one.is_wording]
        open_ones = [one for one in others if (module, one.line) not in explained]
        unexplained += len(open_ones)
        print(
            f"{module:24} {sum(endings.values()):>5} changes"
            f" {sum(endings[name] for name in _NOTICED):>5} noticed {len(wording):>4} wording"
            f" {len(others) - len(open_ones):>4} explained {len(open_ones):>4} open",
            flush=True,
        )
        (WORK / f"{module}.open").write_text("\n".join(one.difference for one in open_ones))
        if not endings:
            print(f"    nothing was run: see {WORK / module / 'run.log'}")
            unexplained += 1
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
