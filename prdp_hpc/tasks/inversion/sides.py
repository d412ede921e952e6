"""Sensors close to sides of the grid with other conditions than its default ones."""

from __future__ import annotations

from numbers import Real

from prdp_hpc.errors import InputError
from prdp_hpc.grid.geometry import ENDS
from prdp_hpc.physics.boundaries import Condition, Dirichlet, Neumann
from prdp_hpc.tasks.inversion.experiments import Observations, PointObservations, Sides
from prdp_hpc.tasks.inversion.physics import CoefficientPDE


def sides_with_conditions(physics: CoefficientPDE, sides: Sides) -> set[tuple[int, str]]:
    """The sides whose condition is not the default of the grid: no flux, or the value 0."""
    found = {side for side in sides if physics.grid.boundary[side[0]] != "periodic"}
    for axis, pair in enumerate(getattr(physics, "boundaries", [])):
        default = Dirichlet() if physics.grid.boundary[axis] == "dirichlet" else Neumann()
        for end, condition in zip(ENDS, pair, strict=True):
            if condition is not None and not _are_equal(condition, default):
                found.add((axis, end))
    return found


def _are_equal(condition: Condition, other: Condition) -> bool:
    """Whether two conditions have the same kind and the same numbers."""
    values = vars(condition)
    return (
        type(condition) is type(other)
        and all(isinstance(value, Real) for value in values.values())
        and values == vars(other)
    )


def uncovered_sensor(
    physics: CoefficientPDE, observe: Observations, sides: Sides
) -> InputError | None:
    """The error of a sensor close to a side with a condition that its positions do not include."""
    if not isinstance(observe, PointObservations):
        return None
    positions = observe.positions
    wanted = sides_with_conditions(physics, sides)
    for axis, end in sorted(wanted - positions.linear_sides):
        sensors = positions.beyond(axis, end)
        if len(sensors):
            return InputError(
                f"experiments: sensor {sensors[0]}, at {positions.points[sensors[0]].tolist()}, "
                f"lies between the outermost grid points and the {end} side of axis {axis}, whose "
                "condition is not the default of the grid: give "
                f"Positions(..., linear_sides={sorted(wanted)})"
            )
    return None
