# make demo   the whole way on a synthetic data set, in one command (base install, no torch)
# make test   everything that must hold: ruff, mypy, pytest (full install)
# make lint   ruff and mypy only
# make wheel  the wheel in an empty environment runs the four verbs; PYTHON=python3.11 for another Python
# make bench  the benchmarks; each prints a table and writes JSON
# make clean  remove what these targets made

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
SSS := $(VENV)/bin/sss
DEMO := demo
# Four of the queries; all but the last of them are found
ASKED := 0005_c2s1_018202_01.jpg 0008_c4s1_014756_01.jpg 0012_c4s1_013438_01.jpg 0023_c2s1_002327_01.jpg

# Test workers: one per core, up to four, for each may hold torch. Override it: make test WORKERS=0 is one process
WORKERS ?= logical

# The first Python that is new enough and can make environments. Override it: make demo PYTHON=/path/to/python3
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; \
	done)

.PHONY: help demo test lint wheel bench clean

help:
	@sed -n 's/^# make/make/p' Makefile

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "make: found no Python 3.11 or newer with its venv module;" \
		"install one (on Debian and Ubuntu: python3 and python3-venv) or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

# The stamps are as new as the last successful install; a changed pyproject.toml installs again.
$(VENV)/.installed-base: pyproject.toml | $(VENV)/bin/python
	@echo "installing siamese-search (base) into $(VENV)"
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-full: pyproject.toml | $(VENV)/bin/python
	@echo "installing siamese-search[torch,dev] into $(VENV)"
	@$(PIP) -e '.[torch,dev]'
	@touch $@ $(VENV)/.installed-base

demo: $(VENV)/.installed-base
	@$(SSS) demo $(DEMO) 2>/dev/null
	@$(SSS) ingest $(DEMO)/gallery
	@echo; echo "Who is it? Four queries, each with its best answer; the last is wrong, a double in the same clothes:"
	@$(SSS) search $(addprefix $(DEMO)/queries/,$(ASKED)) -k 1
	@echo; echo "How far to trust it, on all 24 queries:"
	@$(SSS) evaluate $(DEMO)/gallery --queries $(DEMO)/queries 2>/dev/null | grep -E '^(rank-1|mAP|same or not|calibration) '
	@$(SSS) search $(DEMO)/queries -k 8 --save $(DEMO)/results.html --format paths >/dev/null 2>&1
	@echo; echo "Open $(DEMO)/results.html in a browser. Then: . $(VENV)/bin/activate; sss search $(DEMO)/queries -k 5 --show"

test: lint
	$(VENV)/bin/python -m pytest --numprocesses $(WORKERS) --maxprocesses 4 --dist worksteal

lint: $(VENV)/.installed-full
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Away from the checkout, so that only what the wheel holds can be imported
wheel:
	@here=$$PWD; there=$$(mktemp -d); trap 'rm -rf "$$there"' EXIT; \
	"$(PYTHON)" -m venv "$$there/venv"; python="$$there/venv/bin/python"; \
	"$$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$$there" "$$here"; \
	"$$python" -m pip install --quiet --disable-pip-version-check "$$there"/*.whl; \
	cd "$$there"; export HOME="$$there" PYTHONPATH= PATH="$$there/venv/bin:$$PATH"; \
	sss demo demo --identities 6; \
	sss ingest demo/gallery; \
	sss search demo/queries -k 1; \
	sss evaluate demo/gallery --queries demo/queries; \
	echo "the wheel works on $$("$$python" --version)"

bench: $(VENV)/.installed-full
	@for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(VENV)/bin/python "$$script"; done

clean:
	rm -rf $(VENV) $(DEMO) .mypy_cache .ruff_cache .pytest_cache .hypothesis
