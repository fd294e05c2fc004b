# `make` or `make help` lists the targets. Needs git, make and Python 3.11 or newer.

SHELL := /bin/sh
.DEFAULT_GOAL := help

# Where everything is installed. Nothing outside this folder and the checkout is written to,
# except that as root on Debian or Ubuntu a missing python3-venv is installed.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
LOCK := requirements/dev.lock
# A third party's backend as an example: installed too, because its tests are part of `make test`.
PLUGIN := examples/plugins/later-nats

# The interpreter to build the environment from: `make setup PYTHON=/path/to/python3.12`.
PYTHON ?=
# More arguments for pytest: `make test ARGS="-k retry -x"`.
ARGS ?=
# What `make bench` measures: names of systems, else all; how often; and the most jobs in one run.
ONLY ?=
ROUNDS ?=
JOBS ?=

PYTEST := $(BIN)/python -m pytest -n auto

ifdef BACKEND
export BACKEND
endif

# The stamp says which checkout the environment was made in. One that was moved or copied, whose
# interpreter is gone, or which is not made from the PYTHON asked for, is made anew.
IDENTITY := import sys; print(sys.base_prefix, sys.hexversion)
ifneq ($(wildcard $(STAMP)),)
ifneq ($(shell $(BIN)/python -c pass 2>/dev/null && cat $(STAMP)),$(CURDIR))
REBUILD := yes
endif
ifneq ($(strip $(PYTHON)),)
ifneq ($(shell $(BIN)/python -c '$(IDENTITY)' 2>/dev/null),$(shell $(PYTHON) -c '$(IDENTITY)' 2>/dev/null))
REBUILD := yes
endif
endif
endif

# FUNCTIONS, for the setup recipe:
#   usable NAME     NAME is a Python that is new enough.
#   can_venv NAME   NAME can make an environment with pip in it (Debian splits ensurepip off).
#   find TEST...    Sets `python` to the newest interpreter that passes every TEST. 3.15 and newer
#                   are reached as `python3`, after the versions that the lock was made for.
define FUNCTIONS
usable() { "$$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }; \
can_venv() { "$$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }; \
find() { \
    for python in $(or $(strip $(PYTHON)),python3.14 python3.13 python3.12 python3.11 python3 python); do \
        found=yes; \
        for test in "$$@"; do $$test "$$python" || found=; done; \
        if test -n "$$found"; then return 0; fi; \
    done; \
    python=; return 1; \
}; \
say() { printf '%s\n' "$$@" >&2; }
endef

.PHONY: help setup format lint types check test demo bench lock clean FORCE

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo '  PYTHON=python3.12 make setup    choose the interpreter'
	@echo '  make test ARGS="-k retry -x"    pass arguments to pytest'
	@echo '  make demo BACKEND=redis         the demo on redis, postgres, rabbitmq+redis or rabbitmq+postgres'
	@echo '  make bench ONLY="later:redis sidekiq" ROUNDS=1 JOBS=10000    a part, and less of it'

setup: $(STAMP) ## Create .venv with the locked dependencies and this project; does nothing when up to date

$(STAMP): pyproject.toml $(PLUGIN)/pyproject.toml $(LOCK) $(if $(REBUILD),FORCE)
	@$(FUNCTIONS); \
	if command -v flock >/dev/null 2>&1; then exec 9<Makefile; flock 9; fi; \
	if ! find usable; then \
	    say "make setup: no Python 3.11 or newer found$(if $(strip $(PYTHON)), as '$(strip $(PYTHON))')." \
	        "  Install one (Debian 12, Ubuntu 24.04 or newer: apt-get install python3 python3-venv)," \
	        "  or name one: make setup PYTHON=/path/to/python3.12"; \
	    exit 1; \
	fi; \
	if ! find usable can_venv && test "$$(id -u)" = 0 && command -v apt-get >/dev/null 2>&1; then \
	    echo "make setup: installing the Debian package python3-venv"; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    log=$$(mktemp); \
	    { apt-get update && apt-get install -y --no-install-recommends python3-venv; } >"$$log" 2>&1 || cat "$$log" >&2; \
	    rm -f "$$log"; \
	    find usable can_venv || true; \
	fi; \
	if test -z "$$python"; then \
	    find usable; \
	    say "make setup: $$python cannot make virtual environments: its venv or ensurepip module is missing." \
	        "  Debian and Ubuntu: apt-get install python3-venv (or, for another than the default Python," \
	        "  the package of its version, such as python3.12-venv)." \
	        "  Or name another interpreter: make setup PYTHON=/path/to/python3.12"; \
	    exit 1; \
	fi; \
	set -e; \
	export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore; \
	unset PYTHONPATH PYTHONHOME PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV; \
	if ! test -x $(BIN)/python || test -n "$(REBUILD)"; then \
	    echo "make setup: creating $(VENV) with $$("$$python" --version)"; \
	    "$$python" -m venv --clear $(VENV); \
	fi; \
	if ! { $(BIN)/python -m pip install -qq --no-deps --only-binary :all: --require-hashes -r $(LOCK) \
	    && $(BIN)/python -m pip install -qq --no-deps --no-build-isolation --editable . --editable ./$(PLUGIN) \
	    && $(BIN)/python -m pip check >$(VENV)/pip-check.log; }; then \
	    if test -s $(VENV)/pip-check.log; then cat $(VENV)/pip-check.log >&2; fi; \
	    say "make setup: pip could not install what $(LOCK) and pyproject.toml ask for (see above)." \
	        "  No network, or no package index: set one up for pip, then run 'make setup' again." \
	        "  A dependency changed in pyproject.toml: 'make lock' first." \
	        "  Anything else: 'rm -rf $(VENV)' and 'make setup' start from nothing."; \
	    exit 1; \
	fi; \
	printf '%s\n' "$(CURDIR)" >$(STAMP)

FORCE:

format: setup ## Format the code, and repair what ruff can repair
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

lint: setup ## Check style, format and the import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check . || { echo "Repair it with: make format" >&2; exit 1; }
	@$(BIN)/lint-imports --no-cache --no-logo

types: setup ## Check the types with mypy and pyright
	@$(BIN)/mypy
	@$(BIN)/pyright

check: lint types ## Before each commit: lint, types and the unit tests
	@$(PYTEST) tests/unit $(ARGS)

test: lint types ## Before each push: lint, types and all tests, with coverage
	@rm -f .coverage .coverage.*
	@$(PYTEST) --cov --cov-report=term $(ARGS)

demo: setup ## Run the demo (examples/demo)
	@$(BIN)/python examples/demo/run.py

bench: setup ## Measure later beside other systems, and write docs/benchmarks.md; takes an hour
	@$(BIN)/python -m benchmarks --only "$(ONLY)" $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(JOBS),--jobs $(JOBS))

lock: ## Write requirements/dev.lock anew from pyproject.toml (UPGRADE=yes: with the newest versions)
	@test -x $(BIN)/uv || { echo "make lock: run 'make setup' first (it installs uv)." >&2; exit 1; }
	@$(BIN)/uv pip compile pyproject.toml --group dev --all-extras --universal --python-version 3.11 \
	    --generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
	    $(if $(UPGRADE),--upgrade) --quiet --output-file $(LOCK)

clean: ## Remove caches, reports and built packages (.venv stays)
	@rm -rf .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache \
	    build dist htmlcov
	@find . -path ./$(VENV) -prune -o -type d -name __pycache__ -print | while read -r folder; do rm -rf "$$folder"; done
