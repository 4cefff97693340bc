# Everything here works on a machine with nothing but Python (3.10 or newer) and make: the first target that needs
# it makes .venv and installs pinned versions.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH := torch==2.13.0
FAULTS := tests/faults

export CI

.PHONY: help demo test faults lint types layers docs-test check install install-dev clean

help:
	@echo "make demo       train a small network and run the main job on it (less than a minute after installing)"
	@echo "make test       run the tests (but those of docs-test)"
	@echo "make faults     kills, full disks, damaged and malformed files: a few minutes, says what was counted"
	@echo "make lint       ruff, rules and format"
	@echo "make types      mypy"
	@echo "make layers     which room may import which"
	@echo "make docs-test  run the Python blocks of README.md and docs/"
	@echo "make check      all of these"

demo: install
	@$(BIN)/bitwright demo

test: install-dev
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --ignore=tests/test_docs.py

faults: install-dev
	$(BIN)/python -m pytest -m slow -s $(FAULTS)

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install-dev
	$(BIN)/mypy

layers: install-dev
	$(BIN)/lint-imports

docs-test: install-dev
	$(BIN)/python -m pytest tests/test_docs.py

check: lint types layers test docs-test demo

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

# PyTorch first, at its pinned version: a range would let the client fetch a newer one.
$(VENV)/.installed: requirements.txt pyproject.toml
	@echo "Installing into $(VENV): once, a minute or two"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c "import torch, sys; sys.exit(torch.__version__.split('+')[0] != '$(TORCH:torch==%=%)')" 2>/dev/null \
	  || $(PIP) install -qq "$(TORCH)"
	@$(PIP) install -qq -r requirements.txt
	@$(PIP) install -qq --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	@echo "Installing what the tests need"
	@$(PIP) install -qq -r requirements-dev.txt
	@touch $@

clean:
	rm -rf $(VENV) build dist bitwright-demo .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
