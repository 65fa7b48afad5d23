# `make` lists the targets. Everything runs in .venv, which the first target builds from requirements/cpu.txt.

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-squad test test-all test-flink lint bench lock clean
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
FLINK := .flink

# The lock is made with 3.11; of several Pythons take that.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$python && break; done)
# Where pip finds torch's CPU wheel, if its own settings do not say: make setup TORCH_INDEX=URL
TORCH_INDEX ?=
PIP_INSTALL = $(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps

help:
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(INSTALLED)  ## build .venv: the CPU environment of the demo and the tests (3.5 GB, a few minutes)

$(INSTALLED): requirements/cpu.txt setup.py pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer found. Install one, or name it: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Installing the locked environment into $(VENV) (3.5 GB; 2 minutes with a fast connection) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) $(addprefix --extra-index-url ,$(TORCH_INDEX)) $$(grep '^torch==' requirements/cpu.txt) || { \
		echo "pip finds no CPU build of torch. Give it PyTorch's CPU wheel index: make setup TORCH_INDEX=URL" >&2; \
		echo "(docs/install.md says where the URL stands)." >&2; exit 1; }
	@$(PIP_INSTALL) -r requirements/cpu.txt || { \
		echo "The environment could not be installed; make setup goes on where it stopped." >&2; exit 1; }
	@$(PIP_INSTALL) --no-build-isolation -e .
	@touch $@

demo: setup  ## the whole job on this machine with a tiny model, in about 10 minutes; prints where the report lies
	@$(BIN)/python -m demo.prepare runs/demo/fixtures
	@$(BIN)/alignbeam run demo/recipe.yaml -o runs/demo
	@$(BIN)/python -m demo.controls runs/demo --fixtures runs/demo/fixtures
	@$(BIN)/alignbeam report runs/demo

demo-squad: setup  ## three criteria and their squad, guard off and on, with a tiny model, in about 10 minutes
	@$(BIN)/python -m demo.squad.prepare runs/demo-squad/fixtures
	@$(BIN)/alignbeam run demo/squad/recipe.yaml -o runs/demo-squad
	@$(BIN)/python -m demo.squad.truth runs/demo-squad --fixtures runs/demo-squad/fixtures
	@$(BIN)/alignbeam report runs/demo-squad

test: setup  ## the tests, without the slow ones
	@$(BIN)/python -m pytest -q -m "not slow"

test-all: setup  ## all tests
	@$(BIN)/python -m pytest -q

test-flink: setup $(FLINK)/pyflink  ## the tests on a real Flink cluster on this machine (240 MB more, Java, a job server jar)
	@$(BIN)/python -m pytest -q tests/test_flink_cluster.py

$(FLINK)/pyflink: | $(INSTALLED)
	@$(PIP_INSTALL) --target $(FLINK) apache-flink-libraries==1.19.3

lint: setup  ## style, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: setup  ## the benchmarks that need no data; each writes a dated table to docs/benchmarks.md
	@$(BIN)/python -m benchmarks.generation --kill --write
	@$(BIN)/python -m benchmarks.memory

lock: setup  ## resolve requirements/cpu.txt anew from setup.py
	@$(BIN)/python requirements/lock.py

clean:  ## remove .venv, .flink, builds and caches; runs/ stays
	@rm -rf $(VENV) $(FLINK) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
