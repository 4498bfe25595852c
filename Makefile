# make demo   set up, train on the built-in click log, write runs/demo/report.html
# make creative-demo   set up, train pictures from words on drawn products, write runs/creative-demo/report.html
# make test   set up, run the tests
# make check  lint, types and tests: what .ci/run does

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo creative-demo test check lint types format clean

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py

creative-demo: $(VENV)/.creative
	$(BIN)/python examples/creative_demo.py

test: $(VENV)/.ready
	$(BIN)/python -m pytest

check: lint types test

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready
	$(BIN)/mypy

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch goes first and alone: with it in place nothing below asks for another build of it.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $$(grep '^torch==' constraints.txt)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.creative: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[creative]'
	touch $@

$(VENV)/.ready: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
