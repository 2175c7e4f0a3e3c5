"""No reason for a refusal stands in the list unproven: some test of the core produces each."""

import ast
from pathlib import Path

import pytest

from cryptometer.errors import Reason, Rejected

HERE = Path(__file__).parent


def reason_of(node: ast.AST) -> str | None:
    """X, where the node reads `Reason.X`."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.attr if node.value.id == "Reason" else None
    return None


def produced(source: str) -> set[str]:
    """Reasons that a test expects in so many words: `refusing(Reason.X, ...)`, or an assertion that
    something is or equals `Reason.X`, alone or in a list. One only named, or ruled out, is not."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name(id="refusing"), args=[expected, *_]):
                found |= {name for one in ast.walk(expected) if (name := reason_of(one))}
            case ast.Assert(test=test):
                found |= asserted(test)
            case _:
                pass
    return found


def asserted(test: ast.expr) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(test):
        if isinstance(node, ast.Compare) and all(
            isinstance(op, ast.Is | ast.Eq) for op in node.ops
        ):
            sides = [node.left, *node.comparators]
            found |= {name for side in sides for one in ast.walk(side) if (name := reason_of(one))}
    return found


def test_every_reason_is_produced_by_a_test_of_the_core() -> None:
    expected: set[str] = set()
    for path in HERE.glob("test_*.py"):
        if path != Path(__file__):
            expected |= produced(path.read_text())
    assert {reason.name for reason in Reason} - expected == set()


def test_a_reason_that_is_only_mentioned_does_not_count() -> None:
    assert produced("x = Reason.GAP") == set()
    assert produced("assert reason is not Reason.GAP") == set()
    assert produced("assert reason in (None, Reason.GAP)") == set()
    assert produced("assert one.reason is Reason.GAP") == {"GAP"}
    assert produced("assert reasons(x) == [None, Reason.GAP]") == {"GAP"}
    assert produced("with refusing(Reason.GAP, 'leaf'): f()") == {"GAP"}


def test_a_refusal_says_its_reason_and_its_detail() -> None:
    refused = Rejected(Reason.GAP, "sequence 4, expected 3")
    assert (refused.reason, refused.detail) == (Reason.GAP, "sequence 4, expected 3")
    assert str(refused) == "gap: sequence 4, expected 3"


@pytest.mark.parametrize("reason", list(Reason))
def test_a_reason_is_a_word_for_counters_and_topics(reason: Reason) -> None:
    assert reason.value == reason.name.lower().replace("_", "-")
