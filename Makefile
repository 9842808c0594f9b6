# Each target works from a fresh clone with nothing but Python 3.11 or newer.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# `make rest SAMPLE=COMMIT`: one of each kind of the longest tests, by turns (tests/nightly.py).
PYTEST := $(BIN)/pytest -n logical --dist worksteal $(if $(SAMPLE),--sample $(SAMPLE))
# Where Python may keep no bytecode, every process that a test starts compiles all it imports anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test slow check data browser rest alone screenshots fuzz parity parity-large nightly wheel site notebooks clean

demo: .venv/installed  ## caption the pictures in examples/ and make a page of them
	$(BIN)/captax caption examples --sheet demo/captions.html
	@echo "open demo/captions.html"

test: .venv/tests  ## the fast suite
	$(PYTEST) -m "not data and not parity and not slow and not browser"

slow: .venv/docs  ## whole recipes, tutorials, the site, several devices and processes
	$(PYTEST) -m "slow and not data and not parity and not browser and not alone"

check: .venv/dev  ## what pre-commit and review look at
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

data: .venv/tests  ## tests that read ../shared/data
	$(PYTEST) -m "data"

browser: .venv/browser  ## the web page in chromium
	$(PYTEST) -m "browser"

rest: .venv/parity .venv/browser .venv/docs  ## slow, data, browser and parity at once
	$(PYTEST) -m "(slow or data or browser or parity) and not large and not alone"

alone: .venv/tests  ## attacks on a server, which must answer in time; nothing else may run
	$(BIN)/pytest -m "alone and not large"

screenshots: .venv/browser  ## docs/images/serve.png
	CAPTAX_SCREENSHOTS=docs/images $(BIN)/pytest tests/serve/test_page.py -k screenshots

fuzz: .venv/fuzz  ## ten minutes of broken files for each reader
	@for target in fuzz/targets/*.py; do $(BIN)/python fuzz/run.py $$(basename $$target .py) || exit 1; done

parity: .venv/parity  ## tests against PyTorch
	$(PYTEST) -m "parity and not large"

parity-large: .venv/parity  ## the same at the largest sizes, one after the other for their gigabytes
	$(BIN)/pytest -m "large"

nightly: check test rest alone parity-large  ## everything, whole
	bash .ci/wheel

wheel: .venv/dev
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

site: .venv/docs  ## the documentation as a site
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs site/html
	@echo "open site/html/index.html"

notebooks: .venv/docs  ## docs/notebooks, from the pages of docs/tutorials
	$(BIN)/python docs/tutorials/notebooks.py

clean:
	rm -rf .venv demo dist site

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable .
	@touch $@

.venv/tests: .venv/installed
	$(BIN)/pip install --quiet --editable '.[test]'
	@touch $@

.venv/browser: .venv/tests
	@command -v chromium >/dev/null || test -n "$$CAPTAX_CHROMIUM" || { \
	  echo "chromium is missing: apt-get install chromium, or give its path as CAPTAX_CHROMIUM"; exit 1; }
	$(BIN)/pip install --quiet --editable '.[browser]'
	npm install --silent --no-save --prefix .venv axe-core
	@touch $@

.venv/docs: .venv/tests
	$(BIN)/pip install --quiet --editable '.[docs]'
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
