# make fit: train, measure and show the sorting run.  make test: the tests.  make check: lint, types, tests.  make bench: speed.
PYTHON ?= python3
BIN := .venv/bin
THREADS ?= 1
export PYTHONUNBUFFERED := 1

.PHONY: env fit test check bench clean

env: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch --editable '.[dev]'
	touch $@

# One thread by default, so that the numbers in the README come out: another number of threads rounds differently.
fit: env
	OMP_NUM_THREADS=$(THREADS) $(BIN)/gcgap fit --config configs/sort.yaml

# Two processes of one thread beat one process of two threads on two cores.
test: env
	OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest --numprocesses 2

check: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(MAKE) test

bench: env
	cd tests && ../$(BIN)/python -m bench

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
