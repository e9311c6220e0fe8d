# Two commands for everybody: `make serve` and `make test`. Both make their own environment; python3 and make is all they need.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := $(shell find responder plugins -name '*.py' -o -name '*.sql') pyproject.toml README.md

.PHONY: serve test bench lint unit constraints clean

serve: $(VENV)/installed  ## the server on the default configuration, in the foreground
	$(BIN)/responder serve

test: $(VENV)/developed  ## every check: lint, types, tests
	$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -n auto --dist worksteal tests

lint: $(VENV)/developed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(VENV)/developed  ## the quick ones
	$(BIN)/python -m pytest -n auto tests/unit tests/contract tests/dialog tests/stage

bench: $(VENV)/developed  ## speed, as ratios in one run
	$(BIN)/python -m tests.benchmarks.run

# What `serve` needs, in the versions that were tested; pip checks every hash.
$(VENV)/dependencies: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	@touch $@

$(VENV)/installed: $(VENV)/dependencies $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation .
	@touch $@

$(VENV)/developed: $(VENV)/dependencies constraints-dev.txt $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation .
	@touch $@

constraints:  ## write both constraint files anew, with hashes and without host names
	$(PYTHON) tests/support/constraints.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
