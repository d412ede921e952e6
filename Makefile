# Each target first prepares .venv. PYTHON: the interpreter for it (default: the newest one that
# PETSc's binaries support, else python3). PETSC=build: build PETSc.
# CUDA=1: build it for NVIDIA GPUs (CUDA_ARCH=80,90: for which).
# TORCH=cuda or cpu: with or without CUDA (default: with it if the machine has an NVIDIA GPU).
PYTHON ?=
VENV := .venv/bin
DEMO_DATA ?=
DEMO ?=

.DEFAULT_GOAL := help
.PHONY: help environment runtime demo demo-heat test test-all test-adversarial test-faults coverage lint docs docs-figures lock benchmarks clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

environment:  ## install MPI, PETSc, torch and prdp-hpc into .venv (1 to 15 minutes, then seconds)
	@$(or $(PYTHON),python3) tools/environment.py

runtime:  ## the same without the tools for tests, lint and documentation
	@$(or $(PYTHON),python3) tools/environment.py --runtime

# One rank per core, at most 2: each replica computes a share of the experiments.
# nproc would count the threads of OMP_NUM_THREADS, which users of MPI often set to 1.
DEMO_RANKS := $(shell test $$(env -u OMP_NUM_THREADS nproc 2>/dev/null || echo 1) -ge 2 && echo 2 || echo 1)

demo: runtime  ## recover a 3-D permeability field with PRDP and with full refinement; table and figures
	@$(VENV)/prdp-hpc doctor
	@OMP_NUM_THREADS=1 $(VENV)/mpiexec -n $(DEMO_RANKS) $(VENV)/prdp-hpc compare configs/field_inversion_3d.yaml \
		--overwrite name=demo grid.shape=[32,32,32] $(DEMO)

demo-heat: runtime  ## train the paper's 2-D heat emulator with PRDP and with full refinement
	@# A checkpoint has 280 MB here; one every 10 epochs keeps its time out of the comparison.
	@$(VENV)/mpiexec -n 1 $(VENV)/prdp-hpc compare configs/heat_2d.yaml --overwrite name=demo_heat comparison.seeds=1 \
		training.checkpoint_every=10 $(if $(DEMO_DATA),data.file=$(DEMO_DATA))

# pytest rewrites assertions on import. Without the bytecode cache it would do so again at each start of a rank.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(VENV)/python -m pytest

# Two workers on every machine, because some tests start several MPI ranks, which use the other cores.
WORKERS ?= 2
LANES := -n $(WORKERS) --dist loadgroup

# SLURM=install: where it is missing, install Debian's packages of SLURM for the tests (needs root).
test: environment  ## run the tests (under 15 minutes on 2 cores)
	@$(PYTEST) $(LANES) tests

# The data of all processes go to one folder; a failed test does not prevent the report.
COVERAGE := COVERAGE_FILE='$(CURDIR)/build/coverage/data' $(VENV)/python -m coverage
TESTS ?= tests
coverage: environment  ## run the tests and report the lines that none reaches, in build/coverage (TESTS=tests)
	@rm -rf build/coverage && mkdir -p build/coverage
	-@env -u PYTHONDONTWRITEBYTECODE $(COVERAGE) run -m pytest $(LANES) $(TESTS)
	@$(COVERAGE) combine -q
	@$(COVERAGE) html -q -d build/coverage/html
	@$(COVERAGE) report > build/coverage/report.txt
	@tail -1 build/coverage/report.txt
	@echo "open build/coverage/html/index.html, or read build/coverage/report.txt"

SEED ?= 1
test-all: environment  ## run all tests, also the long ones (SEED=1: first seed of the adversarial tests)
	@PRDP_LONG_TESTS=1 PRDP_ADVERSARIAL_SEED=$(SEED) $(PYTEST) $(LANES) tests

CASES ?= 10000
RANKS ?= 1
test-adversarial: environment  ## check random solves against dense references (CASES=10000 SEED=1 RANKS=1)
	@$(VENV)/python -m tests.adversarial --cases $(CASES) --seed $(SEED) --ranks $(RANKS)

FAULTS ?= 100
test-faults: environment  ## kill trainings at random times, resume and compare them (FAULTS=100 SEED=1; 15 to 30 minutes)
	@$(VENV)/python tests/faults/harness.py --count $(FAULTS) --seed $(SEED)

lint: environment  ## check style, types, import layers and the documentation
	@$(VENV)/ruff check .
	@$(VENV)/ruff format --check .
	@$(VENV)/mypy
	@$(VENV)/mypy --warn-unused-ignores --follow-imports=silent tests/typing/user_script.py
	@$(VENV)/lint-imports
	@$(VENV)/hadolint docker/Dockerfile docker/Dockerfile.cuda
	@$(SITE)

# Warnings are errors (mkdocs.yml). The variable silences an advertisement for another generator.
SITE := NO_MKDOCS_2_WARNING=1 $(VENV)/python -m mkdocs build --quiet

docs: environment  ## build the documentation as HTML in build/docs
	@$(SITE)
	@echo "open build/docs/index.html in a browser; the search works without a server"

docs-figures: environment  ## run the tutorials and write their figures; after a demo, also that of the README
	@OMP_NUM_THREADS=1 $(VENV)/python tools/docs/run_tutorials.py
	@test ! -d runs/demo-compare || $(VENV)/python tools/docs/demo_figure.py

lock: environment  ## renew the pinned versions and hashes in tools/*.txt from pyproject.toml
	@$(VENV)/python -m pip install -q uv
	@$(VENV)/python tools/lock.py

benchmarks: environment  ## measure speed; print tables and write benchmarks/results/*.json
	@$(VENV)/python -m pip install -q -e '.[benchmarks]'
	@$(VENV)/python benchmarks/run_all.py

clean:  ## remove .venv and the files of tools (the wheel cache stays)
	rm -rf .venv .venv.lock build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
