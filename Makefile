# Everything that people and CI do with this project; `make` alone lists it.
#
# Running needs less than testing, so each has its own stamp in the one virtual environment.

PYTHON ?= python3
WORKERS ?= 2
PORT ?= 12480
HOST ?= 127.0.0.1
MODEL ?=
DRILLS ?= full

BIN := .venv/bin
RUN := .venv/.installed-to-run
DEV := .venv/.installed-to-test
PACKAGES := muster discovery proxy worker
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install up test lint types pytest test-compose drills bench-proxy bench-grpc bench-serving bench-overload bench-replace lock clean

help:  ## List what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | while IFS='	' read -r name what; do printf '  make %-14s %s\n' "$$name" "$$what"; done

up: $(RUN)  ## Run a cluster here until Ctrl-C: make up WORKERS=4 MODEL=path/to/model PORT=12480 HOST=127.0.0.1
	@exec $(BIN)/muster up --workers '$(WORKERS)' --port '$(PORT)' --host '$(HOST)' $(if $(MODEL),--model '$(MODEL)')

install: $(DEV)  ## Make .venv with everything to run and to test

test: lint types pytest  ## All that must pass: lint, types, tests

lint: $(DEV)  ## Look for mistakes and for layout
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(DEV)  ## Check the types of the packages
	$(BIN)/mypy $(addprefix --package=,$(PACKAGES))

pytest: $(DEV)  ## Run the tests that need no Docker and no half hour
	$(BIN)/python -m pytest -m 'not compose and not drill'

test-compose: $(DEV)  ## Run the tests that need a Docker engine
	$(BIN)/python -m pytest -m compose tests/compose

drills: $(DEV)  ## Try what must hold when workers, registry or proxies fail: half an hour, or DRILLS=short
	DRILLS=$(DRILLS) $(BIN)/python -m pytest -m drill tests/drills

bench-proxy: $(DEV)  ## Measure the proxy beside nginx and HAProxy
	$(BIN)/python -m bench.proxy

bench-serving: $(DEV)  ## Measure predictions over REST and gRPC beside the model itself
	$(BIN)/python -m bench.serving

bench-grpc: $(DEV)  ## Measure what a gRPC call costs the proxy
	$(BIN)/python -m bench.grpc_calls

bench-overload: $(DEV)  ## Measure what a worker still does when three times too much is asked of it
	$(BIN)/python -m bench.overload

bench-replace: $(DEV)  ## Measure what requests notice while a version of their model is replaced
	$(BIN)/python -m bench.replace

lock: $(DEV)  ## Choose the newest versions that pyproject.toml allows, for all platforms
	@( echo '# Exact versions of all that is installed, for Python 3.11 and later on Linux and macOS. Made by `make lock`.'; \
	   $(BIN)/uv pip compile --quiet --universal --upgrade --python-version 3.11 --all-extras \
	     --no-header --no-annotate --no-emit-index-url --no-emit-find-links pyproject.toml ) > constraints.new
	@mv constraints.new constraints.txt

clean:  ## Remove what was made here, but no models
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .cache build dist
	find $(PACKAGES) tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[proxy,digits]'
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[dev]'
	@touch $@ $(RUN)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "muster needs Python 3.11 or later, and $(PYTHON) is not; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Making the virtual environment .venv ..."
	@$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
