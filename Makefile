# carpk needs Python 3.11 or newer (with venv) and make; everything else goes into .venv.
#
#   make demo          a short fit and a picture, from nothing
#   make test          the fast tests
#   make help          the rest

VENV   ?= .venv
BIN    := $(VENV)/bin
# The first interpreter that runs, is new enough and can make virtual environments;
# `make PYTHON=/path/to/python ...` chooses another.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	>/dev/null 2>&1 && { command -v $$p; break; }; done)
PIP    := $(BIN)/python -m pip --disable-pip-version-check

# Compiles a fifth faster, and runs slower.
BRIEFLY := XLA_FLAGS="$$XLA_FLAGS --xla_backend_optimization_level=0"

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow test-exhaustive test-oldest test-portable validation lint notebooks wheel clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' \
		| awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

demo: $(VENV)/.installed  ## set up, then run `carpk demo`
	$(BIN)/carpk demo

test: $(VENV)/.installed-test  ## the fast tests
	$(BRIEFLY) $(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile

# These compile for longer than they run, the other slow tests sample for longer.
EQUATIONS := $(patsubst %,tests/%,models test_models.py test_solver.py test_event_grammar.py \
	test_occasions.py test_compartments.py test_summaries.py slow/test_crossing.py)
SLOW      := $(BIN)/python -m pytest -m "slow and not exhaustive" -n auto --dist worksteal

test-slow: $(VENV)/.installed-test  ## the tests that take minutes
	$(BRIEFLY) $(SLOW) $(EQUATIONS)
	$(SLOW) $(EQUATIONS:%=--ignore=%)

test-exhaustive: $(VENV)/.installed-test  ## the whole of each family of slow tests: an hour
	$(BIN)/python -m pytest -m exhaustive -n auto --dist worksteal

test-portable: $(VENV)/.installed-test  ## those that macOS and Windows run too
	$(BIN)/python -m pytest -m "portable and not slow" -n auto --dist loadfile

# Every dependency at the lower bound that pyproject.toml gives it. The tests use all of them.
OLDEST     := .venv-oldest
TEST_TOOLS := pytest pytest-xdist hypothesis beartype
ON_OLDEST  := $(patsubst %,tests/test_%.py,checks cli comparison dataset_nonmem evidence excel fit \
	library models ode_fit portable repetition saved sbml sensitivity vpc)

test-oldest: $(OLDEST)/.installed-oldest  ## a part of the tests with the oldest dependencies
	$(OLDEST)/bin/python -m pytest -m "not slow" -n auto --dist loadfile $(ON_OLDEST)

$(OLDEST)/.installed-oldest: pyproject.toml
	$(MAKE) $(OLDEST)/bin/python VENV=$(OLDEST)
	$(OLDEST)/bin/python -c 'import tomllib; \
		project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
		extras = project["optional-dependencies"]; \
		bounds = project["dependencies"] + extras["excel"] + extras["latex"] + extras["sbml"]; \
		print(*(bound.replace(">=", "==") for bound in bounds), sep="\n")' > $(OLDEST)/oldest.txt
	$(OLDEST)/bin/python -m pip --disable-pip-version-check install --quiet \
		--constraint $(OLDEST)/oldest.txt --editable ".[excel,latex,sbml]" $(TEST_TOOLS)
	@touch $@

# Each goes on where it stopped, for up to MINUTES, and then writes what there is.
MINUTES ?= 40
validation: $(VENV)/.installed-test  ## hours of measurements; writes their tables
	$(BIN)/python benchmarks/usual_data.py --minutes $(MINUTES)
	$(BIN)/python benchmarks/usual_data.py --table
	$(BIN)/python benchmarks/demo_seeds.py --minutes $(MINUTES)
	$(BIN)/python benchmarks/demo_seeds.py --report
	$(BIN)/python benchmarks/verdict.py --part development --minutes $(MINUTES)
	$(BIN)/python benchmarks/verdict.py --part held_out --minutes $(MINUTES)
	$(BIN)/python benchmarks/verdict.py --report
	$(BIN)/python benchmarks/calibration.py --minutes $(MINUTES)
	$(BIN)/python benchmarks/calibration.py --report
	$(MAKE) test-exhaustive
	$(BIN)/python benchmarks/abuse_storage.py --kills 100 --flips 200
	$(BIN)/python benchmarks/summaries_coverage.py 1000 --out docs/summaries.md

lint: $(VENV)/.installed-test  ## style, types, spelling; notebooks without outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/nbstripout --verify notebooks/*.ipynb

# With small settings; `python tests/run_notebooks.py --as-written` runs them as readers do.
notebooks: $(VENV)/.installed-test  ## run every notebook
	$(BIN)/python tests/run_notebooks.py

wheel: $(VENV)/.installed-test  ## build dist/*.whl
	$(BIN)/python -m build --wheel --no-isolation

clean:  ## remove environments, caches and builds
	rm -rf .venv .venv313 .venv-oldest build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
		echo "No Python 3.11 or newer with the modules venv and ensurepip was found (looked for" >&2; \
		echo "python3.11, python3.12, python3.13 and python3 on the PATH). Install one (on Debian" >&2; \
		echo "and Ubuntu: python3-venv as well), or name it: make PYTHON=/path/to/python ..." >&2; \
		exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "PYTHON=$(PYTHON) must be Python 3.11 or newer." >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --editable ".[test]"
	@touch $@ $(VENV)/.installed
