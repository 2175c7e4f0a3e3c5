"""The board's program on a real kernel: `make test-kernel`.

A Linux with `gpio-sim`, lines whose level a file sets, runs in QEMU (decisions/0028). Within it run
`cryptometer-firmware run` with `driver = "gpio"`, as on a board, and a generator of pulses. The
guest has the machine's own files over 9p, to read only, and a disk of its own for the device's
folder. What is signed there is read from that disk afterwards, from outside, and compared with what
was emitted.

plan      what the two sides agree on: what a boot is to do, what it tells, where things lie
guest     runs in the guest, in place of the world: the clock's time source, the meter
init      the guest's first process (a shell script)
machine   QEMU, its disk, its end: a power cut is its death by SIGKILL
account   what must hold of what was emitted and what was signed; pure

`test_kernel.py` boots machines, and is not collected unless it is named. `test_account.py` shows
that the account does not let a loss or a doubled pulse pass; it belongs to `make test`.
"""
