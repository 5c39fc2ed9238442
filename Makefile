# One command each. Every target sets up what it needs in .venv first; nothing else has to be installed by hand.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
SEEDS ?= 1000

.PHONY: demo test check storm bench docs proto clean

demo: .make/local  ## run the main job: a cluster on this machine that grows, works, shrinks and goes
	$(BIN)/python examples/demo.py

test: .make/dev .make/system  ## run every test
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

check: .make/dev  ## format, lint, types, floors, and the tests that take no time
	$(BIN)/ruff format --check shoal tests docs examples benchmarks
	$(BIN)/ruff check shoal tests docs examples benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

storm: .make/dev  ## many seeds of the simulated cloud: make storm SEEDS=10000, or make storm SEED=8713
	$(BIN)/python -m shoal.testing.storm $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

bench: .make/bench  ## measure, beside the peers, and keep the results in benchmarks/results
	$(BIN)/python benchmarks/run.py $(ARGS)

docs: .make/dev  ## draw the generated pages anew
	$(BIN)/python docs/generate.py

proto: .make/dev  ## generate the control plane's stubs
	$(BIN)/python -m shoal.wire.generate

clean:
	rm -rf $(VENV) .make

.make/venv:
	$(PYTHON) -m venv $(VENV)
	@mkdir -p .make && touch $@

.make/local: .make/venv pyproject.toml
	$(PIP) install -e '.[local,demo]'
	@touch $@

.make/dev: .make/venv pyproject.toml
	$(PIP) install -e '.[dev]'
	@touch $@ .make/local

.make/bench: .make/dev
	$(PIP) install -e '.[bench]'
	@touch $@

.make/system: tests/system_packages.sh
	sh tests/system_packages.sh
	@mkdir -p .make && touch $@
