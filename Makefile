# Set-up, tests and demo. GNU make, Python 3.11 to 3.13, Node.js 20 and npm are all that is needed; `make help` lists the commands.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
.NOTPARALLEL:
.PHONY: help setup browser demo chaos test test-suite test-pythons check lint types checkov audit pure lock clean _installed

VENV := .venv
RUN := $(VENV)/bin/python
PIP_INSTALL := -m pip install -qq --disable-pip-version-check --no-input
PYTEST := -m pytest -p no:cacheprovider
OTHER_PYTHONS := $(addprefix .venv-,3.11 3.12 3.13)
# What runs on the other Pythons, besides the tests marked pure.
PORTABLE_TESTS = $(wildcard tests/test_landing* tests/test_settings* tests/test_function_app* tests/landing)
# One set-up at a time in one clone; two clones never meet.
LOCKED := $(if $(shell command -v flock),flock $(VENV)/.lock,)

help: ## List the commands
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1\t\2/p' Makefile | while IFS=$$'\t' read -r name text; do printf '  make %-13s %s\n' "$$name" "$$text"; done

setup: ## Create .venv and node_modules; afterwards `.venv/bin/python -m cdc` works
	@mkdir -p $(VENV)
	+@$(LOCKED) $(MAKE) --no-print-directory _installed

_installed: $(VENV)/.installed node_modules/.installed
	@:

# The first Python in range wins; `make setup PYTHON=python3.12` chooses another, before .venv is there.
$(VENV)/.installed: requirements-dev.txt
	@python=
	for candidate in $(or $(PYTHON),python3.11 python3 python3.12 python3.13); do
	  if "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then python=$$candidate; break; fi
	done
	if [ -z "$$python" ]; then echo "setup: no Python 3.11, 3.12 or 3.13$(if $(PYTHON), at $(PYTHON), found); install one (Debian: apt install python3 python3-venv) or say make setup PYTHON=..." >&2; exit 1; fi
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then echo "setup: $$python cannot make virtual environments; install its venv package (Debian: apt install python3-venv)" >&2; exit 1; fi
	echo "setup: $(VENV) with $$("$$python" --version)"
	"$$python" -m venv $(VENV)
	$(RUN) $(PIP_INSTALL) -r requirements-dev.txt
	$(RUN) -c 'import pathlib, sysconfig; pathlib.Path(sysconfig.get_path("purelib"), "salesforce-cdc-blob.pth").write_text(f"{pathlib.Path.cwd()}\n")'
	touch $@

node_modules/.installed: package.json package-lock.json
	@if ! node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null; then echo "setup: Node.js 20 or newer is needed on the PATH" >&2; exit 1; fi
	if ! command -v npm >/dev/null; then echo "setup: npm is needed on the PATH (Debian: apt install npm)" >&2; exit 1; fi
	echo "setup: node_modules with Node.js $$(node --version)"
	npm ci --no-audit --no-fund --loglevel=error >/dev/null
	touch $@

demo: setup ## Capture live traffic from an emulated org into Azurite, and show what landed
	@$(RUN) -m demo

chaos: setup ## Kill, cut and spoil by a seed, then compare ledger and log: make chaos ROUNDS=200 SEED=1
	@$(RUN) -m chaos --rounds $(or $(ROUNDS),20) --seed $(or $(SEED),1)

.PHONY: bench
bench: setup ## Measure beside the pipe and other ways, write docs/benchmarks.md; QUICK=1 for the short one
	@mkdir -p build/bench
	cp bench/ready_made/package.json bench/ready_made/package-lock.json build/bench/
	(cd build/bench && npm ci --no-audit --no-fund --loglevel=error >/dev/null) || echo "bench: the ready-made client is left out" >&2
	$(RUN) -m bench $(if $(QUICK),--scale quick)

test: setup lint types checkov test-pythons test-suite ## Everything: lint, types, all tests, on every supported Python found

check: setup lint types pure ## The quick look before a commit: lint, types, pure tests

lint: setup ## Style and formatting
	@$(RUN) -m ruff check --quiet --output-format concise .
	$(RUN) -m ruff format --check --quiet . || { $(RUN) -m ruff format --check . || true; echo "lint: $(RUN) -m ruff format . formats them" >&2; exit 1; }
	echo "lint: clean"

types: setup ## Strict types
	@$(RUN) -m mypy

# Everything is pinned, so nothing is resolved: checkov's own pins are wrong in one place (see pyproject.toml).
CHECKOV := .venv-checkov
$(CHECKOV)/.installed: requirements-checkov.txt
	@echo "setup: $(CHECKOV)"
	$(RUN) -m venv $(CHECKOV)
	$(CHECKOV)/bin/python $(PIP_INSTALL) --no-deps -r requirements-checkov.txt
	touch $@

checkov: setup ## The Bicep in infra/ against the checks of checkov, less those that infra/checkov.yaml explains
	+@$(LOCKED) $(MAKE) --silent --no-print-directory $(CHECKOV)/.installed
	PYTHONHASHSEED=0 $(CHECKOV)/bin/checkov --config-file infra/checkov.yaml  # what it finds depends on its sets' order
	echo "checkov: clean"

audit: setup ## Known vulnerabilities of what is deployed; needs the way to a vulnerability service
	@$(RUN) $(PIP_INSTALL) pip-audit
	$(RUN) -m pip_audit -r requirements.txt --require-hashes --strict

pure: setup ## The tests without network or process
	@$(RUN) $(PYTEST) -m pure

test-suite: setup browser ## All tests on the Python of .venv
	@$(RUN) $(PYTEST) -n 6 --dist loadfile --no-loadscope-reorder --durations 25 -r s

browser: ## Chromium for the tests of the status page: installed where root has none on Debian, else said to be missing
	@for name in chromium chromium-browser google-chrome-stable google-chrome; do
	  if command -v $$name >/dev/null; then exit 0; fi
	done
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	  echo "setup: chromium (apt-get install), for the tests of the status page"
	  install() { timeout 300 apt-get -qq -o DPkg::Lock::Timeout=120 "$$@" >/dev/null 2>&1; }
	  export DEBIAN_FRONTEND=noninteractive
	  if install update && install install -y --no-install-recommends chromium; then exit 0; fi
	fi
	echo "setup: no Chromium on the PATH (Debian: apt install chromium); the status page is not tested in a browser" >&2

test-pythons: setup ## The portable tests on the other supported Pythons of this machine
	+@$(LOCKED) $(MAKE) --no-print-directory $(OTHER_PYTHONS)
	for venv in $(OTHER_PYTHONS); do
	  [ -e $$venv/.installed ] || continue
	  echo "test-pythons: $$($$venv/bin/python --version)"
	  $$venv/bin/python $(PYTEST) -m pure
	  $(if $(PORTABLE_TESTS),$$venv/bin/python $(PYTEST) -m 'not pure' -n 4 --dist loadfile $(PORTABLE_TESTS) || [ $$? = 5 ])
	done

# An interpreter may be on the PATH or under pyenv. A name on the PATH that does not run (a pyenv shim) is no interpreter.
.PHONY: $(OTHER_PYTHONS)
$(OTHER_PYTHONS): .venv-%:
	@if [ "$$($(RUN) -c 'import sys; print("%d.%d" % sys.version_info[:2])')" = $* ]; then exit 0; fi
	if [ $@/.installed -nt requirements-dev.txt ]; then exit 0; fi
	for candidate in python$* $$(ls -d "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$*.*/bin/python$* 2>/dev/null | sort -rV); do
	  if "$$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
	    echo "setup: $@ with $$("$$candidate" --version)"
	    "$$candidate" -m venv $@
	    $@/bin/python $(PIP_INSTALL) -r requirements-dev.txt
	    touch $@/.installed
	    exit 0
	  fi
	done
	echo "setup: no Python $* here, its tests are left out"

# Both files are written by uv from pyproject.toml for all supported Pythons at once; `make lock UPGRADE=--upgrade` takes newer versions.
COMPILE := $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-emit-index-url --no-emit-find-links --annotation-style line $(UPGRADE)
lock: setup ## Write requirements.txt and requirements-dev.txt anew from pyproject.toml
	@$(RUN) $(PIP_INSTALL) "$$($(RUN) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["lock"])')"
	$(COMPILE) --generate-hashes -o requirements.txt pyproject.toml
	$(COMPILE) --extra dev -c requirements.txt -o requirements-dev.txt pyproject.toml
	$(COMPILE) --group checkov -o requirements-checkov.txt
	sed -i '/^# Do not include azure-functions-worker/,/^#$$/d' requirements.txt
	sed -i '1i # Do not include azure-functions-worker in this file: the platform brings it.\n# Exact versions for Python 3.11 to 3.13, written by `make lock` from the ranges in pyproject.toml.\n#' requirements.txt
	sed -i '/^# Exact versions of everything/,/^#$$/d' requirements-dev.txt
	sed -i '1i # Exact versions of everything that tests, tools, command line and emulator need, written by `make lock`.\n#' requirements-dev.txt
	sed -i '/^# Exact versions of checkov/,/^#$$/d; s/, --override (workspace)//' requirements-checkov.txt
	sed -i '1i # Exact versions of checkov and all that it needs, written by `make lock`.\n#' requirements-checkov.txt

clean: ## Remove all that set-up, tests and demo made
	rm -rf $(VENV) .venv-* node_modules .demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
