# make demo | test | install | lint | notebooks | clean; NOTEBOOKS="notebooks/00_quickstart.ipynb" chooses some,
# WORKERS=4 tests in four processes
#
# Uses the active virtual or conda environment; where none is active, makes `.venv` with python3 and uses that.
# Works with the make of macOS (3.81) and of Linux.

SHELL := /bin/bash
PYTHON3 ?= python3

ifneq ($(strip $(VIRTUAL_ENV)),)
ENV := $(VIRTUAL_ENV)
else ifneq ($(strip $(CONDA_PREFIX)),)
ENV := $(CONDA_PREFIX)
else
ENV := $(CURDIR)/.venv
endif
PYTHON := $(ENV)/bin/python

# An environment can serve several clones, so a stamp lies in the environment and names the clone.
CLONE := $(shell printf '%s' '$(CURDIR)' | cksum | cut -d' ' -f1)
CORE := $(ENV)/.dealkit-core-$(CLONE)
ALL := $(ENV)/.dealkit-all-$(CLONE)

# $(call step,what,command): says what it does, does it, says how long it took; a failing command stops make.
step = @echo "==> $(1)"; start=$$(date +%s); set -o pipefail; $(2) && echo "==> done in $$(( $$(date +%s) - start )) s: $(1)"

# Of what pip says: the downloads of 10 MB and more as they start, and the end. Errors and warnings come whole.
brief = awk '/Downloading .*([0-9][0-9][.][0-9] MB|GB)|^Installing|^Successfully/ { print substr($$0, 1, 100); fflush() }'

NOTEBOOKS ?= $(sort $(wildcard notebooks/*.ipynb))

# Tests and notebooks run in so many processes, one file each at a time, with one thread each.
WORKERS ?= 2
PARALLEL = -n $(WORKERS) --dist loadfile

# FiftyOne sends usage statistics unless told not to; tests and notebooks of ours do not.
export FIFTYONE_DO_NOT_TRACK := true

.PHONY: demo test install lint notebooks clean

demo: $(CORE)
	$(call step,demo: click one object and get all of its kind,"$(PYTHON)" -m dealkit demo)

test: $(ALL)
	$(call step,FiftyOne's database: set it up where its own download is blocked,"$(PYTHON)" -m dealkit.browse.mongod)
	$(call step,lint,"$(PYTHON)" -m ruff check . && "$(PYTHON)" -m ruff format --check .)
	$(call step,unit tests and docstring examples,OMP_NUM_THREADS=1 "$(PYTHON)" -m pytest $(PARALLEL) tests dealkit)
	$(call step,notebooks,OMP_NUM_THREADS=1 TQDM_DISABLE=1 "$(PYTHON)" -m pytest $(PARALLEL) --nbval-lax --nbval-current-env $(NOTEBOOKS))

install: $(ALL)

lint: $(ALL)
	$(call step,lint,"$(PYTHON)" -m ruff check . && "$(PYTHON)" -m ruff format --check .)

notebooks: $(ALL)
	$(call step,run notebooks from top to bottom and keep their outputs,TQDM_DISABLE=1 "$(PYTHON)" -m nbconvert --to notebook \
	  --execute --inplace $(NOTEBOOKS) && "$(PYTHON)" -m dealkit.cli.notebooks $(NOTEBOOKS))

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	find dealkit tests notebooks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

$(PYTHON):
	@"$(PYTHON3)" -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else \
	  "dealkit needs Python 3.10 or newer, $(PYTHON3) is " + sys.version.split()[0] + "; try: make PYTHON3=python3.12")'
	$(call step,make the virtual environment .venv,"$(PYTHON3)" -m venv "$(ENV)")

# torch and torchvision are resolved together by one pip command. The interpreter is only ordered before, not newer.
$(CORE): pyproject.toml | $(PYTHON)
	$(call step,install what the demo needs (PyTorch: up to 3 GB to download and 5 GB on disk; once),\
	  "$(PYTHON)" -m pip install -e . | $(brief))
	@touch "$@"

$(ALL): pyproject.toml | $(PYTHON)
	$(call step,install everything (PyTorch; Jupyter; FiftyOne: up to 4 GB to download and 7 GB on disk; once),\
	  "$(PYTHON)" -m pip install -e '.[all]' | $(brief))
	@touch "$(CORE)" "$@"
