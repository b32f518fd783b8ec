# make demo: the whole method on the tiny world. make test: every test, lint and types.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKDIR ?= runs/tiny

.PHONY: venv venv-dev demo test lint clean

venv: $(VENV)/installed
venv-dev: $(VENV)/installed-dev

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --progress-bar on -r requirements.txt
	touch $@

# torch by itself first: asked for by another package, pip may take a newest build with CUDA.
$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet -r requirements-dev.txt
	touch $@

demo: venv
	$(BIN)/python -m msjoe_jax.main --config=configs/tiny.py --workdir=$(WORKDIR)

lint: venv-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

clean:
	rm -rf $(VENV) runs
