# `make reproduce` and `make test` set up everything they need: a virtual environment with the pinned versions.
PYTHON ?= python3
BIN := .venv/bin
SETUP := .venv/.installed
SWEEPS := first_step lr_vs_width width_exponents

.DEFAULT_GOAL := help
.PHONY: help reproduce figures test lint bench clean

help:  ## print this
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(SETUP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
		|| { echo "Python 3.11, 3.12 or 3.13 is needed; name one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

reproduce: $(SETUP)  ## train every toy experiment, then draw all figures and judge all claims (minutes)
	@for sweep in $(SWEEPS); do $(BIN)/python -m runner experiment=$$sweep || exit; done
	@$(BIN)/python -m analysis --readme README.md

figures: $(SETUP)  ## draw all figures and judge all claims from the records, without training
	@$(BIN)/python -m analysis --readme README.md

test: $(SETUP) lint  ## lint, then every test
	@$(BIN)/pytest

lint: $(SETUP)  ## check style
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

bench: $(SETUP)  ## measure a stack of runs against one run at a time, and metrics on against off
	@$(BIN)/python -m bench

clean:  ## remove runs, caches and the virtual environment; records and figures stay
	rm -rf .venv outputs/runs outputs/wandb .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
