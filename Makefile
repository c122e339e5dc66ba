# Every target sets up what it needs: a virtual environment in .venv with Tilewright and its
# tools. Only python3 (3.10 or later) with venv, and a C++ compiler to link with, must be there.
#
#   make demo      compile a trained network, classify labelled images, write the latency report
#   make test      the fast tests and those that build machine code
#   make test-all  also the slow tests
#   make lint      ruff, mypy --strict, import-linter, import cycles, file checks
#   make ci        what CI runs: tests with coverage, lint, the wheel in a fresh environment
#   make bench     latency beside other runtimes, written to docs/benchmarks/
#   make zoo       the table of networks that import, compile and agree with PyTorch
#   make clean     remove what was generated; `make distclean` also removes .venv
#
# Settings: PYTHON=python3.12, VENV=folder, PIP_ARGS="--index-url …", PYTEST_ARGS="-k name", PYTEST_JOBS=0,
# ARGS="…" for the demo, bench and zoo tools.

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
PYTEST_ARGS ?=
ARGS ?=
# Processes that run tests; PYTEST_JOBS=0 runs them in one. Each takes its tests in a row, so that what
# a module's tests share is mostly built in one of them.
PYTEST_JOBS ?= auto
PYTEST := $(VENV)/bin/pytest --dist worksteal -n $(PYTEST_JOBS)

BIN := $(VENV)/bin
RUN := $(BIN)/python
STAMP := $(VENV)/.installed

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint lint-ruff lint-format lint-types lint-layers lint-cycles lint-files format ci bench zoo clean distclean linker

help:
	@sed -n 's/^#   //p' Makefile

# The stamp is newer than pyproject.toml when everything that it names is installed.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "error: $(PYTHON) is missing or older than Python 3.10; try make PYTHON=python3.12" >&2; \
	  exit 1; }
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "error: $(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2; \
	  exit 1; }
	@echo "installing Tilewright and its tools into $(VENV) (once; minutes)"
	@$(RUN) -m pip install -qq $(PIP_ARGS) -e '.[dev]'
	@touch $@

setup: $(STAMP) linker

# Compiled modules are linked by the system's compiler driver.
linker:
	@for cc in g++ c++ clang++ gcc cc clang; do command -v $$cc >/dev/null && exit 0; done; \
	  echo "error: no C or C++ compiler to link compiled modules with; on Debian and Ubuntu: apt-get install g++" >&2; \
	  exit 1

demo: setup
	$(RUN) -m tools.demo $(ARGS)

test: setup
	$(PYTEST) -m "not slow and not zoo" $(PYTEST_ARGS)

test-all: setup
	TILEWRIGHT_EXAMPLES=5 $(PYTEST) $(PYTEST_ARGS)

# One target a checker, so that `make -k lint` shows what all of them find.
lint: lint-ruff lint-format lint-types lint-layers lint-cycles lint-files

lint-ruff: $(STAMP)
	$(BIN)/ruff check .

lint-format: $(STAMP)
	$(BIN)/ruff format --check .

lint-types: $(STAMP)
	$(BIN)/mypy

lint-layers: $(STAMP)
	$(BIN)/lint-imports

lint-cycles: $(STAMP)
	$(RUN) -m tools.ci.check_cycles

lint-files: $(STAMP)
	$(RUN) -m tools.ci.check_files

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ci:
	.ci/run

bench: setup
	$(RUN) -m tools.bench $(ARGS)

zoo: setup
	$(RUN) -m tools.zoo $(ARGS)

clean:
	rm -rf build dist out htmlcov .coverage .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info
	find compiler schedules targets tools tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) .venvs
