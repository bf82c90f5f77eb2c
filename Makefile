# The commands of this project. `make check` is the one gate, here, in the hook and in continuous integration.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -m

.DEFAULT_GOAL := help
.PHONY: help check format format-check lint types imports test coverage bench strace openssl chromium clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

check: format-check lint types imports coverage ## all that must pass before a change goes in

format: $(VENV)/.installed ## put the code into shape
	$(RUN) ruff check --quiet --fix --fixable I,RUF022,RUF100 --exit-zero .
	$(RUN) ruff format .

format-check: $(VENV)/.installed ## is the code in shape?
	$(RUN) ruff format --check --quiet .

lint: $(VENV)/.installed ## ruff's rules
	$(RUN) ruff check --quiet .

types: $(VENV)/.installed ## mypy over everything, pyright over the package and over what it exports
	$(RUN) mypy
	$(RUN) pyright --pythonpath $(VENV)/bin/python --warnings
	@export PATH="$(CURDIR)/$(VENV)/bin:$$PATH"; report=$$(pyright --verifytypes kie_async --ignoreexternal) \
		&& echo "Every public type is known." || { echo "$$report"; exit 1; }

imports: $(VENV)/.installed ## imports go down only
	$(VENV)/bin/lint-imports --no-logo

test: $(VENV)/.installed strace openssl chromium ## the tests alone; ARGS="-k admission" picks some
	$(RUN) pytest $(ARGS)

coverage: $(VENV)/.installed strace openssl chromium ## the tests, with branch coverage: 100 % of the core, at least 92 % of the package
	$(RUN) coverage run -m pytest --quiet
	@echo "Branch coverage of kie_async/_core:"
	@$(RUN) coverage report --include='kie_async/_core/*' --fail-under=100
	@echo "Branch coverage of the package:"
	@$(RUN) coverage report --fail-under=92

bench: $(VENV)/.installed ## the benchmarks; ARGS="limits --save" runs one and keeps its result
	$(RUN) benchmarks $(ARGS)

strace: ## what the power-cut test records a process with; from the distribution, where it is missing
openssl: ## what computes signatures independently of us; from the distribution, where it is missing
chromium: ## what the page of a batch is looked at with; from the distribution, where it is missing

strace openssl chromium:
	@command -v $@ >/dev/null || { sudo=$$(command -v sudo || true); \
		$$sudo apt-get update -qq && $$sudo apt-get install -y -qq $@ >/dev/null; }

clean: ## remove what the other targets made
	rm -rf $(VENV) .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# Made anew when the dependencies change. Groups need pip 25.1, so pip comes first.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install -qq --disable-pip-version-check --upgrade 'pip>=25.1'
	$(RUN) pip install -qq --disable-pip-version-check --editable '.[cli,fake]' --group dev
	@touch $@
