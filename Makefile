# Two commands do everything: `make up` to try Mooring, `make test` to prove it.
# The rest are parts of them. Variables: VENV, PYTHON, LAB_NAME, LAB_PORT_BASE.

VENV ?= .venv
PYTHON ?= python3
LAB_NAME ?= lab
LAB_PORT_BASE ?= 18000
SEEDS ?= 200
BIN := $(VENV)/bin
LAB := $(BIN)/mooring lab
LAB_OPTIONS := --name $(LAB_NAME) --port-base $(LAB_PORT_BASE)
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help packages venv up down demo test check sim churn moves sim-mutants lint bench bench-page coverage fuzz mutation sanitize docs clean

help: ## show this list
	@sed -n 's/^\([a-z%-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

packages: ## install the Debian packages that the lab and the tests need (as root)
	@deploy/install-packages

venv: $(VENV)/.ready ## make the virtual environment

# The sources in C too: an editable install builds the extension once, and only there.
$(VENV)/.ready: pyproject.toml setup.py $(wildcard cext/*.c cext/*.h)
	@$(PYTHON) -m venv $(VENV) || { echo "mooring: no virtual environment: install python3-venv (make packages, as root)"; exit 3; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[lab,dev]'
	@touch $@

up: packages venv ## start lab and daemon, deploy a sample service, show what happened to it
	@$(LAB) up $(LAB_OPTIONS)
	@$(LAB) sample $(LAB_OPTIONS)

down: venv ## stop lab and daemon; nothing is left behind
	@$(LAB) down $(LAB_OPTIONS)

demo: packages venv ## the whole story with its proofs, then clean up; exit status 0 if all of it worked
	@$(LAB) demo $(LAB_OPTIONS)

check: packages venv ## the fast gate: style, types, import contracts, unit, contract and simulation tests
	@$(MAKE) --no-print-directory lint
	@$(PYTEST) tests/unit tests/contract tests/sim
	@$(MAKE) --no-print-directory sim

sim: venv ## play seeds of the simulation (SEEDS=200), or one that failed, with its trace (SEED=1234)
	@$(BIN)/python -m tests.sim $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

churn: packages venv ## kill -9 the daemon at 20 random moments of 200 transitions (`make test` does 8 of 80)
	@MOORING_TEST_KILLS=20 $(PYTEST) -s tests/e2e/test_crash.py -k churn

moves: packages venv ## heal an instance on another host 50 times under ping; figures in build/bench/moves.json
	@MOORING_TEST_MOVES=50 $(PYTEST) -s tests/e2e/test_moves.py

sim-mutants: venv ## break the product in every known way: the simulation must notice each (MUTANTS=names)
	@$(BIN)/python -m tests.sim.mutation $(MUTANTS)

lint: venv
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "run: $(BIN)/ruff format ."; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

test: packages venv ## every test, with coverage
	@$(MAKE) --no-print-directory lint
	@rm -rf build/coverage && mkdir -p build/coverage
	@$(BIN)/python tests/run_all.py
	@$(MAKE) --no-print-directory coverage

coverage: venv
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report --skip-covered --fail-under=85

bench: packages venv ## every benchmark; tables on the screen, figures in build/bench/*.json
	@for file in tests/bench/bench_*.py; do $(BIN)/python -m tests.bench.$$(basename $$file .py) || exit 1; done

bench-%: packages venv ## one benchmark
	@$(BIN)/python -m tests.bench.bench_$*

bench-page: venv ## write the last results into docs/benchmarks.md
	@$(BIN)/python tests/bench/page.py

fuzz: venv ## fuzz the C core and compare the twins (FUZZ_RUNS, FUZZ_SECONDS: per harness, whichever comes first)
	@deploy/install-packages fuzz
	@PYTHON=$(BIN)/python tests/fuzz/run

mutation: venv ## how many mutants of decide, merge and ipam the unit tests notice (TARGETS); at least 80 %
	@$(BIN)/python tests/mutation/score.py $(TARGETS)

sanitize: venv ## the twins' tests over a build with AddressSanitizer and UndefinedBehaviorSanitizer
	@PYTHON=$(BIN)/python tests/fuzz/sanitize

docs: venv ## write the generated pages anew
	@$(BIN)/python -m mooring.controller.settings_page > docs/settings.md

clean: ## remove what the build made
	rm -rf build dist $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
