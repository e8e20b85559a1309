# `make demo` builds .venv-demo first, most other targets .venv: with uv if it is installed, otherwise with
# python3 -m venv and pip. Required beforehand: python3 (3.11 or later, with the venv module) and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LIBRARIES := $(VENV)/.libraries
STAMP := $(VENV)/.installed
DEMO := .venv-demo
DEMO_STAMP := $(DEMO)/.installed
DOCS := .venv-docs
DOCS_STAMP := $(DOCS)/.installed
TESTS ?=  # files or folders for `make test` and `make soak`; default: all
WORKERS ?= 4  # tests that run at a time; they mostly wait, so this may exceed the number of cores
UV := $(shell command -v uv 2>/dev/null)
# Trust the certificate authorities of the system, which may include a private one of the network.
export UV_SYSTEM_CERTS := true
# Compile each module once, not in each of the many processes that the tests start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

help:  ## list all targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

require-python = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
  || { echo "bindings needs Python 3.11 or later; set PYTHON=/path/to/python3"; exit 1; }
ifneq ($(UV),)
create = $(UV) venv --quiet --clear --python $(PYTHON) $(1)
install = $(UV) pip install --python $(1)/bin/python
else
create = $(PYTHON) -m venv --clear $(1) 2>/dev/null \
  || { echo "python3 has no venv module here; on Debian: apt-get install python3-venv"; exit 1; }
install = $(1)/bin/python -m pip install
endif

$(LIBRARIES): requirements/dev.txt
	@$(require-python)
	@echo "Installing the tools and libraries of the developers into $(VENV)"
	@$(call create,$(VENV))
	@$(call install,$(VENV)) --no-compile --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m compileall -qq --workers 0 $(VENV)/lib || true  # a few files are templates or tests of syntax
	@touch $@

$(STAMP): $(LIBRARIES) pyproject.toml
	@$(call install,$(VENV)) --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(DEMO_STAMP): requirements/demo.txt
	@$(require-python)
	@echo "Installing what the demo needs into $(DEMO), 50 MB; only the first run does this"
	@$(call create,$(DEMO))
	@$(call install,$(DEMO)) --no-compile --require-hashes -r requirements/demo.txt
ifeq ($(UV),)
	@$(DEMO)/bin/python -m pip uninstall -qq --yes pip setuptools  # 27 MB that the demo does not need
endif
	@touch $@

$(DOCS_STAMP): requirements/docs.txt
	@$(require-python)
	@echo "Installing what builds the documentation into $(DOCS)"
	@$(call create,$(DOCS))
	@$(call install,$(DOCS)) --no-compile --require-hashes -r requirements/docs.txt
	@touch $@

install: $(STAMP)  ## create .venv from the locked requirements

demo: $(DEMO_STAMP)  ## run the product on SQLite with a simulated provider; needs no account
	@$(DEMO)/bin/python -m bindings demo

test: $(STAMP)  ## run all tests, on SQLite and PostgreSQL (except soak and browser tests)
	@$(BIN)/python -m pytest -m "not soak and not browser" -n $(WORKERS) --dist worksteal $(TESTS)

test-fast: $(STAMP)  ## run unit and service tests on SQLite only (under two minutes)
	@$(BIN)/python -m pytest -m "not postgres and not soak and not browser and not processes" \
	  -n $(WORKERS) --dist worksteal tests/unit tests/service

soak: $(STAMP)  ## run the long tests: repeated kills, large property tests, failovers
	@$(BIN)/python -m pytest -m soak $(TESTS)

test-browser: $(STAMP)  ## test the console in Chromium: journeys, accessibility (needs chromium, chromium-driver)
	@$(BIN)/python -m pytest -m browser -n 2 --dist worksteal tests/browser

screenshots: $(STAMP)  ## take the screenshots of the console in docs/images (needs chromium, chromium-driver)
	@$(BIN)/python -m tests.browser.screenshots

bench: $(STAMP)  ## measure speed against the bare database drivers; prints a table, writes JSON
	@$(BIN)/python -m benchmarks

bench-smoke: $(STAMP)  ## compare the CPU time of lookups and binds with the budgets in benchmarks/budgets.toml
	@$(BIN)/python -m benchmarks.smoke

bench-full: $(STAMP)  ## run the bench with 10 M ended and 1 M live bindings on PostgreSQL
	@$(BIN)/python -m benchmarks --full

docs: $(DOCS_STAMP)  ## build the documentation as a site that opens from a file: build/site/index.html
	@$(DOCS)/bin/python -m sphinx --quiet --fail-on-warning --jobs auto --conf-dir docs/site \
	  --doctree-dir build/doctrees . build/site
	@echo "build/site/index.html"

clients: $(STAMP)  ## generate clients from the OpenAPI document into build/clients (TypeScript needs node and npm)
	@mkdir -p build/clients
	@$(BIN)/python -c "from bindings.web.api import openapi; print(openapi.document_bytes().decode())" \
	  > build/clients/openapi.json
	@PATH="$(CURDIR)/$(BIN):$$PATH" openapi-python-client generate --path build/clients/openapi.json \
	  --config clients/python.yaml --meta setup --overwrite --fail-on-warning --output-path build/clients/python
	@cp -R clients/typescript build/clients/
	@cp build/clients/openapi.json build/clients/typescript/
	@cd build/clients/typescript && npm ci --silent && npm run --silent generate && npm run --silent check

lint: docs lint-style lint-types lint-imports  ## check style, types, import contracts, and the links of the documentation

lint-style: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

lint-types: $(STAMP)
	@$(BIN)/mypy

lint-imports: $(STAMP)
	@$(BIN)/lint-imports

format: $(STAMP)  ## format the files with ruff
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

LOCK = $(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url \
  --no-emit-package pns-bindings --python-version 3.11

lock:  ## regenerate requirements/*.txt from pyproject.toml (needs uv)
	@$(LOCK) pyproject.toml --extra dev -o requirements/dev.txt
	@$(LOCK) pyproject.toml --constraints requirements/dev.txt -o requirements/demo.txt
	@$(LOCK) pyproject.toml --constraints requirements/dev.txt --extra all -o requirements/production.txt
	@$(LOCK) pyproject.toml --constraints requirements/dev.txt --group docs -o requirements/docs.txt
	@$(LOCK) --group build --constraints requirements/dev.txt -o requirements/build.txt

clean:  ## remove all generated files and folders
	rm -rf $(VENV) $(DEMO) $(DOCS) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: help install demo test test-fast test-browser screenshots soak bench bench-smoke bench-full docs clients lint \
  lint-style lint-types lint-imports format lock clean
