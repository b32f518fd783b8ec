# make demo: the whole method on the tiny world. make test: every test, lint and types.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LMMS := .venv-lmms-eval
BEAM := .venv-beam
CONFIG ?= configs/tiny.py
WORKDIR ?= runs/tiny
# What is ours: what a run or an experiment leaves beside these never decides a lint.
CODE := msjoe_jax configs benchmarks tests
PYTEST := JAX_PLATFORMS=cpu $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: venv venv-dev demo lint quick test soak rehearsal lmms-eval beam clean

venv: $(VENV)/installed
venv-dev: $(VENV)/installed-dev

# The project itself, editable: the `msjoe` command. Its dependencies are the lines before.
$(VENV)/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --progress-bar on -r requirements.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

# torch by itself first: asked for by another package, pip may take a newest build with CUDA.
$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet -r requirements-dev.txt
	touch $@

demo: venv
	$(BIN)/python -m msjoe_jax.main --config=$(CONFIG) --workdir=$(WORKDIR)

lint: venv-dev
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

# About ten minutes on two cores.
quick: venv-dev
	$(PYTEST) -m "not slow and not soak"

test: lint
	$(PYTEST) -m "not soak"

soak: venv-dev
	$(PYTEST) -m soak

# A whole run at the 3B's widths on this machine, from real files (benchmarks/rehearsal.py).
rehearsal: venv-dev
	$(BIN)/python -m benchmarks.rehearsal --workdir=runs/rehearsal

# lmms-eval has an environment of its own: it asks for other versions than we do (docs/lmms_eval.md).
$(LMMS)/installed: benchmarks/lmms_eval_overrides.txt requirements.txt pyproject.toml
	$(PYTHON) -m venv $(LMMS)
	$(LMMS)/bin/pip install --quiet uv
	$(LMMS)/bin/uv pip install --quiet --python $(LMMS)/bin/python \
	  --override benchmarks/lmms_eval_overrides.txt torch==2.13.0 lmms_eval==0.7.3 -r requirements.txt
	$(LMMS)/bin/uv pip install --quiet --python $(LMMS)/bin/python --no-deps --editable .
	touch $@

# The model of a run in lmms-eval, on 20 of its held-out questions as video files.
lmms-eval: $(LMMS)/installed
	$(LMMS)/bin/python -m benchmarks.lmms_eval_task --run=$(WORKDIR) --limit=20
	HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 $(LMMS)/bin/python -m lmms_eval --model msjoe \
	  --model_args checkpoint=$(WORKDIR)/final --tasks msjoe_local \
	  --include_path benchmarks/lmms_eval_local --output_path $(WORKDIR)/lmms_eval --log_samples

# Apache Beam has one, too: it asks for older packages (docs/predecode.md).
$(BEAM)/installed: requirements-beam.txt requirements.txt pyproject.toml
	$(PYTHON) -m venv $(BEAM)
	$(BEAM)/bin/pip install --quiet uv
	$(BEAM)/bin/uv pip install --quiet --python $(BEAM)/bin/python \
	  --override requirements-beam.txt -r requirements.txt -r requirements-beam.txt \
	  pytest==9.2.0 hypothesis==6.170.15
	$(BEAM)/bin/uv pip install --quiet --python $(BEAM)/bin/python --no-deps --editable .
	touch $@

# The pipeline in two processes, of which one is killed: the bytes are those of predecode.
beam: $(BEAM)/installed
	JAX_PLATFORMS=cpu $(BEAM)/bin/python -m pytest -q tests/commands/test_predecode_beam.py

# What an install and the checks left. Never runs/: trained models are not build outputs.
clean:
	rm -rf $(VENV) $(LMMS) $(BEAM) build dist *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
