"""When to refine the solver, and to which level. Pure Python: no MPI, no torch, no PETSc."""

from prdp_hpc.refinement.coordinator import Coordinator, RefinementError
from prdp_hpc.refinement.ladders import (
    ExplicitLadder,
    IterationLadder,
    Ladder,
    LooserLadder,
    ToleranceLadder,
    check_level,
    looser,
)
from prdp_hpc.refinement.schedules import ConstantSchedule, ManualSchedule, Schedule

__all__ = [
    "ConstantSchedule",
    "Coordinator",
    "ExplicitLadder",
    "IterationLadder",
    "Ladder",
    "LooserLadder",
    "ManualSchedule",
    "RefinementError",
    "Schedule",
    "ToleranceLadder",
    "check_level",
    "looser",
]
