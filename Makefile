# Needs python3 (3.11 or newer) and make; everything else is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: run test lint format bench bench-faults requirements clean

run: .venv/run
	@exec $(BIN)/python manage.py up

test: .venv/dev
	$(BIN)/python -m pytest -n 3 --dist loadgroup $(ARGS)

lint: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .
	$(BIN)/djlint --lint --quiet templates
	$(BIN)/djlint --lint --quiet --profile django historical_sync/templates
	$(BIN)/python manage.py makemigrations --check --dry-run
	$(BIN)/python -m atom.check_deploy

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/dev
	$(BIN)/python -m bench $(ARGS)

# Breaks a hundred imports: some fifteen minutes.
bench-faults: .venv/dev
	$(BIN)/python -W ignore -m bench.faults $(ARGS)

# Pins every dependency with its hashes; no index address gets into the files. What is pinned stays, except with ARGS=--upgrade.
requirements: .venv/dev
	pin() { \
	  $(BIN)/uv pip compile --quiet $(ARGS) --universal --python-version 3.11 --generate-hashes --no-header \
	    pyproject.toml -o requirements/$$1.txt $$2 $$3; \
	}; \
	pin production && pin run --extra=embedded && pin dev --extra=embedded --extra=dev

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv .venv

# One stamp a set: a second start installs nothing.
.venv/run: requirements/run.txt | .venv/bin/python
	$(PIP) install --require-hashes -r requirements/run.txt
	@touch $@

.venv/dev: requirements/dev.txt | .venv/bin/python
	$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@ .venv/run

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
