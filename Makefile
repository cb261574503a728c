# Needs make, Python >= 3.11 and the package index; `make compose-up` needs a container engine instead.
# `make` alone prints what there is. Settings: make up PYTHON=/usr/bin/python3.12

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHON ?=
STRANGERS := tests/strangers tests/rpc/test_hostile.py tests/httpapi/test_bad_input.py \
  tests/httpapi/test_authentication.py tests/testing/test_secrets.py

.DEFAULT_GOAL := help
.PHONY: help up down logs demo test test-slow test-docker check lint types bench bench-full bench-growth bench-scale \
  chaos pressure strangers compose-up compose-down clean

help: ## what there is to type
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: $(STAMP) ## start a five-node cluster of local processes and take the tour; it stays up
	@$(BIN)/kvstore dev up
	@$(BIN)/kvstore demo

down: $(STAMP) ## stop the local cluster; its data stays in .dev/
	@$(BIN)/kvstore dev down

logs: $(STAMP) ## what the nodes of the local cluster logged
	@$(BIN)/kvstore dev logs

demo: $(STAMP) ## take the tour again on the running cluster
	@$(BIN)/kvstore demo

test: $(STAMP) ## everything that needs no container engine, at most 5 minutes
	@$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile

test-slow: $(STAMP) ## the long tests: crashes by the hundred, fuzzing, failover node by node
	@$(BIN)/pytest -m slow

test-docker: $(STAMP) ## five containers on a real engine; skipped with the reason where there is none
	@$(BIN)/pytest -m docker tests/compose

check: lint types test ## all that must pass before a change goes in

lint: $(STAMP) ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(STAMP) ## mypy, strict
	@$(BIN)/mypy

chaos: $(STAMP) ## real processes and disks broken on purpose, about 20 minutes; prints a table
	@$(BIN)/python -m tests.processes.chaos

bench: $(STAMP) ## all benchmarks, beside the floor and etcd, under 5 minutes; a report with plots
	@$(BIN)/python -m benchmarks

bench-full: $(STAMP) ## the same with every case and longer rounds, under 25 minutes
	@$(BIN)/python -m benchmarks --full

bench-growth: $(STAMP) ## what a get and a put cost from 10,000 to KEYS keys [10000000]; half an hour
	@$(BIN)/python -m benchmarks --growth $(or $(KEYS),10000000) --to benchmarks/results/local/growth

bench-scale: $(STAMP) ## messages, bytes and memory from 3 to 1,000 nodes, checked in the simulator
	@$(BIN)/python -m benchmarks.scale

pressure: $(STAMP) ## nodes under more than they can bear, each figure beside its control, about 6 minutes
	@$(BIN)/python -m tests.processes.pressure

strangers: $(STAMP) ## what strangers may try, counted: frames, bodies, credentials, slow clients; 10 minutes
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,security]'
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest -m 'not docker' -s $(STRANGERS)

compose-up: ## the five nodes in containers, on 127.0.0.1:8001 to 8005; makes deploy/.env once
	@deploy/compose build n1
	@deploy/compose up -d
	@deploy/compose wait-healthy
	@echo "ready; for a shell that may talk to it:  set -a; . deploy/.env; set +a"

compose-down: ## stop the containers; the volumes stay (deploy/compose down -v removes them)
	@deploy/compose down

clean: ## remove the environment, caches and the data of the local cluster
	@if [ -x $(BIN)/kvstore ] && [ -d .dev ]; then $(BIN)/kvstore dev down; fi
	rm -rf $(VENV) .dev dist .hypothesis .mypy_cache .pytest_cache .ruff_cache benchmarks/results/local
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An interpreter is taken only if it is new enough and can make an environment: Debian ships Python
# without ensurepip. The stamp is touched last, so an interrupted install is taken up again.
$(STAMP): pyproject.toml
	@set -e; python=; \
	for candidate in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11); do \
	  if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	  then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "missing: Python >= 3.11 with the modules venv and ensurepip (Debian: apt install python3-venv);" \
	    "another interpreter: make PYTHON=..." >&2; exit 1; \
	fi; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then "$$python" -m venv --clear $(VENV); fi; \
	echo "installing what pyproject.toml names into $(VENV)"; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'; \
	touch $@
