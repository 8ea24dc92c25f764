# From a bare checkout to a report, with nothing but make and a stock Python: the environment is made on first use, and
# again only when pyproject.toml or constraints.txt change.

PYTHON ?= python3
VENV ?= .venv
REPORT ?= report
ARGS ?=

BIN := $(VENV)/bin
READY := $(VENV)/.installed
READY_DEV := $(VENV)/.installed-dev
READY_DOCS := $(VENV)/.installed-docs

.DEFAULT_GOAL := help
.PHONY: help report test check format-check lint types format docs clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile
	@echo "Variables: PYTHON=$(PYTHON) VENV=$(VENV) REPORT=$(REPORT), and ARGS for more arguments to the command."

report: $(READY) ## reproduce the paper's findings on the model in the box, into report/
	$(BIN)/underpaint report --out $(REPORT)/ $(ARGS)

test: $(READY_DEV) ## run the tests (the slow ones with ARGS="-m slow")
	$(BIN)/python -m pytest $(ARGS)

check: format-check lint types test docs ## all that continuous integration checks

format-check: $(READY_DEV) ## is the code formatted?
	$(BIN)/ruff format --check .

lint: $(READY_DEV) ## look for mistakes in the code
	$(BIN)/ruff check .

types: $(READY_DEV) ## check the types
	$(BIN)/mypy

format: $(READY_DEV) ## format the code and mend what can be mended by itself
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

docs: $(READY_DOCS) ## build the book into site/, running its gallery (results are kept under build/)
	$(BIN)/mkdocs build --strict

clean: ## remove the environment, the report, build products and caches
	rm -rf .venv report build dist site .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Editable, so that a change to the source needs no new install. The stamps are written last: an install that was cut
# short is taken up again.
$(READY): pyproject.toml constraints.txt
	$(call install,.)
	@touch $@

$(READY_DEV): pyproject.toml constraints.txt
	$(call install,.[dev])
	$(FOREIGN)
	@touch $(READY) $(READY_DOCS) $@

$(READY_DOCS): pyproject.toml constraints.txt
	$(call install,.[docs])
	$(FOREIGN)
	@touch $(READY) $@

define install
@command -v $(PYTHON) >/dev/null || \
	{ echo "There is no '$(PYTHON)' here; install Python 3.10 or newer, or name one: $(RETRY)" >&2; exit 1; }
@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("underpaint needs Python 3.10 or newer, \
	but $(PYTHON) is %d.%d; name another: $(RETRY)" % sys.version_info[:2])'
$(PYTHON) -m venv $(VENV)
$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable "$(1)"
endef

# A trained network of another science, for the gallery, with its weights; what it requires includes a simulation in C that
# its network does without.
FOREIGN = $(BIN)/python -m pip install --disable-pip-version-check --no-deps 21cmpsdenoiser==1.0.2

RETRY = make $(MAKECMDGOALS) PYTHON=python3.12
