# `make run` starts a gateway that works at once; `make test` runs every test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONFIG := $(if $(wildcard gproxy.toml),gproxy.toml,conf/quickstart.toml)

.PHONY: run test clean

run: $(VENV)/.ready
	@GPROXY_CONFIG="$${GPROXY_CONFIG:-$(CONFIG)}" exec $(BIN)/gunicorn -c gunicorn.conf.py wsgi:app

test: $(VENV)/.tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pytest

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
