# The commands of this project. `make quick` is the inner loop, `make check` the gate, `make nightly` the long tests.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -m
# More workers than cores: the tests in real time mostly wait for processes.
WORKERS ?= 3
# Interpreters for `make check-all`; it names the versions of which none runs.
PYTHONS ?= python3.11 python3.12 python3.13 python3.14 $(wildcard $(HOME)/.pyenv/versions/3.1[1-4]*/bin/python3)

.DEFAULT_GOAL := help
.PHONY: help quick check nightly check-all format format-check lint types imports quick-tests test coverage docs bench system-tools clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

quick: format-check lint imports quick-tests ## the inner loop, half a minute: format, lint, import rules, the tests that need no service

check: format-check lint types imports docs coverage ## all that must pass before a change goes in; runs a sample of the long tests

nightly: $(VENV)/.installed system-tools check-all ## check-all, and every test in full: all kills, all hostile requests, ten times the examples
	KIE_TESTS=nightly $(RUN) pytest -o faulthandler_timeout=7200 --quiet --numprocesses $(WORKERS) --dist loadgroup $(ARGS)

check-all: system-tools ## the quick tests on each Python from 3.11 to 3.14, with the lowest and the newest dependencies
	@tools/check-all.sh $(PYTHONS)

format: $(VENV)/.installed ## format the code
	$(RUN) ruff check --quiet --fix --fixable I,RUF022,RUF100 --exit-zero .
	$(RUN) ruff format .

format-check: $(VENV)/.installed ## check the format
	$(RUN) ruff format --check --quiet .

lint: $(VENV)/.installed ## ruff's rules, and the words of this project
	$(RUN) ruff check --quiet .
	$(VENV)/bin/python tools/check_words.py

types: $(VENV)/.installed ## mypy over everything, pyright over the package and over what it exports
	$(RUN) mypy
	$(RUN) pyright --pythonpath $(VENV)/bin/python --warnings
	@export PATH="$(CURDIR)/$(VENV)/bin:$$PATH"; report=$$(pyright --verifytypes kie_async --ignoreexternal) \
		&& echo "Every public type is known." || { echo "$$report"; exit 1; }

imports: $(VENV)/.installed ## check the import rules
	$(VENV)/bin/lint-imports --no-logo

quick-tests: $(VENV)/.installed
	KIE_TESTS=quick $(RUN) pytest --quiet --numprocesses 2 tests/core tests/requests $(ARGS)

test: $(VENV)/.installed ## the tests that need no system tools; ARGS="-k admission" picks some
	$(RUN) pytest -m "not system_tools" --numprocesses $(WORKERS) --dist loadgroup $(ARGS)

coverage: $(VENV)/.installed system-tools ## the tests with branch coverage: 100 % of the core, at least 95 % of the package
	$(RUN) pytest --quiet --numprocesses $(WORKERS) --dist loadgroup --cov --cov-report= $(ARGS)
	@echo "Branch coverage of kie_async/_core:"
	@$(RUN) coverage report --include='kie_async/_core/*' --fail-under=100
	@echo "Branch coverage of the package:"
	@$(RUN) coverage report --fail-under=95

docs: $(VENV)/.installed ## build the site of docs/ in build/docs, with the API reference; a warning is an error
	$(RUN) sphinx --quiet --fail-on-warning --keep-going --fresh-env --builder html docs build/docs

bench: $(VENV)/.installed ## the benchmarks; ARGS="limits --save" runs one and keeps its result
	$(RUN) benchmarks $(ARGS)

# Debian keeps servers out of the path of users.
system-tools: ## install the programs that some tests call, from the distribution, where they are missing
	@PATH="$$PATH:/usr/sbin"; \
		for tool in strace openssl chromium pgbouncer redis-server faketime; do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
		command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$$missing postgresql"; \
		if [ -n "$$missing" ]; then sudo=$$(command -v sudo || true); \
			$$sudo apt-get update -qq && $$sudo apt-get install -y -qq $$missing >/dev/null; fi

clean: ## remove what the other targets made
	rm -rf $(VENV) .venv-3.* build .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# Made anew when the dependencies change. Groups need pip 25.1, so pip comes first.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install -qq --disable-pip-version-check --upgrade 'pip>=25.1'
	$(RUN) pip install -qq --disable-pip-version-check --editable '.[cli,fake,postgres]' --group dev
	@touch $@
