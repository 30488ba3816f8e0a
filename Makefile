# make demo    install, then run recipes/tiny.toml with seed 0 into runs/tiny/ (its page: runs/tiny/report.html)
# make test    install, then run the tests
# make check   format, lint, types, and the house's own rules
# make docs    write the generated pages again
# make clean   remove .venv and caches; runs/ stays
#
# Needs Python >= 3.11, make and pip. PYTHON=python3.12 picks another interpreter.

SHELL := /bin/bash
PYTHON ?= python3
TORCH := torch==2.13.0
BIN := .venv/bin

.PHONY: demo test check docs clean
.DEFAULT_GOAL := test

demo: .venv/.installed
	$(BIN)/headway run recipes/tiny.toml --set seed=0

test: .venv/.installed-dev
	$(BIN)/python -m pytest

check: .venv/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest tests/unit/test_house.py

docs: .venv/.installed-dev
	$(BIN)/python -m typer headway.cli.entry utils docs --name headway --title 'The command line' --output docs/cli.md

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find headway tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Torch comes first and pinned: the package's own range would take the newest build, with gigabytes for GPUs.
.venv/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Headway needs Python 3.11 or newer, not " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@
