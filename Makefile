# Two commands are enough on a fresh machine with python3 (3.10 or later), make and gcc or clang:
#   make demo    tune three operators, check them, build a library, call it from C
#   make test    the test suite
# Each makes its own virtual environment in .venv.

PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python
JOBS   ?= 2

.PHONY: demo test test-all lint bench clean .typing

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[test,dev]'
	touch $@

demo: $(VENV)/.installed
	$(RUN) examples/demo.py

test: $(VENV)/.installed
	$(RUN) -m pytest -n $(JOBS) -m "not slow" tests

test-all: $(VENV)/.installed
	$(RUN) -m pytest -n $(JOBS) tests

# mypy cannot follow the folder mapping of pyproject.toml: it gets a tree of links, made anew each time
.typing: $(VENV)/.dev
	rm -rf .typing && mkdir -p .typing/tensordsl
	for f in tensordsl/*; do ln -s ../../$$f .typing/tensordsl/; done
	for f in schedules codegen autotune; do ln -s ../../$$f .typing/tensordsl/$$f; done

lint: $(VENV)/.dev .typing
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	cd .typing && MYPYPATH=. ../$(VENV)/bin/mypy --config-file ../pyproject.toml --cache-dir ../.mypy_cache -p tensordsl

bench: $(VENV)/.installed
	$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[benchmark]'
	$(RUN) benchmarks/operators.py

clean:
	rm -rf $(VENV) .typing .mypy_cache .pytest_cache .ruff_cache out build *.egg-info
