# Two commands for everybody: `make serve` and `make test`. Both make their own environment; python3 and make is all they need.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := $(shell find responder plugins -name '*.py' -o -name '*.sql' -o -name '*.toml') pyproject.toml README.md

.PHONY: serve test test-versions bench lint unit constraints clean

serve: $(VENV)/installed  ## the server on the default configuration, in the foreground; it follows what is saved
	$(BIN)/responder serve --watch

test: $(VENV)/developed  ## every check: lint, types, tests
	$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -n auto --dist worksteal tests

lint: $(VENV)/developed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(VENV)/developed  ## the quick ones
	$(BIN)/python -m pytest -n auto tests/unit tests/contract tests/dialog tests/stage

QUICK := tests/unit tests/contract

test-versions:  ## the quick checks on the other Pythons that are here, and on the oldest dependencies that are allowed
	@for version in 3.12 3.13; do \
	  if command -v python$$version > /dev/null && python$$version -c "" 2> /dev/null; then \
	    echo "== Python $$version" && python$$version -m venv $(VENV)-$$version && \
	    $(VENV)-$$version/bin/python -m pip install --quiet --require-hashes -r constraints-dev.txt && \
	    $(VENV)-$$version/bin/python -m pytest -q -n auto $(QUICK) || exit 1; \
	  else echo "== Python $$version is not here: skipped"; fi; done
	@echo "== the oldest dependencies" && $(PYTHON) -m venv $(VENV)-lowest && \
	  $(VENV)-lowest/bin/python -m pip install --quiet --require-hashes -r constraints-lowest.txt && \
	  $(VENV)-lowest/bin/python -m pytest -q -n auto $(QUICK)

bench: $(VENV)/developed  ## speed, as ratios in one run
	$(BIN)/python -m tests.benchmarks.run

# What `serve` needs, in the versions that were tested; pip checks every hash.
$(VENV)/dependencies: constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
	  { echo "$(PYTHON) is too old: Python 3.11 or later is needed; name one with make PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "Python's venv module is needed; on Debian and Ubuntu: apt install python3-venv"; rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	@touch $@

$(VENV)/installed: $(VENV)/dependencies $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation .
	@touch $@

$(VENV)/developed: $(VENV)/dependencies constraints-dev.txt $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation .
	@touch $@

constraints:  ## write the constraint files anew, with hashes and without host names
	$(PYTHON) -m tests.support.constraints

clean:
	rm -rf $(VENV) $(VENV)-* build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
