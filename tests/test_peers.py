"""What other people's libraries say of the project's bytes: records by cwt and pycose, roots and
proofs by pymerkle, whole records against the CDDL by zcbor, notes by openssl. A whole ledger, by a
verifier that follows docs/formats.md and knows none of the project's code, is test_stranger's part.

The libraries run in their own environment, since their versions clash with the project's.
"""

import base64
import json
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cbor2
import pytest

from cryptometer import cbor, merkle, note, records, wire
from cryptometer.errors import Rejected
from cryptometer.keys import PublicKey, Signer
from cryptometer.record_fields import Checkpoint
from cryptometer.records import Record
from tests.keys import p256_signer, signer
from tests.vectors.edges import edges
from tests.vectors.generate import ES256, FOLDER, GATEWAY, plain

ROOT = Path(__file__).parent.parent
PEERS = ROOT / "tests" / "peers"
PYTHON = ROOT / ".venv-peers" / "bin" / "python"
CDDL = (ROOT / "cryptometer" / "records.cddl").read_text()


def ask(script: str, question: object, *arguments: str) -> Any:
    assert PYTHON.exists(), "the peers are not installed: run scripts/peers.sh"
    done = subprocess.run(
        [PYTHON, "-I", PEERS / script, *arguments],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def load(path: str) -> Any:
    return json.loads((FOLDER / path).read_bytes())


def golden_records() -> list[dict[str, Any]]:
    return [load(f"records/{path.name}") for path in sorted((FOLDER / "records").glob("*.json"))]


# --- Records, by cwt and pycose. -----------------------------------------------------------------


def case(record: bytes, key: PublicKey) -> dict[str, object]:
    return {"record": record.hex(), "key_id": key.thumbprint.hex(), "key": plain(key)}


def sealed_by(key: Signer) -> list[Record]:
    """Every kind of golden record that stands in a community, signed anew by `key`."""
    bodies = [records.decode(bytes.fromhex(one["record"])).body for one in golden_records()]
    free = {"genesis", "enrolment-request"}
    return [
        records.seal(body, None if body.KIND.value in free else bytes(32), key) for body in bodies
    ]


def test_cwt_and_pycose_verify_every_golden_record() -> None:
    keys = {key["key_id"]: key["cose_key"] for key in load("keys.json").values()}
    asked = [
        {
            "record": one["record"],
            "key_id": one["header"]["key_id"],
            "key": keys[one["header"]["key_id"]],
        }
        for one in golden_records()
    ]
    answers = ask("cose_peer.py", asked)
    assert len(answers) == len(asked) > 0
    for one, answer in zip(asked, answers, strict=True):
        assert answer == {"cwt": "verified", "pycose": "verified"}, one


@pytest.mark.parametrize("key", [signer(40), p256_signer(40)], ids=["Ed25519", "ES256"])
def test_cwt_and_pycose_verify_what_either_algorithm_signs(key: Signer) -> None:
    sealed = sealed_by(key)
    for record in sealed:
        record.envelope.verify(key.public)
    answers = ask("cose_peer.py", [case(record.raw, key.public) for record in sealed])
    assert answers == [{"cwt": "verified", "pycose": "verified"}] * len(sealed)


@pytest.mark.parametrize("key", [signer(41), p256_signer(41)], ids=["Ed25519", "ES256"])
def test_cwt_and_pycose_refuse_a_record_that_was_tampered_with(key: Signer) -> None:
    cases: list[dict[str, object]] = []
    for record in sealed_by(key):
        protected, unprotected, payload, signature = cbor2.loads(record.raw)
        altered = (
            [protected, unprotected, payload[:-1] + bytes((payload[-1] ^ 1,)), signature],
            [protected, unprotected, payload, signature[:-1] + bytes((signature[-1] ^ 1,))],
            [protected, unprotected, payload, bytes((signature[0] ^ 1,)) + signature[1:]],
            # The last letter of the media type: the kind or its version.
            [protected[:-1] + b"2", unprotected, payload, signature],
        )
        cases += [case(cbor2.dumps(one), key.public) for one in altered]
        # Rightly signed, but not by the key it is said to be from.
        other = signer(42) if key.public.algorithm == -8 else p256_signer(42)
        cases.append({**case(record.raw, other.public), "key_id": key.public.thumbprint.hex()})
    answers = ask("cose_peer.py", cases)
    assert len(answers) == len(cases)
    for asked, answer in zip(cases, answers, strict=True):
        assert answer["cwt"].startswith("refused"), (asked, answer)
        assert answer["pycose"].startswith("refused"), (asked, answer)


def test_other_libraries_accept_the_high_s_twin_that_the_project_refuses() -> None:
    """So refusing it is the project's own work: see test_vectors."""
    stated = load(ES256)
    key = p256_signer(7).public
    answers = ask(
        "cose_peer.py", [case(bytes.fromhex(stated[one]), key) for one in ("record", "high_s")]
    )
    assert answers == [{"cwt": "verified", "pycose": "verified"}] * 2


# --- Roots and proofs, by pymerkle. --------------------------------------------------------------

SIZES = [*range(1, 36), 63, 64, 65, 127, 128, 129, 255, 256, 257, 300]
ENTRIES = [b"entry %d" % number * (number % 5) for number in range(max(SIZES))]


def subtree(hashes: Sequence[bytes], height: int, index: int) -> bytes:
    level = hashes[index << height : (index + 1) << height]
    return merkle.Frontier().extended(level).root


def roots() -> list[bytes]:
    """The root of every tree from 0 leaves on."""
    frontier = merkle.Frontier()
    made = [frontier.root]
    for entry in ENTRIES:
        frontier = frontier.extended([merkle.leaf_hash(entry)])
        made.append(frontier.root)
    return made


def indices(size: int) -> list[int]:
    """All leaves of a small tree; of a large one the ends and the places around powers of two."""
    if size <= 35:
        return list(range(size))
    near = {0, 1, size // 2, size - 2, size - 1}
    near |= {power + off for power in (32, 64, 128, 256) for off in (-1, 0, 1)}
    return sorted(index for index in near if index < size)


def question() -> dict[str, Any]:
    node = partial(subtree, [merkle.leaf_hash(entry) for entry in ENTRIES])
    root = [one.hex() for one in roots()]

    def hexed(path: list[bytes]) -> list[str]:
        return [one.hex() for one in path]

    return {
        "entries": [entry.hex() for entry in ENTRIES],
        "roots": [[size, root[size]] for size in SIZES],
        "inclusion": [
            [index, size, root[size], hexed(merkle.inclusion_proof(index, size, node))]
            for size in SIZES
            for index in indices(size)
        ],
        "consistency": [
            [old, new, root[old], root[new], hexed(merkle.consistency_proof(old, new, node))]
            for new in SIZES
            for old in SIZES
            if old <= new
        ],
    }


def test_roots_and_proofs_agree_with_pymerkle() -> None:
    asked = question()
    assert len(asked["inclusion"]) > 700
    assert len(asked["consistency"]) > 900
    assert ask("merkle_peer.py", asked) == []


def test_our_verifiers_accept_every_proof_that_pymerkle_agrees_with() -> None:
    asked, root = question(), roots()
    for index, size, _, path in asked["inclusion"]:
        hashes = [bytes.fromhex(one) for one in path]
        merkle.verify_inclusion(merkle.leaf_hash(ENTRIES[index]), index, size, hashes, root[size])
    for old, new, _, _, path in asked["consistency"]:
        hashes = [bytes.fromhex(one) for one in path]
        merkle.verify_consistency(old, root[old], new, root[new], hashes)


def test_pymerkle_disagrees_with_altered_roots_and_paths() -> None:
    """The peer can say no: each case differs from a true one in a single bit or hash."""
    asked = question()

    def flipped(hexed: str) -> str:
        return f"{int(hexed[0], 16) ^ 1:x}{hexed[1:]}"

    inclusion = [one for one in asked["inclusion"] if one[3]]
    consistency = [one for one in asked["consistency"] if one[4]]
    altered = {
        "entries": asked["entries"],
        "roots": [[size, flipped(root)] for size, root in asked["roots"]],
        "inclusion": [[i, n, root, [flipped(path[0]), *path[1:]]] for i, n, root, path in inclusion]
        + [[i, n, root, path[:-1]] for i, n, root, path in inclusion]
        + [[i, n, flipped(root), path] for i, n, root, path in inclusion],
        "consistency": [[m, n, flipped(a), b, path] for m, n, a, b, path in consistency]
        + [[m, n, a, b, path[:-1]] for m, n, a, b, path in consistency],
    }
    findings = ask("merkle_peer.py", altered)
    assert len(findings) == sum(
        len(altered[part]) for part in ("roots", "inclusion", "consistency")
    )


# --- Whole records against the CDDL, by zcbor. ---------------------------------------------------


def complaints(cases: Sequence[tuple[str, bytes]]) -> list[str | None]:
    asked = {"cddl": CDDL, "cases": [[rule, data.hex()] for rule, data in cases]}
    answers: list[str | None] = ask("cddl_peer.py", asked)
    assert len(answers) == len(cases) > 0
    return answers


def test_zcbor_validates_every_golden_record_whole() -> None:
    golden = [(one["kind"], bytes.fromhex(one["record"])) for one in golden_records()]
    cases = [(f"{kind}-record", raw) for kind, raw in golden] + [
        ("record", raw) for _, raw in golden
    ]
    assert [answer for answer in complaints(cases) if answer is not None] == []


def test_zcbor_refuses_every_golden_record_as_any_other_kind() -> None:
    golden = {one["kind"]: bytes.fromhex(one["record"]) for one in golden_records()}
    cases = [
        (f"{kind}-record", raw) for kind in golden for other, raw in golden.items() if other != kind
    ]
    assert None not in complaints(cases)


def test_zcbor_refuses_what_pycddl_cannot_see() -> None:
    """Odd flat arrays, an unprotected header that is not empty, a payload of another shape."""
    batch = bytes.fromhex(load("records/batch.json")["record"])
    protected, unprotected, payload, signature = cbor2.loads(batch)

    def with_payload(**changes: object) -> bytes:
        body = cbor2.loads(payload) | {int(key[1:]): value for key, value in changes.items()}
        return cbor2.dumps([protected, unprotected, cbor2.dumps(body), signature])

    accepted = [with_payload(), with_payload(_8=[]), with_payload(_4=[200, 1] * 64)]
    refused = [
        with_payload(_8=[1, 2, 3]),
        with_payload(_8=[1, 2] * 4097),
        with_payload(_4=[1]),
        with_payload(_4=[1, 2] * 65),
        with_payload(_9=0),
        with_payload(_5=-1),
        with_payload(_5=2**61 + 1),
        cbor2.dumps([protected, {4: b"11"}, payload, signature]),
        cbor2.dumps([protected, unprotected, payload, signature[:-1]]),
        cbor2.dumps([protected, unprotected, payload, signature, 0]),
        cbor2.dumps([protected, unprotected, payload]),
        cbor2.dumps(cbor2.CBORTag(18, [protected, unprotected, payload, signature])),
        cbor2.dumps([cbor2.dumps({1: -8}), unprotected, payload, signature]),
    ]
    answers = complaints([("batch-record", raw) for raw in accepted + refused])
    assert answers[: len(accepted)] == [None] * len(accepted)
    assert None not in answers[len(accepted) :]


def test_zcbor_and_code_agree_on_every_value_around_a_limit() -> None:
    """But for the patterns of texts, which zcbor does not know and pycddl judges in test_cddl."""
    inside: list[tuple[str, bytes]] = []
    outside: list[tuple[str, bytes]] = []
    for kind, cls in records._BODIES.items():
        around = edges(wire.Map(cls))
        inside += [(kind, encoded(body)) for body in around.inside]
        outside += [(kind, encoded(body)) for body in (*around.beyond, *around.mistyped)]
    answers = complaints(inside + outside)
    assert [one for one in answers[: len(inside)] if one is not None] == []
    for (kind, payload), answer in zip(outside, answers[len(inside) :], strict=True):
        assert answer is not None, (kind, cbor2.loads(payload))
        with pytest.raises(Rejected):
            wire.decode_map(records._BODIES[kind], cbor.decode(payload))


def encoded(body: object) -> bytes:
    return cbor2.dumps(body, canonical=True)


def test_zcbor_validates_what_community_pub_and_a_proof_carry() -> None:
    pub = (FOLDER / "community.pub").read_text().splitlines()
    carried = (FOLDER / "batch.tlog-proof").read_text().splitlines()[1].removeprefix("extra ")
    genesis = bytes.fromhex(load("records/genesis.json")["record"])
    batch = bytes.fromhex(load("records/batch.json")["record"])
    answers = complaints(
        [
            ("community-pub", base64.b64decode("".join(pub[3:-1]))),
            ("proof-extra", base64.b64decode(carried)),
            ("proof-extra", cbor2.dumps([genesis])),
            ("community-pub", cbor2.dumps([])),
            ("community-pub", cbor2.dumps([batch])),
            ("community-pub", cbor2.dumps([genesis, batch])),
            ("proof-extra", cbor2.dumps([batch])),
            ("proof-extra", cbor2.dumps([batch, genesis])),
        ]
    )
    assert answers[:3] == [None] * 3
    assert None not in answers[3:]


def test_zcbor_refuses_a_distribution_of_another_shape() -> None:
    distribution = cbor2.loads(bytes.fromhex(load("records/distribution.json")["payload"]))
    (first, *_), (x, *_) = distribution[7], distribution[8]
    close = first[0]
    invalid = [
        {5: [0, 1]}, {5: [1]}, {5: [1, 1001]}, {7: [[close, 1]]}, {7: [close, 1, 1]},
        {7: [[close, -1, 0]]}, {7: [first] * 1501}, {8: [[*x, 0]]}, {8: [["", 1, 0]] * 2501},
        {13: [["x", bytes(31)]]}, {13: [["x"]]}, {14: [-1]}, {14: [[1]]}, {15: 0},
    ]  # fmt: skip
    cases = [distribution | one for one in invalid]
    cases += [{key: distribution[key] for key in distribution if key != gone} for gone in (2, 12)]
    answers = complaints([("distribution", encoded(one)) for one in [distribution, *cases]])
    assert answers[0] is None
    assert None not in answers[1:]


# --- Notes, by openssl. --------------------------------------------------------------------------

SPKI_ED25519 = bytes.fromhex("302a300506032b6570032100")  # RFC 8410: what stands before the key


def openssl_verifies(folder: Path, key: bytes, text: bytes, signature: bytes) -> bool:
    (folder / "key.der").write_bytes(SPKI_ED25519 + key)
    (folder / "text").write_bytes(text)
    (folder / "signature").write_bytes(signature)
    command = "openssl pkeyutl -verify -pubin -keyform DER -inkey key.der -rawin -in text"
    done = subprocess.run(
        [*command.split(), "-sigfile", "signature"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    verdicts = {0: "Signature Verified Successfully", 1: "Signature Verification Failure"}
    assert verdicts.get(done.returncode, "no verdict") in done.stdout + done.stderr, done.stderr
    return done.returncode == 0


def parts_of(signed: str) -> tuple[bytes, str, bytes, bytes]:
    """The text, and the only signature's key name, key id and signature, read by hand."""
    text, _, line = signed.partition("\n\n")
    dash, name, encoded = line.rstrip("\n").split(" ")
    assert dash == "\u2014"
    data = base64.b64decode(encoded)
    return text.encode() + b"\n", name, data[:4], data[4:]


def test_openssl_verifies_the_golden_checkpoint(tmp_path: Path) -> None:
    stated = load("ledger.json")
    text, name, key_id, signature = parts_of((FOLDER / "ledger" / "checkpoint").read_text())
    vkey_name, vkey_id, material = stated["vkey"].split("+", 2)
    assert (name, key_id.hex()) == (vkey_name, vkey_id)
    key = base64.b64decode(material)[1:]
    assert openssl_verifies(tmp_path, key, text, signature)
    root = base64.b64encode(bytes.fromhex(stated["root"])).decode()
    assert text.decode() == f"{stated['origin']}\n{stated['size']}\n{root}\n"


@pytest.mark.parametrize("size", [0, 1, 255, 2**40])
def test_openssl_verifies_fresh_checkpoints_and_refuses_altered_ones(
    size: int, tmp_path: Path
) -> None:
    key = signer(GATEWAY)
    head = Checkpoint(size, merkle.leaf_hash(b"%d" % size))
    text, _, _, signature = parts_of(note.sign_checkpoint(head, "example.org/log", key))
    assert openssl_verifies(tmp_path, key.public.coordinates, text, signature)
    assert not openssl_verifies(tmp_path, key.public.coordinates, text + b"\n", signature)
    assert not openssl_verifies(tmp_path, key.public.coordinates, text[1:], signature)
    assert not openssl_verifies(tmp_path, signer(9).public.coordinates, text, signature)
    altered = bytes((signature[0] ^ 1,)) + signature[1:]
    assert not openssl_verifies(tmp_path, key.public.coordinates, text, altered)
