"""When a process looks through its own memory."""

import gc

# New objects before the collector looks for cycles; see `collect_seldom`. Python's own 700 and 10
# have it walk all records that wait, again and again.
COLLECT_EVERY, COLLECT_OLDER_EVERY = 50_000, 20


def collect_seldom() -> None:
    """Spares the collector of cycles most of its work: records hold none and go when the last
    reference does, while a look through a step's records of a thousand meters stops the gateway for
    a third of a second."""
    gc.set_threshold(COLLECT_EVERY, COLLECT_OLDER_EVERY, COLLECT_OLDER_EVERY)
