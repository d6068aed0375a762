PYTHON ?= python3
BIN := .venv/bin
# In the way of "compat", Python finds the package also from the folder above this checkout, which has the package's name.
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable
CHECK = $(shell sed -n 's/^check = //p' setup.cfg)
FORMAT = $(shell sed -n 's/^format = //p' setup.cfg)

.PHONY: demo test lint notebooks lab

# Enhance a dark photo with the shipped weights and say where the pictures are.
demo: .venv/ready
	$(BIN)/retinex decompose notebooks/photos/coffee_dark.png demo

# Two processes on two cores: a thread each computes, so that they do not disturb each other.
test: .venv/ready
	TF_NUM_INTRAOP_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: .venv/ready
	$(BIN)/ruff check $(CHECK) retinex_keras tests
	$(BIN)/ruff format --check $(FORMAT) retinex_keras tests

# Execute the notebooks in place, from top to bottom, with the weights that are shipped now. With the variable set, ipykernel does
# not write into them what TensorFlow's libraries print as they load.
notebooks: .venv/ready
	PYTEST_CURRENT_TEST= $(BIN)/jupyter execute --inplace notebooks/*.ipynb

# Open the notebooks in JupyterLab.
lab: .venv/notebooks
	$(BIN)/jupyter lab notebooks

# The virtual environment is made again when what it should hold has changed. It always has this checkout itself, not a copy.
.venv/ready: setup.cfg pyproject.toml
	@echo "Setting up .venv: about 3 GB, a few minutes"
	$(PYTHON) -m venv .venv
	$(INSTALL) '.[test]'
	touch $@

# An extra of setup.cfg, by its name.
.venv/%: .venv/ready
	$(INSTALL) '.[$*]'
	touch $@
