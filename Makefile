# `make demo` and `make test` set up everything they need; `make help` lists the rest.

VENV := .venv
PEERS := .venv-peers
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
# Processes of the test suite: two for each core, as tests with servers wait for half of their time. Torch inside each is
# held to one thread (tests/conftest.py). A process that has nothing left takes tests from the one that has most.
JOBS ?= $(shell echo $$((2 * $$(nproc 2>/dev/null || echo 2))))
PYTEST := $(BIN)/pytest -n $(JOBS) --dist worksteal

# A run starts a process for each thing that it does: without the bytecode that Python keeps, each of them compiles torch
# and Prefect anew, for seconds.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup stack stack-status stack-down demo test test-quick test-unit test-peers lint format hooks docs bench bench-gpu peers clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | while IFS="$$(printf '\t')" read -r name what; do printf '  make %-16s %s\n' "$$name" "$$what"; done

setup: $(STAMP) ## Build the environment in .venv

# uv builds the environment in seconds; where it is missing, a private copy is fetched first.
$(STAMP): pyproject.toml constraints.txt
	@command -v uv >/dev/null 2>&1 || test -x .uv/bin/uv || \
	  { python3 -m venv .uv && .uv/bin/python -m pip install --quiet --disable-pip-version-check uv; } || \
	  { echo 'make setup needs uv, or a python3 with venv and pip (Debian: apt-get install python3-venv)' >&2; exit 1; }
	@set -e; uv=$$(command -v uv || echo .uv/bin/uv); export UV_SYSTEM_CERTS=$${UV_SYSTEM_CERTS:-true} UV_NATIVE_TLS=$${UV_NATIVE_TLS:-true}; \
	  test -x $(BIN)/python || $$uv venv --quiet --python '>=3.11' $(VENV); \
	  echo 'setting up .venv (torch is large: half a minute on a fast line)'; \
	  $$uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev]'
	@touch $@

stack: setup ## Start the whole system on this machine: PostgreSQL, S3, Prefect's server, a worker
	@$(BIN)/python -m infra.stack up $(if $(NOTIFY),--notify $(NOTIFY))

stack-status: ## List its running parts and their addresses
	@$(BIN)/python -m infra.stack status

stack-down: ## End the stack; the data stay (PURGE=1 removes them)
	@$(BIN)/python -m infra.stack down $(if $(PURGE),--purge)

demo: setup ## Train, evaluate and promote a building model on the sample scene (STORAGE=s3: on a real S3 server)
	@$(BIN)/python -m $(if $(filter s3,$(STORAGE)),examples.atlanta.on_s3,flows.retrain --config examples/atlanta/run.yaml)

# Tests with real servers wait with a limit, and a machine that is busy elsewhere may exceed one: what failed runs once
# more, alone. What fails then, too, fails here; what passes then is listed as unsteady, to be mended.
test: lint ## Lint, type-check, and run every test
	@$(PYTEST) || { test $$? -eq 1 && \
	  echo 'UNSTEADY or broken, as listed above: run once more, one after the other' && \
	  $(BIN)/pytest --last-failed --last-failed-no-failures none; }

test-quick: setup ## Run the tests that take less than a second or two
	$(PYTEST) -m 'not slow'

test-unit: setup ## Run the quick tests of a folder or file: make test-unit ARGS=tests/data
	$(BIN)/pytest -m 'not slow' $(or $(ARGS),$(error give a folder or file of tests, such as ARGS=tests/data))

lint: setup ## Ruff, mypy, spelling, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell README.md CONTRIBUTING.md CHANGELOG.md docs ununennium flows infra tests benchmarks examples

format: setup ## Format, and apply ruff's fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

hooks: setup ## Install the commit hooks (.pre-commit-config.yaml)
	@$(BIN)/pre-commit install

docs: setup ## Build the documentation as a site in build/site
	@$(BIN)/python -m mkdocs build --strict --quiet

peers: setup ## Build .venv-peers: the project and what it is measured against
	@set -e; uv=$$(command -v uv || echo .uv/bin/uv); export UV_SYSTEM_CERTS=$${UV_SYSTEM_CERTS:-true} UV_NATIVE_TLS=$${UV_NATIVE_TLS:-true}; \
	  test -x $(PEERS)/bin/python || $$uv venv --quiet --python '>=3.11' $(PEERS); \
	  $$uv pip install --quiet --python $(PEERS)/bin/python -c constraints.txt -e '.[dev]' -r benchmarks/peers.txt

test-peers: peers ## Train with the models, losses, datasets and metrics of other libraries
	$(PEERS)/bin/pytest tests/training/test_other_libraries.py

bench: peers ## Measure against the peers; ARGS=--quick, ARGS='--only step', ARGS=--help
	$(PEERS)/bin/python -m benchmarks $(ARGS)

bench-gpu: setup ## Measure training on a GPU (under 8 minutes), into docs/performance.md
	@$(BIN)/python -m benchmarks.gpu --update $(ARGS)

clean: ## Remove the environment and everything the demo made
	rm -rf $(VENV) $(PEERS) .uv .ununennium storage .pytest_cache .mypy_cache .ruff_cache .hypothesis
