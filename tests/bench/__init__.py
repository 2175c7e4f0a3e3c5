"""Figures of the running system, each beside its limit: `python -m tests.bench [AREA ...]`."""
