"""Judges an OpenAPI document with openapi-spec-validator, and answers by it with jsonschema. Runs
in .venv-peers, without the project.

Reads {"document": ..., "answers": [[path as the document has it, status, kind, value], ...]} as
JSON; writes what is wrong, a line each.
"""

import json
import sys
from typing import Any
from urllib.parse import quote

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from openapi_spec_validator import OpenAPIV31SpecValidator  # type: ignore[import-not-found]
from referencing import Registry, Resource  # type: ignore[import-not-found]
from referencing.jsonschema import DRAFT202012  # type: ignore[import-not-found]

PLACE = "urn:document"


def judge(asked: dict[str, Any]) -> list[str]:
    document = asked["document"]
    wrong = [f"document: {one.message}" for one in OpenAPIV31SpecValidator(document).iter_errors()]
    registry = Registry().with_resource(PLACE, Resource(document, DRAFT202012))
    for path, status, kind, value in asked["answers"]:
        found = [path, "get", "responses", str(status)]
        if status != 200:
            found = ["", "components", "responses", "Problem"]
            if str(status) not in document["paths"][path]["get"]["responses"]:
                wrong.append(f"{path}: no answer {status} is announced")
                continue
        parts = [*(["paths"] if status == 200 else []), *found[status != 200 :], "content", kind]
        pointer = "/".join(quote(one.replace("~", "~0").replace("/", "~1")) for one in parts)
        validator = Draft202012Validator(
            {"$ref": f"{PLACE}#/{pointer}/schema"},
            registry=registry,
            format_checker=Draft202012Validator.FORMAT_CHECKER,
        )
        wrong += [
            f"{path} {status}: {one.json_path}: {one.message:.300}"
            for one in validator.iter_errors(value)
        ]
    return wrong


print(json.dumps(judge(json.load(sys.stdin))))
