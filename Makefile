# The verbs of this project. `make run` and `make test` do all the set-up on a fresh machine.

PYTHON ?= python3
VENV := .venv
TCI := $(VENV)/bin/tci
REQUIRE_ALL ?= 0

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help run images test test-hostile soak hostile-soak chaos bench bench-quick bench-history check lint types format clean

help:  ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

run: $(VENV)/.run  ## Start the service on 127.0.0.1:8000; the first time sets everything up.
	@$(TCI) sandbox prepare
	@$(TCI) migrate
	@$(TCI) keys create --if-none
	@exec $(TCI) serve

images:  ## Build every image of docker-compose.yml from Debian's packages, where no image registry is reached.
	@docker/images

test: $(VENV)/.test  ## Run every test that this machine can run.
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" tests/run

test-hostile: $(VENV)/.test  ## Attack the jail of both drivers, then each with single controls off; prints what each stops.
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" tests/run tests/hostile

hostile-soak: $(VENV)/.test  ## Open 1,000 sessions of hostile code on each driver (about an hour) and look what is left.
	$(VENV)/bin/python -m tests.hostile.many --sessions 1000

soak: $(VENV)/.test  ## Run 10,000 mixed executions, one in ten hostile (about an hour); see tests/soak.
	$(VENV)/bin/python -m tests.soak.soak --executions 10000

bench: $(VENV)/.test  ## Measure the service beside its floor and its peers (ten minutes); results in benchmarks/results.
	$(VENV)/bin/python -m benchmarks

bench-quick: $(VENV)/.test  ## The same at a glance (about a minute once the peers are installed).
	$(VENV)/bin/python -m benchmarks --quick

bench-history: $(VENV)/.test  ## Time the lists with 100,000 past and 1,000 live sessions, on SQLite and PostgreSQL.
	$(VENV)/bin/python -m benchmarks.history

CHAOS = $(VENV)/bin/python -m tests.chaos --seconds 180

chaos: $(VENV)/.test  ## Kill parts under load and balance the books (about 20 minutes); see tests/chaos.
	for seed in 1 2 3; do $(CHAOS) --stack servers --driver docker --seed $$seed || exit 1; done
	for seed in 4 5; do $(CHAOS) --stack embedded --driver bubblewrap --seed $$seed || exit 1; done

check: lint types  ## Lint and types.

lint: $(VENV)/.test
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check

types: $(VENV)/.test
	$(VENV)/bin/mypy

format: $(VENV)/.test  ## Format the source.
	$(VENV)/bin/ruff format
	$(VENV)/bin/ruff check --fix

clean:  ## Remove the environment and caches; the data in .tci stays.
	rm -rf $(VENV) .tci-test .mypy_cache .pytest_cache .ruff_cache

$(VENV)/.run: pyproject.toml
	@echo "Installing the service into $(VENV) (about a minute the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.run
	@echo "Installing the tests' tools"
	@$(VENV)/bin/python -m pip install --quiet --editable '.[test,lint]'
	@touch $@
