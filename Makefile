# A new user needs `make demo` and `make test` only; both run `make setup` first.

# Exits with 0 on Python 3.11 to 3.13, the versions of setup.py and code/environment.py.
IS_SUPPORTED := -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
SYSTEM_PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python $(IS_SUPPORTED) && echo $$python && break; done)
VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.set-up
# For the smallest supported machine, with two cores.
TEST_WORKERS ?= 2
# loadfile: fixtures that the tests of one file share (a model, a recorded town) are made once
PYTEST := OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n $(TEST_WORKERS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-long test test-slow wheels gpu-check lint format typecheck docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

# The second line repairs an environment that was changed by hand since the last setup.
setup: $(STAMP) ## create .venv and install the pinned requirements/
	@$(PYTHON) code/environment.py || { rm -f $(STAMP); $(MAKE) --no-print-directory $(STAMP); }

$(STAMP): $(wildcard requirements/*.txt) setup.py
	@$(PYTHON) $(IS_SUPPORTED) || $(or $(SYSTEM_PYTHON),false) $(IS_SUPPORTED) \
		|| { echo "$(or $(SYSTEM_PYTHON),No python here) is not Python 3.11 to 3.13: install one, or name it with make setup SYSTEM_PYTHON=..."; exit 1; }
	@$(PYTHON) $(IS_SUPPORTED) || $(SYSTEM_PYTHON) -m venv --clear $(VENV) \
		|| { rm -rf $(VENV); echo "$(SYSTEM_PYTHON) cannot create a virtual environment: on Debian, install python3-venv"; exit 1; }
	$(PYTHON) -m pip install --disable-pip-version-check --quiet --progress-bar off \
		-r requirements/torch.txt -r requirements/runtime.txt -r requirements/dev.txt -r requirements/bench2drive.txt
	$(PYTHON) -m pip install --disable-pip-version-check --quiet --progress-bar off --no-deps -r requirements/openmmlab.txt
	$(PYTHON) -m pip install --disable-pip-version-check --quiet --no-deps --editable .
	@touch $@

demo: setup ## record drives, train, evaluate, and print the results
	$(PYTHON) tools/run_demo.py

demo-long: setup ## the same with more drives, longer training and 20 routes: two hours
	$(PYTHON) tools/run_demo.py --data dataset/minitown_long --out work_dirs/demo_long \
		--routes 60 --frames 140 --drives 20 --cfg-options train_cfg.max_epochs=6

test: setup ## run the fast tests
	$(PYTEST) -m "not slow and not cuda"

test-slow: setup ## run the slow tests, and the CUDA tests if there is a device
	$(PYTEST) -m "slow or cuda"

wheels: setup ## collect all packages but torch in build/wheels, for a machine without network
	$(PYTHON) -m pip wheel --quiet --wheel-dir build/wheels -r requirements/runtime.txt -r requirements/dev.txt
	$(PYTHON) -m pip wheel --quiet --wheel-dir build/wheels --no-deps -r requirements/openmmlab.txt .

gpu-check: setup ## test and measure training on the GPU, and write work_dirs/gpu_report.md
	$(PYTHON) tools/gpu_check.py

lint: setup ## check style, formatting and types, as in CI
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	@$(MAKE) --no-print-directory typecheck

format: setup ## fix style and formatting
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

# mypy and mkdocstrings do not follow editable installs; they find the package through a link of its name.
build/typecheck/thinktwice:
	@mkdir -p $(@D) && ln -sfn ../../code $@

typecheck: setup build/typecheck/thinktwice ## check types
	$(PYTHON) -m mypy -p thinktwice

docs: setup build/typecheck/thinktwice ## build the documentation site, build/site/index.html
	$(PYTHON) -m pip install --disable-pip-version-check --quiet --progress-bar off -r requirements/docs.txt
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --quiet

clean: ## remove .venv, caches and build outputs, not data or work_dirs
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find code tests tools configs -name __pycache__ -type d -exec rm -rf {} +
