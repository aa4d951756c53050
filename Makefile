# Two doors for a fresh machine with Python 3.11 or newer:
#   make quickstart   environment, installation, the main job on the embedded data set
#   make test         environment, installation, all tests
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test

quickstart: .venv/installed
	$(BIN)/ldkit quickstart

# Two test processes of one thread each beat one process of two for networks this small.
test: .venv/installed-dev
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/pytest -n 2 --dist worksteal

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ldkit needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip

.venv/installed: pyproject.toml .venv/bin/python
	$(BIN)/pip install --quiet --editable .
	@touch $@

.venv/installed-dev: pyproject.toml .venv/bin/python
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@
