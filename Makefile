# Setup and commands for users and CI. `make help` lists them.
PYTHON ?= python3
version_of = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
# Each Python has its own environment: PYTHON=python3.13 uses .venv-3.13.
ifeq ($(origin VENV),undefined)
VENV := .venv$(if $(filter file,$(origin PYTHON)),,-$(call version_of,$(PYTHON)))
endif
BIN = $(VENV)/bin
# Python 3.11 and 3.12 use the versions of one constraints file, newer ones those of the other.
VERSION := $(call version_of,$(firstword $(wildcard $(BIN)/python) $(PYTHON)))
CONSTRAINTS := constraints-$(if $(filter 3.11 3.12,$(VERSION)),3.11,3.13).txt
SEEDS ?= 6
EPOCHS ?= 10
RESULTS ?= results
# `make test EXTRAS=dev,peers` includes the tests that need PyTorch; `TESTS=tests/spec/test_experiment.py` selects tests.
EXTRAS ?= dev
TESTS ?=
# `make proofs SHARE=3` runs every third slow test, and others after the next commit.
SHARE ?=
MODELS = experiments/standard.yaml experiments/modified.yaml

export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Tests start hundreds of processes, each 0.2 s faster with compiled modules, as users have them.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run test proofs coverage mutants lint docs smoke base bench clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# A stamp per set of extras, renewed when its dependencies change.
$(VENV)/.installed-%: pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable ".$(if $(filter base,$*),,[$*])"
	touch $@

run: $(VENV)/.installed-base ## Train the standard and the modified CNN on embedded digits and compare them
	$(BIN)/cnnbench run $(MODELS) --dataset mnist_5k --seeds $(SEEDS) --epochs $(EPOCHS) --results-dir $(RESULTS)

test: $(VENV)/.installed-$(EXTRAS) ## Run the tests, except the slow ones
	$(BIN)/python -m pytest -n 2 $(TESTS)

proofs: $(VENV)/.installed-$(EXTRAS) ## Run the slow tests, which `make test` skips
	CNNBENCH_TEST_SHARE="$(if $(SHARE),$(SHARE) $(shell git rev-parse HEAD))" $(BIN)/python -m pytest -n 2 -m slow $(TESTS)

coverage: $(VENV)/.installed-$(EXTRAS) ## Run the same tests and measure line and branch coverage
	rm -rf build/coverage
	$(BIN)/python -m coverage run -m pytest -n 2
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

# Delete mutmut's results, since the tests may have changed.
mutants: $(VENV)/.installed-dev,mutation ## Run mutation tests and list surviving mutants
	rm -rf mutants
	CNNBENCH_TEST_DETERMINISTIC=1 $(BIN)/mutmut run
	$(BIN)/mutmut results

lint: $(VENV)/.installed-$(EXTRAS) ## Check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Without --quiet, which would also hide the warnings that --strict counts.
docs: $(VENV)/.installed-docs ## Build the documentation as a site, build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

smoke: $(VENV)/.installed-base ## Train every experiment for 2 epochs on embedded digits, then compare
	rm -rf build/smoke
	$(BIN)/cnnbench run experiments/*.yaml --dataset mnist_5k --epochs 2 --results-dir build/smoke
	$(BIN)/cnnbench compare --results-dir build/smoke

# As users install it: without extras, not editable. Dependencies are installed once.
BASE = build/base-$(VERSION)
$(BASE)/.installed: pyproject.toml $(CONSTRAINTS)
	test -x $(BASE)/bin/python || $(PYTHON) -m venv $(BASE)
	$(BASE)/bin/python -m pip install --quiet --constraint $(CONSTRAINTS) .
	touch $@

base: $(BASE)/.installed ## Run every command and option once in a plain install of the package
	$(BASE)/bin/python -m pip install --quiet --force-reinstall --no-deps .
	rm -rf build/commands && mkdir -p build/commands
	$(BASE)/bin/python tests/integration/command_lines.py build/commands

bench: $(VENV)/.installed-dev,peers ## Benchmark against other frameworks and check the performance targets
	$(BIN)/python -m benchmarks.run $(BENCH)

clean: ## Remove the virtual environment and all generated files except results
	rm -rf $(VENV) .venv-3.* build dist mutants .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
