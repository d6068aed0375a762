PYTHON ?= python3
BIN := .venv/bin
RUFF = $(shell sed -n 's/^arguments = //p' setup.cfg) retinex_keras tests

.PHONY: demo test lint

# Enhance a dark photo with the shipped weights and say where the pictures are.
demo: .venv/ready
	$(BIN)/retinex decompose notebooks/photos/coffee_dark.png demo

test: .venv/ready
	$(BIN)/python -m pytest

lint: .venv/ready
	$(BIN)/ruff check $(RUFF)
	$(BIN)/ruff format --check $(RUFF)

# The virtual environment is made again when what it should hold has changed.
.venv/ready: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@
