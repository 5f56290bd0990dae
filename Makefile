# One command for each thing; every target installs what it needs and says so.  `make help` lists them.
#
#   make demo [SECONDS=20]      make test [ARGS="-k rekey"]      make lint      make bench [ARGS=...]

PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
STAMPS  := .stamps
SECONDS ?=
MINUTES ?= 30
SCHEDULES ?= 100000
FIRST   ?= 0
JOBS    ?= 2
ARGS    ?=
MIB_SOURCES := $(wildcard mibs/src/* mibs/base/* mibs/*.py)

.DEFAULT_GOAL := help
.PHONY: help demo test lint fuzz soak bench bench-snmp interop converge mibs clean run-env dev-env demo-packages test-packages

help: ## this list
	@echo 'make demo     two gateways, a live tunnel and the SNMP agent, to look at and to play with (SECONDS=20: ends by itself)'
	@echo 'make test     lint, then every test (ARGS="-k rekey" picks some; as root also those with real peers)'
	@echo 'make lint     ruff, mypy and the import rules'
	@echo 'make bench    the figures: throughput, negotiations per second, walks, start-up time, memory (ARGS="--quick")'
	@echo 'make interop  the matrix against strongSwan, in userspace and with the kernel'"'"'s ESP (ARGS="MOBIKE --peer userspace --json FILE")'
	@echo 'make converge  100,000 random schedules of loss, reordering and rekeys: both ends agree in the end (SCHEDULES=1000 FIRST=0 JOBS=2)'
	@echo 'make fuzz     the SNMP engine under a coverage-guided fuzzer (SECONDS=60)'
	@echo 'make bench-snmp  the SNMP figures beside net-snmp (ARGS="--quick --only get,walk --json FILE")'
	@echo 'make soak     the agent asked by eight managers, told, reloaded and flooded for half an hour (MINUTES=30)'
	@echo 'make mibs     compile mibs/src with pysmi'
	@echo 'make clean    remove what the other targets made (.venv, .stamps, build products)'

demo: demo-packages run-env mibs ## the demo
	@PYTHONPATH=tests $(BIN)/python -m demo $(if $(SECONDS),--seconds $(SECONDS)) $(ARGS)

test: test-packages lint ## everything
	$(BIN)/python -m pytest $(ARGS)

lint: dev-env mibs ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit/test_import_rules.py

bench: test-packages dev-env mibs ## the figures
	@PYTHONPATH=tests $(BIN)/python -m bench $(ARGS)

interop: test-packages dev-env ## the matrix against strongSwan
	@PYTHONPATH=tests:. $(BIN)/python -m interop.matrix $(ARGS)

converge: dev-env ## random schedules of rekeys over a bad network
	@$(BIN)/python tests/exchange/converge.py --first $(FIRST) --count $(SCHEDULES) --jobs $(JOBS) $(ARGS)

fuzz: dev-env mibs ## the SNMP engine under a fuzzer
	@$(BIN)/python tests/fuzz/snmp_fuzz.py --seconds $(or $(SECONDS),60) $(ARGS)

bench-snmp: test-packages dev-env mibs ## the SNMP figures beside net-snmp's C agent
	@PYTHONPATH=tests $(BIN)/python -m bench.snmp $(ARGS)

soak: test-packages dev-env mibs ## the agent under eight managers, changes, reloads and a flood, for MINUTES
	@PYTHONPATH=tests:tests/agent $(BIN)/python -m soak --minutes $(MINUTES) $(ARGS)

# --- what the targets need -------------------------------------------------------------------------------------------

demo-packages:
	@tools/debian-packages demo

test-packages:
	@tools/debian-packages test

run-env: $(STAMPS)/run
dev-env: $(STAMPS)/dev
mibs: $(STAMPS)/mibs

$(VENV)/pyvenv.cfg:
	@echo "make: creating the virtual environment $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: Python 3.11 or later is needed; name it with: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { [ "$$(id -u)" = 0 ] && tools/debian-packages venv; } || \
	  { echo "make: Python's venv module is missing; as root: apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)

$(STAMPS)/run: $(VENV)/pyvenv.cfg pyproject.toml
	@echo "make: installing the package and its dependencies into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/dev: $(STAMPS)/run
	@echo "make: installing the test and lint tools into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@mkdir -p $(STAMPS) && touch $@

# Compiled modules that somebody removed are made again, whatever the stamp says.
ifeq ($(wildcard mibs/compiled/*),)
.PHONY: $(STAMPS)/mibs
endif
$(STAMPS)/mibs: $(MIB_SOURCES) $(STAMPS)/run
	@echo "make: compiling the MIB modules"
	@$(BIN)/python -m mibs.build
	@mkdir -p $(STAMPS) && touch $@

clean:
	rm -rf $(VENV) $(STAMPS) build dist *.egg-info mibs/compiled .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
