"""The same solves with the PETSc of several environments, e.g. binaries and a build.

    python benchmarks/petsc_builds.py PYTHON [PYTHON ...]

Each PYTHON is the interpreter of an environment. Processes of the environments run one after the
other, several times, and the smallest processor time of each solve counts: other load of the
machine affects it less than the wall clock. prdp_hpc is not imported, only petsc4py.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable

ROUNDS = 5
POINTS = 316
"""Points per axis of the 2-D Poisson problem: 99,856 unknowns."""
SOLVES = {
    "50 iterations, cg, jacobi": ("cg", "jacobi", 50),
    "50 iterations, gmres, jacobi": ("gmres", "jacobi", 50),
    "50 iterations, cg, icc": ("cg", "icc", 50),
    "10 iterations, cg, gamg": ("cg", "gamg", 10),
}


def main() -> None:
    """Compare the environments, or measure one of them (without arguments)."""
    if len(sys.argv) == 1:
        print(json.dumps(measured()))
        return
    seconds: dict[str, dict[str, float]] = {python: {} for python in sys.argv[1:]}
    for _ in range(ROUNDS):
        for python, least in seconds.items():
            done = subprocess.run([python, __file__], capture_output=True, text=True, check=True)
            for name, value in json.loads(done.stdout).items():
                least[name] = min(value, least.get(name, value))
    for python, least in seconds.items():
        print(python)
        for name, value in least.items():
            print(f"  {name:32s} {1000 * value:8.2f} ms")


def measured() -> dict[str, float]:
    """The smallest processor time of each solve, and of each set-up, in seconds."""
    from mpi4py import MPI  # noqa: F401 - the binaries of petsc4py find MPI when it is loaded
    from petsc4py import PETSc

    matrix = poisson(POINTS)
    b, x = matrix.createVecRight(), matrix.createVecLeft()
    b.set(1.0)
    found = {}
    for name, (ksp_type, pc_type, iterations) in SOLVES.items():
        ksp = PETSc.KSP().create(PETSc.COMM_SELF)
        ksp.setType(ksp_type)
        ksp.getPC().setType(pc_type)
        ksp.setTolerances(rtol=1e-50, max_it=iterations)
        ksp.setOperators(matrix)
        found[f"set-up of {pc_type}"] = least_time(ksp.setUp, 1)
        found[name] = least_time(lambda ksp=ksp: ksp.solve(b, x), 5)
    return {name: value for name, value in found.items() if value > 1e-4}


def poisson(n: int):
    """The 5-point matrix of n² unknowns."""
    import numpy as np
    from petsc4py import PETSc

    number = np.arange(n * n, dtype=np.int32).reshape(n, n)
    pairs = [(number[1:], number[:-1]), (number[:, 1:], number[:, :-1])]
    rows = np.concatenate([number.ravel(), *(side.ravel() for pair in pairs for side in pair)])
    other = [side.ravel() for pair in pairs for side in reversed(pair)]
    columns = np.concatenate([number.ravel(), *other])
    values = np.where(rows == columns, 4.0, -1.0)
    matrix = PETSc.Mat().createAIJ((n * n, n * n), comm=PETSc.COMM_SELF)
    matrix.setPreallocationCOO(rows, columns)
    matrix.setValuesCOO(values)
    return matrix


def least_time(action: Callable[[], object], calls: int) -> float:
    """The smallest processor time of several calls."""
    times = []
    for _ in range(calls):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return min(times)


if __name__ == "__main__":
    main()
