# Each target prepares what it needs. PYTHON: the interpreter that .venv is made from (default: the
# newest one that PETSc's binaries fit, else python3). PETSC=build: build PETSc for this processor.
PYTHON ?=
VENV := .venv/bin
DEMO_DATA ?=
DEMO ?=

.DEFAULT_GOAL := help
.PHONY: help environment demo demo-heat test test-all test-adversarial test-faults lint docs docs-figures benchmarks clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

environment:  ## .venv with MPI, PETSc, torch and prdp-hpc (first time 1 to 15 minutes, then seconds)
	@$(or $(PYTHON),python3) tools/environment.py

# As many ranks as there are cores, at most 2: the replicas divide the experiments.
DEMO_RANKS := $(shell test $$(nproc 2>/dev/null || echo 1) -ge 2 && echo 2 || echo 1)

demo: environment  ## find a 3-D permeability field with PRDP and with full refinement; table and figures
	@$(VENV)/prdp-hpc doctor
	@OMP_NUM_THREADS=1 $(VENV)/mpiexec -n $(DEMO_RANKS) $(VENV)/prdp-hpc compare configs/field_inversion_3d.yaml \
		--overwrite name=demo grid.shape=[32,32,32] $(DEMO)

demo-heat: environment  ## train the paper's 2-D heat emulator with PRDP and with full refinement
	@# A checkpoint has 280 MB here; one every 10 epochs keeps the disk out of the comparison.
	@$(VENV)/mpiexec -n 1 $(VENV)/prdp-hpc compare configs/heat_2d.yaml --overwrite name=demo_heat comparison.seeds=1 \
		training.checkpoint_every=10 $(if $(DEMO_DATA),data.file=$(DEMO_DATA))

# pytest rewrites the assertions of what it imports, and would do so anew at each start of a rank if it could not keep them.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(VENV)/python -m pytest

# Two workers, whatever the machine: tests that start ranks of their own use the other cores.
WORKERS ?= 2
LANES := -n $(WORKERS) --dist loadgroup

test: environment  ## the tests (under 15 minutes on 2 cores)
	@$(PYTEST) $(LANES) tests

SEED ?= 1
test-all: environment  ## the tests and the longer ones (SEED=1: where the adversarial hour begins)
	@PRDP_LONG_TESTS=1 PRDP_ADVERSARIAL_SEED=$(SEED) $(PYTEST) $(LANES) tests

CASES ?= 10000
RANKS ?= 1
test-adversarial: environment  ## solves that nobody would think of (CASES=10000 SEED=1 RANKS=1)
	@$(VENV)/python -m tests.adversarial --cases $(CASES) --seed $(SEED) --ranks $(RANKS)

FAULTS ?= 100
test-faults: environment  ## kill trainings at random moments, resume, compare (FAULTS=100 SEED=1; 15 to 30 minutes)
	@$(VENV)/python tests/faults/harness.py --count $(FAULTS) --seed $(SEED)

lint: environment  ## style, types, layers
	@$(VENV)/ruff check .
	@$(VENV)/ruff format --check .
	@$(VENV)/mypy
	@$(VENV)/mypy --warn-unused-ignores --follow-imports=silent tests/typing/user_script.py
	@$(VENV)/lint-imports
	@$(VENV)/hadolint docker/Dockerfile docker/Dockerfile.cuda
	@$(SITE)

# Warnings are errors (mkdocs.yml). The variable silences an advertisement for another generator.
SITE := NO_MKDOCS_2_WARNING=1 $(VENV)/python -m mkdocs build --quiet

docs: environment  ## the documentation as HTML, in build/docs
	@$(SITE)
	@echo "open build/docs/index.html"

docs-figures: environment  ## run the tutorials anew and write their figures
	@OMP_NUM_THREADS=1 $(VENV)/python tools/docs/run_tutorials.py

benchmarks: environment  ## speed: tables, and JSON in benchmarks/results
	@$(VENV)/python -m pip install -q -e '.[benchmarks]'
	@$(VENV)/python benchmarks/run_all.py

clean:  ## remove .venv and what tools left (the wheel cache stays)
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
