"""Published vectors and series lie outside the project: without them an ordinary run leaves their
tests out.

Named on the command line, as `make test-captures` does, they run, and fail where the vectors lack.
"""

from pathlib import Path

from tests.captures.place import CAPTURES

_TESTS = [file.name for file in Path(__file__).parent.glob("test_*.py")]
collect_ignore = [] if CAPTURES.is_dir() else _TESTS
