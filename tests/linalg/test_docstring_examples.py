"""Usability: the examples in docstrings about matrices from other codes run as they are."""

import re
import textwrap

import pytest
import torch
from assembled import assembled
from mpi4py import MPI
from petsc4py import PETSc

import prdp_hpc

N = 8
THINGS = [
    prdp_hpc.AssembledOperator,
    prdp_hpc.ShellPreconditioner,
    prdp_hpc.SparseOperator.from_csr,
    prdp_hpc.SparseOperator.from_petsc,
    prdp_hpc.Solver.from_ksp,
    prdp_hpc.Grid.from_dm,
]


@pytest.mark.parametrize("thing", THINGS, ids=lambda thing: thing.__qualname__)
def test_the_example_runs(thing):
    matrix = assembled(2.0 * torch.eye(N).double().numpy(), MPI.COMM_SELF)
    operator, values = prdp_hpc.SparseOperator.from_petsc(matrix)
    ones = torch.ones(N, dtype=torch.float64)
    names = {name: getattr(prdp_hpc, name) for name in prdp_hpc.__all__}
    names |= {"torch": torch, "PETSc": PETSc, "MPI": MPI, "mat": matrix, "b": ones}
    names |= {"operator": operator, "values": values, "diagonal": 2.0 * ones}
    before = dict(names)
    code = re.split(r"Example\n\s+-+\n[^:]*::\n", thing.__doc__)[1]
    exec(textwrap.dedent(code), names)
    assert set(names) - set(before) > {"__builtins__"} or names["operator"] is not operator
    if "x" in names:
        torch.testing.assert_close(names["x"].detach(), 0.5 * ones)
