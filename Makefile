# Each target sets up what it needs; the first run on a machine builds the environment, later ones find it.
# Variables: PYTHON=python3.12  PORT=8001  EPOCHS=12  PAIRS=3  ARGS="…"

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# A uv of the machine's own is used; where there is none, one is put into .tools.
UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)
LOCK := locks/dev.lock

.PHONY: demo serve test lint bench bench-training bench-fetching bench-transfer bench-validation setup locks docs clean help

help:
	@echo "make demo    set up, train a small real model through the whole platform, show the results"
	@echo "make serve   web, worker, scheduler and MLflow on this machine (PORT=8000)"
	@echo "make test    the tests (ARGS='-k callback' for some of them)"
	@echo "make lint    ruff, mypy --strict, migrations, system checks"
	@echo "make bench   training against plain 'yolo train', the data path against boto3 and others (EPOCHS=12 PAIRS=3);"
	@echo "             one of them: make bench-training, bench-fetching, bench-transfer, bench-validation"
	@echo "make locks   resolve the dependencies anew    make docs   write the generated pages"

demo: setup
	$(PY) manage.py demo $(ARGS)

serve: setup
	@exec $(PY) manage.py serve $(if $(PORT),--port $(PORT)) $(ARGS)

test: setup
	$(PY) -m pytest $(ARGS)

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(PY) manage.py makemigrations --check --dry-run
	$(PY) manage.py check
	$(PY) manage.py writedocs --check

bench: bench-training bench-fetching bench-transfer bench-validation

bench-training: setup
	$(PY) benchmarks/overhead.py $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(PAIRS),--pairs $(PAIRS)) $(ARGS)

bench-fetching bench-transfer bench-validation: bench-%: setup
	$(PY) benchmarks/$*.py $(ARGS)

docs: setup
	$(PY) manage.py writedocs

setup: $(VENV)/.installed

# The stamp holds the lock that was installed: a lock that changed is installed, an unchanged one costs nothing.
$(VENV)/.installed: $(LOCK) | $(UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	@echo "Fetching the packages: 6 GB on disk, a minute or more the first time."
	$(UV) pip sync --quiet --python $(PY) --require-hashes $(LOCK)
	@cp $(LOCK) $@

# --target needs no venv module and no leave to install into the system's Python, which Debian refuses.
.tools/bin/uv:
	$(PYTHON) -m pip --version >/dev/null 2>&1 || { echo "uv is not installed, and neither is pip to fetch it: install one of them (Debian: apt install python3-pip)"; exit 1; }
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --target .tools uv

# One resolution for all, so that the images hold the very versions that were tested.
locks: | $(UV)
	$(UV) pip compile --quiet pyproject.toml --all-extras --group dev --universal --generate-hashes --no-emit-index-url --no-header -o $(LOCK)
	$(UV) pip compile --quiet pyproject.toml --extra web -c $(LOCK) --universal --generate-hashes --no-emit-index-url --no-header -o locks/web.lock
	$(UV) pip compile --quiet pyproject.toml --extra trainer -c $(LOCK) --universal --generate-hashes --no-emit-index-url --no-header -o locks/trainer.lock

clean:
	rm -rf $(VENV) .tools .mypy_cache .pytest_cache .ruff_cache
