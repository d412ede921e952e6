"""Differentiable distributed linear algebra."""

from prdp_hpc.linalg.element_operator import ElementOperator
from prdp_hpc.linalg.errors import SolveError
from prdp_hpc.linalg.function_operator import FunctionOperator
from prdp_hpc.linalg.implicit import solve
from prdp_hpc.linalg.operator import Operator, SparseOperator
from prdp_hpc.linalg.refinement_level import Refinement
from prdp_hpc.linalg.report import SolveReport
from prdp_hpc.linalg.solver import Solver

__all__ = [
    "ElementOperator",
    "FunctionOperator",
    "Operator",
    "Refinement",
    "SolveError",
    "SolveReport",
    "Solver",
    "SparseOperator",
    "solve",
]
