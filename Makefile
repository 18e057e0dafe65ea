# `make` alone lists the targets. Needs Python, git and make; all else goes into .venv.
# Paths are relative on purpose: the checkout's own path may hold spaces.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup data compare prove equivalence published benchmark report explore doctor test test-all test-gpu gpu soak fuzz audit lock refresh readme tutorial clean

EPOCHS ?= 5
KILLS ?= 20
FUZZ_SECONDS ?= 30
# The interpreter that .venv is made with; empty takes the newest supported one (requirements/find-python).
PYTHON ?=
# `make lock LOCK_FLAGS=--upgrade` takes the newest versions that pyproject.toml allows.
LOCK_FLAGS ?=

# 1 makes environments with CUDA libraries beside .venv, 0 does not; by itself 1 where an NVIDIA GPU is.
GPU ?= $(shell if test -c /dev/nvidiactl || nvidia-smi -L >/dev/null 2>&1; then echo 1; else echo 0; fi)

VENV_PYTHON := .venv/bin/python
PYTEST := $(VENV_PYTHON) -m pytest
SET_UP := .venv/.set-up
# torch brings its CUDA libraries along, so Lightning and Keras on torch stay in .venv. TensorFlow's
# are of another version and own the same files; its wheels for Arm have no CUDA.
GPU_ENGINES := keras-jax $(if $(filter x86_64,$(shell uname -m)),keras-tensorflow)
GPU_SET_UP := $(if $(filter 1,$(GPU)),$(GPU_ENGINES:%=.venv-gpu/%/.set-up))
# No header and no addresses: a lock says what is installed, not where from.
COMPILE = .venv/bin/uv pip compile --quiet --universal --generate-hashes --python-version $(OLDEST) \
	--no-header --no-emit-index-url --no-emit-find-links $(LOCK_FLAGS)
OLDEST = $(shell sed -n 's/^requires-python = ">=\([0-9.]*\),.*/\1/p' pyproject.toml)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(SET_UP) $(GPU_SET_UP) ## make .venv and install what the locks name; with a GPU also .venv-gpu

data: setup ## put Fashion-MNIST where the trainers find it
	@$(VENV_PYTHON) scripts/fetch_data.py

compare: data ## train both implementations, both variants, and write the comparison (EPOCHS=5)
	$(VENV_PYTHON) scripts/compare.py --epochs $(EPOCHS)

prove: data ## prove the port in short: the ladder, mutants, replays, an epoch followed
	$(VENV_PYTHON) scripts/prove.py --short

equivalence: data ## train many seeds and judge whether both learn equally well (hours; goes on where it was)
	$(VENV_PYTHON) scripts/equivalence.py

published: setup ## check Keras's published models against torch's (two hours; goes on; HUB_PYTHON=P for keras-hub)
	$(VENV_PYTHON) scripts/published.py $(if $(HUB_PYTHON),--hub-python $(HUB_PYTHON))

benchmark: data ## measure both implementations against stock programs and hand-written loops
	$(VENV_PYTHON) scripts/benchmark.py

report: data ## write the page of the last comparison, the proof and the benchmark
	$(VENV_PYTHON) scripts/report.py

explore: data ## show what the data set holds
	$(VENV_PYTHON) scripts/explore.py

doctor: setup ## show versions, devices, settings, data and engines
	@$(VENV_PYTHON) scripts/doctor.py

test: data ## lint, types, unit and parity tests, in some eight to ten minutes
	@$(VENV_PYTHON) -m tests.parts -m "not slow"

test-all: data ## the same with the slow tests, in an hour and a half
	@$(VENV_PYTHON) -m tests.parts

test-gpu: data ## the tests that need an NVIDIA GPU
	$(PYTEST) -m gpu tests/lightning
	$(PYTEST) -m gpu tests/keras

gpu: data ## on an NVIDIA GPU: doctor, tests, benchmark, ladder, comparison, in stages that are kept
	@$(VENV_PYTHON) scripts/gpu.py

soak: data ## kill runs of each implementation at random moments, many times (KILLS=20)
	SOAK_KILLS=$(KILLS) $(PYTEST) tests/lightning/test_soak.py
	SOAK_KILLS=$(KILLS) $(PYTEST) tests/keras/test_soak.py

fuzz: setup ## feed every parser bytes that a fuzzer makes up (FUZZ_SECONDS=30 for each)
	@$(VENV_PYTHON) -m tests.fuzzing --seconds $(FUZZ_SECONDS)

audit: setup ## look the locked packages up among known vulnerabilities (needs pip-audit's service)
	@$(VENV_PYTHON) scripts/audit.py

lock: setup ## write requirements/*.txt anew from pyproject.toml
	$(COMPILE) --extra dev pyproject.toml -o requirements/dev.txt
	$(COMPILE) requirements/uv.in -o requirements/uv.txt
	$(COMPILE) -c requirements/dev.txt requirements/gpu-keras-tensorflow.in \
	  -o requirements/gpu-keras-tensorflow.txt
	$(COMPILE) -c requirements/dev.txt requirements/gpu-keras-jax.in -o requirements/gpu-keras-jax.txt

# A release that was tampered with is mostly found within days.
refresh: ## take the newest releases that are at least two weeks old into the locks
	$(MAKE) lock LOCK_FLAGS="--upgrade --exclude-newer P14D"

readme: setup ## make the README's and the documents' made parts anew
	$(VENV_PYTHON) -m reporting.readme
	$(VENV_PYTHON) -m parity_tests.docs
	$(VENV_PYTHON) scripts/make_tutorial.py --text

tutorial: data ## run the tutorial's code in both frameworks; write its outputs, pictures and notebooks
	$(VENV_PYTHON) scripts/make_tutorial.py

clean: ## remove .venv, .venv-gpu and the tools' caches; runs and data stay
	rm -rf .venv .venv-gpu .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info \
	  portproof/build portproof/src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(SET_UP): pyproject.toml portproof/pyproject.toml requirements/dev.txt requirements/uv.txt
	@if ! sh requirements/find-python $(VENV_PYTHON) >/dev/null 2>&1; then \
	  python=$$(sh requirements/find-python --fetch "$(PYTHON)") || exit 2; \
	  echo "making .venv with $$("$$python" --version)"; \
	  "$$python" -m venv --clear .venv; \
	fi
	PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 $(VENV_PYTHON) -m pip install --quiet \
	  --require-hashes --only-binary :all: --no-deps -r requirements/uv.txt
	.venv/bin/uv pip install --python $(VENV_PYTHON) --compile-bytecode \
	  --require-hashes -r requirements/dev.txt
	.venv/bin/uv pip install --python $(VENV_PYTHON) --no-deps --no-build-isolation --offline \
	  -e . -e portproof
	@touch $(SET_UP)

.venv-gpu/%/.set-up: requirements/gpu-%.txt | $(SET_UP)
	.venv/bin/uv venv --quiet --clear --python $(VENV_PYTHON) $(@D)
	.venv/bin/uv pip install --python $(@D)/bin/python --compile-bytecode --require-hashes -r $<
	@touch $@
