# `make run` starts a gateway that works at once. `make test` runs every test that is not marked slow, `make slow` the
# slow ones: soaks, benches, and what needs root or a big package. OPTIONS go to pytest: make test OPTIONS=--durations=25
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONFIG := $(if $(wildcard gproxy.toml),gproxy.toml,conf/quickstart.toml)

OPTIONS ?=
# Most journeys wait, so three workers keep two cores busy. Each file's tests stay together and share fixtures.
PARALLEL := -n 3 --dist loadfile --no-loadscope-reorder -m "not slow and not timing"
# What the fast path may change: every call through a real gateway, and the suites that hold protocols and shared state.
CONTRACTS := tests/journeys tests/protocols tests/state tests/relay tests/upstream
# Property tests: `make test` runs them with a third of their examples.
PROPERTY_TESTS := $(shell grep -rl "import examples" tests --include=*.py)

# Compiled files are kept, whatever the environment says: the tests start hundreds of interpreters.
test slow slow-ci coverage: export PYTHONDONTWRITEBYTECODE =

.PHONY: run test slow slow-ci coverage clean

run: $(VENV)/.ready
	@GPROXY_CONFIG="$${GPROXY_CONFIG:-$(CONFIG)}" exec $(BIN)/gunicorn -c gunicorn.conf.py wsgi:app

test: $(VENV)/.tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pytest $(PARALLEL) $(OPTIONS)
	$(BIN)/pytest -m "timing and not slow" $(OPTIONS) $$(grep -rl 'pytest.mark.timing' tests)

slow: $(VENV)/.tests
	$(BIN)/pytest -m slow $(OPTIONS)
	PROPERTIES=full $(BIN)/pytest $(PARALLEL) $(OPTIONS) $(PROPERTY_TESTS)
	GPROXY_FASTPATH=off $(BIN)/pytest $(PARALLEL) $(OPTIONS) $(CONTRACTS)

# At most 20 minutes.
slow-ci: $(VENV)/.tests
	$(BIN)/pytest -m "slow and ci" $(OPTIONS)
	PROPERTIES=full $(BIN)/pytest $(PARALLEL) $(OPTIONS) $(PROPERTY_TESTS)

# Fails if the unit tests of a pure room reach less of it than its floor in tests/branch_coverage.py.
coverage: $(VENV)/.tests
	$(BIN)/python -m tests.branch_coverage

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "gproxy needs Python 3.11 or newer, and $(PYTHON) is not; set PYTHON, as in: make run PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: requirements.txt | $(VENV)/bin/python
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.tests: tests/requirements.txt $(VENV)/.ready
	@$(BIN)/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@

clean:
	rm -rf $(VENV)
