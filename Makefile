# The one entry point. Targets call programs; they hold no logic of their own.
PYTHON ?= python3
VENV := .venv/bin
RUN := $(VENV)/python

.PHONY: demo test check lint types imports test-fast test-training test-slurm test-browser setup-test \
        screenshots golden migration clean

demo:
	@$(PYTHON) scripts/setup.py demo
	@$(RUN) -m examples.demo --scheduler $(or $(SCHEDULER),local) $(ARGS)

test:
	@$(PYTHON) scripts/setup.py test
	@$(RUN) scripts/run_tests.py all

setup-test:
	@$(PYTHON) scripts/setup.py test

check: lint types imports

lint:
	@$(VENV)/ruff format --check .
	@$(VENV)/ruff check .

types:
	@$(VENV)/basedpyright

imports:
	@$(VENV)/lint-imports

test-fast:
	@$(RUN) -m pytest -q tests/unit

test-training:
	@$(RUN) scripts/run_tests.py training

test-slurm:
	@$(RUN) scripts/run_tests.py slurm

test-browser:
	@$(RUN) -m pytest -q -m browser

screenshots:
	@$(RUN) scripts/screenshots.py

golden:
	@$(RUN) -m tests.golden
	@git --no-pager diff --stat -- tests/golden

migration:
	@$(VENV)/alembic revision --autogenerate -m "$(NAME)"

clean:
	@rm -rf .venv .pytest_cache .ruff_cache .hypothesis
