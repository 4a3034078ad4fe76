# portmon: `make` alone says what there is. Needs Linux, Python 3.11 to 3.14, git and make.

.DEFAULT_GOAL := help
TARGETS := help demo up test test-slow test-live test-all ci-full soak mutate bench screenshots docs lint audit sbom matrix hooks lock clean
.PHONY: $(TARGETS)
SHELL := /bin/sh

# With `make -f` from another folder everything happens here none the less.
HERE := $(shell file='$(MAKEFILE_LIST)'; cd "$$(dirname "$${file# }")" && pwd -P)
ifneq ($(HERE),$(shell pwd -P))
$(TARGETS):
	@$(MAKE) --no-print-directory -C "$(HERE)" $@
else

# The newest interpreter that will do: with ensurepip, which Debian packages apart (python3-venv), and with
# what an interpreter built by hand may lack.
PYTHON ?= $(shell for p in python3.14 python3.13 python3.12 python3.11 python3; do \
	"$$p" -c 'import sys, venv, ensurepip, ctypes, sqlite3, ssl; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null \
	&& { command -v "$$p"; break; }; done)
BIN := .venv/bin
# Made anew if its interpreter is gone or another one, as after an upgrade of the system.
$(shell [ ! -d .venv ] || $(BIN)/python -c 'import pip' 2>/dev/null || rm -f .venv/.python .venv/.installed .venv/.tools)
# Whatever the user's shell says, Airflow without compiled bytecode starts four times slower.
unexport PYTHONDONTWRITEBYTECODE
unexport PYTHONPATH
unexport PYTHONHOME
export PIP_USER := 0
INSTALL := tools/install.py
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock"
# Of the slow tests those that CI runs: one path through each feature. SLOW=slow: whole matrices.
export SLOW ?= slow and not full

help: ## say what there is
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "make %-11s %s\n", $$1, $$2}'

demo: .venv/.installed ## play a story on six hosts: a service dies, recovers, a host is cut off, one leaves
	@$(BIN)/python -m demo play

up: .venv/.installed ## start the same and stay: prints the URL and the login of Airflow's page
	@$(BIN)/python -m demo up

test: .venv/.tools ## the fast tests: offline, no other software needed
	@$(BIN)/python -m pytest -m "not slow" -q -n auto --dist worksteal

test-slow: .venv/.tools ## the slow tests: OpenSSH, dropbear, PostgreSQL, Alertmanager, promtool, long stories
	@# One at a time to each free worker: the longest are the first.
	@$(BIN)/python -m pytest -q -m "$$SLOW" -n auto --maxschedchunk 1 --ignore=tests/e2e

test-live: .venv/.tools ## those against a live Airflow: as root, for its hosts are network namespaces
	@# One file has one Airflow.
	@$(BIN)/python -m pytest -q -m "$$SLOW" -n 2 --dist loadfile tests/e2e

test-all: .venv/.tools ## both: those against a live Airflow mostly wait, and beside them there is time for the others
	@out=$$(mktemp); $(MAKE) --no-print-directory test-live >"$$out" 2>&1 & pid=$$!; \
	$(MAKE) --no-print-directory test-slow; others=$$?; \
	wait $$pid; live=$$?; cat "$$out"; rm -f "$$out"; [ $$others = 0 ] && [ $$live = 0 ]

ci-full: ## what CI runs, with all matrices and ten times the examples: as root, up to 75 minutes
	@SLOW=slow HYPOTHESIS_PROFILE=full .ci/run

soak: .venv/.tools ## many more examples: properties, 200,000 looks at random hosts, 200,000 broken inputs, crashes with 50 seeds
	@HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -q -m "not slow" tests --ignore=tests/airflow --ignore=tests/dags
	@HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -q -m slow -n auto --maxschedchunk 1 tests/fuzz
	@# -rP: how many there were.
	@HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -q -rP -m full -n auto --maxschedchunk 1 tests/engine/test_random.py
	@HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -q tests/stories/test_crashes.py

mutate: .venv/.tools ## whether some test fails for each comparison of the state engine that is turned around
	@$(BIN)/python tools/mutate.py $(ARGS)

bench: .venv/.installed .venv-bench/.installed ## measure against bare loops, Ansible, SSHOperator and pandas: as root, over an hour; ARGS=--quick: 3 minutes
	@$(BIN)/python -m bench $(ARGS)

screenshots: .venv/.tools ## write docs/images: the page over a made-up fleet, as Chromium shows it
	@$(BIN)/python tools/screenshots.py

docs: .venv-docs/.installed ## build the site of these documents in .site, and check its links and anchors
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict
	@echo "The site is in .site: index.html is its front page"

lint: .venv/.tools ## what CI checks besides the tests; changes nothing
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-cache >/dev/null || $(BIN)/lint-imports --no-cache
	@$(BIN)/codespell
	@$(BIN)/python tools/docs.py --check

audit: .venv-supply/.installed ## ask whether what is pinned has known holes; says "skipped" where the advisory service can't be reached
	@.venv-supply/bin/python tools/supply.py audit .venv-supply/bin/pip-audit

sbom: .venv/.tools ## write .sbom: the packages of the image as CycloneDX, and their licences, of which none may hinder it
	@$(BIN)/python tools/supply.py sbom .sbom

matrix: .venv/.tools ## install and run with each Airflow, Python and PostgreSQL that can be had here; names what can't
	@$(BIN)/python tools/matrix.py

hooks: .venv/.tools .venv-supply/.installed ## have git run `make lint` before each commit
	@.venv-supply/bin/pre-commit install

lock: .venv/.tools ## pin every requirements*.in anew, with hashes
	@$(BIN)/python -m pip --disable-pip-version-check --quiet install uv
	@$(COMPILE) requirements.in -o requirements.txt
	@$(COMPILE) requirements-dev.in -o requirements-dev.txt
	@$(COMPILE) requirements-bench.in -o requirements-bench.txt
	@$(COMPILE) requirements-docs.in -o requirements-docs.txt
	@$(COMPILE) requirements-supply.in -o requirements-supply.txt
	@# Flask-AppBuilder wants an older python-dateutil than Airflow's own, and works with this one.
	@echo 'python-dateutil>=4' | $(COMPILE) --override /dev/stdin requirements-fab.in -o requirements-fab.txt

clean: ## remove what the other targets made
	@rm -rf .venv .venv-bench .venv-docs .venv-supply .site .sbom .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "No usable Python found: install Python 3.11, 3.12, 3.13 or 3.14 with its venv module" >&2; \
		echo "(Debian, Ubuntu: apt install python3-venv), or name one: make demo PYTHON=/path/to/python3" >&2; \
		for p in python3.14 python3.13 python3.12 python3.11 python3; do \
			"$$p" -c 'import sys; print(f"{sys.executable} is {sys.version.split()[0]}", end="")' 2>/dev/null || continue; \
			"$$p" -c 'import ensurepip, ctypes, sqlite3, ssl' 2>&1 | tail -n 1 | sed 's/^/: /' | grep . || echo; \
		done >&2; \
		exit 1; fi
	@echo "Setting up .venv with $(PYTHON)"
	@rm -rf .venv
	@"$(PYTHON)" -m venv .venv
	@touch $@

.venv/.installed: requirements.txt | .venv/.python
	@echo "Installing what requirements.txt pins (a minute or two, once)"
	@$(BIN)/python $(INSTALL) requirements.txt
	@$(BIN)/python -c 'import pathlib, sysconfig; \
		pathlib.Path(sysconfig.get_path("purelib"), "portmon.pth").write_text("../../../../plugins\n")'
	@touch $@

.venv/.tools: requirements-dev.txt requirements-fab.txt .venv/.installed
	@echo "Installing tools for tests and lint, and the FAB auth manager, which docker-compose.yaml has"
	@$(BIN)/python $(INSTALL) requirements-dev.txt
	@$(BIN)/python $(INSTALL) requirements-fab.txt
	@touch $@

# Apart: the versions of what the benchmark compares with, and of what builds the site, need not fit.
.venv-%/.installed: requirements-%.txt | .venv/.python
	@echo "Setting up .venv-$* with what requirements-$*.txt pins"
	@rm -rf .venv-$*
	@$(BIN)/python -m venv .venv-$*
	@.venv-$*/bin/python $(INSTALL) requirements-$*.txt
	@touch $@
endif
