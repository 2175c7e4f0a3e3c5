# Two commands for everyone, `make demo` and `make test`; the rest is for those who work on it.
# Each makes what it needs: an environment in .venv, and on Debian the packages it lists.

VENV = .venv
BIN = $(VENV)/bin
# Tests with real processes mostly wait: more jobs than cores.
JOBS = 4
PYTEST = $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

.PHONY: demo test check test-captures test-browser test-deep simulate test-faults test-kernel year month hour week \
	fuzz fuzz-keep mutation bench bench-year vectors clean

demo:
	@sh scripts/environment.sh demo
	@$(BIN)/cryptometer demo

test:
	@sh scripts/packages.sh
	@sh scripts/environment.sh test
	@PYTHON=$(BIN)/python sh scripts/peers.sh
	@$(MAKE) --no-print-directory check
	$(PYTEST) --ignore tests/captures --ignore tests/browser tests

# Format, rules of the house, types: seconds.
check:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# The published vectors and real series in ../shared/captures, or CRYPTOMETER_CAPTURES.
test-captures:
	@sh scripts/packages.sh
	@sh scripts/environment.sh test
	@PYTHON=$(BIN)/python sh scripts/peers.sh
	$(PYTEST) tests/captures/test_*.py

# Pages in a real browser without a window, light and dark, on a phone, a desk and paper: a minute.
# The browser comes with the machine's own apt.
test-browser:
	@sh scripts/browser.sh
	@sh scripts/environment.sh test
	$(BIN)/python -m pytest tests/browser

# Slower proofs: more seeds of the simulated community, a thousand kills of real processes, whole days
# of meters on bad lines.
test-deep:
	@$(MAKE) --no-print-directory simulate SEEDS=1000
	CRYPTOMETER_KILLS=1000 $(BIN)/python -m pytest tests/system/test_kill.py
	CRYPTOMETER_FRAMES=90000 $(PYTEST) tests/hal/index/test_linky.py tests/hal/index/test_p1.py \
		tests/hal/index/test_d0.py tests/hal/index/test_sml.py

# Every decoder under a fuzzer guided by coverage, in an environment of its own (x86-64). Ends with
# an error when an input crashed a decoder or was let through wrongly. fuzz-keep then takes the
# smallest inputs that reach what was reached into the committed corpus.
SECONDS = 3600
fuzz:
	@sh scripts/fuzz.sh
	.venv-fuzz/bin/python -m tests.fuzz run --seconds $(SECONDS)

fuzz-keep:
	@sh scripts/fuzz.sh
	.venv-fuzz/bin/python -m tests.fuzz keep

# The worst days of so many simulated communities, on all cores; names each seed that fails, with
# the command that replays it.
SEEDS = 10000
simulate:
	@sh scripts/environment.sh test
	$(BIN)/python -m tests.simulation.chaos --seeds 0:$(SEEDS)

# Every system call of a board and its gateway fails in turn, in every way it can: a quarter of an
# hour of processor time.
test-faults:
	@sh scripts/packages.sh
	@sh scripts/environment.sh test
	$(BIN)/python -m tests.faults.trial --pairs 400

# The board's program on a real kernel with simulated GPIO lines, in QEMU: a full buffer, one that
# overflows, power cuts, a counter beside the line. The kernel is fetched once, into .kernel, with the
# machine's own apt.
CUTS = 20
test-kernel:
	@sh scripts/environment.sh test
	@PYTHON=$(BIN)/python sh scripts/kernel.sh
	CRYPTOMETER_CUTS=$(CUTS) $(BIN)/python -m pytest -n 2 --dist load --maxschedchunk 1 -rP \
		tests/kernel/test_kernel.py

# A year of ten meters in simulated time: what memory and files take, month by month.
year:
	@sh scripts/environment.sh test
	$(BIN)/python -m tests.simulation.year

# October of a community of ten in simulated time: joins, leaves, a meter replaced, clocks put back,
# meters and consumption that are days late; against another reckoning of the rule.
month:
	@sh scripts/environment.sh test
	$(BIN)/python -m tests.simulation.month

# An hour of one board with four pulse lines, five Modbus meters on a bus and a Linky, real processes
# on a clock six times faster: every step is closed, and what the board's process costs.
MINUTES = 60
hour:
	@sh scripts/environment.sh test
	$(BIN)/python -m tests.system.hour --minutes $(MINUTES)

# The published week of a community, 18 consumers and one photovoltaic plant, through real processes:
# 168 steps of an hour, on a clock SPEED times faster. The series is where test-captures has it.
SPEED = 2400
week:
	@sh scripts/packages.sh
	@sh scripts/environment.sh test
	$(BIN)/python -m tests.system.week --speed $(SPEED)

# One thing at a time is changed in the pure modules, or in MODULES only: does a test notice? Takes an
# hour of a free machine; what survives stands in docs/mutation.md.
MODULES =
mutation:
	@sh scripts/listed.sh .venv-mutation tests/mutation/requirements.txt
	.venv-mutation/bin/python -m tests.mutation $(MODULES)

# Figures, each beside its limit.
bench:
	@sh scripts/environment.sh test
	$(BIN)/python -m tests.bench

# The audit of a year of ten meters and twenty members, a ledger that is made for it: some ten
# minutes of a free machine, 300 MB of disk.
bench-year:
	@sh scripts/environment.sh test
	$(BIN)/python -m tests.bench.audits 35040

# Writes the golden vectors anew; a difference is a change of the format.
vectors:
	$(BIN)/python -m tests.vectors.generate

clean:
	rm -rf $(VENV) .venv-peers .venv-fuzz .fuzz .venv-mutation .mutation .kernel .mypy_cache .ruff_cache .pytest_cache .hypothesis
