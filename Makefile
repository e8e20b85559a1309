# Each target builds .venv first: with uv when it is there, else with python3 -m venv and pip.
# Only python3 (3.11 or later, with venv) and make are needed beforehand.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TESTS ?=  # what `make test` and `make soak` run; all of it by default
WORKERS ?= 4  # tests that `make test` runs at a time; they wait more than they work
UV := $(shell command -v uv 2>/dev/null)
# A network with a certificate authority of its own has it in the system's store.
export UV_SYSTEM_CERTS := true

.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "bindings needs Python 3.11 or later; set PYTHON=/path/to/python3"; exit 1; }
ifneq ($(UV),)
	@$(UV) venv --quiet --clear --python $(PYTHON) $(VENV)
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
else
	@$(PYTHON) -m venv --clear $(VENV) 2>/dev/null \
	  || { echo "python3 has no venv module here; on Debian: apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
endif
	@touch $@

install: $(STAMP)  ## build .venv from the locked requirements

demo: $(STAMP)  ## the whole job on SQLite and a simulated provider, no account needed
	@$(BIN)/bindings demo

# Several tests at a time, and then, one by one, those that bear no company. Exit code 5: there was none to run.
test: $(STAMP)  ## all tests, on SQLite and on PostgreSQL
	@$(BIN)/python -m pytest -m "not soak and not browser and not alone" -n $(WORKERS) --dist worksteal $(TESTS); many=$$?; \
	$(BIN)/python -m pytest -m "not soak and not browser and alone" $(TESTS); one=$$?; \
	case $$many$$one in 00|05|50) ;; *) exit 1;; esac

soak: $(STAMP)  ## the long runs: every kill many times, big property runs, failovers
	@$(BIN)/python -m pytest -m soak $(TESTS)

test-browser: $(STAMP)  ## the console in a real Chromium: journeys, accessibility (needs chromium, chromium-driver)
	@$(BIN)/python -m pytest -m browser tests/browser

pictures: $(STAMP)  ## take the pictures of the console in docs/images anew
	@$(BIN)/python -m tests.browser.pictures

bench: $(STAMP)  ## speed against the raw drivers: a table, and JSON beside it
	@$(BIN)/python -m benchmarks

bench-full: $(STAMP)  ## the same with 10 M ended and 1 M live bindings on PostgreSQL
	@$(BIN)/python -m benchmarks --full

lint: $(STAMP)  ## style, types and import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(STAMP)  ## let ruff rewrite the files
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

lock:  ## write requirements/*.txt anew from pyproject.toml (needs uv)
	@$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url \
	  --no-emit-package bindings --python-version 3.11 --extra dev pyproject.toml -o requirements/dev.txt

clean:  ## remove what the targets above made
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: help install demo test test-browser pictures soak bench bench-full lint format lock clean
