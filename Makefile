# Every target sets up what it needs on a machine with Python 3.11-3.13, make, and access to PyPI and Debian packages.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

export PYTHON           # chooses the interpreter of a new .venv: make demo PYTHON=python3.12
BIN := .venv/bin
INSTALLED := .venv/.installed
DOCS_INSTALLED := .venv/.docs-installed
TYPED := build/typed
# An environment that cannot import this very checkout (moved folder, upgraded Python) is made again.
HEALTHY := $(shell $(BIN)/python -I scripts/check_venv.py 2>/dev/null)

.PHONY: help
help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(INSTALLED) data  ## prune ResNet-20 on Fashion-MNIST into runs/demo (minutes); goes on from an unfinished run
	$(BIN)/autoprune run demo --run-dir runs/demo $(if $(wildcard runs/demo),--resume)

.PHONY: test
test: $(INSTALLED) data  ## the tests
	$(BIN)/python -m pytest -n auto --dist loadfile

.PHONY: test-slow
test-slow: $(INSTALLED) data  ## the tests that take minutes each
	$(BIN)/python -m pytest -m slow

.PHONY: lint
lint: $(INSTALLED) $(TYPED)  ## ruff and a strict type check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd $(TYPED) && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p autoprune

.PHONY: docs
docs: $(DOCS_INSTALLED)  ## the pages as a site, in build/site; writes docs/configuration.md anew
	@mkdir -p build
	$(BIN)/python scripts/configuration_page.py > build/configuration.md
	mv build/configuration.md docs/configuration.md
	$(BIN)/mkdocs build --strict

$(DOCS_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

.PHONY: install
install: $(INSTALLED)  ## .venv with autoprune (editable) and its test tools

$(INSTALLED): pyproject.toml constraints.txt $(if $(HEALTHY),,unhealthy)
	scripts/install.sh

.PHONY: unhealthy
unhealthy:

.PHONY: data
data:  ## Fashion-MNIST, unless this machine has it
	@scripts/get_fashion_mnist.sh

# mypy cannot follow the mapping envs -> autoprune.envs, so it reads a tree of links laid out as it is installed.
.PHONY: $(TYPED)
$(TYPED):
	@rm -rf $@
	@mkdir -p $@/autoprune
	@ln -s $(addprefix $(CURDIR)/,$(wildcard autoprune/*) envs policies) $@/autoprune

.PHONY: clean
clean:  ## remove what builds and tools left
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find autoprune benchmarks envs policies scripts tests -name __pycache__ -exec rm -rf {} +

.PHONY: distclean
distclean: clean  ## clean, and remove .venv and runs/demo
	rm -rf .venv runs/demo
