"""Shares, openings, and tables of what an agreement has from outside."""

import tomllib
from functools import lru_cache
from pathlib import Path

from cryptometer import records
from cryptometer.block_header import Header
from cryptometer.commands.agreements import read_agreement
from cryptometer.errors import ConfigurationError
from cryptometer.merkle import EMPTY_ROOT
from cryptometer.openings import Opening, decode_openings, encode_openings
from cryptometer.share_file import Share, decode_share, verify_share
from cryptometer.sharing_records import Claim, Method
from cryptometer.split_view import signed_heads
from cryptometer.step_table import read_coefficients, read_losses
from gateway.exports.france import read_template
from tests.fuzz.scene import FalseAcceptance
from tests.fuzz.target import BY_MESSAGE, Target, text_of
from tests.gateway.test_share import share_of
from tests.gateway.test_vpp import Works

_STEP_S = 900
_NOW_MS = 1_785_000_000_000
_EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"


@lru_cache(maxsize=1)
def _shared() -> tuple[Works, dict[bytes, Share]]:
    """A community that has shared a step, and every honest file of it."""
    works = Works(Claim("ada", 8, 0), Claim("bo", 17, 0), method=Method.KEYS)
    step = works.site.next_step
    works.site.run([8, 2], [3])
    files = [share_of(works, name, step) for name in ("ada", "bo")]
    return works, {data: verify_share(data, works.site.community()) for data in files}


def _verify_share(data: bytes) -> None:
    works, honest = _shared()
    share = verify_share(data, works.site.community())
    if share not in honest.values():
        raise FalseAcceptance("a share that nobody was given")


@lru_cache(maxsize=1)
def _heads() -> dict[int, bytes]:
    works, _ = _shared()
    return {0: EMPTY_ROOT, **works.site.audit().heads}


def _read_heads(data: bytes) -> None:
    works, _ = _shared()
    for size, root in signed_heads(data, works.site.community()).items():
        if _heads().get(size) != root:
            raise FalseAcceptance("a head that no gateway signed")


def _with_heads() -> list[bytes]:
    works, honest = _shared()
    share = next(iter(honest))
    headers = [
        leaf.raw
        for leaf in decode_share(share).leaves
        if isinstance(records.decode(leaf.raw).body, Header)
    ]
    return [works.site.tree.read("checkpoint") or b"", *headers, share]


def _read_openings(data: bytes) -> None:
    openings = decode_openings(text_of(data))
    written = "".join(encode_openings(openings))
    if decode_openings(written) != openings:
        raise FalseAcceptance("other openings when they are written again")


def _read_coefficients(data: bytes) -> None:
    known = read_coefficients(text_of(data), _STEP_S)
    lines = ["step,producer,member,weight"]
    for step, weights in known.items():
        for (producer, member), weight in weights.items():
            lines.append(f"{step},{producer},{member},{weight // 10**9}.{weight % 10**9:09}")
    if len(lines) > 1 and read_coefficients("\n".join(lines), _STEP_S) != known:
        raise FalseAcceptance("other coefficients when they are written again")


def _read_losses(data: bytes) -> None:
    known = read_losses(text_of(data), _STEP_S)
    lines = [f"{step};{uwh // 10**9},{uwh % 10**9:09}" for step, uwh in known.items()]
    if read_losses("\n".join(["step;kwh", *lines]), _STEP_S) != known:
        raise FalseAcceptance("other losses when they are written again")


def _read_agreement(data: bytes) -> None:
    read_agreement(text_of(data), "agreement.toml", _NOW_MS)


def _read_french_template(data: bytes) -> None:
    try:
        table = tomllib.loads(text_of(data))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(f"not TOML: {error}") from None
    read_template(table)


def _examples(pattern: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(_EXAMPLES.glob(pattern))]


def _openings() -> list[bytes]:
    known = {
        (7, "ada"): [Opening(600_000, bytes(32)), Opening(500_000, bytes(32))],
        (8, "bo"): [Opening(0, bytes(range(32)))],
    }
    return ["".join(encode_openings(known)).encode()]


SHARES: tuple[Target, ...] = (
    Target(
        "share",
        (
            "cryptometer.share_file.verify_share",
            "cryptometer.share_file.decode_share",
            "cryptometer.merkle.verify_subset",
        ),
        _verify_share,
        lambda: list(_shared()[1]),
    ),
    Target("heads", ("cryptometer.split_view.signed_heads",), _read_heads, _with_heads),
    Target("openings", ("cryptometer.openings.decode_openings",), _read_openings, _openings),
    Target(
        "coefficients",
        ("cryptometer.step_table.read_coefficients",),
        _read_coefficients,
        lambda: [
            b"step;member;weight\n7;ada;0,25\n8;bo;1\n",
            b"step,producer,member,weight\n2026-07-29T16:00:00Z,pv-roof,ada,2.5\n7,,bo,1\n",
        ],
    ),
    Target(
        "losses",
        ("cryptometer.step_table.read_losses",),
        _read_losses,
        lambda: [b"step;kwh\n7;0,5\n2026-07-29T18:00:00+02:00;1\n"],
    ),
    Target(
        "agreement-file",
        ("cryptometer.commands.agreements.read_agreement",),
        _read_agreement,
        lambda: _examples("agreement-*.toml"),
        BY_MESSAGE,
    ),
    Target(
        "french-template",
        ("gateway.exports.france.read_template",),
        _read_french_template,
        lambda: [
            b'delimiter = ";"\ndecimals = 6\n[columns]\n"PRM" = "point"\n"Coef" = "coefficient"\n'
        ],
        BY_MESSAGE,
    ),
)
