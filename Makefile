# Each target works from a fresh clone with nothing but Python 3.11 or newer.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: demo test slow check data browser screenshots fuzz parity parity-large wheel clean

demo: .venv/installed  ## caption the pictures in examples/ and make a page of them
	$(BIN)/captax caption examples --sheet demo/captions.html
	@echo "open demo/captions.html"

test: .venv/tests  ## the fast suite
	$(BIN)/pytest -n auto --dist worksteal -m "not data and not parity and not slow and not browser"

slow: .venv/tests  ## whole recipes, tutorials, several devices and processes
	$(BIN)/pytest -n auto --dist worksteal -m "slow and not data and not parity and not browser"

check: .venv/dev  ## what pre-commit and review look at
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

data: .venv/tests  ## tests that read ../shared/data
	$(BIN)/pytest -m data

browser: .venv/browser  ## the web page in chromium
	@command -v chromium >/dev/null || test -n "$$CAPTAX_CHROMIUM" || { \
	  echo "chromium is missing: apt-get install chromium, or give its path as CAPTAX_CHROMIUM"; exit 1; }
	$(BIN)/pytest -m browser

screenshots: .venv/browser  ## docs/images/serve.png
	CAPTAX_SCREENSHOTS=docs/images $(BIN)/pytest tests/serve/test_page.py -k screenshots

fuzz: .venv/fuzz  ## ten minutes of broken files for each reader
	@for target in fuzz/targets/*.py; do $(BIN)/python fuzz/run.py $$(basename $$target .py) || exit 1; done

parity: .venv/parity  ## tests against PyTorch
	$(BIN)/pytest -m "parity and not large"

parity-large: .venv/parity  ## the same at the largest sizes
	$(BIN)/pytest -m large

wheel: .venv/dev
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf .venv demo dist

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable .
	@touch $@

.venv/tests: .venv/installed
	$(BIN)/pip install --quiet --editable '.[test]'
	@touch $@

.venv/browser: .venv/tests
	$(BIN)/pip install --quiet --editable '.[browser]'
	npm install --silent --no-save --prefix .venv axe-core
	@touch $@

.venv/fuzz: .venv/tests
	$(BIN)/pip install --quiet --editable '.[fuzz]'
	@touch $@

.venv/dev: .venv/installed
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

# torch first, and exactly this version: with it installed, what needs torch asks for no other build.
.venv/parity: .venv/tests
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable '.[parity]'
	@touch $@
