# Two commands: `make bench` compares the methods, `make test` checks the code.
# Both set up .venv first, and only once. PYTHON=python3.12 chooses another interpreter (>= 3.11).

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
CODE := core plugins benchmarks tests

# pip applies these to the packages it builds from source as well, whichever of the two it knows
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: install bench test lint types clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "flowzoo needs Python >= 3.11, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

bench: install
	$(BIN)/flowzoo bench quick --out runs/quick

test: install lint types
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

types: install
	$(BIN)/mypy

clean:
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
