# `make demo` and `make test` need nothing but Python 3.11+ and make; both set up .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check bench acceptance clean

demo: .venv/installed  ## train on built-in digits, export, verify, serve on 127.0.0.1:3000
	$(BIN)/convscope demo

test: .venv/installed-dev  ## all tests except the long ones
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist worksteal

check: .venv/installed-dev  ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

acceptance: .venv/installed-dev  ## full trainings and thousands of requests; takes 45 minutes on 2 cores
	OMP_NUM_THREADS=1 $(BIN)/pytest -m acceptance --timeout 3600 -n 2 --dist worksteal

bench: .venv/installed-dev  ## the tables of benchmarks/
	$(BIN)/python -m benchmarks.training
	$(BIN)/pip install -q -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks.serving artifacts/lenet-digits runs/lenet-digits/example.png

clean:  ## remove the environment and all build results; runs/ and artifacts/ stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "convscope needs Python 3.11 or newer; say which with make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install -q -c constraints.txt -e .
	@touch $@

.venv/installed-dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $@ .venv/installed
