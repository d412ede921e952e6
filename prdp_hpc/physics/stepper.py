"""The interface of a PDE, `Stepper`, and how steppers are made from a config."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from prdp_hpc.errors import InputError, check_members, returned
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import NonlinearSolver, Refinement, Solver
from prdp_hpc.linalg.torch_petsc import is_real_tensor
from prdp_hpc.physics.initial_conditions import normalised_fourier


@runtime_checkable
class Stepper(Protocol):
    """One time step of a PDE: any callable class whose steps solve through `solver`.

    All other members are optional. Without them a PDE can be trained in a script and, if its class
    can be called as `Name(grid, solver, **keys)`, in a config:

    - `Config`: a pydantic model of the keys of the section `physics`; its method
      `check_grid(grid_section)` may raise `ValueError` for an invalid grid.
    - `from_config(section, grid, solver)`: a class method that makes the stepper from this section;
      if there is no `Config`, the section has the keys as attributes.
    - `attributes() -> dict[str, float]`: numbers that a data file must agree with, e.g. `{"dt":
      0.1, "viscosity": 1e-3}`; they are written into generated files and compared when a file is
      read.
    - `initial_states(generator, count, modes) -> Tensor`: `(count, C, *local_shape)`, for generated
      data; it is called on each rank with a `numpy.random.Generator` in the same state. Default: a
      random Fourier series per channel.
    - `reference_solver() -> Solver`: a static method; the solver of reference solutions. Default:
      GMRES with block Jacobi to a relative residual of 1e-10.
    - `channelwise = True`: channels do not interact, so their number is arbitrary.
    - `network_inputs() -> Tensor`: fields `(E, *local_shape)` that are further inputs of networks,
      e.g. a coefficient, if the key `network_inputs` contains "physics".
    - `half_cells`: `{channel index: axis}`, the channels whose values are half a cell after the
      grid's points along an axis (a staggered grid); files for ParaView contain their means at the
      points.
    - `Config.workload(shape)`: for `prdp-hpc plan`, see `prdp_hpc.planning.PhysicsWorkload`;
      without it a step is measured.

    Attributes
    ----------
    channels : tuple of str
        One name per channel of a state.
    grid : Grid
        The grid of the states.
    solver : Solver or NonlinearSolver
        The solver of every step, whose level the coordinator refines.

    Examples
    --------
    Backward Euler for decay, `u⁺ = u − dt λ u⁺`:

    >>> import torch
    >>> from prdp_hpc import Grid, Solver, SparseOperator, Stepper, solve
    >>> class Decay:
    ...     channels = ("u",)
    ...
    ...     def __init__(self, grid, solver, rate=1.0, dt=0.1):
    ...         self.grid, self.solver, self.rate, self.dt = grid, solver, rate, dt
    ...         rows = grid.numbering[(slice(1, -1),) * grid.dim].ravel()
    ...         self.operator = SparseOperator(rows, rows, (grid.size, grid.size), grid.comm)
    ...
    ...     def __call__(self, state):
    ...         values = torch.full((self.grid.n_local,), 1 + self.dt * self.rate).double()
    ...         right = state.reshape(-1, self.grid.n_local)
    ...         return solve(self.operator, values, right, self.solver).reshape(state.shape)
    >>> decay = Decay(Grid((4,)), Solver("cg", "jacobi"))
    >>> isinstance(decay, Stepper)
    True
    >>> decay(torch.full((1, 1, 4), 1.1).double()).round(decimals=6)
    tensor([[[1., 1., 1., 1.]]], dtype=torch.float64)
    """

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels of a state."""
        ...

    @property
    def grid(self) -> Grid:
        """The grid of the states."""
        ...

    @property
    def solver(self) -> Solver | NonlinearSolver:
        """The solver whose level the coordinator refines."""
        ...

    def __call__(self, state: Tensor, /) -> Tensor:
        """Return the state `(B, C, *local_shape)` one step later; differentiable, collective."""
        ...


def made_stepper(section: Any, grid: Grid, solver: Solver | NonlinearSolver | None = None) -> Any:
    """Make the stepper of a config's section `physics`, by default with the solver of its reference
    solutions; collective.
    """
    kind = section.component_loader()
    solver = reference_solver(kind) if solver is None else solver
    if hasattr(kind, "from_config"):
        stepper = kind.from_config(section, grid, solver)
    else:
        stepper = kind(grid, solver, **section.own_keys())
    check_members("physics.pde", stepper, ("grid", "solver"), "a PDE, see Stepper")
    check_channels(stepper)
    return stepper


def check_channels(stepper: Any) -> None:
    """Raise `InputError` unless the channels of a PDE are names."""
    given = getattr(stepper, "channels", ())
    if not isinstance(given, tuple | list) or not all(isinstance(name, str) for name in given):
        raise InputError(
            f"{type(stepper).__name__}.channels must be a tuple of names, e.g. ('u', 'v'), not "
            f"{given!r}"
        )


def stepped(stepper: Any, state: Tensor) -> Tensor:
    """The state one step later; an `InputError` for a result that is not a state, or through which
    no gradient flows to the state. Collective.
    """
    found: Tensor = stepper(state)
    if not is_real_tensor(found) or found.shape != state.shape:
        wanted = f"a tensor of real numbers of the state's shape {tuple(state.shape)}"
        raise returned(f"a step of {type(stepper).__name__}", wanted, found)
    if state.requires_grad and torch.is_grad_enabled() and not found.requires_grad:
        raise InputError(
            f"a step of {type(stepper).__name__} has no gradient with respect to the state: "
            "compute it with torch and solve, without detach() and NumPy"
        )
    return found


def initial_states(
    stepper: Stepper, generator: np.random.Generator, count: int, modes: int
) -> Tensor:
    """This rank's part of random states `(count, C, *local_shape)`, float64; collective.

    They are equal on any number of ranks. They are those of the stepper if it has the method, else
    a random Fourier series of `modes` modes per channel, scaled so that the sample's largest |u| is
    1.
    """
    own: Any = getattr(stepper, "initial_states", None)
    grid = stepper.grid
    if own is not None:
        states: Tensor = own(generator, count, modes)
        wanted = (count, len(stepper.channels), *grid.local_shape)
        if not is_real_tensor(states) or states.shape != wanted:
            name = f"{type(stepper).__name__}.initial_states(generator, {count}, {modes})"
            raise returned(name, f"a tensor of real numbers of the shape {wanted}", states)
        return states.to(torch.float64)
    whole = normalised_fourier(generator, count, len(stepper.channels), grid.unit_axes(), modes)
    return grid.scatter(torch.from_numpy(whole))


def attributes(stepper: Stepper) -> dict[str, float]:
    """The numbers that a data file must agree with."""
    own: Any = getattr(stepper, "attributes", dict)
    found = own()
    if not isinstance(found, Mapping) or not all(map(_is_number, found.values())):
        name = f"{type(stepper).__name__}.attributes()"
        raise returned(name, "a mapping from names to real numbers, e.g. {'dt': 0.1}", found)
    return {str(key): float(value) for key, value in found.items()}


def _is_number(value: Any) -> bool:
    """Whether a value is one real number, also in a tensor or array."""
    if isinstance(value, Tensor | np.ndarray):
        return value.shape in ((), (1,)) and is_real_tensor(torch.as_tensor(value).double())
    return isinstance(value, Real)


def reference_solver(kind: Any) -> Solver:
    """A solver for reference solutions of a class of steppers. It is not the solver of the config,
    which may be inaccurate on purpose.
    """
    own: Any = getattr(kind, "reference_solver", None)
    if own is not None:
        solver: Solver = own()
        return solver
    return Solver("gmres", "bjacobi", Refinement(rtol=1e-10))
