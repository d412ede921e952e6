"""Create a field inversion from a config."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from prdp_hpc.config.components import component_of, own_keys
from prdp_hpc.config.slots import made
from prdp_hpc.distributed.collective import call_together
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import Solver
from prdp_hpc.networks import build_network
from prdp_hpc.physics.stepper import made_stepper
from prdp_hpc.tasks.inversion.amortised import FieldSamples
from prdp_hpc.tasks.inversion.experiments import (
    Experiments,
    FieldObservations,
    Observations,
    PointObservations,
    Sides,
)
from prdp_hpc.tasks.inversion.files import InversionFile
from prdp_hpc.tasks.inversion.physics import CoefficientPDE, coefficient_pde
from prdp_hpc.tasks.inversion.positions import Positions, lattice
from prdp_hpc.tasks.inversion.regularisation import H1Regularisation, TotalVariation
from prdp_hpc.tasks.inversion.sides import sides_with_conditions
from prdp_hpc.tasks.inversion.synthetic import (
    Wells,
    noise,
    noise_level,
    predictions,
    random_wells,
    well_sources,
)
from prdp_hpc.tasks.inversion.truth import synthetic_field
from prdp_hpc.tasks.inversion.unknown import (
    CoordinateNetwork,
    FieldUnknown,
    NetworkUnknown,
    Unknown,
)
from prdp_hpc.tasks.task import Parts


def settings(parts: Parts) -> dict[str, Any]:
    """The arguments of `FieldInversion`; collective."""
    config, grid, mesh = parts.config, parts.grid, parts.mesh
    own = _Measured(parts)
    fitted, validation = own.divided()
    training = config.training
    solver, tolerance = parts.solver, config.validation.tolerance
    exact = Solver(
        solver.ksp,
        solver.pc,
        tolerance,
        petsc_options=solver.petsc_options,
        lag_preconditioner=solver.lag_preconditioner,
        initial_guess=solver.initial_guess,
    )
    optimizer, keys = made("inversion_optimizers", training.optimizer)
    rate, rate_keys = made("rates", training.schedule)
    if isinstance(rate, type) and issubclass(rate, LRScheduler):
        raise InputError(
            f"training.schedule: {rate.__name__} is for tasks that train a network; choose "
            "exponential or cosine"
        )
    if rate.__module__ == "prdp_hpc.tasks.recipe":
        rate_keys = {"decay": training.decay, "decay_steps": training.decay_steps}
    return {
        "physics": coefficient_pde(parts.stepper()),
        "experiments": fitted,
        "mesh": mesh,
        "unknown": _unknown(config, grid, mesh),
        "regularisation": _regularisation(config.regularisation, grid),
        "optimizer": lambda parameters, lr: optimizer(parameters, lr=lr, **keys),
        "learning_rate": training.learning_rate,
        "rate": rate(**rate_keys),
        "steps": training.steps,
        "validation": validation,
        "exact": coefficient_pde(parts.stepper(exact)),
        "truth": own.truth,
    }


def amortised_settings(parts: Parts) -> dict[str, Any]:
    """The arguments of `AmortisedInversion`; collective."""
    config, grid, mesh, recipe = parts.config, parts.grid, parts.mesh, parts.recipe
    own = _Measured(parts)
    sources = own.sources(grid)
    observe = own.observe(grid)
    data, truth = config.data, config.truth
    first = data.seed * 1_000_000

    def field(number: int) -> Tensor:
        return synthetic_field(
            grid, truth.kind, truth.contrast, truth.waves, truth.modes, first + number
        )

    count = data.train + data.validation
    physics = own.reference_physics(grid)

    def solve(numbers: NDArray[np.int64]) -> Tensor:
        found = [observe(physics(field(int(number)).exp(), sources)) for number in numbers]
        shape = (len(sources), *observe.shape)
        return torch.stack(found) if found else torch.zeros((0, *shape), dtype=torch.float64)

    exact = predictions(solve, count, mesh)
    level = noise_level(exact, observe, mesh.grid_comm, config.experiments.noise)
    errors = noise(grid, observe, count * len(sources), data.seed).reshape(exact.shape)
    fields = torch.stack([field(number) for number in range(count)])
    samples = FieldSamples(exact + level * errors, fields)
    train, validation = (
        FieldSamples(samples.data[part], samples.fields[part])
        for part in (slice(data.train), slice(data.train, None))
    )
    kind, keys = component_of(config.network), own_keys(config.network)
    network = call_together(
        mesh.world,
        lambda: build_network(kind, grid.partition, len(sources), 1, keys, seed=config.seed),
    )
    return {
        "physics": coefficient_pde(parts.stepper()),
        "network": network,
        "sources": sources,
        "observe": observe,
        "noise": level,
        "train": train,
        "validation": validation,
        "mesh": mesh,
        "recipe": recipe,
    }


class _Measured:
    """The experiments of a config: arrays of its file, and synthetic ones for those it lacks."""

    def __init__(self, parts: Parts) -> None:
        self._parts, self._config = parts, parts.config
        self._section, self._grid = parts.config.experiments, parts.grid
        world, path = parts.mesh.world, self._section.file
        self._file = None if path is None else call_together(world, lambda: InversionFile(path))

    @cached_property
    def truth(self) -> Tensor | None:
        """This rank's part of the true field; None if it is not known. Collective."""
        found: Tensor | None = call_together(self._parts.mesh.world, self._truth)
        return found

    @cached_property
    def _all(self) -> Experiments:
        return self._measured()

    def divided(self) -> tuple[Experiments, Experiments | None]:
        """The experiments to be fitted, and those for validation (None: the same ones)."""
        section, count = self._config.validation, self._all.count
        if section.points is not None:
            return self._divided_points(section.points)
        if not section.experiments:
            return self._all, None
        if section.experiments >= count:
            raise InputError(
                f"validation.experiments={section.experiments} leaves none of {count} experiments "
                "to be fitted: give a smaller number"
            )
        fitted = count - section.experiments
        return self._all.select(range(fitted)), self._all.select(range(fitted, count))

    def _divided_points(self, share: float) -> tuple[Experiments, Experiments]:
        observe = self._all.observe
        if not isinstance(observe, PointObservations):
            raise InputError(
                "validation.points: whole solutions are measured, so there are no sensors to hold "
                "out; give validation.experiments instead"
            )
        points = observe.positions.points
        order = np.random.default_rng((self._config.seed, 4)).permutation(len(points))
        first = round(share * len(points))
        if not 0 < first < len(points):
            raise InputError(
                f"validation.points={share:g} of {len(points)} sensors is none or all of them: "
                "give another share"
            )
        held_out, fitted = np.sort(order[:first]), np.sort(order[first:])
        return self._of_points(fitted), self._of_points(held_out)

    def _of_points(self, chosen: NDArray[np.int64]) -> Experiments:
        some, index = self._all, torch.from_numpy(chosen)
        assert isinstance(some.observe, PointObservations)
        level = some.noise
        if isinstance(level, Tensor) and level.dim() and level.shape[-1] > 1:
            level = level[..., index]
        every = some.observe.positions
        observe = PointObservations(Positions(self._grid, every.points[chosen], every.linear_sides))
        return Experiments(some.sources, observe, some.data[:, index], level, some.sides)

    def _truth(self) -> Tensor | None:
        if self._has("log_permeability"):
            assert self._file is not None
            grid = self._grid
            field = self._file.field("log_permeability", grid.local_slices, grid.shape)
            return torch.from_numpy(field)
        return None if self._has("observations") else self._synthetic(self._grid)

    def _synthetic(self, grid: Grid) -> Tensor:
        section = self._config.truth
        return synthetic_field(
            grid, section.kind, section.contrast, section.waves, section.modes, self._config.seed
        )

    def _measured(self) -> Experiments:
        world, grid = self._parts.mesh.world, self._grid
        sources = call_together(world, lambda: self.sources(grid))
        sides = call_together(world, lambda: self._sides(grid, len(sources)))
        observe = call_together(world, lambda: self.observe(grid))
        if self._has("observations"):
            return call_together(world, lambda: self._from_file(sources, observe, sides))
        return self._simulated(sources, observe, sides)

    def _from_file(self, sources: Tensor, observe: Observations, sides: Sides) -> Experiments:
        file, grid = self._file, self._grid
        assert file is not None
        if observe.local:
            data = file.fields("observations", grid.local_slices, grid.shape)
        else:
            data = file.numbers("observations", (len(sources), *observe.shape))
        measured = torch.from_numpy(data)
        if "noise" in file:
            level: float | Tensor = torch.from_numpy(file.numbers("noise"))
        elif observe.local:
            # No rank has whole fields, so the root mean square is computed from the file.
            squares = np.square(file.numbers("observations")).mean()
            level = self._section.noise * float(squares) ** 0.5
        else:
            level = self._section.noise * float(measured.square().mean()) ** 0.5
        return Experiments(sources, observe, measured, level, sides)

    def _simulated(self, sources: Tensor, observe: Observations, sides: Sides) -> Experiments:
        """Synthetic data from a converged solve with the true field, with noise; collective."""
        mesh, seed = self._parts.mesh, self._config.seed
        exact = predictions(self._reference(sources, observe, sides), len(sources), mesh)
        level = noise_level(exact, observe, mesh.grid_comm, self._section.noise)
        data = exact + level * noise(self._grid, observe, len(sources), seed)
        return Experiments(sources, observe, data, level, sides)

    def _reference(self, sources: Tensor, observe: Observations, sides: Sides) -> Any:
        factor = self._section.reference_factor
        fine, truth = self._grid, self.truth
        if factor > 1:
            fine, sources, observe, truth = self._finer(factor)
            sides = self._sides(fine, len(sources))
        assert truth is not None
        physics = self.reference_physics(fine)
        kappa = truth.exp()

        def solve(numbers: NDArray[np.int64]) -> Tensor:
            index = torch.from_numpy(numbers)
            if not len(numbers):
                return torch.zeros((0, *observe.shape), dtype=torch.float64)
            mine = {place: values[index] for place, values in sides.items()}
            arguments = (kappa, sources[index], *((mine,) if mine else ()))
            found: Any = physics
            return observe(found(*arguments))

        return solve

    def _finer(self, factor: int) -> tuple[Grid, Tensor, Observations, Tensor]:
        if self._has("sources") or self._has("log_permeability") or self._section.points is None:
            raise InputError(
                "experiments.reference_factor: data can be computed on a finer grid only for "
                "synthetic fields, wells and sensors; set it to 1"
            )
        grid = self._grid
        shape = [
            n * factor + (factor - 1 if kind == "dirichlet" else 0)
            for n, kind in zip(grid.shape, grid.boundary, strict=True)
        ]
        fine = Grid(shape, grid.boundary, grid.comm, grid.length)
        return fine, self.sources(fine), self.observe(fine), self._synthetic(fine)

    def reference_physics(self, grid: Grid) -> CoefficientPDE:
        """The PDE with a solver for reference solutions; collective."""
        return coefficient_pde(made_stepper(self._config.physics, grid))

    def sources(self, grid: Grid) -> Tensor:
        """Right-hand sides `(E, *local_shape)`; not collective."""
        if self._has("sources"):
            assert self._file is not None
            found = self._file.fields("sources", grid.local_slices, grid.shape)
            return torch.from_numpy(found)
        wells = self._section.wells
        if isinstance(wells, int):
            return well_sources(grid, random_wells(grid, self._number, wells, self._config.seed))
        own = [
            Wells(
                np.array([well.position for well in some], dtype=float).reshape(len(some), -1),
                np.array([well.rate for well in some], dtype=float),
            )
            for some in wells
        ]
        return well_sources(grid, own)

    @property
    def _number(self) -> int:
        if self._has("observations"):
            assert self._file is not None
            return int(self._file.shapes["observations"][0])
        return int(self._section.number)

    @cached_property
    def linear_sides(self) -> set[tuple[int, str]]:
        """The sides with other conditions than the grid's default; collective."""
        sides = {(side.axis, side.end): torch.empty(0) for side in self._section.sides}
        return sides_with_conditions(coefficient_pde(self._parts.stepper()), sides)

    def observe(self, grid: Grid) -> Observations:
        """The measured quantities; collective."""
        if self._has("positions"):
            assert self._file is not None
            points = self._file.numbers("positions", (None, grid.dim))
            return PointObservations(Positions(grid, points, self.linear_sides))
        if self._has("observations"):
            assert self._file is not None
            if self._file.shapes["observations"][1:] == grid.shape:
                return FieldObservations(grid)
        points = self._section.points
        if points is None:
            return FieldObservations(grid)
        positions = lattice(grid, points) if isinstance(points, int) else np.array(points)
        return PointObservations(Positions(grid, positions, self.linear_sides))

    def _sides(self, grid: Grid, count: int) -> Sides:
        found = {}
        for side in self._section.sides:
            if side.axis >= grid.dim:
                raise InputError(
                    f"experiments.sides: the grid has no axis {side.axis}, its axes are 0 to "
                    f"{grid.dim - 1}"
                )
            if len(side.values) != count:
                raise InputError(
                    f"experiments.sides: axis {side.axis} {side.end} has {len(side.values)} values "
                    f"for {count} experiments; give one per experiment"
                )
            values = torch.tensor(side.values, dtype=torch.float64)
            shape = (count, *grid.face_shape(side.axis, side.end))
            found[side.axis, side.end] = values.reshape(-1, *[1] * grid.dim).expand(shape)
        return found

    def _has(self, name: str) -> bool:
        return self._file is not None and name in self._file


def _unknown(config: Any, grid: Grid, mesh: ProcessMesh) -> Unknown:
    section = config.unknown
    if section.kind == "field":
        return FieldUnknown(grid, mesh, section.start)
    network = CoordinateNetwork(
        grid.dim, section.features, section.bandwidth, section.hidden, config.seed
    )
    return NetworkUnknown(network, grid, mesh)


def _regularisation(section: Any, grid: Grid) -> Any:
    if section is None:
        return None
    if section.kind == "h1":
        return H1Regularisation(grid, section.weight)
    return TotalVariation(grid, section.weight, section.smoothing)
