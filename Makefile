# portmon: `make` alone says what there is. Needs Linux, Python 3.11 to 3.13, git and make.

.DEFAULT_GOAL := help
.PHONY: help demo up test test-all soak lint lock clean
SHELL := /bin/sh

# The newest interpreter that will do: with venv and ensurepip, which Debian packages apart (python3-venv).
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& { command -v "$$p"; break; }; done)
BIN := .venv/bin
# Whatever the user's shell says, Airflow without compiled bytecode starts four times slower.
unexport PYTHONDONTWRITEBYTECODE
unexport PYTHONPATH
# The lock is complete: no dependency has to be worked out. An old pip (Debian's) fails at extras if it tries.
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install --no-deps --require-hashes

help: ## say what there is
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "make %-9s %s\n", $$1, $$2}'

demo: .venv/.installed ## play a story on six hosts: a service dies, recovers, a host is cut off, one leaves
	@$(BIN)/python -m demo play

up: .venv/.installed ## start the same and stay: prints the URL and the login of Airflow's page
	@$(BIN)/python -m demo up

test: .venv/.tools ## the fast tests: offline, no other software needed
	@$(BIN)/python -m pytest -m "not slow" -q

test-all: .venv/.tools ## the slow ones as well: OpenSSH, dropbear, PostgreSQL, namespaces, a live Airflow
	@$(BIN)/python -m pytest -q -m slow

soak: .venv/.tools ## property tests with many more examples
	@HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -q -m "not slow" tests/unit

lint: .venv/.tools ## what CI checks besides the tests; changes nothing
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-cache >/dev/null || $(BIN)/lint-imports --no-cache
	@$(BIN)/codespell
	@$(BIN)/python tools/docs.py --check

lock: .venv/.tools ## pin requirements.in and requirements-dev.in anew, with hashes
	@$(BIN)/python -m pip --disable-pip-version-check --quiet install uv
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command "make lock" requirements.in -o requirements.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command "make lock" requirements-dev.in -o requirements-dev.txt

clean: ## remove what the other targets made
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "No usable Python found: install Python 3.11, 3.12 or 3.13 with its venv module" >&2; \
		echo "(Debian, Ubuntu: apt install python3-venv), or name one: make demo PYTHON=/path/to/python3" >&2; \
		exit 1; fi
	@echo "Setting up .venv with $(PYTHON)"
	@rm -rf .venv
	@"$(PYTHON)" -m venv .venv
	@touch $@

.venv/.installed: requirements.txt | .venv/.python
	@echo "Installing what requirements.txt pins (a minute or two, once)"
	@$(PIP) -r requirements.txt
	@$(BIN)/python -c 'import pathlib, sysconfig; \
		pathlib.Path(sysconfig.get_path("purelib"), "portmon.pth").write_text(str(pathlib.Path("plugins").resolve()) + "\n")'
	@touch $@

.venv/.tools: requirements-dev.txt .venv/.installed
	@echo "Installing tools for tests and lint"
	@$(PIP) -r requirements-dev.txt
	@touch $@
