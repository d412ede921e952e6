"""Differentiable distributed linear algebra."""

from prdp_hpc.linalg.assembled_operator import AssembledOperator
from prdp_hpc.linalg.distributed_cells import DistributedCells
from prdp_hpc.linalg.element_operator import ElementOperator
from prdp_hpc.linalg.errors import SolveError
from prdp_hpc.linalg.function_operator import FunctionOperator
from prdp_hpc.linalg.implicit import solve
from prdp_hpc.linalg.nonlinear import (
    ColouredJacobian,
    NonlinearSolveError,
    NonlinearSolver,
    solve_nonlinear,
)
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.refinement_level import Refinement
from prdp_hpc.linalg.report import SolveReport
from prdp_hpc.linalg.shell_preconditioner import ShellPreconditioner
from prdp_hpc.linalg.solver import Solver
from prdp_hpc.linalg.sparse_operator import SparseOperator

__all__ = [
    "AssembledOperator",
    "ColouredJacobian",
    "DistributedCells",
    "ElementOperator",
    "FunctionOperator",
    "NonlinearSolveError",
    "NonlinearSolver",
    "Operator",
    "Refinement",
    "ShellPreconditioner",
    "SolveError",
    "SolveReport",
    "Solver",
    "SparseOperator",
    "solve",
    "solve_nonlinear",
]
