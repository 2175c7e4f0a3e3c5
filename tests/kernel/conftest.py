"""Booting machines takes minutes: only who names `test_kernel.py`, as `make test-kernel` does, has
them booted. Then they must run: what is missing fails."""

collect_ignore = ["test_kernel.py"]
