"""Every decoder of the table under random bytes, under changed valid inputs, and under the corpus
that guided runs have left. A second test says that no decoder is missing from the table."""

import ast
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutate import Mutator, parse
from tests.fuzz.scene import held
from tests.fuzz.target import MEMORY_BYTES, MEMORY_PER_BYTE, Target
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
CORPUS = Path(__file__).with_name("corpus")
CORPUS_BYTES_MAX = 300_000

# How decoders are named, and those whose input is no foreign bytes.
_VERBS = (
    "decode",
    "open_",
    "read_",
    "parse_",
    "verify_",
    "split_",
    "carried_",
    "trust",
    "from_cose",
)
_NO_DECODERS = {
    "cryptometer.audit.verify_none": "records that are decoded",
    "cryptometer.commands.verifiers.verify_claims": "signatures of records that are decoded",
    "cryptometer.commands.demo.screen.open_screen": "the terminal's own width",
    "cryptometer.commands.demo.watch.read_emitted": "a log of the demonstration's own line",
    "cryptometer.commands.folder.open_folder": "roll, credential and words read its files",
    "cryptometer.commands.sources.read_community": "community reads what it brings",
    "cryptometer.commands.sources.read_file": "bytes as they are",
    "cryptometer.commands.sources.read_text": "text as it is",
    "cryptometer.split_view.split_view": "heads that are verified",
    "firmware.folder.read_enrolment": "enrolment reads what it brings",
    "gateway.answers.open_site": "checkpoint reads what it brings",
    "gateway.folder.open_folder": "settings reads what it brings",
    "gateway.reporting.read_seen": "readings reads what it brings",
    "gateway.folder.read_community": "records the door of import has let in",
    "gateway.folder.read_own_bundle": "import reads it first",
    "gateway.door.verify_each": "signatures of envelopes that are decoded",
    "gateway.private_file.open_private": "a database of our own",
    "gateway.private_reading.open_facts": "a database of our own",
    "gateway.private_reading.open_opening": "a database of our own",
    "gateway.sqlite_file.open_database": "a database of our own",
    "hal.clock.read_boot_id": "the kernel's word",
    "hal.drivers.open_clock": "settings reads its table",
    "hal.drivers.open_guard": "key-place reads what it brings",
    "hal.drivers.open_compared": "settings reads its table",
    "hal.drivers.open_index": "settings reads its table",
    "hal.drivers.open_key": "key-place and key-file read what it brings",
    "hal.drivers.open_source": "settings reads its table",
    "hal.files.read_file": "bytes as they are",
    "hal.handing.open_given": "bytes as they are",
    "hal.handing.read_given": "bytes as they are",
    "hal.index.choice.split_settings": "settings reads its table",
    "hal.secret.read_hex_secret": "hexadecimal digits of a stated number",
    "hal.secret.read_secret": "text as it is",
    "hal.terminal.read_waiting": "bytes as they are",
}

# Classes that receive bytes, and which target feeds them; or why none does.
_WITHIN = {
    "hal.index.d0_meter.D0Meter": "a simulated meter",
    "hal.index.dlms_answering.AnsweringMeter": "a simulated meter",
    "hal.index.dlms_link.HdlcLink": "dlms-answers",
    "hal.index.dlms_link.OpticalLink": "dlms-answers",
    "hal.index.dlms_link.WrapperLink": "dlms-answers",
    "hal.index.listener.Listener": "a decoder of its own is in it",
}

by_name = pytest.mark.parametrize("target", TARGETS, ids=lambda target: str(target.name))
few = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(autouse=True, scope="module")
def _traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def probe(target: Target, data: bytes) -> bool:
    """Whether `data` is let through; it may cost so much memory and time, and no more."""
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    accepted = target.accepts(data)
    _, peak = tracemalloc.get_traced_memory()
    assert peak - before <= MEMORY_BYTES + MEMORY_PER_BYTE * len(data)
    return accepted


@by_name
def test_what_is_valid_is_let_through(target: Target) -> None:
    seeds = target.seeds()
    assert seeds
    for seed in seeds:
        assert probe(target, seed), seed


@by_name
def test_changed_inputs_are_refused_or_rightly_let_through(target: Target) -> None:
    seeds = target.seeds()

    @few
    @given(st.integers(0, 2**64 - 1))
    def change(seed: int) -> None:
        draw = Random(seed)
        probe(target, Mutator(draw, held(), seeds).mutate(draw.choice(seeds)))

    change()


@by_name
def test_random_bytes_are_refused_or_rightly_let_through(target: Target) -> None:
    @few
    @given(st.binary(max_size=200))
    def read(data: bytes) -> None:
        probe(target, data)

    read()


@by_name
def test_what_guided_runs_have_found_stays_mended(target: Target) -> None:
    files = sorted((CORPUS / target.name).iterdir())
    assert files
    for file in files:
        probe(target, file.read_bytes())


@by_name
def test_long_inputs_cost_in_proportion_to_their_size(target: Target) -> None:
    size = 2**15 - 8
    for data in (
        b"\x80" * size,
        b"\x99\x7f\x00" + b"\xa0" * size,
        b"\x99\x2a\x00" + b"\xa1\x00\x00" * (size // 3),
        b"\x99\x0e\x00" + b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff" * (size // 9),
        b"\x00\x00" * (size // 2),
        b"9" * size,
        b"[" * size,
        b"+\n" * (size // 2),
        target.seeds()[0] * (1 + size // max(1, len(target.seeds()[0]))),
    ):
        probe(target, data[:size])


def test_the_corpus_is_small_and_belongs_to_the_table() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} == {target.name for target in TARGETS}
    assert sum(file.stat().st_size for file in CORPUS.glob("*/*")) < CORPUS_BYTES_MAX


def test_every_decoder_is_in_the_table() -> None:
    covered = {name for target in TARGETS for name in target.covers}
    found = set()
    for package in ("cryptometer", "firmware", "gateway", "hal"):
        for file in (ROOT / package).rglob("*.py"):
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            for node in ast.parse(file.read_text()).body:
                if isinstance(node, ast.FunctionDef) and node.name.startswith(_VERBS):
                    found.add(f"{module}.{node.name}")
    missing = found - covered - set(_NO_DECODERS)
    assert not missing, f"no target of tests/fuzz reads through {sorted(missing)}"
    assert set(_NO_DECODERS) <= found - covered


def test_every_decoder_of_a_line_is_in_the_table() -> None:
    """Each class that receives bytes, whatever the function that reads them is called."""
    covered = {
        name.removesuffix(".receive") for target in TARGETS for name in target.covers
    } | _WITHIN.keys()
    found = set()
    for file in (ROOT / "hal" / "index").glob("*.py"):
        for node in ast.parse(file.read_text()).body:
            if not isinstance(node, ast.ClassDef) or node.name.startswith("_"):
                continue
            methods = {one.name for one in node.body if isinstance(one, ast.FunctionDef)}
            is_shape = any(ast.unparse(base) == "Protocol" for base in node.bases)
            if "receive" in methods and not is_shape:
                found.add(f"hal.index.{file.stem}.{node.name}")
    assert found <= covered, f"no target of tests/fuzz reads through {sorted(found - covered)}"
    assert _WITHIN.keys() <= found


def test_what_is_parsed_for_changes_is_written_back_as_it_was() -> None:
    for target in TARGETS:
        for seed in target.seeds():
            item = parse(seed)
            assert item is None or item.encode() == seed
