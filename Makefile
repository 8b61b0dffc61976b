# `make install`, `make demo` and `make test` are all there is to set up: each makes .venv and installs what it needs, if
# it is missing.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test test-all lint clean

install: .venv/installed

demo: .venv/installed
	$(BIN)/rhapsode demo

test: .venv/installed-test lint
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-all: .venv/installed-test lint
	$(BIN)/python -m pytest -m "not gpu"

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[align,chat]'
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@
