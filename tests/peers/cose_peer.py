"""Verifies COSE_Sign1 records with cwt and pycose. Runs in .venv-peers, without the project.

Reads [{"record": hex, "key_id": hex, "key": {label: integer or hex}}, ...] as JSON, writes for each
{"cwt": verdict, "pycose": verdict}: "verified", or "refused" and why.
"""

import json
import sys
from collections.abc import Callable

import cwt  # type: ignore[import-not-found]
from pycose.keys import CoseKey  # type: ignore[import-not-found]
from pycose.messages import Sign1Message  # type: ignore[import-not-found]

Key = dict[int, int | bytes]
TAG = b"\xd2"  # CBOR tag 18; records leave it out, and it is not signed


def by_cwt(record: bytes, key: Key) -> bool:
    # The key's algorithm, and that it is there to verify.
    known = {**key, 3: -8 if key[1] == 1 else -7, 4: [2]}
    cwt.COSE.new().decode(TAG + record, cwt.COSEKey.new(known))
    return True


def by_pycose(record: bytes, key: Key) -> bool:
    message = Sign1Message.decode(TAG + record)
    message.key = CoseKey.from_dict(dict(key))
    return bool(message.verify_signature())


def verdict(verify: Callable[[bytes, Key], bool], record: bytes, key: Key) -> str:
    try:
        return "verified" if verify(record, key) else "refused: the signature is false"
    except Exception as error:  # noqa: BLE001 - each library has its own, and any is a refusal
        return f"refused: {type(error).__name__}: {error}"


def main() -> None:
    answers: list[dict[str, str]] = []
    for case in json.load(sys.stdin):
        record = bytes.fromhex(case["record"])
        key: Key = {
            int(label): bytes.fromhex(part) if isinstance(part, str) else part
            for label, part in case["key"].items()
        }
        key[2] = bytes.fromhex(case["key_id"])
        answers.append(
            {"cwt": verdict(by_cwt, record, key), "pycose": verdict(by_pycose, record, key)}
        )
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
