"""What a user's type checker finds in calls of this package; `make lint` checks it.

mypy must find each error that is ignored here, or it complains about the comment.
"""

import scipy.sparse as sp
import torch

from prdp_hpc import (
    AssembledOperator,
    Burgers,
    ConstantSchedule,
    Coordinator,
    ElementOperator,
    ExplicitLadder,
    FunctionOperator,
    Grid,
    Heat,
    IterationLadder,
    ManualSchedule,
    NavierStokes,
    Poisson,
    ProcessMesh,
    Refinement,
    ShellPreconditioner,
    Solver,
    SolveReport,
    SparseOperator,
    ToleranceLadder,
    load_network,
    solve,
)

mesh = ProcessMesh.from_world(grid_ranks="two")  # type: ignore[arg-type]
grid = Grid(shape="8 x 8")  # type: ignore[arg-type]
solver = Solver("cg", "gamg", Refinement(rtol=1e-8))
ShellPreconditioner("ilu")  # type: ignore[arg-type]
Solver(5)  # type: ignore[arg-type]
Refinement(rtol="1e-8")  # type: ignore[arg-type]
report: SolveReport = solver.reports  # type: ignore[attr-defined]
operator = SparseOperator.from_scipy(sp.eye(3).tocsr())
solve(operator, 1.0, torch.ones(3), solver)  # type: ignore[arg-type]
AssembledOperator(None, "assemble")  # type: ignore[arg-type]
ElementOperator([[0, 1]], n="two")  # type: ignore[arg-type]
FunctionOperator("product", 8)  # type: ignore[arg-type]
Heat(grid, diffusivity="fast", dt=1.0, solver=solver)  # type: ignore[arg-type]
Poisson()  # type: ignore[call-arg]
Burgers(grid, viscosity=None, dt=1.0, solver=solver)  # type: ignore[arg-type]
NavierStokes()  # type: ignore[call-arg]
ladder = IterationLadder(start="one")  # type: ignore[arg-type]
ToleranceLadder(start="one")  # type: ignore[arg-type]
ExplicitLadder(levels=3)  # type: ignore[arg-type]
Coordinator(ladder, step_threshold="low")  # type: ignore[arg-type]
ConstantSchedule("five")  # type: ignore[arg-type]
ManualSchedule([1, 2])  # type: ignore[arg-type]
load_network(5)  # type: ignore[arg-type]
