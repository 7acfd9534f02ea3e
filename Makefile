# Headrace: what can be done here. `make` alone lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Tests wait more than they compute: three processes keep two cores busy, a file stays in one. Files
# are handed out as tests/conftest.py orders them, the slowest first.
SIDE_BY_SIDE ?= -n 3 --dist loadfile --no-loadscope-reorder
# One thread for numbers in every process: the two cores belong to all of them.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export NUMBA_NUM_THREADS := 1
# Dozens of processes start from here: what one of them has read as source, the next reads as bytecode.
unexport PYTHONDONTWRITEBYTECODE

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## make .venv with everything, pinned
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Headrace needs $(PYTHON); set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[all,dev]'
	@touch $@

demo: install ## everything once: real events change real recommendations, then a summary
	$(BIN)/headrace demo

up: install ## start broker, Redis, features flow and server; returns when they answer
	$(BIN)/headrace up --detach --dataset auto

down: install ## stop what `make up` started
	$(BIN)/headrace down

test: install ## lint, types, then every test on real servers
	$(MAKE) --jobs 2 --output-sync checks compiled
	$(BIN)/python -m pytest -q $(SIDE_BY_SIDE) --durations=15

test-fast: install ## the tests that take less than ten seconds each
	$(BIN)/python -m pytest -q -m 'not slow and not long' $(SIDE_BY_SIDE)

test-long: install ## the tests that take minutes: faults again and again
	$(BIN)/python -m pytest -q -m long

drill: install ## break a stack of its own five ways; console, alerts and runbooks must mend it
	$(BIN)/headrace drill

bench: install ## every benchmark, one after the other; JSON in benchmarks/out
	$(BIN)/python -m benchmarks.freshness
	$(BIN)/python -m benchmarks.features_flow
	$(BIN)/python -m benchmarks.recommend
	$(BIN)/python -m benchmarks.online_model
	$(BIN)/python -m benchmarks.learning
	$(BIN)/python -m benchmarks.closed_loop

peers-install: ## make .venv-peers with Faust and Quix Streams, for python -m benchmarks.peers
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --upgrade pip
	.venv-peers/bin/python -m pip install --quiet --group peers

bench-peers: install ## the features flow beside the same job in Faust and Quix Streams
	$(BIN)/python -m benchmarks.peers

off-policy-install: ## make .venv-obp with the Open Bandit Pipeline, for python -m benchmarks.off_policy
	$(PYTHON) -m venv .venv-obp
	.venv-obp/bin/python -m pip install --quiet --upgrade pip
	.venv-obp/bin/python -m pip install --quiet --group off-policy
	.venv-obp/bin/python -m pip install --quiet --no-deps --ignore-requires-python obp==0.5.7

checks: lint types protos-check ## what is checked without running it

compiled: install ## compile what is compiled, once for all processes
	$(BIN)/python -m infra.precompile

lint: install ## ruff and the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: install ## mypy, strict
	$(BIN)/mypy features online_models streams serving offline infra benchmarks

protos: install ## generate code from protos/headrace/v1
	$(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=protos --pyi_out=protos \
	  --grpc_python_out=protos protos/headrace/v1/*.proto

protos-check: install ## generated code is what the protos say
	@out=$$(mktemp -d) && trap 'rm -rf "$$out"' EXIT && \
	$(BIN)/python -m grpc_tools.protoc -Iprotos --python_out="$$out" --pyi_out="$$out" \
	  --grpc_python_out="$$out" protos/headrace/v1/*.proto && \
	diff -r -x '*.proto' -x '__init__.py' -x '__pycache__' protos/headrace "$$out/headrace" \
	  || { echo "generated code differs: run make protos"; exit 1; }

format: install ## let ruff arrange the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: help install checks compiled demo up down test test-fast test-long drill bench peers-install bench-peers off-policy-install lint types protos protos-check format
