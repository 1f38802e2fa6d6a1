# Two commands for a newcomer: `make demo` and `make test`. Both set up everything they need in .venv.
PYTHON ?= python3.11
RUN ?= runs/demo
PORTRAITS ?= embedded
SPEECH ?= embedded
ARGS ?=
CONTEXT ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# One thread per process: Ray runs several processes side by side, and spinning OpenMP pools would fight.
export OMP_NUM_THREADS := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: demo ui test test-fast test-cluster test-kubernetes test-browser lint docs bench locks clean

demo: $(STAMP)
	$(BIN)/ft2ray align recipes/demo.yaml run_dir="$(RUN)" prompts.portraits="$(PORTRAITS)" prompts.speech="$(SPEECH)" $(ARGS)

# The page over a run, such as the demo's, or over a folder of clips: make ui RUN=my/clips
ui: $(STAMP)
	$(BIN)/ft2ray ui "$(RUN)" $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

# No test here starts a process.
test-fast: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not ray and not slow and not cluster' --no-processes $(ARGS)

test-cluster: $(STAMP)
	$(BIN)/python -m pytest -m cluster $(ARGS)

# The page in Chromium (apt-get install chromium); makes the pictures of docs/ui too.
test-browser: $(STAMP)
	$(BIN)/python -m pytest -m browser tests/ui $(ARGS)

# On any cluster that kubectl reaches and that CONTEXT names: make test-kubernetes CONTEXT=kind-kind
test-kubernetes: $(STAMP)
	FT2RAY_KUBERNETES_CONTEXT="$(CONTEXT)" $(BIN)/python -m pytest -m kubernetes -rs tests/cluster/test_kubernetes.py $(ARGS)

bench: $(STAMP)
	$(BIN)/python bench/run.py $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/pydoclint ft2ray
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/python docs/settings_reference.py
	$(BIN)/mkdocs build --config-file .ci/mkdocs.yml

locks: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python .ci/locks/make.py

$(STAMP): pyproject.toml $(wildcard .ci/locks/*.txt)
	@command -v $(PYTHON) >/dev/null || { echo "ft2ray needs Python 3.11: install it or pass PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Setting up $(VENV) (about two minutes and 2 GB) ..."
	$(PYTHON) -m venv $(VENV)
	$(PIP) --no-deps --require-hashes -r .ci/locks/torch-cpu.txt 2>/dev/null || $(PIP) --no-deps --require-hashes -r .ci/locks/torch-cuda.txt
	$(PIP) --no-deps --require-hashes -r .ci/locks/runtime.txt -r .ci/locks/dev.txt
	$(PIP) --no-deps -e .
	@touch $@

clean:
	rm -rf $(VENV) runs
