# make demo | test | test-fast | test-lowest | lint | docs | bench | clean. Each makes the environment it needs, once.
# With another Python: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
LOWEST := .venv-lowest
DATA ?= images
BIN := $(VENV)/bin
DEMO := $(VENV)/.installed-demo
TEST := $(VENV)/.installed-test

# Two processes: one runs all files that use the session's cluster, the other the rest.
SPREAD := -n 2 --dist loadgroup

# Every worker of Ray is a new Python: without compiled files each compiles all of torch again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-lowest lint docs bench clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    featurize a few photographs and broken files, and show the result"
	@echo "make test    run all tests"
	@echo "make test-fast    run the tests that need no Ray"
	@echo "make test-lowest  run them with the oldest versions that pyproject.toml allows"
	@echo "make lint    check style, types and imports"
	@echo "make docs    make docs/configuration.md anew"
	@echo "make bench   measure throughput on DATA=folder, Parquet with uri and bytes"
	@echo "make clean   remove everything made here but the environment, $(VENV)/"

demo: $(DEMO)
	$(BIN)/python jobs/demo.py

test: $(TEST)
	$(BIN)/python -m pytest $(SPREAD) $(PYTEST_ARGS)

test-fast: $(TEST)
	$(BIN)/python -m pytest $(SPREAD) -m "not ray" $(PYTEST_ARGS)

test-lowest: $(TEST)
	$(BIN)/uv venv --quiet --seed --clear --python $(BIN)/python $(LOWEST)
	$(BIN)/uv pip install --python $(LOWEST)/bin/python --resolution lowest-direct \
		--editable '.[test,demo]'
	$(LOWEST)/bin/python -m pytest $(SPREAD) -m "not ray" --ignore tests/test_quality.py $(PYTEST_ARGS)

lint: $(TEST)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

docs: $(TEST)
	$(BIN)/python docs/make_configuration.py

bench: $(DEMO)
	$(BIN)/python benchmarks/throughput.py --data $(DATA)

clean:
	rm -rf build demo-output item_audit.egg-info
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and \
	"Python 3.11 or newer is needed and this is %d.%d: name another, PYTHON=python3.11." % v)'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(DEMO): EXTRAS := demo
$(TEST): EXTRAS := test,demo,training

# uv installs several times faster; pip knows mirrors and proxies that uv is not told of.
$(DEMO) $(TEST): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --python $(BIN)/python --constraint constraints.txt \
		--editable '.[$(EXTRAS)]' \
	|| $(BIN)/python -m pip install --no-compile --constraint constraints.txt \
		--editable '.[$(EXTRAS)]'
	@touch $@
