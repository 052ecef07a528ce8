# make demo [PROMPT="a blue chair"]   a model from a sentence
# make test                           the tests
# make test-faults                    a hundred kills, and crashes of servers and workers: minutes
# make setup                          only .venv, with everything in it
#
# PYTHON picks the interpreter that .venv is made from (3.11 to 3.13); TORCH the torch that is
# installed when .venv has none.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-faults clean

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13,$(shell command -v $(name))) python3.11)
TORCH ?= torch==2.13.0
PROMPT ?= a red mushroom
# As it was given: a prompt with $(...) in it is text, to make too.
override PROMPT := $(value PROMPT)
TESTS ?= tests
ARGUMENTS ?=

# Passed through the environment, never spliced into a command: a prompt may hold any character.
export PROMPT PYTHON TORCH TESTS
# Nothing reports anything anywhere.
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Relative paths only: the clone's own path may hold spaces. A new pyproject.toml installs again.
STAMP := .venv/installed

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

setup: $(STAMP)

$(STAMP): pyproject.toml Makefile
	@if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then rm -rf .venv; "$$PYTHON" -m venv .venv || { rm -rf .venv; \
	    echo "could not make .venv with '$$PYTHON': it needs Python 3.11 to 3.13 with its venv module (on Debian: python3-venv); another: make PYTHON=python3.12 setup" >&2; exit 1; }; fi
	@# The torch that is there is kept: pip must not swap a CPU or a CUDA build for another.
	@if ! .venv/bin/python -c 'import importlib.metadata as m; m.version("torch")' 2>/dev/null; then \
	    .venv/bin/python -m pip install --quiet --progress-bar off "$$TORCH" </dev/null; fi
	@.venv/bin/python -c 'import importlib.metadata as m; print("torch==" + m.version("torch"))' > .venv/torch.txt
	.venv/bin/python -m pip install --quiet --progress-bar off --constraint .venv/torch.txt --editable '.[test]' </dev/null
	@touch $(STAMP)

demo: $(STAMP)
	@.venv/bin/prolific generate $(ARGUMENTS) -- "$$PROMPT"

test: $(STAMP)
	@.venv/bin/python -m pytest "$$TESTS" $(ARGUMENTS)

test-faults: $(STAMP)
	@.venv/bin/python -m pytest "$$TESTS" -m faults $(ARGUMENTS)

# Outputs that DVC holds and everything under .state are kept; this is for a broken .venv.
clean:
	rm -rf .venv
