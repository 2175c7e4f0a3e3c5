"""Published vectors and series lie outside the project: without them an ordinary run leaves their
tests out.

Named on the command line, as `make test-captures` does, they run, and fail where the vectors lack.
"""

from tests.captures.place import CAPTURES

_TESTS = [
    "test_captures.py",
    "test_d0.py",
    "test_dlms.py",
    "test_linky.py",
    "test_p1.py",
    "test_series.py",
    "test_sml.py",
]
collect_ignore = [] if CAPTURES.is_dir() else _TESTS
