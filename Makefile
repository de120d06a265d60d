# Needs only make, python3 and python3-venv; everything else goes into .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
NAME   ?=
ARGS   ?=

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test lint fuzz bench clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

demo: $(VENV)/.demo ## a link at work while a worker of its server is killed, all are replaced, and it ends
	$(BIN)/muxlink demo $(ARGS)

test: $(VENV)/.test ## run the tests (ARGS="-k name" is passed on to pytest)
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.lint ## ruff, its formatter and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fuzz: $(VENV)/.test ## feed the wire mutated conversations for a minute (ARGS="--seconds 3600" for longer)
	$(BIN)/python -m tests.fuzz $(ARGS)

bench: $(VENV)/.test ## run one benchmark: make bench NAME=server
	@test -n "$(NAME)" || { echo "say which: make bench NAME=server" >&2; exit 2; }
	$(BIN)/python -m tests.benchmarks $(NAME) $(ARGS)

clean: ## remove the virtual environment, caches and builds
	rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make a second run quick; a changed pyproject.toml installs again.
$(VENV)/.made:
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.demo: pyproject.toml $(VENV)/.made
	$(PIP) install -e .
	@touch $@

$(VENV)/.test: pyproject.toml $(VENV)/.made
	$(PIP) install -e '.[test]'
	@touch $@

# The parser of Mermaid's own authors, for the tests alone.
$(VENV)/.mermaid: Makefile $(VENV)/.made
	npm install --prefix $(VENV)/mermaid --no-audit --no-fund --loglevel=error mermaid@11.17.2 jsdom@26.1.0
	@touch $@

$(VENV)/.lint: pyproject.toml $(VENV)/.made
	$(PIP) install -e '.[test,lint]'
	@touch $@
