# make demo   the main job on bundled data: from a transaction log to a customer-equity report
# make test   everything that CI checks
# make bench  ours and its peers in turn, in 5 minutes; tables go to docs/benchmarks.md
# make bench-long   the same up to 10,000,000 customers and 100,000,000 transactions, in half an hour
# make validation   the numbers of docs/validation.md, in some half an hour of one core
# All make a virtual environment first, from an empty clone and in any order.
# Another interpreter: make demo PYTHON=/path/to/python3.13

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test bench bench-long validation
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/python -m clvmodels fit configs/cdnow.yaml --overwrite

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest --numprocesses auto --dist worksteal

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks --set short

bench-long: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks --set long --resume

validation: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.validation

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null || { \
	  echo "clvmodels needs Python 3.12 or newer, and $(PYTHON) is not; name another: make $(or $(MAKECMDGOALS),demo) PYTHON=/path/to/python3.13" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	@echo 'installing the pinned dependencies into $(VENV)'
	@$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.created pyproject.toml constraints.txt
	@echo 'installing the pinned dependencies into $(VENV)'
	@$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.installed
