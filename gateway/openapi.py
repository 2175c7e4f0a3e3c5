"""The OpenAPI document of the read API, made from its endpoints. Pure."""

from cryptometer import __version__
from gateway.endpoints import MEMBERS, PROBLEM, PUBLIC, Audience, Endpoint
from gateway.questions import Query, Schema
from gateway.schemas import SCHEMAS, ref


def document() -> Schema:
    """The OpenAPI document (3.1) of both web sides."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Cryptometer read API",
            "version": f"1 ({__version__})",
            "description": "An energy community's blocks, shares and files. What the ledger"
            " holds is public; what is a member's needs a token. Paths, questions and fields may be"
            " added within version 1; those that are there keep their meaning.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [],
        "paths": {one.path: {"get": _operation(one)} for one in (*PUBLIC, *MEMBERS)},
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {
                "Problem": {
                    "description": "It is not told; `detail` says why.",
                    "content": {PROBLEM: {"schema": ref("Problem")}},
                }
            },
        },
    }


def _operation(one: Endpoint) -> Schema:
    content = {"schema": one.schema} if one.schema is not None else {}
    needs_token = one.audience is not Audience.ANYBODY
    refusals = ["304", "400", "404", "503"] + (["401", "403", "429"] if needs_token else [])
    made: Schema = {
        "operationId": one.name,
        "summary": one.said,
        "description": f"For {one.audience.value}.",
        "parameters": [_parameter(each, "path") for each in one.places]
        + [_parameter(each, "query") for each in one.queries],
        "responses": {
            "200": {"description": one.said, "content": {one.kind: content}},
            **{
                status: {"description": "What you have is the newest."}
                if status == "304"
                else {"$ref": "#/components/responses/Problem"}
                for status in sorted(refusals)
            },
        },
    }
    return made | ({"security": [{"token": []}]} if needs_token else {})


def _parameter(one: Query, where: str) -> Schema:
    return {
        "name": one.name,
        "in": where,
        "description": one.said,
        "required": one.is_required or where == "path",
        "schema": one.schema,
    }
