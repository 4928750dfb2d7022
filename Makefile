# `make demo` and `make test` work on a machine with nothing but python3, make and git; see scripts/setup.
PYTHON ?= python3
CLANG ?= clang-19
PY := .venv/bin/python
export PYTHON CLANG
# ip, tc and bpftool, for who is not root
export PATH := $(PATH):/usr/sbin:/sbin

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-nightly lint templates fixtures bench wheel clean

help:
	@echo "make demo          apply a shipped template in a private network, change it under traffic, show the result"
	@echo "make test          ruff, mypy and every test"
	@echo "make test-nightly  10,000 random programs, each with and without specialising (test: 500); all foreign objects with trimmed BTF"
	@echo "make templates     compile bpf_templates/*.bpf.c to build/templates/*.o (clang)"
	@echo "make bench         what an apply costs, and what a packet costs by how a program is configured"
	@echo "make fixtures      renew fixtures/templates/*.o, the templates that are committed"
	@echo "make wheel         build the wheel into dist/"
	@echo "make setup         .venv and Debian packages; the others call it"
	@echo "make clean         remove what these made"

setup:
	@scripts/setup test

demo:
	@scripts/setup run
	@$(PY) -m scripts.demo

test: setup
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(PY) -m pytest $(PYTEST_ARGS)

# Another seed each night; a failure says which it was, and ELFPATCH_FLOW_SEED runs it again.
test-nightly: setup
	ELFPATCH_FLOW_PROGRAMS=10000 ELFPATCH_FLOW_SEED=$${ELFPATCH_FLOW_SEED:-$$(date +%j%Y)} \
		$(PY) -m pytest tests/flow/test_property.py $(PYTEST_ARGS)
	ELFPATCH_TRIM_ALL=1 $(PY) -m pytest tests/template/test_trim.py $(PYTEST_ARGS)

lint: setup
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy

templates:
	@scripts/setup build
	@$(PY) scripts/build_templates.py build/templates

fixtures:
	@scripts/setup build
	@$(PY) scripts/build_templates.py fixtures/templates

bench:
	@scripts/setup build
	@mkdir -p build/bench
	@$(PY) -m scripts.bench --json build/bench/bench.json --svg build/bench/bench.svg $(BENCH_ARGS)

wheel:
	@scripts/setup run
	@$(PY) -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf build dist .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
