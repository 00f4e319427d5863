# make demo | test | lint | docs | install | clean. Everything lives in .venv; nothing is installed outside the checkout.
.PHONY: install demo docs test lint clean
.DEFAULT_GOAL := install

export OMP_NUM_THREADS = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
TORCH := $(shell grep '^torch==' constraints.txt)

install: $(STAMP)

# torch goes first and alone, so that no other requirement can choose its build. Unchanged files: nothing to do.
$(STAMP): pyproject.toml constraints.txt
	@set -e; \
	python=; \
	for candidate in "$$PYTHON" python3.11 python3 python3.14 python3.13 python3.12; do \
		if [ -n "$$candidate" ] && "$$candidate" -c '$(ENOUGH)' >/dev/null 2>&1; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "make install: needs Python 3.11 or newer; neither python3.11 nor python3 on the PATH is. Name one: make install PYTHON=/path/to/python3" >&2; \
		exit 1; \
	fi; \
	if ! $(BIN)/python -c '$(ENOUGH)' >/dev/null 2>&1; then \
		echo "install: making $(VENV) with $$("$$python" --version)"; \
		"$$python" -m venv --clear $(VENV) || { echo "make install: '$$python -m venv' failed; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	fi; \
	echo "install: $(TORCH)"; \
	$(BIN)/python -m pip install --quiet -c constraints.txt "$(TORCH)"; \
	echo "install: baton_lightning and its tools (a few minutes)"; \
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"; \
	touch $(STAMP); \
	echo "install: done"

demo: $(STAMP)
	$(BIN)/python -m baton_lightning demo

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# Runs and data sets are a user's work: they stay.
clean:
	rm -rf $(VENV) build dist site .ruff_cache .mypy_cache .import_linter_cache .pytest_cache .hypothesis *.egg-info
	find baton_lightning datamodules callbacks tests -name __pycache__ -type d -prune -exec rm -rf {} +
