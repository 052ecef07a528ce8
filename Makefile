# make demo [PROMPT="a blue chair"]   make a 3D model from a sentence
# make lint                           check format, style and types
# make test                           run the tests: about 13 minutes on two cores
# make test-slow                      run the slower tests too: whole runs of every stage
# make test-faults                    kill stages, servers and workers by the hundred: minutes
# make test-cluster                   run three workers with PostgreSQL and an object store; one is killed
# make test-interop                   check exported files with other programs: the glTF validator, Blender
# make docs                           build the documentation into site/
# make setup                          only install .venv
# make setup-cuda                     compile the optional CUDA backends (docs/gpu.md)
# make upgrade                        renew constraints.txt with the newest versions that fit
#
# PYTHON chooses the interpreter that .venv is made from (3.11 to 3.13). TORCH chooses the torch
# that is installed if .venv has none.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo lint test test-slow test-faults test-cluster test-interop docs setup-cuda upgrade clean

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13,$(shell command -v $(name))) python3.11)
TORCH ?= torch==2.13.0
PROMPT ?= a red mushroom
# Keep the prompt as it was typed: make must not expand a $(...) in it.
override PROMPT := $(value PROMPT)
TESTS ?= tests
ARGUMENTS ?=
# Two processes share the tests; each computes on one thread.
PARALLEL ?= -n 2 --dist loadfile

# Variables reach commands through the environment, so that a prompt may hold any character.
export PROMPT PYTHON TORCH TESTS
# No tool reports usage to anyone.
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export NO_MKDOCS_2_WARNING := 1

# Paths are relative because the clone's own path may hold spaces.
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --progress-bar off
# pip must not replace a CPU build of torch by a CUDA build, or the other way round.
PINNED := --constraint constraints.txt --constraint .venv/torch.txt
INSTALLED := .venv/installed
DEVELOP := .venv/installed-develop

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

setup: $(INSTALLED)

.venv/torch.txt:
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then rm -rf .venv; "$$PYTHON" -m venv .venv || { rm -rf .venv; \
	    echo "could not make .venv with '$$PYTHON': it needs Python 3.11 to 3.13 with its venv module (on Debian: python3-venv); another: make PYTHON=python3.12 setup" >&2; exit 1; }; fi
	@if ! $(BIN)/python -c 'import importlib.metadata as m; m.version("torch")' 2>/dev/null; then \
	    echo "installing $$TORCH into .venv; all packages together take 3 GB and some minutes"; $(PIP) "$$TORCH" </dev/null; fi
	@$(BIN)/python -c 'import importlib.metadata as m; print("torch==" + m.version("torch"))' > $@

$(INSTALLED): pyproject.toml constraints.txt Makefile | .venv/torch.txt
	@echo "installing Prolific and the packages that it needs into .venv"
	@$(PIP) $(PINNED) --editable . </dev/null
	@touch $@

$(DEVELOP): $(INSTALLED)
	@echo "installing the packages for tests and documentation into .venv"
	@$(PIP) $(PINNED) --editable '.[test,develop,docs]' </dev/null
	@touch $@

demo: $(INSTALLED)
	@$(BIN)/prolific generate $(ARGUMENTS) -- "$$PROMPT"

lint: $(DEVELOP)
	@$(BIN)/ruff format --check --quiet . || { echo "not formatted: run .venv/bin/ruff format ." >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/basedpyright

test: $(DEVELOP)
	@$(BIN)/python -m pytest "$$TESTS" $(PARALLEL) $(ARGUMENTS)

test-slow: $(DEVELOP)
	@$(BIN)/python -m pytest "$$TESTS" -m slow $(PARALLEL) $(ARGUMENTS)

test-faults: $(DEVELOP)
	@$(BIN)/python -m pytest "$$TESTS" -m faults $(ARGUMENTS)

# PostgreSQL comes from the system's packages (on Debian: postgresql); the tests are skipped without it.
test-cluster: $(DEVELOP)
	$(PIP) $(PINNED) --editable '.[cluster,test-cluster]' </dev/null
	@$(BIN)/python -m pytest tests/flows/cluster -m cluster $(ARGUMENTS)

# The Khronos validator needs Node.js. Blender takes 1.3 GB, so it is not installed: BLENDER_PYTHON names a Python that
# has bpy. A test whose program is missing is skipped.
NODE_MODULES ?= .venv/interop/node_modules
BLENDER_PYTHON ?=
export NODE_MODULES BLENDER_PYTHON

test-interop: $(DEVELOP)
	@if command -v npm >/dev/null && [ ! -d "$$NODE_MODULES/gltf-validator" ]; then \
	    npm install --silent --no-fund --no-audit --prefix .venv/interop gltf-validator@2.0.0-dev.3.10; fi
	@$(BIN)/python -m pytest tests/interop -m interop $(ARGUMENTS)

docs: $(DEVELOP)
	@$(BIN)/mkdocs build --strict --quiet --site-dir site

# The extensions are compiled against the torch in .venv, hence no build isolation; the setup script
# of tiny-cuda-nn imports pkg_resources, which setuptools 81 has removed.
setup-cuda: $(INSTALLED)
	$(PIP) 'setuptools<81' wheel ninja packaging </dev/null
	$(PIP) --constraint .venv/torch.txt --no-build-isolation --editable '.[cuda]' </dev/null

# torch is left out, and with it what only its CUDA builds install: TORCH decides.
upgrade: | .venv/torch.txt
	$(PIP) --constraint .venv/torch.txt --upgrade --upgrade-strategy eager --editable '.[test,develop,docs,bench,cluster,test-cluster]' </dev/null
	@$(BIN)/python -m pip freeze --exclude-editable | grep -vE '^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==' > constraints.txt
	@touch $(INSTALLED) $(DEVELOP)

# DVC's outputs and .state stay: this target repairs a broken .venv.
clean:
	rm -rf .venv
