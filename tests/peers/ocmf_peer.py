"""Judges OCMF records with pyocmf. Runs in .venv-peers, without the project.

Reads [[record, public key as hex], ...] or ["xml", path] as JSON; writes for each record what it
says and whether its signature holds, with all that pyocmf finds odd; or "refused: why".
"""

import json
import sys
import warnings
from typing import Any

from pyocmf import OCMF, OcmfContainer, PyOCMFError  # type: ignore[import-not-found]


def judge(record: str, key: str) -> dict[str, Any] | str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            ocmf = OCMF.from_string(record, strict=True)
            verdict = "VALID" if ocmf.verify_signature(key) else "INVALID"
            issues = ocmf.check_eichrecht()
        except PyOCMFError as error:
            return f"refused: {type(error).__name__}: {error}"
    payload = ocmf.payload
    return {
        "verdict": verdict,
        "algorithm": str(ocmf.signature.SA.value),
        "odd": [str(one.message) for one in caught] + [str(one.message) for one in issues],
        "meter": payload.MS,
        "page": payload.PG,
        "extra": payload.model_extra,
        "readings": [
            [str(one.TM), str(one.TX.value), str(one.RV), str(one.RI), str(one.RU.value)]
            for one in payload.RD
        ],
    }


def judge_file(path: str) -> list[str]:
    found = OcmfContainer.from_xml(path)
    return ["VALID" if one.verify_signature() else "INVALID" for one in found]


def main() -> None:
    question = json.load(sys.stdin)
    if question[:1] == ["xml"]:
        answer: object = [judge_file(path) for path in question[1:]]
    else:
        answer = [judge(record, key) for record, key in question]
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
