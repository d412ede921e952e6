"""Nonlinear systems by Newton's method, differentiable by the implicit function theorem."""

from prdp_hpc.linalg.nonlinear.coloured_jacobian import ColouredJacobian
from prdp_hpc.linalg.nonlinear.errors import NonlinearSolveError
from prdp_hpc.linalg.nonlinear.solve import solve_nonlinear
from prdp_hpc.linalg.nonlinear.solver import NonlinearSolver

__all__ = ["ColouredJacobian", "NonlinearSolveError", "NonlinearSolver", "solve_nonlinear"]
