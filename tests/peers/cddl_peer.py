"""Validates CBOR against CDDL with zcbor. Runs in .venv-peers, without the project.

Reads {"cddl": text, "cases": [[rule, hex], ...]} as JSON, writes for each case null if it is valid
and the reason if it is not. zcbor follows `.cbor` into nested bytes and counts groups in arrays,
which pycddl does not; it knows no `.regexp` and no `.and`, which pycddl does.
"""

import json
import re
import sys
from collections import namedtuple
from contextlib import redirect_stdout
from functools import partial
from typing import Any

from zcbor import CddlValidationError, DataTranslator  # type: ignore[import-not-found]
from zcbor.zcbor import zcbor  # type: ignore[import-not-found]

QUANTITY_MAX = 1 << 16  # for `*`; no record holds more of anything

# zcbor returns named tuples and fails where two entries of a map have the same type.
zcbor.namedtuple = partial(namedtuple, rename=True)


def without_text_controls(cddl: str) -> str:
    return re.sub(r' \.and [a-z-]+| \.regexp "[^"\n]*"', "", cddl)


def complaint(types: Any, rule: str, data: bytes) -> str | None:
    try:
        types[rule].validate_str(data)
    except CddlValidationError as error:
        return str(error) or type(error).__name__
    return None


def main() -> None:
    asked = json.load(sys.stdin)
    prelude = zcbor.PRELUDE_PATH.read_text()
    cddl = f"{prelude}\n{without_text_controls(asked['cddl'])}"
    with redirect_stdout(sys.stderr):  # zcbor prints some of what it finds
        types = DataTranslator.from_cddl(cddl, QUANTITY_MAX).my_types
        answers = [complaint(types, rule, bytes.fromhex(data)) for rule, data in asked["cases"]]
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
