# `make demo` and `make test` work on a machine with nothing but python3, make and git; see scripts/setup.
PYTHON ?= python3
CLANG ?= clang-19
PY := .venv/bin/python
export PYTHON CLANG
# ip, tc and bpftool, for who is not root
export PATH := $(PATH):/usr/sbin:/sbin

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint templates fixtures bench wheel clean

help:
	@echo "make demo       apply a shipped template in a private network, change it under traffic, show the result"
	@echo "make test       ruff, mypy and every test"
	@echo "make templates  compile bpf_templates/*.bpf.c to build/templates/*.o (clang)"
	@echo "make bench      what an apply costs beside the interpreter alone and beside clang + bpftool"
	@echo "make fixtures   renew fixtures/templates/*.o, the templates that are committed"
	@echo "make wheel      build the wheel into dist/"
	@echo "make setup      .venv and Debian packages; the others call it"
	@echo "make clean      remove what these made"

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
	@$(PY) -m scripts.bench $(BENCH_ARGS)

wheel:
	@scripts/setup run
	@$(PY) -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf build dist .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
