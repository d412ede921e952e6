"""Schedules of solve accuracy and their ladders of levels; pure Python, no MPI, torch or PETSc."""

from prdp_hpc.refinement.coordinator import Coordinator, RefinementError
from prdp_hpc.refinement.gradient_coordinator import GradientCoordinator
from prdp_hpc.refinement.ladders import (
    ExplicitLadder,
    IterationLadder,
    Ladder,
    Level,
    LooserLadder,
    ToleranceLadder,
    check_level,
    looser,
)
from prdp_hpc.refinement.probing import Measure, MeasuredGradient, ProbingSchedule, is_probing
from prdp_hpc.refinement.schedules import (
    ConstantSchedule,
    ManualSchedule,
    Schedule,
    check_schedule,
    chosen_levels,
)

__all__ = [
    "ConstantSchedule",
    "Coordinator",
    "ExplicitLadder",
    "GradientCoordinator",
    "IterationLadder",
    "Ladder",
    "Level",
    "LooserLadder",
    "ManualSchedule",
    "Measure",
    "MeasuredGradient",
    "ProbingSchedule",
    "RefinementError",
    "Schedule",
    "ToleranceLadder",
    "check_level",
    "check_schedule",
    "chosen_levels",
    "is_probing",
    "looser",
]
